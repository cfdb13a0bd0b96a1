"""Opening the ledger: durable settings, migrations, and SQLite's errors translated."""

from __future__ import annotations

import fcntl
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Self

from microwallet.errors import (
    LedgerBusy,
    LedgerCorrupt,
    LedgerError,
    LedgerTooNew,
    LedgerUnwritable,
)
from microwallet.ledger.mark import Mark
from microwallet.ledger.schema import APPLICATION_ID, MIGRATIONS

BUSY_SECONDS = 30.0
EAGER_SECONDS = 0.02
"""For how long another process's transaction is waited for by looking again and again."""
_LOOK_SECONDS = 0.0002
LOG_PAGES = 4_000
"""Pages of the log from which SQLite folds it into the file: commits wait for that, and a page that many of
them changed is written once."""
MARK_SECONDS = 0.1
"""Between two marks of one connection that commits hundreds of times a second."""
_RESTORE = (
    "move it and its -wal and -shm files away, put a backup in its place, then: microwallet channel sync"
)
"""A log that belongs to another copy of the file must not be left beside a backup."""


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
        with translated(path), nullcontext() if mark.path.exists() else _alone(path.parent):
            _check_file(path, mark)
            connection = sqlite3.connect(
                path, timeout=busy_seconds, isolation_level=None, check_same_thread=not any_thread
            )
            try:
                _prepare(connection, path, mark)
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
            with _committed(self._connection):
                _known_version(self._connection, self.path)
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
                _known_version(self._connection, self.path)
                raise

    def check_version(self) -> None:
        """LedgerTooNew if a newer microwallet has migrated the ledger since it was opened.

        Nothing else: a ledger that cannot be read just now is told of where it is needed.
        """
        with suppress(sqlite3.Error):
            _known_version(self._connection, self.path)

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


@contextmanager
def _committed(connection: sqlite3.Connection) -> Iterator[None]:
    """Commit the transaction that was begun when the block ends, or roll it back."""
    try:
        yield
    except BaseException:
        if connection.in_transaction:  # SQLite ends it itself where the disk fails
            connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder, made if it is missing, while a ledger is made in it.

    SQLite does not queue for a file that is being given its log, and half a ledger looks damaged.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _check_file(path: Path, mark: Mark) -> None:
    """Make the file if there never was one; LedgerCorrupt if it is gone or emptied.

    The file is not opened here: closing it would give up the locks of every connection to it that this
    process has (POSIX), and the next process to close the ledger would delete the log they write to.
    """
    with suppress(FileNotFoundError):
        if path.stat().st_size:
            return
    if mark.path.exists():
        raise LedgerCorrupt(
            f"the ledger {path} is gone or empty, but there was one",
            hint=f"put a backup in its place; to start anew: rm {mark.path} && microwallet channel sync",
        )
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))


def _prepare(connection: sqlite3.Connection, path: Path, mark: Mark) -> None:
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute(f"PRAGMA wal_autocheckpoint = {LOG_PAGES}")
    version = _known_version(connection, path)
    if version == len(MIGRATIONS):
        return
    if version == 0 and mark.path.exists():
        raise LedgerCorrupt(f"the ledger {path} has lost all it held", hint=_RESTORE)
    connection.execute("PRAGMA journal_mode = WAL")
    _migrate(connection, path, version)
    if version == 0:
        mark.write(0)


def _known_version(connection: sqlite3.Connection, path: Path) -> int:
    """The version of a ledger; LedgerTooNew if it is not known here."""
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > len(MIGRATIONS):
        raise LedgerTooNew(
            f"the ledger {path} has version {version}; this microwallet knows {len(MIGRATIONS)}",
            hint="upgrade microwallet, then start this again: pip install --upgrade microwallet",
        )
    return version


def _migrate(connection: sqlite3.Connection, path: Path, version: int) -> None:
    if version > 0:
        _keep_copy(connection, path, version)
    for number, statements in enumerate(MIGRATIONS[version:], start=version + 1):
        connection.execute("BEGIN IMMEDIATE")
        with _committed(connection):
            current: int = connection.execute("PRAGMA user_version").fetchone()[0]
            if current < number:
                _check_is_ledger(connection, path, current)
                for statement in statements:
                    connection.execute(statement)
                connection.execute(f"PRAGMA user_version = {number}")


def _check_is_ledger(connection: sqlite3.Connection, path: Path, version: int) -> None:
    if version == 0:
        tables: int = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
        if tables:
            raise LedgerCorrupt(f"{path} is a SQLite file, but no microwallet ledger")
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")


def _keep_copy(connection: sqlite3.Connection, path: Path, version: int) -> None:
    copy = path.with_name(f"{path.name}.before-migration-{version + 1}")
    if copy.exists():
        return
    partial = copy.with_name(copy.name + f".{os.getpid()}")
    connection.execute("VACUUM INTO ?", (str(partial),))
    partial.chmod(0o600)
    partial.replace(copy)


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Turn what SQLite and the file system raise into ledger errors."""
    try:
        yield
    except sqlite3.Error as error:
        raise _ledger_error(error, path) from error
    except PermissionError as error:
        raise LedgerUnwritable(
            f"the ledger {path} cannot be written: {error.strerror}", hint=f"ls -ld {path.parent} {path}"
        ) from error
    except OSError as error:
        raise LedgerUnwritable(
            f"the ledger {path} cannot be written: {error.strerror}", hint=f"df -h {path.parent}"
        ) from error


def _ledger_error(error: sqlite3.Error, path: Path) -> LedgerError:
    primary = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if primary in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return LedgerBusy(
            f"the ledger {path} is busy: another process holds it", hint="try again in a moment"
        )
    if primary in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return LedgerCorrupt(
            f"the ledger {path} is damaged: {error}",
            hint=_RESTORE,
        )
    if primary == sqlite3.SQLITE_FULL:
        return LedgerUnwritable(
            f"the disk of the ledger {path} is full: nothing was recorded, nothing was signed",
            hint=f"make room, then run the command again: df -h {path.parent}",
        )
    if primary in (
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_PERM,
    ):
        return LedgerUnwritable(
            f"the ledger {path} cannot be written: {error}", hint=f"ls -ld {path.parent} {path}"
        )
    return LedgerError(f"the ledger {path} refused: {error}")
