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
from microwallet.ledger.recent_sales import carry_over, carry_over_many
from microwallet.ledger.vouchers import Accepted, Vouchers

_SALE = (
    "channel_id, cumulative_amount, cost, idempotency_key, fingerprint, answer, created_at, repeats, settled"
)

ACCOUNTS_KEPT = 20_000
"""Accounts that need not be read again while nobody else changes the ledger."""


class SessionRows:
    """The rows inside one write transaction. `accounts` are as the rows are, as far as they are known."""

    def __init__(self, connection: sqlite3.Connection, accounts: dict[ChannelId, SessionAccount]) -> None:
        self._connection = connection
        self._accounts = accounts
        self._sold: list[tuple[Any, ...]] = []
        """Rows of recent sales to add."""

    def account(self, channel_id: ChannelId) -> SessionAccount | None:
        """The account of a channel, or None if the channel is not known."""
        account = self._accounts.get(channel_id)
        if account is not None:
            return account
        row = self._execute(
            """SELECT deposit, authorized, spent, stream, closing OR close_requested_at, finalized
            FROM current_vouchers WHERE channel_id = ?""",
            (channel_id,),
        ).fetchone()
        if row is None:
            return None
        deposit, authorized, spent, stream, is_closing, is_finalized = row
        account = self._accounts[channel_id] = SessionAccount(
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
        """Store `spent` and `stream` of an account: with the last of its recent sales, if there is one."""
        self._accounts[account.channel_id] = account
        last = "position = (SELECT max(position) FROM recent_sales WHERE channel_id = ?)"
        for table, where in (("recent_sales", last), ("vouchers", "channel_id = ?")):
            changed = self._execute(
                f"UPDATE {table} SET spent = ?, stream = ? WHERE {where}",
                (to_text(account.spent), account.stream, account.channel_id),
            )
            if changed.rowcount:
                return

    def save_voucher(self, account: SessionAccount, signature: bytes, *, now: int) -> None:
        """Store an account whose `accepted` rose, with the signature of the voucher."""
        self._accounts[account.channel_id] = account
        self._carry_over()
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

    def add_first_sale(self, sale: Sale, account: SessionAccount, signature: bytes) -> None:
        """Store a new sale by a voucher above all before, with its signature and the account after it."""
        self._accounts[account.channel_id] = account
        self._sold.append(
            (to_text(account.accepted), to_text(account.spent), account.stream, signature, *_values(sale))
        )

    def add_sale(self, sale: Sale) -> bool:
        """Store a new sale; False, and nothing is stored, if its voucher has bought already."""
        self._carry_over()
        added = self._execute(
            f"INSERT INTO sales ({_SALE}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
            " ON CONFLICT (channel_id, cumulative_amount) DO NOTHING",
            _values(sale),
        )
        return added.rowcount == 1

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
        self._carry_over()
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

    def flush(self) -> None:
        """Add the recent sales that are not yet among the rows."""
        if self._sold:
            self._connection.executemany(
                f"INSERT INTO recent_sales (authorized, spent, stream, signature, {_SALE})"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                self._sold,
            )
            self._sold.clear()

    def _execute(self, statement: str, values: tuple[Any, ...]) -> sqlite3.Cursor:
        self.flush()
        return self._connection.execute(statement, values)

    def _carry_over(self) -> None:
        self.flush()
        carry_over(self._connection)

    def _change(self, sale: Sale, assignments: str, *values: Any) -> None:
        """Change a sale where it is."""
        for table in ("recent_sales", "sales"):
            changed = self._execute(
                f"UPDATE {table} SET {assignments} WHERE channel_id = ? AND cumulative_amount = ?",
                (*values, sale.channel_id, to_text(sale.cumulative_amount)),
            )
            if changed.rowcount:
                return

    def _sale(self, column: str, channel_id: ChannelId, value: str) -> Sale | None:
        query = " UNION ALL ".join(
            f"SELECT {_SALE} FROM {table} WHERE channel_id = ? AND {column} = ?"
            for table in ("recent_sales", "sales")
        )
        row: tuple[Any, ...] | None = self._execute(query, (channel_id, value) * 2).fetchone()
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
            is_settled=bool(row[8]),
        )


def _values(sale: Sale) -> tuple[Any, ...]:
    """The values of _SALE."""
    return (
        sale.channel_id,
        to_text(sale.cumulative_amount),
        to_text(sale.cost),
        sale.idempotency_key,
        sale.fingerprint,
        sale.answer,
        sale.created_at,
        sale.repeats,
        int(sale.is_settled),
    )


class Sessions:
    """The store over one connection."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._vouchers = Vouchers(database)
        self._accounts: dict[ChannelId, SessionAccount] = {}
        self._as_of: tuple[int, int] | None = None
        """What others, and this connection, had changed when `_accounts` were right."""

    @contextmanager
    def transaction(self) -> Iterator[SessionRows]:
        """One transaction, durable when the block ends."""
        as_of, self._as_of = self._as_of, None
        with self._database.write_vouchers(is_one_of_many=True) as connection:
            others: int = connection.execute("PRAGMA data_version").fetchone()[0]
            if as_of != (others, connection.total_changes) or len(self._accounts) > ACCOUNTS_KEPT:
                self._accounts.clear()
            rows = SessionRows(connection, self._accounts)
            yield rows
            rows.flush()
            carry_over_many(connection)
        self._as_of = others, connection.total_changes

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
            carry_over(connection)
            connection.execute("DELETE FROM challenges WHERE expires_at < ?", (now,))
            connection.execute(
                "UPDATE sales SET answer = NULL WHERE answer IS NOT NULL AND created_at < ?",
                (answers_before,),
            )
