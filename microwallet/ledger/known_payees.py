"""Whom each origin was paid to: trusted on first use, and then it is to be the same."""

from __future__ import annotations

from microwallet.domain.identifiers import Address, ChainId
from microwallet.ledger.database import Database


class KnownPayees:
    """One payee for each origin and chain, until the user accepts another."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self, origin: str, chain_id: ChainId) -> Address | None:
        """Whom this origin was paid to, or None."""
        query = "SELECT payee FROM known_payees WHERE origin = ? AND chain_id = ?"
        with self._database.read() as connection:
            row = connection.execute(query, (origin, chain_id)).fetchone()
            return Address(row[0]) if row else None

    def remember(self, origin: str, chain_id: ChainId, payee: Address, *, now: int) -> None:
        """Pay this origin to nobody else from now on."""
        with self._database.write() as connection:
            connection.execute(
                """INSERT INTO known_payees (origin, chain_id, payee, created_at) VALUES (?, ?, ?, ?)
                ON CONFLICT (origin, chain_id) DO UPDATE
                SET payee = excluded.payee, created_at = excluded.created_at""",
                (origin, chain_id, payee, now),
            )
