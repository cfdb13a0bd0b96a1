"""The journal of signed transactions: stored before they are broadcast, never deleted."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from typing import Any

from microwallet.domain.identifiers import Address, ChainId, ChannelId, TxHash
from microwallet.domain.ports import JournalEntry, SignedTransaction, TransactionStatus
from microwallet.ledger.database import Database

_COLUMNS = (
    "hash, chain_id, sender, nonce, operation, purpose, channel_id, raw, max_fee_per_gas,"
    " max_priority_fee_per_gas, status, block_number, gas_used, created_at"
)
_UNFINISHED = "status IN ('signed', 'broadcast')"


class Journal:
    """Implements domain.ports.TransactionJournal."""

    def __init__(self, database: Database, clock: Callable[[], int]) -> None:
        self._database = database
        self._clock = clock

    def reserve(
        self,
        chain_id: ChainId,
        sender: Address,
        *,
        chain_nonce: int,
        sign: Callable[[int], SignedTransaction],
    ) -> SignedTransaction:
        """The lowest nonce not below `chain_nonce` that no unfinished transaction has.

        Where that gives an operation the bytes it once had, and which ended in no block, they are live again.
        """
        with self._database.write() as connection:
            rows = connection.execute(
                f"SELECT nonce FROM transactions WHERE chain_id = ? AND sender = ? AND {_UNFINISHED}",
                (chain_id, sender),
            )
            taken = {nonce for (nonce,) in rows}
            nonce = chain_nonce
            while nonce in taken:
                nonce += 1
            transaction = sign(nonce)
            self._insert(connection, transaction)
            connection.execute(
                """UPDATE transactions SET status = 'signed', block_number = NULL, gas_used = NULL
                WHERE hash = ? AND operation = ? AND status IN ('replaced', 'reverted')""",
                (transaction.hash, transaction.operation),
            )
            return transaction

    def replace(self, transaction: SignedTransaction) -> None:
        """Store another attempt at an earlier one's nonce."""
        with self._database.write() as connection:
            self._insert(connection, transaction)

    def begin_sending(self, transaction_hash: TxHash) -> None:
        """A signed transaction is about to be sent: from now on nobody can withdraw it."""
        self._move(transaction_hash, TransactionStatus.SIGNED, TransactionStatus.BROADCAST)

    def withdraw(self, transaction_hash: TxHash) -> bool:
        """Make a transaction REPLACED that nobody began to send; False if somebody did."""
        return self._move(transaction_hash, TransactionStatus.SIGNED, TransactionStatus.REPLACED)

    def record_sent(self, transaction_hash: TxHash) -> None:
        """A node took a transaction: one that was taken for replaced is live again."""
        self._move(transaction_hash, TransactionStatus.REPLACED, TransactionStatus.BROADCAST)

    def record(
        self,
        transaction_hash: TxHash,
        status: TransactionStatus,
        *,
        block_number: int | None = None,
        gas_used: int | None = None,
    ) -> None:
        """Store what became of a transaction; a mined one makes its rivals replaced."""
        with self._database.write() as connection:
            connection.execute(
                "UPDATE transactions SET status = ?, block_number = ?, gas_used = ? WHERE hash = ?",
                (status, block_number, gas_used, transaction_hash),
            )
            if status in (TransactionStatus.MINED, TransactionStatus.REVERTED):
                connection.execute(
                    f"""UPDATE transactions SET status = '{TransactionStatus.REPLACED}'
                    WHERE {_UNFINISHED} AND (chain_id, sender, nonce) =
                        (SELECT chain_id, sender, nonce FROM transactions WHERE hash = :hash)""",
                    {"hash": transaction_hash},
                )

    def unfinished(self, chain_id: ChainId, *, sender: Address | None = None) -> Sequence[JournalEntry]:
        """Entries that are live, lowest nonce first."""
        where = f"chain_id = ? AND {_UNFINISHED}"
        if sender is None:
            return self._read(f"{where} ORDER BY nonce, position", chain_id)
        return self._read(f"{where} AND sender = ? ORDER BY nonce, position", chain_id, sender)

    def in_blocks(
        self, chain_id: ChainId, sender: Address, *, first: int, last: int
    ) -> Sequence[JournalEntry]:
        """Entries that were mined in these blocks, reverted or not, oldest first."""
        where = "chain_id = ? AND sender = ? AND block_number BETWEEN ? AND ? ORDER BY position"
        return self._read(where, chain_id, sender, first, last)

    def at_nonces(
        self, chain_id: ChainId, sender: Address, *, first: int, before: int
    ) -> Sequence[JournalEntry]:
        """Entries that are live or mined, at nonces from `first` to below `before`, in order."""
        where = f"chain_id = ? AND sender = ? AND nonce >= ? AND nonce < ? AND ({_UNFINISHED} OR status = ?)"
        mined = TransactionStatus.MINED
        return self._read(f"{where} ORDER BY nonce, position", chain_id, sender, first, before, mined)

    def of_operation(self, operation: str) -> Sequence[JournalEntry]:
        """Every entry of one operation, oldest first."""
        return self._read("operation = ? ORDER BY position", operation)

    def mined(self, channel_id: ChannelId, purpose: str) -> SignedTransaction | None:
        """The last transaction of a purpose that was mined for a channel, or None."""
        last = "channel_id = ? AND purpose = ? AND status = ? ORDER BY position DESC LIMIT 1"
        found = self._read(last, channel_id, purpose, TransactionStatus.MINED)
        return found[0].transaction if found else None

    def beginning_with(self, operation_prefix: str) -> Sequence[JournalEntry]:
        """Every entry whose operation begins with a text, oldest first."""
        begins = "substr(operation, 1, ?) = ? ORDER BY position"
        return self._read(begins, len(operation_prefix), operation_prefix)

    def _read(self, where: str, *values: Any) -> Sequence[JournalEntry]:
        with self._database.read() as connection:
            rows = connection.execute(f"SELECT {_COLUMNS} FROM transactions WHERE {where}", values)
            return [_entry(row) for row in rows]

    def _move(self, transaction_hash: TxHash, before: TransactionStatus, after: TransactionStatus) -> bool:
        """Give a transaction another status if it has the one before; whether it had."""
        with self._database.write() as connection:
            updated = connection.execute(
                "UPDATE transactions SET status = ? WHERE hash = ? AND status = ?",
                (after, transaction_hash, before),
            )
            return updated.rowcount == 1

    def _insert(self, connection: sqlite3.Connection, transaction: SignedTransaction) -> None:
        connection.execute(
            f"""INSERT INTO transactions ({_COLUMNS}, position)
            VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, NULL, NULL, ?,
                (SELECT coalesce(max(position), 0) + 1 FROM transactions))
            ON CONFLICT (hash) DO NOTHING""",
            (
                transaction.hash,
                transaction.chain_id,
                transaction.sender,
                transaction.nonce,
                transaction.operation,
                transaction.purpose,
                transaction.channel_id,
                transaction.raw,
                str(transaction.max_fee_per_gas),
                str(transaction.max_priority_fee_per_gas),
                TransactionStatus.SIGNED,
                self._clock(),
            ),
        )


def _entry(row: tuple[Any, ...]) -> JournalEntry:
    tx_hash, chain_id, sender, nonce, operation, purpose, channel_id = row[:7]
    raw, max_fee, priority_fee, status, block_number, gas_used, created_at = row[7:]
    return JournalEntry(
        transaction=SignedTransaction(
            hash=TxHash(tx_hash),
            chain_id=ChainId(chain_id),
            sender=Address(sender),
            nonce=nonce,
            operation=operation,
            purpose=purpose,
            channel_id=ChannelId(channel_id) if channel_id else None,
            raw=raw,
            max_fee_per_gas=int(max_fee),
            max_priority_fee_per_gas=int(priority_fee),
        ),
        status=TransactionStatus(status),
        block_number=block_number,
        gas_used=gas_used,
        created_at=created_at,
    )
