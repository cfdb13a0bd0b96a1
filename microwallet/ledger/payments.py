"""Payments: committed before a voucher leaves, found again by their idempotency key."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import Any

from microwallet.domain.channel import PayerChannel
from microwallet.domain.identifiers import ChannelId
from microwallet.domain.payment import Payment
from microwallet.errors import IdempotencyMismatch, UnknownReference
from microwallet.ledger.channels import read_channel
from microwallet.ledger.database import Database, to_text

_COLUMNS = "idempotency_key, channel_id, start, step, count, deposit, memo, created_at"


class Payments:
    """Every batch of vouchers this wallet ever signed; rows are never changed."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def find(self, idempotency_key: str) -> Payment | None:
        """The payment made under a key, or None."""
        with self._database.read() as connection:
            return _find(connection, idempotency_key)

    def of_channel(self, channel_id: ChannelId) -> list[Payment]:
        """The payments on a channel, oldest first."""
        with self._database.read() as connection:
            query = f"SELECT {_COLUMNS} FROM payments WHERE channel_id = ? ORDER BY start"
            return [_payment(row) for row in connection.execute(query, (channel_id,))]

    def total(self, channel_id: ChannelId) -> int:
        """Base units that were paid on a channel by vouchers of payments."""
        with self._database.read() as connection:
            rows = connection.execute("SELECT step, count FROM payments WHERE channel_id = ?", (channel_id,))
            return sum(int(step) * count for step, count in rows)

    def record(
        self,
        channel_id: ChannelId,
        idempotency_key: str,
        plan: Callable[[PayerChannel], Payment],
    ) -> Payment:
        """Commit the payment that `plan` makes of the channel as it is now, and raise its authorized.

        Atomic over processes. The same key again gives the payment recorded first; the caller
        compares it by check_same.
        """
        with self._database.write_vouchers() as connection:
            channel = read_channel(connection, channel_id)
            if channel is None:
                raise UnknownReference(f"there is no channel {channel_id}")
            recorded = _find(connection, idempotency_key)
            if recorded is not None:
                return recorded
            payment = plan(channel)
            connection.execute(
                f"INSERT INTO payments ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    payment.idempotency_key,
                    payment.channel_id,
                    to_text(payment.start),
                    to_text(payment.step),
                    payment.count,
                    to_text(payment.deposit),
                    payment.memo,
                    payment.created_at,
                ),
            )
            connection.execute(
                "UPDATE channels SET authorized = ?, spent = ? WHERE channel_id = ?",
                (
                    to_text(payment.end),
                    to_text(channel.spent + payment.end - payment.start),
                    channel_id,
                ),
            )
            return payment


def check_same(recorded: Payment, *, channel_id: ChannelId, step: int, count: int, memo: str | None) -> None:
    """IdempotencyMismatch unless a recorded payment has these arguments."""
    differences = [
        f"{name} {then!r} then, {now!r} now"
        for name, then, now in (
            ("channel", recorded.channel_id, channel_id),
            ("amount", str(recorded.step), str(step)),
            ("count", recorded.count, count),
            ("memo", recorded.memo, memo),
        )
        if then != now
    ]
    if differences:
        raise IdempotencyMismatch(
            f"the idempotency key {recorded.idempotency_key!r} was used with other arguments: "
            + "; ".join(differences),
            hint=f"microwallet pay --resume {recorded.idempotency_key}  (or a new payment without the key)",
        )


def _find(connection: sqlite3.Connection, idempotency_key: str) -> Payment | None:
    row = connection.execute(
        f"SELECT {_COLUMNS} FROM payments WHERE idempotency_key = ?", (idempotency_key,)
    ).fetchone()
    return _payment(row) if row else None


def _payment(row: tuple[Any, ...]) -> Payment:
    key, channel_id, start, step, count, deposit, memo, created_at = row
    return Payment(
        idempotency_key=key,
        channel_id=ChannelId(channel_id),
        start=int(start),
        step=int(step),
        count=count,
        deposit=int(deposit),
        memo=memo,
        created_at=created_at,
    )
