"""What SQLite and the file system raise, as errors of the ledger."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from microwallet.errors import LedgerBusy, LedgerCorrupt, LedgerError, LedgerUnwritable

RESTORE = (
    "move it and its -wal and -shm files away, put a backup in its place, then: microwallet channel sync"
)
"""A log that belongs to another copy of the file must not be left beside a backup."""


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
            hint=RESTORE,
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
