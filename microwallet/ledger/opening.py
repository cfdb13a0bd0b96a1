"""A ledger's file before it is used: made if there never was one, checked, and migrated if it is older."""

from __future__ import annotations

import fcntl
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from types import TracebackType

from microwallet.errors import LedgerBusy, LedgerCorrupt, LedgerError, LedgerTooNew
from microwallet.files import shell_path
from microwallet.ledger.mark import Mark
from microwallet.ledger.schema import APPLICATION_ID, VERSIONS
from microwallet.ledger.sqlite_errors import RESTORE

LOG_PAGES = 4_000
"""Pages of the log from which SQLite folds it into the file: commits wait for that, and a page that many of
them changed is written once."""

LARGE_BYTES = 20_000_000
"""A ledger's file from which a migration takes so long that it is told of: a second for so much or less."""
MIGRATION_SECONDS = 1800.0
"""For how long another process's migration is waited for."""
QUIET_SECONDS = 1.0
"""A wait that long is nothing to tell of."""
_LOOK_SECONDS = 0.05

Say = Callable[[str], None]
"""Tells a person one line."""


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder, made if it is missing, while a ledger is made in it.

    SQLite does not queue for a file that is being given its log, and half a ledger looks damaged.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _locked(folder) as descriptor:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield


@contextmanager
def _migrating(path: Path, say: Say) -> Iterator[None]:
    """Hold the same lock while a ledger is migrated: others say what they wait for, longer than SQLite would.

    LedgerBusy once that has taken too long.
    """
    begun = time.monotonic()
    is_told = False
    with _locked(path.parent) as descriptor:
        while True:
            with suppress(BlockingIOError):
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            waited = time.monotonic() - begun
            if waited > MIGRATION_SECONDS:
                raise LedgerBusy(
                    f"another process has been migrating the ledger {path} for {waited:.0f} s",
                    hint="try again when it has ended",
                )
            if waited > QUIET_SECONDS and not is_told:
                is_told = True
                say(f"another process migrates the ledger {path} to this version: waiting for it")
            time.sleep(_LOOK_SECONDS)
        yield


@contextmanager
def _locked(folder: Path) -> Iterator[int]:
    """A descriptor to lock a folder by; the lock goes with it."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def check_file(path: Path, mark: Mark) -> None:
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
            hint="put a backup in its place;"
            f" to start anew: rm {shell_path(mark.path)} && microwallet channel sync",
        )
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))


def prepare(connection: sqlite3.Connection, path: Path, mark: Mark, *, is_alone: bool, say: Say) -> None:
    """Set a new connection up, and migrate the ledger where it is older; errors as Database.open.

    `is_alone`: whether `alone` is held already.
    """
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute(f"PRAGMA wal_autocheckpoint = {LOG_PAGES}")
    version = known_version(connection, path)
    if version == 0 and mark.path.exists():
        raise LedgerCorrupt(f"the ledger {path} has lost all it held", hint=RESTORE)
    connection.execute("PRAGMA journal_mode = WAL")  # a backup that SQLite made has none
    if version < max(VERSIONS):
        with nullcontext() if is_alone else _migrating(path, say):
            _migrate(connection, path, known_version(connection, path), say)
    if version == 0:
        mark.write(0)


def known_version(connection: sqlite3.Connection, path: Path) -> int:
    """The version of a ledger, 0 before it has one; LedgerError if it is not known here, LedgerTooNew if a
    newer microwallet knows it."""
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    if version and version not in VERSIONS:
        raise _unknown_version(path, version)
    return version


def _unknown_version(path: Path, version: int) -> LedgerError:
    first, last = min(VERSIONS), max(VERSIONS)
    if version < first:
        return LedgerError(
            f"the ledger {path} has version {version}, from before the first release; this microwallet knows"
            f" {first} and later ones",
            hint="close its channels with the microwallet that made it, then move it away",
        )
    return LedgerTooNew(
        f"the ledger {path} has version {version}; this microwallet knows {last}",
        hint="upgrade microwallet to the one that has migrated it, then start this again",
    )


def _migrate(connection: sqlite3.Connection, path: Path, version: int, say: Say) -> None:
    if 0 < version < max(VERSIONS):
        size = path.stat().st_size
        if size >= LARGE_BYTES:
            say(f"migrating the ledger {path}, {size / 1e6:.0f} MB: this may take a minute or more")
        _keep_copy(connection, path, version)
    for number, statements in VERSIONS.items():
        connection.execute("BEGIN IMMEDIATE")
        with committed(connection):
            current: int = connection.execute("PRAGMA user_version").fetchone()[0]
            if current < number:
                if current == 0:
                    _make_ledger(connection, path)
                for statement in statements:
                    connection.execute(statement)
                connection.execute(f"PRAGMA user_version = {number}")


def _make_ledger(connection: sqlite3.Connection, path: Path) -> None:
    """Mark an empty file as a ledger; LedgerCorrupt if it is not empty."""
    tables: int = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
    if tables:
        raise LedgerCorrupt(f"{path} is a SQLite file, but no microwallet ledger")
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")


def _keep_copy(connection: sqlite3.Connection, path: Path, version: int) -> None:
    copy = path.with_name(f"{path.name}.before-migration-{version + 1}")
    if copy.exists():
        return
    for left in path.parent.glob(f"{copy.name}.*"):  # by one that was killed: this one is alone
        left.unlink()
    partial = copy.with_name(copy.name + f".{os.getpid()}")
    connection.execute("VACUUM INTO ?", (str(partial),))
    partial.chmod(0o600)
    partial.replace(copy)


class committed:  # noqa: N801
    """Commits the transaction that was begun when the block ends, or rolls it back."""

    __slots__ = ("_connection",)

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, _: type[BaseException] | None, error: BaseException | None, __: TracebackType | None
    ) -> None:
        if error is None:
            self._connection.execute("COMMIT")
        elif self._connection.in_transaction:  # SQLite ends it itself where the disk fails
            self._connection.execute("ROLLBACK")
