"""Opens and top-ups by idempotency key: what was asked for, until the chain has it."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from typing import Any

from microwallet.domain.channel import PayerChannel
from microwallet.domain.deposit import Deposit, DepositKind, DepositStatus, Way
from microwallet.domain.identifiers import ChainId, ChannelId
from microwallet.ledger.channels import insert_channel, set_label
from microwallet.ledger.database import Database, to_text

_COLUMNS = (
    "idempotency_key, kind, channel_id, amount, arguments, method, authorization_expires_at, status, "
    "created_at"
)


class Deposits:
    """Every open and top-up ever begun."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def find(self, idempotency_key: str) -> Deposit | None:
        """The deposit begun under a key, or None."""
        with self._database.read() as connection:
            return _find(connection, idempotency_key)

    def pending(self) -> Sequence[Deposit]:
        """Deposits whose end is not known, oldest first."""
        return self._read("status = 'pending' ORDER BY created_at")

    def of_channel(self, kind: DepositKind, channel_id: ChannelId) -> Sequence[Deposit]:
        """Every deposit of one kind into a channel, newest first."""
        return self._read("kind = ? AND channel_id = ? ORDER BY created_at DESC", kind, channel_id)

    def done(self, chain_id: ChainId) -> Sequence[Deposit]:
        """Those that a chain has, into channels that are not finalized: opens first, each oldest first."""
        return self._read(
            """status = 'done' AND channel_id IN
                (SELECT channel_id FROM channels WHERE chain_id = ? AND finalized = 0)
            ORDER BY kind, created_at""",
            chain_id,
        )

    def begin(
        self, deposit: Deposit, channel: PayerChannel, *, require_key: Callable[[], object], now: int
    ) -> Deposit:
        """Commit a new deposit and its channel before anything is signed, unless `require_key` raises.

        The same key again gives the deposit begun first; the caller compares `arguments`.
        """
        with self._database.write() as connection:
            begun = _find(connection, deposit.idempotency_key)
            if begun is not None:
                return begun
            require_key()
            insert_channel(connection, channel, now=now)
            connection.execute(
                f"INSERT INTO deposits ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    deposit.idempotency_key,
                    deposit.kind,
                    deposit.channel_id,
                    to_text(deposit.amount),
                    deposit.arguments,
                    deposit.way,
                    deposit.authorization_expires_at,
                    deposit.status,
                    now,
                ),
            )
            return deposit

    def record(
        self,
        idempotency_key: str,
        status: DepositStatus,
        *,
        way: Way | None = None,
        authorization_expires_at: int | None = None,
    ) -> None:
        """Store a deposit's status, and how it is made when that is decided.

        The end of what was signed for it never comes nearer: what was signed before can still be used.
        """
        with self._database.write() as connection:
            connection.execute(
                """UPDATE deposits SET status = :status, method = coalesce(:way, method),
                authorization_expires_at = coalesce(
                    max(authorization_expires_at, :ends), :ends, authorization_expires_at)
                WHERE idempotency_key = :key""",
                {
                    "status": status,
                    "way": way,
                    "ends": authorization_expires_at,
                    "key": idempotency_key,
                },
            )

    def abandon(self, deposit: Deposit) -> None:
        """A deposit that was proven dead: a channel it should have opened gives its label free."""
        with self._database.write() as connection:
            connection.execute(
                "UPDATE deposits SET status = 'abandoned' WHERE idempotency_key = ?",
                (deposit.idempotency_key,),
            )
            if deposit.kind is DepositKind.OPEN:
                connection.execute(
                    "UPDATE channels SET label = NULL WHERE channel_id = ?", (deposit.channel_id,)
                )

    def revive(self, deposit: Deposit, label: str | None, *, now: int) -> None:
        """Begin an abandoned deposit again, for the same channel; UsageError if its label is taken now."""
        with self._database.write() as connection:
            connection.execute(
                "UPDATE deposits SET status = 'pending', created_at = ? WHERE idempotency_key = ?",
                (now, deposit.idempotency_key),
            )
            if deposit.kind is DepositKind.OPEN:
                set_label(connection, deposit.channel_id, label)

    def _read(self, where: str, *values: Any) -> Sequence[Deposit]:
        with self._database.read() as connection:
            rows = connection.execute(f"SELECT {_COLUMNS} FROM deposits WHERE {where}", values)
            return [_deposit(row) for row in rows]


def _find(connection: sqlite3.Connection, idempotency_key: str) -> Deposit | None:
    row = connection.execute(
        f"SELECT {_COLUMNS} FROM deposits WHERE idempotency_key = ?", (idempotency_key,)
    ).fetchone()
    return _deposit(row) if row else None


def _deposit(row: tuple[Any, ...]) -> Deposit:
    key, kind, channel_id, amount, arguments, way, expires_at, status, created_at = row
    return Deposit(
        idempotency_key=key,
        kind=DepositKind(kind),
        channel_id=ChannelId(channel_id),
        amount=int(amount),
        arguments=arguments,
        way=Way(way),
        authorization_expires_at=expires_at,
        status=DepositStatus(status),
        created_at=created_at,
    )
