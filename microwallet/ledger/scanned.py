"""How far the chain's events have been read, so that the next search starts there."""

from __future__ import annotations

from microwallet.domain.identifiers import Address, ChainId
from microwallet.ledger.database import Database


class Scanned:
    """The last block read for one address as the payer, per chain and escrow."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self, chain_id: ChainId, escrow_contract: Address, payer: Address) -> int | None:
        """The last block read, or None if none was."""
        with self._database.read() as connection:
            row = connection.execute(
                "SELECT block_number FROM scanned WHERE chain_id = ? AND escrow_contract = ? AND address = ?",
                (chain_id, escrow_contract, payer),
            ).fetchone()
            return int(row[0]) if row else None

    def record(self, chain_id: ChainId, escrow_contract: Address, payer: Address, block_number: int) -> None:
        """Every event up to this block has been taken into the ledger."""
        with self._database.write() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO scanned VALUES (?, ?, ?, ?)",
                (chain_id, escrow_contract, payer, block_number),
            )
