"""Gas paid for others: what was set aside for it and when, so that an hour's budget holds."""

from __future__ import annotations

from dataclasses import dataclass

from microwallet.domain.identifiers import ChainId
from microwallet.ledger.database import Database, to_text

BUDGET_SECONDS = 60 * 60
"""The time a budget is for: at every moment, the last hour."""


@dataclass(frozen=True, slots=True)
class SetAside:
    """Wei that are set aside for one transaction."""

    id: int


class GasSpending:
    """What the payers' deposits cost the payee; processes of a home share one budget."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def set_aside(self, chain_id: ChainId, wei: int, *, budget: int, now: int) -> SetAside | None:
        """Set `wei` aside before a transaction is signed; None if the last hour's budget has not got it.

        Atomic over processes. What is not corrected by `record` counts in full.
        """
        with self._database.write() as connection:
            connection.execute("DELETE FROM gas_spending WHERE created_at <= ?", (now - BUDGET_SECONDS,))
            rows = connection.execute("SELECT wei FROM gas_spending WHERE chain_id = ?", (chain_id,))
            if sum(int(row[0]) for row in rows) + wei > budget:
                return None
            added = connection.execute(
                "INSERT INTO gas_spending (chain_id, wei, created_at) VALUES (?, ?, ?) RETURNING id",
                (chain_id, to_text(wei), now),
            )
            return SetAside(added.fetchone()[0])

    def record(self, set_aside: SetAside, wei: int) -> None:
        """What the transaction cost in the end."""
        with self._database.write() as connection:
            connection.execute("UPDATE gas_spending SET wei = ? WHERE id = ?", (to_text(wei), set_aside.id))
