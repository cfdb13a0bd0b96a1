"""One connection to the ledger: its transactions, and whether it is an older copy."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Self

from microwallet.ledger.mark import Mark
from microwallet.ledger.opening import alone, check_file, committed, known_version, prepare
from microwallet.ledger.sqlite_errors import translated

BUSY_SECONDS = 30.0
EAGER_SECONDS = 0.02
"""For how long another process's transaction is waited for by looking again and again."""
_LOOK_SECONDS = 0.0002
MARK_SECONDS = 0.1
"""Between two marks of one connection that commits hundreds of times a second."""


def to_text(base_units: int) -> str:
    """An amount as the ledger keeps it."""
    return f"{base_units:039d}"


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
        self._unmarked: int | None = None
        """A generation that was committed so soon after the one before that it is not marked yet."""

    @classmethod
    def open(cls, path: Path, *, busy_seconds: float = BUSY_SECONDS, any_thread: bool = False) -> Self:
        """Open the ledger at `path`, made if there never was one, migrated if it is older.

        `any_thread`: for threads that use it one after the other; somebody else sees to that.
        Raises LedgerCorrupt, LedgerTooNew, LedgerBusy or LedgerUnwritable; never replaces a file.
        """
        mark = Mark(path.with_suffix(".mark"))
        with translated(path), nullcontext() if mark.path.exists() else alone(path.parent):
            check_file(path, mark)
            connection = sqlite3.connect(
                path, timeout=busy_seconds, isolation_level=None, check_same_thread=not any_thread
            )
            try:
                prepare(connection, path, mark)
            except BaseException:
                connection.close()
                raise
        return cls(path, connection, mark, busy_seconds=busy_seconds)

    def close(self) -> None:
        """Close the connection; SQLite then folds its log into the file."""
        if self._unmarked is not None:
            self._mark.write(self._unmarked)
        with translated(self.path):
            self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @contextmanager
    def write(self, *, is_one_of_many: bool = False) -> Iterator[sqlite3.Connection]:
        """One durable write transaction: queues for other processes, commits at the end.

        Raises LedgerTooNew if a newer microwallet has migrated the ledger since it was opened.
        """
        with translated(self.path):
            if is_one_of_many:
                self._begin_soon()
            else:
                self._connection.execute("BEGIN IMMEDIATE")
            with committed(self._connection):
                known_version(self._connection, self.path)
                yield self._connection

    @contextmanager
    def write_vouchers(self, *, is_one_of_many: bool = False) -> Iterator[sqlite3.Connection]:
        """A write transaction that signs or accepts vouchers: it counts, so that an older copy is noticed.

        With `is_one_of_many`, one that is older by MARK_SECONDS.
        """
        with self.write(is_one_of_many=is_one_of_many) as connection:
            yield connection
            number: int = connection.execute(
                "UPDATE generation SET number = number + 1 RETURNING number"
            ).fetchone()[0]
        now = time.monotonic()
        if is_one_of_many and now < self._marked_at + MARK_SECONDS:
            self._unmarked = number
        else:
            self._mark.write(number)
            self._marked_at, self._unmarked = now, None

    @contextmanager
    def write_derived(self) -> Iterator[sqlite3.Connection]:
        """A write transaction of what follows from the rest, between many others: durable with the next."""
        with translated(self.path):
            self._connection.execute("PRAGMA synchronous = NORMAL")
            try:
                with self.write(is_one_of_many=True) as connection:
                    yield connection
            finally:
                self._connection.execute("PRAGMA synchronous = FULL")

    def _begin_soon(self) -> None:
        """Begin a transaction as soon as another process has ended its own, which takes a millisecond or two.

        SQLite looks again after 1, 2, 5 and more milliseconds: too long for workers that share a ledger.
        """
        execute = self._connection.execute
        last_look = time.monotonic() + EAGER_SECONDS
        execute("PRAGMA busy_timeout = 0")
        try:
            while time.monotonic() < last_look:
                with suppress(sqlite3.OperationalError):
                    execute("BEGIN IMMEDIATE")
                    return
                time.sleep(_LOOK_SECONDS)
        finally:
            execute(f"PRAGMA busy_timeout = {int(self._busy_seconds * 1000)}")
        execute("BEGIN IMMEDIATE")

    @contextmanager
    def read(self) -> Iterator[sqlite3.Connection]:
        """The connection for reading. LedgerTooNew if that fails because of a newer microwallet's tables."""
        with translated(self.path):
            try:
                yield self._connection
            except sqlite3.OperationalError:
                known_version(self._connection, self.path)
                raise

    def check_version(self) -> None:
        """LedgerTooNew if a newer microwallet has migrated the ledger since it was opened.

        Nothing else: a ledger that cannot be read just now is told of where it is needed.
        """
        with suppress(sqlite3.Error):
            known_version(self._connection, self.path)

    def check_writable(self) -> None:
        """LedgerBusy or LedgerUnwritable, if nothing could be written just now. Writes nothing."""
        with self.write():
            pass

    def is_older_than_marked(self) -> bool:
        """Whether this file is an older copy of the ledger: more was recorded than it holds.

        If it is not, a mark that fell behind, because its writer was killed, is brought up.
        """
        marked = self._mark.read()
        with self.read() as connection:
            number: int = connection.execute("SELECT number FROM generation").fetchone()[0]
        if marked is None or marked < number:
            self._mark.write(number)
        return marked is not None and marked > number

    def accept_as_current(self) -> None:
        """Take this file for the ledger, after `is_older_than_marked` was dealt with.

        It counts on from the mark, so that other copies of the life before stay recognisable.
        """
        with self.write() as connection:
            connection.execute("UPDATE generation SET number = max(number, ?) + 1", (self._mark.read() or 0,))
            number: int = connection.execute("SELECT number FROM generation").fetchone()[0]
        self._mark.write(number)

    def integrity_problems(self) -> list[str]:
        """What SQLite's integrity check and the foreign keys complain of; empty when sound."""
        with self.read() as connection:
            lines = [row[0] for row in connection.execute("PRAGMA integrity_check(10)")]
            broken = connection.execute("PRAGMA foreign_key_check").fetchall()
        return [line for line in lines if line != "ok"] + [f"dangling row: {row}" for row in broken]
