"""One connection to the ledger: its transactions, when they are durable, and whether it is an older copy."""

from __future__ import annotations

import errno
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import NamedTuple, Self

from microwallet.errors import LedgerError, LedgerReplaced
from microwallet.files import shell_path
from microwallet.ledger.mark import Mark
from microwallet.ledger.opening import Say, alone, check_file, committed, known_version, prepare
from microwallet.ledger.sqlite_errors import translated

BUSY_SECONDS = 30.0
EAGER_SECONDS = 0.02
"""How long to wait for another process's transaction by looking again and again."""
_LOOK_SECONDS = 0.0002
MARK_SECONDS = 0.1
"""Seconds between two marks, where one connection commits hundreds of times a second."""

_sync = getattr(os, "fdatasync", os.fsync)


def to_text(base_units: int) -> str:
    """An amount as the ledger keeps it."""
    return str(base_units).zfill(39)


class Generation(NamedTuple):
    """How far the ledger has come: two counters that only grow."""

    number: int
    """Transactions that signed or accepted vouchers."""
    changes: int
    """Changes, by anything but a sale, of what the payee has accepted."""


class Database:
    """One connection, of the thread that opened it. `write` is the only way to change anything."""

    def __init__(
        self, path: Path, connection: sqlite3.Connection, mark: Mark, *, busy_seconds: float
    ) -> None:
        self.path = path
        self._busy_seconds = busy_seconds
        self._connection = connection
        self._mark = mark
        self._marked_at = float("-inf")
        self._committed = self._marked = -1
        """The newest generation number that was committed, and the newest that was marked. It is marked once
        it is durable, and not more often than every MARK_SECONDS."""
        self._is_quick: bool | None = False
        """Whether commits are not durable before `sync`; None while that is being changed."""
        self._log: int | None = None
        """A descriptor of SQLite's write-ahead log."""
        self._may_be_lost = False
        """Whether the disk failed in `sync`, so that what was written may be lost."""
        with translated(path):
            self._file = _file_at(path)

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        busy_seconds: float = BUSY_SECONDS,
        any_thread: bool = False,
        say: Say = lambda _: None,
    ) -> Self:
        """Open the ledger at `path`, made if there never was one, migrated if it is older.

        `any_thread`: for threads that use it one after the other; somebody else sees to that. `say` is told
        of a migration that takes long, here or elsewhere.
        Raises LedgerCorrupt, LedgerTooNew, LedgerBusy or LedgerUnwritable, and LedgerError for a version from
        before the first release; never replaces a file.
        """
        mark = Mark(path.with_suffix(".mark"))
        is_alone = not mark.path.exists()
        with translated(path), alone(path.parent) if is_alone else nullcontext():
            check_file(path, mark)
            connection = sqlite3.connect(
                path, timeout=busy_seconds, isolation_level=None, check_same_thread=not any_thread
            )
            connection.create_function("bytes_of", 1, _bytes_of, deterministic=True)
            try:
                prepare(connection, path, mark, is_alone=is_alone, say=say)
            except BaseException:
                connection.close()
                raise
        return cls(path, connection, mark, busy_seconds=busy_seconds)

    def close(self) -> None:
        """Close the connection; SQLite then folds its log into the file."""
        if self._committed > self._marked:
            self._marked_at = float("-inf")
            with suppress(LedgerError):
                self.sync()
        log, self._log = self._log, None
        if log is not None:
            os.close(log)
        with translated(self.path):
            self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        """One durable write transaction: queues for other processes, commits at the end.

        Raises LedgerChanged if others have migrated or replaced the ledger since it was opened.
        """
        with self._begun(is_one_of_many=False) as connection:
            yield connection

    @contextmanager
    def write_vouchers(self) -> Iterator[sqlite3.Connection]:
        """A write transaction that signs or accepts vouchers. Counted, so that an older copy is noticed."""
        with self.write() as connection:
            yield connection
            number = _count(connection).number
        self._mark.write(number)
        self._marked = number

    @contextmanager
    def write_one_of_many(self) -> Iterator[tuple[sqlite3.Connection, Generation]]:
        """One of hundreds of transactions a second that accept vouchers, and its number.

        Others see it at once; it is durable, and soon marked, after `sync`.
        """
        with self._begun(is_one_of_many=True) as connection:
            generation = _count(connection)
            yield connection, generation
        self._committed = generation.number

    def sync(self) -> None:
        """Make durable what was committed; may run in another thread while this one writes.

        LedgerUnwritable if it may be lost. Then nothing is written any more, since later commits build on it.
        """
        number = self._committed
        with translated(self.path):
            self._check_disk()
            if self._log is None:
                self._log = os.open(f"{self.path.resolve()}-wal", os.O_RDONLY)
            try:
                _sync(self._log)
            except OSError:
                self._may_be_lost = True
                raise
        now = time.monotonic()
        if number > self._marked and now >= self._marked_at + MARK_SECONDS:
            self._mark.write(number)
            self._marked, self._marked_at = number, now

    def _check_disk(self) -> None:
        if self._may_be_lost:  # the system tells a failure once
            raise OSError(errno.EIO, "the disk failed; start this program again")

    def _check_place(self) -> None:
        """Whoever opens the ledger next would not see what is written to a file that was moved away."""
        if _file_at(self.path) != self._file:
            raise LedgerReplaced(
                f"the ledger {self.path} was moved or replaced while it was in use: nothing is recorded now",
                hint=f"ls -l {shell_path(self.path.parent)}  (see what is there, then start this again)",
            )

    @contextmanager
    def _begun(self, *, is_one_of_many: bool) -> Iterator[sqlite3.Connection]:
        with translated(self.path):
            self._check_disk()
            self._check_place()
            self._be_quick(is_one_of_many)
            if is_one_of_many:
                self._begin_soon()
            else:
                self._connection.execute("BEGIN IMMEDIATE")
            with committed(self._connection):
                known_version(self._connection, self.path)
                yield self._connection

    def _begin_soon(self) -> None:
        """Begin a transaction as soon as another process has ended its own, which takes a millisecond or two.

        SQLite looks again after 1, 2, 5 and more milliseconds: too long for workers that share a ledger.
        """
        last_look = time.monotonic() + EAGER_SECONDS
        while time.monotonic() < last_look:
            try:
                self._connection.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:
                time.sleep(_LOOK_SECONDS)
            else:
                return
        self._be_quick(False)
        self._connection.execute("BEGIN IMMEDIATE")

    def _be_quick(self, is_quick: bool) -> None:
        """With `is_quick`, commits are durable only after `sync`, and a busy ledger fails at once."""
        if is_quick is self._is_quick or self._connection.in_transaction:
            return
        self._is_quick = None
        self._connection.execute(f"PRAGMA synchronous = {'NORMAL' if is_quick else 'FULL'}")
        patience = 0 if is_quick else self._busy_seconds
        self._connection.execute(f"PRAGMA busy_timeout = {int(patience * 1000)}")
        self._is_quick = is_quick

    @contextmanager
    def read(self) -> Iterator[sqlite3.Connection]:
        """The connection, for reading. LedgerTooNew if it fails as a newer microwallet changed the tables."""
        with translated(self.path):
            self._be_quick(False)
            try:
                yield self._connection
            except sqlite3.OperationalError:
                known_version(self._connection, self.path)
                raise

    def check_unchanged(self) -> None:
        """LedgerChanged if others have migrated or replaced the ledger since it was opened.

        Nothing else: that the ledger cannot be read just now is raised where it is needed.
        """
        with suppress(OSError, sqlite3.Error):
            self._check_place()
            known_version(self._connection, self.path)

    def check_usable(self) -> None:
        """Raises what check_unchanged does, and LedgerUnwritable once `sync` has failed."""
        with translated(self.path):
            self._check_disk()
        self.check_unchanged()

    def check_writable(self) -> None:
        """LedgerBusy or LedgerUnwritable if no voucher could be recorded now: it commits as one does."""
        with self.write_one_of_many():
            pass
        self.sync()

    def is_older_than_marked(self) -> bool:
        """Whether this file is an older copy of the ledger: more was recorded than it holds.

        If it is not, a mark that fell behind, as after a crash, is brought up to date.
        """
        marked = self._mark.read()
        with self.read() as connection:
            number: int = connection.execute("SELECT number FROM generation").fetchone()[0]
        if marked is None or marked < number:
            self._committed = number
            with suppress(LedgerError):
                self.sync()
        return marked is not None and marked > number

    def accept_as_current(self) -> None:
        """Accept this file, which may be an older copy, as the ledger from now on.

        Its number goes on from the mark, so that other copies from before are still noticed.
        """
        with self.write() as connection:
            query = "UPDATE generation SET number = max(number, ?) + 1 RETURNING number"
            number: int = connection.execute(query, (self._mark.read() or 0,)).fetchone()[0]
        self._mark.write(number)

    def integrity_problems(self) -> list[str]:
        """What SQLite's integrity check and the foreign keys complain of; empty when sound."""
        with self.read() as connection:
            lines = [row[0] for row in connection.execute("PRAGMA integrity_check(10)")]
            broken = connection.execute("PRAGMA foreign_key_check").fetchall()
        return [line for line in lines if line != "ok"] + [f"dangling row: {row}" for row in broken]


def _file_at(path: Path) -> tuple[int, int] | None:
    """Device and inode of the file at a path; None if there is none. OSError if that cannot be told, as while
    its file system is away."""
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found.st_dev, found.st_ino


def _bytes_of(text: str) -> bytes:
    """The bytes of 0x hex. Many Pythons come with an SQLite that has no `unhex` yet."""
    return bytes.fromhex(text[2:])


def _count(connection: sqlite3.Connection) -> Generation:
    query = "UPDATE generation SET number = number + 1 RETURNING number, changes"
    return Generation(*connection.execute(query).fetchone())
