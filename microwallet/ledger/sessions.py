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
from microwallet.ledger.recent_sales import RecentSales
from microwallet.ledger.vouchers import Accepted, Vouchers

_SALE = (
    "channel_id, cumulative_amount, cost, idempotency_key, fingerprint, answer, created_at, repeats, settled"
)

_ADD = (
    f"INSERT INTO sales (position, {_SALE}, spent, stream, signature)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)


class SessionRows:
    """The rows inside one write transaction."""

    def __init__(self, connection: sqlite3.Connection, recent: RecentSales) -> None:
        self._connection = connection
        self._recent = recent
        self._sold: list[tuple[Any, ...]] = []
        """Sales to add."""
        self.has_changed = False
        """Whether anything was done that others do not learn from the sales since."""

    def account(self, channel_id: ChannelId) -> SessionAccount | None:
        """The account of a channel, or None if the channel is not known."""
        account = self._recent.accounts.get(channel_id)
        if account is not None:
            return account
        row = self._execute(
            """SELECT deposit, authorized, spent, stream, closing OR close_requested_at, finalized
            FROM vouchers WHERE channel_id = ?""",
            (channel_id,),
        ).fetchone()
        if row is None:
            return None
        deposit, authorized, spent, stream, is_closing, is_finalized = row
        head = self._recent.heads.get(channel_id)
        if head is not None:
            authorized, spent, stream = self._execute(
                "SELECT cumulative_amount, spent, stream FROM sales WHERE position = ?", (head,)
            ).fetchone()
        account = self._recent.accounts[channel_id] = SessionAccount(
            channel_id,
            int(deposit),
            int(authorized),
            int(spent),
            stream,
            is_closing=is_closing == 1,
            is_finalized=is_finalized == 1,
        )
        return account

    def save(self, account: SessionAccount) -> None:
        """Store `spent` and `stream` of an account: with the sale that holds it, if there is one."""
        head = self._recent.heads.get(account.channel_id)
        table, key = ("vouchers", "channel_id") if head is None else ("sales", "position")
        self._change_account(
            account,
            f"UPDATE {table} SET spent = ?, stream = ? WHERE {key} = ?",
            (to_text(account.spent), account.stream, head or account.channel_id),
        )

    def save_voucher(self, account: SessionAccount, signature: bytes, *, now: int) -> None:
        """Store an account whose `accepted` rose, with the signature of the voucher."""
        self.carry_over()
        self._change_account(
            account,
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
        return self._sale("position = ?", self._position(channel_id, cumulative_amount))

    def sale_by_key(self, channel_id: ChannelId, idempotency_key: str) -> Sale | None:
        """What was bought under an idempotency key."""
        return self._sale("channel_id = ? AND idempotency_key = ?", channel_id, idempotency_key)

    def add_first_sale(self, sale: Sale, account: SessionAccount, signature: bytes) -> None:
        """Store a new sale by a voucher above all before, with its signature and the account after it."""
        channel_id = account.channel_id
        self._recent.accounts[channel_id] = account
        position = self._recent.add(channel_id, account.accepted, is_head=True)
        self._sold.append(_row(position, sale, to_text(account.spent), account.stream, signature))

    def add_sale(self, sale: Sale) -> bool:
        """Store a new sale; False, and nothing is stored, if its voucher has bought already."""
        if self._position(sale.channel_id, sale.cumulative_amount) is not None:
            return False
        position = self._recent.add(sale.channel_id, sale.cumulative_amount, is_head=False)
        self._sold.append(_row(position, sale, None, None, None))
        return True

    def update_sale(self, sale: Sale) -> None:
        """Store what a sale costs."""
        self._change(sale, "cost = ?, settled = ?", to_text(sale.cost), int(sale.is_settled))

    def save_repeats(self, sale: Sale) -> None:
        """Store how often a sale is served again."""
        self._change(sale, "repeats = ?", sale.repeats)

    def keep_answer(self, sale: Sale, answer: bytes) -> None:
        """Store what was answered to a sale."""
        self._change(sale, "answer = ?", answer)

    def remove_sale(self, sale: Sale) -> None:
        """Forget a sale that was given back: its voucher and its key can buy again."""
        self.carry_over()
        self.has_changed = True
        position = self._position(sale.channel_id, sale.cumulative_amount)
        self._execute("DELETE FROM sales WHERE position = ?", (position,))
        self._execute(
            "DELETE FROM used_vouchers WHERE channel_id = ? AND cumulative_amount = ?",
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

    def flush(self) -> None:
        """Add the sales that are not yet among the rows."""
        if self._sold:
            self._connection.executemany(_ADD, self._sold)
            self._sold.clear()

    def carry_over(self) -> None:
        """Carry recent sales over."""
        self.flush()
        self._recent.carry_over(self._connection)

    def _execute(self, statement: str, values: tuple[Any, ...]) -> sqlite3.Cursor:
        self.flush()
        return self._connection.execute(statement, values)

    def _change_account(self, account: SessionAccount, statement: str, values: tuple[Any, ...]) -> None:
        self._execute(statement, values)
        self._recent.accounts[account.channel_id] = account
        self.has_changed = True

    def _change(self, sale: Sale, assignments: str, *values: Any) -> None:
        """Change a sale where it is."""
        position = self._position(sale.channel_id, sale.cumulative_amount)
        self._execute(f"UPDATE sales SET {assignments} WHERE position = ?", (*values, position))

    def _position(self, channel_id: ChannelId, cumulative_amount: int) -> int | None:
        """Where the sale of a voucher is, if it has bought."""
        position = self._recent.positions.get((channel_id, cumulative_amount))
        if position is None:
            row = self._execute(
                "SELECT position FROM used_vouchers WHERE channel_id = ? AND cumulative_amount = ?",
                (channel_id, to_text(cumulative_amount)),
            ).fetchone()
            position = None if row is None else row[0]
        return position

    def _sale(self, where: str, *values: Any) -> Sale | None:
        row: tuple[Any, ...] | None = self._execute(
            f"SELECT {_SALE} FROM sales WHERE {where}", values
        ).fetchone()
        if row is None:
            return None
        channel_id, cumulative_amount, cost, key, fingerprint, answer, created_at, repeats, settled = row
        return Sale(
            channel_id=channel_id,
            cumulative_amount=int(cumulative_amount),
            cost=int(cost),
            idempotency_key=key,
            fingerprint=fingerprint,
            answer=answer,
            created_at=created_at,
            repeats=repeats,
            is_settled=bool(settled),
        )


def _row(
    position: int, sale: Sale, spent: str | None, stream: int | None, signature: bytes | None
) -> tuple[Any, ...]:
    """The values of _ADD; the last three of the account after it, if its voucher is the best."""
    channel_id, cumulative_amount, cost, key, fingerprint, answer, created_at, repeats, is_settled = sale
    return (
        position,
        channel_id,
        to_text(cumulative_amount),
        to_text(cost),
        key,
        fingerprint,
        answer,
        created_at,
        repeats,
        int(is_settled),
        spent,
        stream,
        signature,
    )


class Sessions:
    """The store over one connection."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._vouchers = Vouchers(database)
        self._recent = RecentSales()

    @contextmanager
    def transaction(self) -> Iterator[SessionRows]:
        """One transaction; what it changes is durable after `sync`."""
        recent = self._recent
        with self._database.write_one_of_many() as (connection, generation):
            recent.refresh(connection, generation)
            rows = SessionRows(connection, recent)
            yield rows
            rows.flush()
            if rows.has_changed:
                connection.execute("UPDATE generation SET changes = changes + 1")
        recent.keep(generation._replace(changes=generation.changes + rows.has_changed))

    def sync(self) -> None:
        """Make durable what transactions have changed; for any thread."""
        self._database.sync()

    def catch_up(self) -> None:
        """Carry recent sales over if they are many."""
        recent = self._recent
        if recent.are_many:
            with self._database.write_one_of_many() as (connection, generation):
                recent.refresh(connection, generation)
                recent.carry_over(connection)
            recent.keep(generation)

    def channel(self, channel_id: ChannelId) -> PayeeChannel | None:
        """A channel with its best voucher, or None."""
        return self._vouchers.get(channel_id)

    def add_channel(self, channel: PayeeChannel, *, now: int) -> None:
        """Store a channel, unless it is known."""

        def weigh(accepted: Mapping[ChannelId, Accepted], _: object) -> list[PayeeChannel]:
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
