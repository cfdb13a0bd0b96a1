"""The ledger as a whole: its tables over one connection."""

from __future__ import annotations

import time
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Self

from microwallet.ledger.channels import Channels
from microwallet.ledger.database import BUSY_SECONDS, Database

if TYPE_CHECKING:
    from microwallet.ledger.deposits import Deposits
    from microwallet.ledger.gas_spending import GasSpending
    from microwallet.ledger.journal import Journal
    from microwallet.ledger.known_payees import KnownPayees
    from microwallet.ledger.opening import Say
    from microwallet.ledger.payments import Payments
    from microwallet.ledger.purchases import Purchases
    from microwallet.ledger.scanned import Scanned
    from microwallet.ledger.sessions import Sessions
    from microwallet.ledger.turns import Turns
    from microwallet.ledger.vouchers import Vouchers


class Ledger:
    """One connection and the tables on it, each loaded when it is asked for. A context manager."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.channels = Channels(database)
        self._settle_older_copy()

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        busy_seconds: float = BUSY_SECONDS,
        any_thread: bool = False,
        say: Say = lambda _: None,
    ) -> Self:
        """Open the ledger at `path`; see Database.open for what it raises, and says."""
        database = Database.open(path, busy_seconds=busy_seconds, any_thread=any_thread, say=say)
        try:
            return cls(database)
        except BaseException:
            database.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection, and give back every turn."""
        if "turns" in self.__dict__:
            self.turns.close()
        self.database.close()

    @cached_property
    def payments(self) -> Payments:
        """Every payment made."""
        from microwallet.ledger.payments import Payments

        return Payments(self.database)

    @cached_property
    def purchases(self) -> Purchases:
        """Every voucher signed for an HTTP request."""
        from microwallet.ledger.purchases import Purchases

        return Purchases(self.database)

    @cached_property
    def known_payees(self) -> KnownPayees:
        """Whom each origin was paid to."""
        from microwallet.ledger.known_payees import KnownPayees

        return KnownPayees(self.database)

    @cached_property
    def deposits(self) -> Deposits:
        """Every open and top-up begun."""
        from microwallet.ledger.deposits import Deposits

        return Deposits(self.database)

    @cached_property
    def vouchers(self) -> Vouchers:
        """Every voucher accepted that is its channel's best."""
        from microwallet.ledger.vouchers import Vouchers

        return Vouchers(self.database)

    @cached_property
    def sessions(self) -> Sessions:
        """What the gateway accepted and sold."""
        from microwallet.ledger.sessions import Sessions

        return Sessions(self.database)

    @cached_property
    def gas_spending(self) -> GasSpending:
        """What was paid lately for the deposits of payers."""
        from microwallet.ledger.gas_spending import GasSpending

        return GasSpending(self.database, clock=lambda: int(time.time()))

    @cached_property
    def journal(self) -> Journal:
        """Every transaction signed."""
        from microwallet.ledger.journal import Journal

        return Journal(self.database, clock=lambda: int(time.time()))

    @cached_property
    def scanned(self) -> Scanned:
        """How far the chain's events have been read."""
        from microwallet.ledger.scanned import Scanned

        return Scanned(self.database)

    @cached_property
    def turns(self) -> Turns:
        """Locks over processes, by name."""
        from microwallet.ledger.turns import Turns

        return Turns(self.database.path.with_suffix(".turns"))

    def _settle_older_copy(self) -> None:
        """An older copy of the ledger was put in place: its highest vouchers are not the highest."""
        if self.database.is_older_than_marked():
            self.channels.forget_vouchers()
            self.database.accept_as_current()
