"""The gateway's store in the ledger: accounts of channels, what they bought, which challenges they answered.

Implements http402.charging.store.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from microwallet.domain.channel import ChannelState, PayeeChannel
from microwallet.domain.identifiers import ChannelId
from microwallet.domain.session import Sale, SessionAccount
from microwallet.ledger.database import Database, to_text
from microwallet.ledger.vouchers import Accepted, Vouchers

_SALE = "channel_id, cumulative_amount, cost, idempotency_key, fingerprint, answer, created_at, repeats"


class SessionRows:
    """The rows inside one write transaction."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._execute = connection.execute

    def account(self, channel_id: ChannelId) -> SessionAccount | None:
        """The account of a channel, or None if the channel is not known."""
        row = self._execute(
            """SELECT deposit, authorized, spent, stream, closing OR close_requested_at, finalized
            FROM vouchers WHERE channel_id = ?""",
            (channel_id,),
        ).fetchone()
        if row is None:
            return None
        return SessionAccount(
            channel_id=channel_id,
            deposit=int(row[0]),
            accepted=int(row[1]),
            spent=int(row[2]),
            stream=row[3],
            is_closing=bool(row[4]),
            is_finalized=bool(row[5]),
        )

    def save(self, account: SessionAccount) -> None:
        """Store `spent` and `stream` of an account."""
        self._execute(
            "UPDATE vouchers SET spent = ?, stream = ? WHERE channel_id = ?",
            (to_text(account.spent), account.stream, account.channel_id),
        )

    def save_voucher(self, account: SessionAccount, signature: bytes, *, now: int) -> None:
        """Store an account whose `accepted` rose, with the signature of the voucher."""
        self._execute(
            """UPDATE vouchers SET authorized = ?, spent = ?, stream = ?, signature = ?, accepted_at = ?
            WHERE channel_id = ?""",
            (
                to_text(account.accepted),
                to_text(account.spent),
                account.stream,
                signature,
                now,
                account.channel_id,
            ),
        )

    def sale(self, channel_id: ChannelId, cumulative_amount: int) -> Sale | None:
        """What a voucher bought."""
        return self._sale("cumulative_amount", channel_id, to_text(cumulative_amount))

    def sale_by_key(self, channel_id: ChannelId, idempotency_key: str) -> Sale | None:
        """What was bought under an idempotency key."""
        return self._sale("idempotency_key", channel_id, idempotency_key)

    def add_sale(self, sale: Sale) -> bool:
        """Store a new sale; False, and nothing is stored, if its voucher has bought already."""
        added = self._execute(
            f"INSERT INTO sales ({_SALE}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
            " ON CONFLICT (channel_id, cumulative_amount) DO NOTHING",
            (
                sale.channel_id,
                to_text(sale.cumulative_amount),
                to_text(sale.cost),
                sale.idempotency_key,
                sale.fingerprint,
                sale.answer,
                sale.created_at,
                sale.repeats,
            ),
        )
        return added.rowcount == 1

    def update_sale(self, sale: Sale) -> None:
        """Store what a sale costs."""
        self._execute(
            "UPDATE sales SET cost = ? WHERE channel_id = ? AND cumulative_amount = ?",
            (to_text(sale.cost), sale.channel_id, to_text(sale.cumulative_amount)),
        )

    def save_repeats(self, sale: Sale) -> None:
        """Store how often a sale is served again."""
        self._execute(
            "UPDATE sales SET repeats = ? WHERE channel_id = ? AND cumulative_amount = ?",
            (sale.repeats, sale.channel_id, to_text(sale.cumulative_amount)),
        )

    def keep_answer(self, sale: Sale, answer: bytes) -> None:
        """Store what was answered to a sale."""
        self._execute(
            "UPDATE sales SET answer = ? WHERE channel_id = ? AND cumulative_amount = ?",
            (answer, sale.channel_id, to_text(sale.cumulative_amount)),
        )

    def remove_sale(self, sale: Sale) -> None:
        """Forget a sale that was given back: its voucher and its key can buy again."""
        self._execute(
            "DELETE FROM sales WHERE channel_id = ? AND cumulative_amount = ?",
            (sale.channel_id, to_text(sale.cumulative_amount)),
        )

    def claim_challenge(self, challenge_id: str, channel_id: ChannelId, *, expires_at: int) -> bool:
        """Let a challenge serve this channel; False if it serves another already."""
        self._execute(
            "INSERT INTO challenges VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
            (challenge_id, channel_id, expires_at),
        )
        row = self._execute("SELECT channel_id FROM challenges WHERE id = ?", (challenge_id,)).fetchone()
        return bool(row[0] == channel_id)

    def _sale(self, column: str, channel_id: ChannelId, value: str) -> Sale | None:
        query = f"SELECT {_SALE} FROM sales WHERE channel_id = ? AND {column} = ?"
        row: tuple[Any, ...] | None = self._execute(query, (channel_id, value)).fetchone()
        if row is None:
            return None
        return Sale(
            channel_id=channel_id,
            cumulative_amount=int(row[1]),
            cost=int(row[2]),
            idempotency_key=row[3],
            fingerprint=row[4],
            answer=row[5],
            created_at=row[6],
            repeats=row[7],
        )


class Sessions:
    """The store over one connection."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._vouchers = Vouchers(database)

    @contextmanager
    def transaction(self) -> Iterator[SessionRows]:
        """One transaction, durable when the block ends."""
        with self._database.write_vouchers() as connection:
            yield SessionRows(connection)

    def channel(self, channel_id: ChannelId) -> PayeeChannel | None:
        """A channel with its best voucher, or None."""
        return self._vouchers.get(channel_id)

    def add_channel(self, channel: PayeeChannel, *, now: int) -> None:
        """Store a channel, unless it is known."""

        def weigh(accepted: Mapping[ChannelId, Accepted]) -> list[PayeeChannel]:
            return [] if accepted else [channel]

        self._vouchers.accept([channel.channel_id], weigh, now=now)

    def record_states(self, states: Mapping[ChannelId, ChannelState], *, as_of: int) -> None:
        """Store what the chain says of channels at `as_of`, Unix seconds."""
        self._vouchers.record_states(states, as_of=as_of)

    def forget_expired(self, *, now: int, answers_before: int) -> None:
        """Drop expired challenges, and answers kept for replays that are older."""
        with self._database.write() as connection:
            connection.execute("DELETE FROM challenges WHERE expires_at < ?", (now,))
            connection.execute(
                "UPDATE sales SET answer = NULL WHERE answer IS NOT NULL AND created_at < ?",
                (answers_before,),
            )
