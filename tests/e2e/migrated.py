"""A newer microwallet that migrates a ledger, as far as others notice."""

from __future__ import annotations

import sqlite3
from contextlib import closing

from microwallet.ledger.schema import VERSIONS


def migrate(path, *, by=1):
    """Give the ledger at `path` the version after the one that is known here; `by` 0 takes that back."""
    with closing(sqlite3.connect(path, timeout=10, isolation_level=None)) as connection:
        connection.execute(f"PRAGMA user_version = {max(VERSIONS) + by}")
