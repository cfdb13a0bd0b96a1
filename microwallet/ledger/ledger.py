"""The ledger as a whole: its tables over one connection."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Self

from microwallet.ledger.channels import Channels
from microwallet.ledger.database import BUSY_SECONDS, Database
from microwallet.ledger.deposits import Deposits
from microwallet.ledger.journal import Journal
from microwallet.ledger.payments import Payments
from microwallet.ledger.vouchers import Vouchers


class Ledger:
    """One connection and the tables on it. Use as a context manager."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.channels = Channels(database)
        self.payments = Payments(database)
        self.deposits = Deposits(database)
        self.vouchers = Vouchers(database)
        self.journal = Journal(database, clock=lambda: int(time.time()))
        self._settle_older_copy()

    @classmethod
    def open(cls, path: Path, *, busy_seconds: float = BUSY_SECONDS) -> Self:
        """Open the ledger at `path`; see Database.open for what it raises."""
        database = Database.open(path, busy_seconds=busy_seconds)
        try:
            return cls(database)
        except BaseException:
            database.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.database.close()

    def _settle_older_copy(self) -> None:
        """An older copy of the ledger was put in place: its highest vouchers are not the highest."""
        if self.database.is_older_than_marked():
            self.channels.forget_vouchers()
            self.database.accept_as_current()
