"""The gateway's store in the ledger: accounts of channels, what they bought, which challenges they answered.

Implements http402.charging.store.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from microwallet.domain.channel import ChannelState, PayeeChannel
from microwallet.domain.handed_over import Counted
from microwallet.domain.identifiers import ChannelId
from microwallet.domain.session import Sale, SessionAccount
from microwallet.ledger.database import Database, Generation, to_text
from microwallet.ledger.heads import Found, Head, find
from microwallet.ledger.known_accounts import KnownAccounts
from microwallet.ledger.vouchers import Accepted, Vouchers

_SALE = (
    "channel_id, cumulative_amount, cost, idempotency_key, fingerprint, answer, created_at, repeats, settled"
)

_ADD = (
    f"INSERT INTO sales (position, {_SALE}, previous, number, spent, stream, signature)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)


class SessionRows:
    """The rows inside one write transaction."""

    def __init__(self, connection: sqlite3.Connection, known: KnownAccounts) -> None:
        self._connection = connection
        self._known = known
        self._sold: list[tuple[Any, ...]] = []
        """Sales to add."""
        self._landmarks: list[tuple[ChannelId, str, int]] = []
        self._moved: dict[ChannelId, Head] = {}
        """Heads to store."""
        self.has_changed = False
        """Whether anything was changed that others cannot learn from new rows in `sales`."""

    def account(self, channel_id: ChannelId) -> SessionAccount | None:
        """The account of a channel, or None if the channel is not known."""
        account = self._known.accounts.get(channel_id)
        if account is not None:
            return account
        row = self._execute(
            """SELECT v.deposit, v.closing, v.close_requested_at > 0, v.finalized,
                v.authorized, v.spent, v.stream, h.id, h.holds_account, h.position,
                s.number, s.cumulative_amount, s.spent, s.stream
            FROM vouchers AS v LEFT JOIN heads AS h ON h.id = v.head LEFT JOIN sales AS s USING (position)
            WHERE v.channel_id = ?""",
            (channel_id,),
        ).fetchone()
        if row is None:
            return None
        deposit, *ending = row[:4]
        *held, head_id, holds_account, position, number = row[4:11]
        authorized, spent, stream = row[11:] if holds_account else held
        account = SessionAccount(
            channel_id,
            int(deposit),
            int(authorized),
            int(spent),
            stream,
            *map(bool, ending),
        )
        self._known.learn(account, Head(head_id, position, number or 0, holds_account=holds_account == 1))
        return account

    def save(self, account: SessionAccount) -> None:
        """Store `spent` and `stream` of an account: in its channel's last sale, or in `vouchers`."""
        head = self._stored_head(account.channel_id)
        values = (to_text(account.spent), account.stream)
        if head.holds_account:
            statement = "UPDATE sales SET spent = ?, stream = ? WHERE position = ?"
            self._execute(statement, (*values, head.position))
        else:
            statement = "UPDATE vouchers SET spent = ?, stream = ? WHERE channel_id = ?"
            self._execute(statement, (*values, account.channel_id))
        self._learn_change(account, head)

    def save_voucher(self, account: SessionAccount, signature: bytes, *, now: int) -> None:
        """Store an account whose `accepted` rose, with the signature of the voucher."""
        head = self._stored_head(account.channel_id)
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
        if head.holds_account:
            head = head._replace(holds_account=False)
            self._execute("UPDATE heads SET holds_account = 0 WHERE id = ?", (head.id,))
        self._learn_change(account, head)

    def sale(self, channel_id: ChannelId, cumulative_amount: int) -> Sale | None:
        """What a voucher bought."""
        return self._sale("position = ?", self._find(channel_id, cumulative_amount).position)

    def sale_by_key(self, channel_id: ChannelId, idempotency_key: str) -> Sale | None:
        """What was bought under an idempotency key."""
        return self._sale("channel_id = ? AND idempotency_key = ?", channel_id, idempotency_key)

    def add_first_sale(self, sale: Sale, account: SessionAccount, signature: bytes) -> None:
        """Store a new sale by the highest voucher so far, with its signature and the account after it."""
        channel_id, amount = sale.channel_id, sale.cumulative_amount
        position = self._known.add(channel_id, amount)
        before = self._known.heads[channel_id]
        head = self._moved[channel_id] = before.after(position)
        self._known.learn(account, head)
        self._sold.append(
            (
                *_row(position, sale),
                before.position,
                head.number,
                to_text(account.spent),
                account.stream,
                signature,
            )
        )
        if head.is_landmark:
            self._landmarks.append((channel_id, to_text(amount), position))

    def add_sale(self, sale: Sale) -> bool:
        """Store a new sale; False, and nothing is stored, if its voucher has bought already."""
        channel_id, amount = sale.channel_id, sale.cumulative_amount
        position, below = self._find(channel_id, amount)
        if position is None:
            position = self._known.add(channel_id, amount)
            self._sold.append((*_row(position, sale), below, None, None, None, None))
            self._landmarks.append((channel_id, to_text(amount), position))
            return True
        if self._sale("position = ?", position) is not None:
            return False
        self._execute(
            f"UPDATE sales SET ({_SALE}, returned) = (?, ?, ?, ?, ?, ?, ?, ?, ?, 0) WHERE position = ?",
            (*_row(position, sale)[1:], position),
        )
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
        self._change(
            sale,
            "cost = ?, idempotency_key = NULL, fingerprint = NULL, answer = NULL, returned = 1",
            to_text(0),
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
        """Write the rows that wait to be written together."""
        if self._sold:
            self._connection.executemany(_ADD, self._sold)
            self._sold.clear()
        if self._moved:
            self._store_heads()
            self._moved.clear()
        if self._landmarks:
            self._connection.executemany("INSERT INTO landmarks VALUES (?, ?, ?)", self._landmarks)
            self._landmarks.clear()

    def _store_heads(self) -> None:
        moved = []
        for channel_id, head in self._moved.items():
            if head.id is not None:
                moved.append((head.position, head.id))
                continue
            add = "INSERT INTO heads (position, holds_account) VALUES (?, 1)"
            head_id = self._connection.execute(add, (head.position,)).lastrowid
            self._connection.execute(
                "UPDATE vouchers SET head = ? WHERE channel_id = ?", (head_id, channel_id)
            )
            self._known.heads[channel_id] = head._replace(id=head_id)
        self._connection.executemany("UPDATE heads SET position = ?, holds_account = 1 WHERE id = ?", moved)

    def _execute(self, statement: str, values: tuple[Any, ...]) -> sqlite3.Cursor:
        self.flush()
        return self._connection.execute(statement, values)

    def _learn_change(self, account: SessionAccount, head: Head) -> None:
        """Remember an account that was changed, and make other processes read theirs again."""
        self._known.learn(account, head)
        self.has_changed = True

    def _change(self, sale: Sale, assignments: str, *values: Any) -> None:
        """Change the row of a sale."""
        position = self._find(sale.channel_id, sale.cumulative_amount).position
        self._execute(f"UPDATE sales SET {assignments} WHERE position = ?", (*values, position))

    def _stored_head(self, channel_id: ChannelId) -> Head:
        """The head of a channel whose account was read, once all rows are written."""
        self.flush()
        return self._known.heads[channel_id]

    def _find(self, channel_id: ChannelId, cumulative_amount: int) -> Found:
        """Where the sale of a voucher is, if it has bought."""
        position = self._known.positions.get((channel_id, cumulative_amount))
        if position is not None:
            return Found(position, None)
        if self.account(channel_id) is None:
            return Found(None, None)
        self.flush()
        head = self._known.heads[channel_id]
        found = find(self._connection, channel_id, cumulative_amount, head.position)
        if found.position is not None:
            self._known.positions[channel_id, cumulative_amount] = found.position
        return found

    def _sale(self, where: str, *values: Any) -> Sale | None:
        row: tuple[Any, ...] | None = self._execute(
            f"SELECT {_SALE} FROM sales WHERE {where} AND returned = 0", values
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


def _row(position: int, sale: Sale) -> tuple[Any, ...]:
    """The position and the values of _SALE."""
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
    )


class Sessions:
    """The store over one connection."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._vouchers = Vouchers(database)
        self._known = KnownAccounts()

    @contextmanager
    def transaction(self) -> Iterator[SessionRows]:
        """One transaction; what it changes is durable after `sync`."""
        known = self._known
        with self._database.write_one_of_many() as (connection, generation):
            known.refresh(connection, generation)
            rows = SessionRows(connection, known)
            yield rows
            rows.flush()
            if rows.has_changed:
                connection.execute("UPDATE generation SET changes = changes + 1")
        known.keep(Generation(generation.number, generation.changes + rows.has_changed))

    def sync(self) -> None:
        """Make durable what transactions have changed; for any thread."""
        self._database.sync()

    def channel(self, channel_id: ChannelId) -> PayeeChannel | None:
        """A channel with its best voucher, or None."""
        return self._vouchers.get(channel_id)

    def add_channel(self, channel: PayeeChannel, *, now: int) -> None:
        """Store a channel, unless it is known."""

        def weigh(
            accepted: Mapping[ChannelId, Accepted], counted: Mapping[ChannelId, Counted]
        ) -> list[PayeeChannel]:
            if accepted:
                return []
            if channel.authorized:  # a ledger that was lost may have counted it as handed over
                counted[channel.channel_id].add(0, channel.authorized)
            return [channel]

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
