"""Gas paid for others: what was set aside for it and when, so that an hour's budget holds."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable

from microwallet.domain.identifiers import ChainId
from microwallet.ledger.database import Database, to_text

BUDGET_SECONDS = 60 * 60
"""The time a budget is for: at every moment, the last hour."""


class GasSpending:
    """What the payers' deposits cost the payee; processes of a home share one budget.

    Implements domain.ports.GasBudget: whichever process brings a deposit's transaction to its end, what was
    set aside for its operation keeps up with what it can cost.
    """

    def __init__(self, database: Database, clock: Callable[[], int]) -> None:
        self._database = database
        self._clock = clock

    def set_aside(self, chain_id: ChainId, operation: str, wei: int, *, budget: int) -> bool:
        """Set `wei` aside before an operation's transaction is signed; False if the last hour's budget has
        not got it.

        Atomic over processes. It counts in full for an hour, and for as long as the transaction can still be
        mined, unless `record` corrects it.
        """
        with self._database.write() as connection:
            if self._counted(connection, chain_id) + wei > budget:
                return False
            connection.execute(
                "INSERT INTO gas_spending (chain_id, operation, wei, budget, created_at)"
                " VALUES (?, ?, ?, ?, ?)",
                (chain_id, operation, to_text(wei), to_text(budget), self._clock()),
            )
            return True

    def set_more_aside(self, operation: str, wei: int, *, is_needed: bool) -> bool:
        """Let no less than `wei` be set aside for an operation whose transaction is signed again; False if
        the budget has not got it, unless it `is_needed`, as a cancellation: it frees a nonce that closes may
        wait for. True for an operation that no budget pays for."""
        with self._database.write() as connection:
            row = connection.execute(
                "SELECT id, chain_id, wei, budget FROM gas_spending WHERE operation = ?"
                " ORDER BY id DESC LIMIT 1",
                (operation,),
            ).fetchone()
            if row is None:
                return True
            row_id, chain_id, set_aside, budget = row
            more = wei - int(set_aside)
            if more <= 0:
                return True
            if not is_needed and self._counted(connection, chain_id) + more > int(budget):
                return False
            connection.execute("UPDATE gas_spending SET wei = ? WHERE id = ?", (to_text(wei), row_id))
            return True

    def record(self, operation: str, wei: int) -> None:
        """What an operation's transaction cost in the end: it counts for an hour from when that is known."""
        with self._database.write() as connection:
            connection.execute(
                """UPDATE gas_spending SET wei = :wei, created_at = :now
                WHERE id = (SELECT max(id) FROM gas_spending WHERE operation = :operation) AND wei <> :wei""",
                {"operation": operation, "wei": to_text(wei), "now": self._clock()},
            )

    def _counted(self, connection: sqlite3.Connection, chain_id: ChainId) -> int:
        """Wei that the last hour's transactions cost, at most; what is older is forgotten, and what is of the
        future, as the clock was set back, counts from now."""
        now = self._clock()
        connection.execute("UPDATE gas_spending SET created_at = ? WHERE created_at > ?", (now, now))
        connection.execute(
            """DELETE FROM gas_spending WHERE created_at <= ? AND operation NOT IN
                (SELECT operation FROM transactions WHERE status IN ('signed', 'broadcast'))""",
            (now - BUDGET_SECONDS,),
        )
        rows = connection.execute("SELECT wei FROM gas_spending WHERE chain_id = ?", (chain_id,))
        return sum(int(wei) for (wei,) in rows)
