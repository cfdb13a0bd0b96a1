"""What SQLite and the file system raise, as errors of the ledger."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from types import TracebackType

from microwallet.errors import LedgerBusy, LedgerCorrupt, LedgerError, LedgerUnwritable
from microwallet.files import look_at, shell_path

RESTORE = (
    "move it and its -wal and -shm files away, put a backup in its place, then: microwallet channel sync"
)
"""A log that belongs to another copy of the file must not be left beside a backup."""


class translated:  # noqa: N801
    """Turns what SQLite and the file system raise inside it into ledger errors.

    No generator, as it is entered hundreds of times a second.
    """

    __slots__ = ("_path",)

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, _: type[BaseException] | None, error: BaseException | None, __: TracebackType | None
    ) -> None:
        if error is None:
            return
        path = self._path
        if isinstance(error, sqlite3.Error):
            raise _ledger_error(error, path) from error
        if isinstance(error, OSError):
            raise LedgerUnwritable(
                f"the ledger {path} cannot be written: {error.strerror}", hint=look_at(path.parent, path)
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
            hint=RESTORE,
        )
    if primary == sqlite3.SQLITE_FULL:
        return LedgerUnwritable(
            f"the disk of the ledger {path} is full: it takes nothing more",
            hint=f"make room, then run the command again: df -h {shell_path(path.parent)}",
        )
    if primary in (
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_PERM,
    ):
        return LedgerUnwritable(
            f"the ledger {path} cannot be written: {error}",
            hint=look_at(path.parent, path),
        )
    return LedgerError(f"the ledger {path} refused: {error}")
