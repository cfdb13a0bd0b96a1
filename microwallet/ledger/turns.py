"""Turns: one process at a time does a thing that has a name; the others queue."""

from __future__ import annotations

import fcntl
import hashlib
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from microwallet.errors import LedgerBusy
from microwallet.ledger.database import translated

TURN_SECONDS = 300.0
"""How long to queue: longer than a transaction is waited for."""

_POLL_SECONDS = 0.05
_OFFSETS = 2**62


class Turns:
    """Locks by name, each one byte of a file beside the ledger.

    The system gives a lock back when its holder ends, however it ends. A process may hold several
    at once, taken in the same order everywhere, none twice; the file stays open until `close`,
    because closing it anywhere in a process gives all of them back.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor: int | None = None

    def close(self) -> None:
        """Give every lock back."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    @contextmanager
    def turn(self, name: str, *, seconds: float = TURN_SECONDS) -> Iterator[None]:
        """Hold the lock called `name`. LedgerBusy if another process keeps it for `seconds`."""
        offset = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") % _OFFSETS
        descriptor = self._open()
        self._wait(descriptor, offset, name, time.monotonic() + seconds)
        try:
            yield
        finally:
            fcntl.lockf(descriptor, fcntl.LOCK_UN, 1, offset)

    def _open(self) -> int:
        if self._descriptor is None:
            with translated(self.path):
                self._descriptor = os.open(self.path, os.O_CREAT | os.O_RDWR, 0o600)
        return self._descriptor

    def _wait(self, descriptor: int, offset: int, name: str, deadline: float) -> None:
        while True:
            try:
                fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, offset)
            except (BlockingIOError, PermissionError):
                if time.monotonic() > deadline:
                    raise LedgerBusy(
                        f"another microwallet is still busy with this: {name}",
                        hint="try again when it has ended",
                    ) from None
                time.sleep(_POLL_SECONDS)
            else:
                return
