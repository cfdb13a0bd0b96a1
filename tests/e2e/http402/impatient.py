"""`microwallet` that waits a moment for a ledger that is locked, not half a minute."""

from __future__ import annotations

import sys

from microwallet.cli.main import run
from microwallet.ledger.database import Database

_database_of = Database.__init__


def _impatient(self: Database, *arguments: object, **options: object) -> None:
    _database_of(self, *arguments, **{**options, "busy_seconds": 0.1})


if __name__ == "__main__":
    Database.__init__ = _impatient
    sys.argv[0] = "microwallet"
    run()
