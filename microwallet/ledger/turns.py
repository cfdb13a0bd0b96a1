"""Turns: one process, and one thread of it, does a thing that has a name at a time; the others queue."""

from __future__ import annotations

import fcntl
import hashlib
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

from microwallet.errors import LedgerBusy
from microwallet.ledger.sqlite_errors import translated
from microwallet.polling import polls

TURN_SECONDS = 300.0
"""How long to queue: longer than a transaction is waited for."""

_OFFSETS = 2**62


class Turns:
    """Locks by name, each one byte of a file beside the ledger.

    The system gives a lock back when its holder ends, however it ends. A thread may hold several at once,
    taken in the same order everywhere, none twice.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: _File | None = None

    def close(self) -> None:
        """Give every lock back."""
        if self._file is not None:
            self._file.close(self)
            self._file = None

    @contextmanager
    def turn(self, name: str, *, seconds: float = TURN_SECONDS) -> Iterator[None]:
        """Hold the lock called `name`. LedgerBusy if somebody else keeps it for `seconds`."""
        offset = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") % _OFFSETS
        if self._file is None or self._file.pid != os.getpid():
            with translated(self.path):
                self._file = _File.open(self.path, self)
        file = self._file
        for _ in polls(within=seconds, every=0.05):
            if file.take(offset, self):
                break
        else:
            raise LedgerBusy(
                f"another microwallet is still busy with this: {name}", hint="try again when it has ended"
            )
        try:
            yield
        finally:
            file.give_back(offset, self)


class _File:
    """The file of locks, open once in a process for all who use it.

    The system tells processes apart, not threads, so who holds what within this one is kept here; and
    closing any descriptor of the file would give back the locks of all.
    """

    _opened: ClassVar[dict[tuple[int, str], _File]] = {}
    _opening: ClassVar[threading.Lock] = threading.Lock()

    def __init__(self, path: Path) -> None:
        self.pid = os.getpid()
        self._key = (self.pid, os.path.realpath(path))
        self._descriptor = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
        self._users: set[Turns] = set()
        self._holders: dict[int, Turns] = {}
        self._changing = threading.RLock()  # a dropped stream gives back wherever garbage is collected

    @classmethod
    def open(cls, path: Path, user: Turns) -> _File:
        with cls._opening:
            file = cls._opened.get((os.getpid(), os.path.realpath(path)))
            if file is None:
                file = cls(path)
                cls._opened[file._key] = file
            file._users.add(user)
            return file

    def close(self, user: Turns) -> None:
        """Give back what a user holds; the last one closes the file."""
        if self.pid != os.getpid():
            return  # of the parent
        for offset, holder in self._holders.copy().items():  # others come and go meanwhile
            if holder is user:
                self.give_back(offset, user)
        with self._opening:
            self._users.discard(user)
            if not self._users:
                del self._opened[self._key]
                os.close(self._descriptor)

    def take(self, offset: int, user: Turns) -> bool:
        """Take a lock; False if another user or another process has it."""
        with self._changing:
            if offset in self._holders:
                return False
            try:
                fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, offset)
            except (BlockingIOError, PermissionError):
                return False
            self._holders[offset] = user
            return True

    def give_back(self, offset: int, user: Turns) -> None:
        """Give a lock back, unless that was done."""
        with self._changing:
            if self._holders.get(offset) is user:
                fcntl.lockf(self._descriptor, fcntl.LOCK_UN, 1, offset)
                del self._holders[offset]
