"""The gas that the payee pays for payers' deposits, kept within a budget for each hour."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable

from microwallet.domain.identifiers import ChainId
from microwallet.ledger.database import Database, to_text

BUDGET_SECONDS = 60 * 60
"""The budget is for the last hour, at every moment."""


class GasSpending:
    """What deposits cost the payee; all processes of a home share one budget.

    Implements domain.ports.GasBudget, so that what is set aside for a deposit follows what its transaction
    can cost, whichever process finishes it.
    """

    def __init__(self, database: Database, clock: Callable[[], int]) -> None:
        self._database = database
        self._clock = clock

    def set_aside(self, chain_id: ChainId, operation: str, wei: int, *, budget: int) -> bool:
        """Set `wei` aside before an operation's transaction is signed; False if the budget has no room.

        Atomic over processes. It counts for an hour, and longer while the transaction can still be mined; in
        full, unless `record` corrects it.
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
        """As domain.ports.GasBudget. A cancellation is needed: closes may wait for the nonce it frees."""
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
        """Store what an operation's transaction cost in the end, which counts for an hour from now."""
        with self._database.write() as connection:
            connection.execute(
                """UPDATE gas_spending SET wei = :wei, created_at = :now
                WHERE id = (SELECT max(id) FROM gas_spending WHERE operation = :operation) AND wei <> :wei""",
                {"operation": operation, "wei": to_text(wei), "now": self._clock()},
            )

    def _counted(self, connection: sqlite3.Connection, chain_id: ChainId) -> int:
        """Wei that the last hour's transactions cost at most; older ones are deleted.

        Those from the future, written before the clock was set back, count from now.
        """
        now = self._clock()
        connection.execute("UPDATE gas_spending SET created_at = ? WHERE created_at > ?", (now, now))
        connection.execute(
            """DELETE FROM gas_spending WHERE created_at <= ? AND operation NOT IN
                (SELECT operation FROM transactions WHERE status IN ('signed', 'broadcast'))""",
            (now - BUDGET_SECONDS,),
        )
        rows = connection.execute("SELECT wei FROM gas_spending WHERE chain_id = ?", (chain_id,))
        return sum(int(wei) for (wei,) in rows)
