"""What the payee accepted: the best voucher of each channel. These rows are money."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from microwallet.domain.channel import ChannelState, PayeeChannel
from microwallet.domain.handed_over import Counted
from microwallet.domain.identifiers import Address, ChainId, ChannelId
from microwallet.errors import AmbiguousReference, UnknownReference
from microwallet.ledger.channels import CANDIDATES, SHORTEST_PREFIX, TOO_SHORT
from microwallet.ledger.database import Database, to_text
from microwallet.ledger.handed_over import CountedRows
from microwallet.ledger.heads import move_accounts
from microwallet.ledger.rows import (
    COLUMNS,
    SELECTED,
    STATE_ASSIGNMENTS,
    channel_fields,
    channel_values,
    state_values,
)

WRITTEN_AT_ONCE = 200
"""How many channels are changed in one transaction."""

_SELECT = f"SELECT {SELECTED}, signature FROM current_vouchers"

_STATE_IF_ASKED = ", ".join(
    f"{column} = CASE WHEN excluded.as_of IS NULL THEN vouchers.{column} ELSE excluded.{column} END"
    for column in ("deposit", "settled", "close_requested_at", "finalized", "as_of")
)
"""Take over the new state if the chain was asked for it; else keep the old one."""

Weigh = Callable[[Mapping[ChannelId, "Accepted"], Mapping[ChannelId, Counted]], Iterable[PayeeChannel]]
"""Decides which channels to store, given what was accepted so far on those that are known, and what was
counted as handed over on all of them."""

Reserved = Callable[[Collection[ChannelId]], Mapping[ChannelId, int]]
"""Base units reserved for requests that are being served, by channel."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """What the ledger holds against a new voucher of a channel."""

    authorized: int
    spent: int
    """How much of it was charged."""
    signature: bytes
    """Of the voucher over what is authorized."""
    is_closing: bool
    """Whether the payee has begun to close the channel, and that has not ended."""
    ended_closes: int
    """How many closes have ended, with success or without."""
    is_open: bool
    """Whether the channel was open when the chain was last asked about it."""


class LiveRow(NamedTuple):
    """A channel that can still change, with what the chain said of it, as the ledger keeps that."""

    channel_id: ChannelId
    payee: Address
    deposit: str
    settled: str
    close_requested_at: int
    finalized: int

    def tells(self, state: ChannelState) -> bool:
        """Whether it says the same as `state`."""
        return self[2:] == state_values(state)


class Vouchers:
    """The payee's channels and their best vouchers; rows are never deleted, amounts never fall."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self, channel_id: ChannelId) -> PayeeChannel | None:
        """The channel with its best voucher, or None if none was accepted."""
        found = self.some([channel_id])
        return found[0] if found else None

    def find(self, reference: str) -> PayeeChannel:
        """The channel meant by an id or an unambiguous prefix of one."""
        prefix = reference.lower()
        matches: Sequence[PayeeChannel] = ()
        if len(prefix) >= SHORTEST_PREFIX:
            within = f"WHERE channel_id >= ? AND channel_id < ? LIMIT {CANDIDATES}"
            matches = self._read(within, prefix, prefix + "g")
        if len(matches) == 1:
            return matches[0]
        known = matches or self._read(f"ORDER BY created_at DESC LIMIT {CANDIDATES}")
        listed = "\n".join(f"  {channel.channel_id}  from {channel.descriptor.payer}" for channel in known)
        if matches:
            raise AmbiguousReference(
                f"several channels begin with {reference!r}:\n{listed}",
                hint="name one by more characters of its id",
            )
        told = f"the id of no channel that pays this wallet begins with {reference[:80]!r}"
        if prefix.startswith("0x") and len(prefix) < SHORTEST_PREFIX:
            told = f"there is no channel {reference!r}; {TOO_SHORT}"
        raise UnknownReference(
            told + (f"; there are:\n{listed}" if known else ""), hint="microwallet payee list --all"
        )

    def list(self, *, finalized: bool) -> Sequence[PayeeChannel]:
        """Channels that pay this wallet, oldest first; finalized ones only when asked for."""
        return self._read(f"{'' if finalized else 'WHERE finalized = 0'} ORDER BY created_at")

    def live(
        self, chain_id: ChainId, channel_ids: Iterable[ChannelId] | None = None
    ) -> Sequence[PayeeChannel]:
        """Channels of one chain that can still change: all but those whose close is confirmed, oldest first.

        Only those of `channel_ids`, if given, in their order, each once.
        """
        where = "WHERE chain_id = ? AND close_confirmed = 0"
        if channel_ids is None:
            return self._read(f"{where} ORDER BY created_at", chain_id)
        once = dict.fromkeys(channel_ids)
        return [found for one in once for found in self._read(f"{where} AND channel_id = ?", chain_id, one)]

    def live_rows(self, chain_id: ChainId) -> Mapping[Address, Sequence[LiveRow]]:
        """The same channels by escrow, cheap to read: there may be thousands, and they are read often."""
        query = """SELECT escrow_contract, channel_id, payee, deposit, settled, close_requested_at, finalized
            FROM vouchers WHERE chain_id = ? AND close_confirmed = 0 ORDER BY created_at, channel_id"""
        by_escrow: dict[Address, list[LiveRow]] = {}
        with self._database.read() as connection:
            for escrow_contract, *row in connection.execute(query, (chain_id,)):
                by_escrow.setdefault(escrow_contract, []).append(LiveRow._make(row))
        return by_escrow

    def some(self, channel_ids: Iterable[ChannelId]) -> Sequence[PayeeChannel]:
        """Those of the channels that are known, in order."""
        query = f"{_SELECT} WHERE channel_id = ?"
        with self._database.read() as connection:
            rows = (connection.execute(query, (channel_id,)).fetchone() for channel_id in channel_ids)
            return [_channel(row) for row in rows if row]

    def owing(self, chain_id: ChainId, payee: Address, token: Address, least: int) -> Sequence[PayeeChannel]:
        """Channels of a payee on which at least `least` base units were charged and not settled.

        SQLite compares them as floating point: some with a trillionth less may be among them.
        """
        clause = """WHERE chain_id = ? AND payee = ? AND token = ? AND finalized = 0
            AND 1.000000000001 * CAST(spent AS REAL) - CAST(settled AS REAL) >= ? ORDER BY created_at"""
        return self._read(clause, chain_id, payee, token, float(least))

    def idle(self, chain_id: ChainId, payee: Address, *, since: int) -> Sequence[PayeeChannel]:
        """Channels of a payee with something unsettled and no better voucher since `since`, Unix seconds."""
        clause = """WHERE chain_id = ? AND payee = ? AND finalized = 0 AND spent > settled
            AND accepted_at <= ? ORDER BY created_at"""
        return self._read(clause, chain_id, payee, since)

    def accepted_at(self) -> Mapping[ChannelId, int]:
        """Unix seconds at which each channel's best voucher was accepted."""
        with self._database.read() as connection:
            return dict(connection.execute("SELECT channel_id, accepted_at FROM current_vouchers").fetchall())

    def accept(self, channel_ids: Collection[ChannelId], weigh: Weigh, *, now: int) -> None:
        """Commit the channels that `weigh` returns, and what it adds to what was counted.

        Atomic over processes, so that each voucher counts once. What is authorized never falls.
        """
        marks = ", ".join("?" * (len(COLUMNS) + 3))
        with self._database.write_vouchers() as connection:
            move_accounts(connection, channel_ids)
            counted = {channel_id: CountedRows(connection, channel_id) for channel_id in channel_ids}
            channels = weigh(_accepted(connection, channel_ids), counted)
            for rows in counted.values():
                rows.store()
            connection.executemany(
                f"""INSERT INTO vouchers ({SELECTED}, created_at, signature, accepted_at) VALUES ({marks})
                ON CONFLICT (channel_id) DO UPDATE
                SET authorized = excluded.authorized, spent = excluded.spent, signature = excluded.signature,
                    accepted_at = excluded.accepted_at, {_STATE_IF_ASKED}
                WHERE excluded.authorized >= vouchers.authorized""",
                [(*channel_values(channel), now, channel.signature, now) for channel in channels],
            )

    def accepted(self, channel_ids: Iterable[ChannelId]) -> Mapping[ChannelId, Accepted]:
        """What was accepted on each of the channels that are known."""
        with self._database.read() as connection:
            return _accepted(connection, channel_ids)

    def charged(self, channel_ids: Collection[ChannelId], reserved: Reserved) -> Mapping[ChannelId, int]:
        """Base units that were charged on each channel for certain: without what is `reserved`.

        That is asked for inside a write transaction, while nothing can be sold or given back.
        """
        with self._database.write() as connection:
            in_hand = reserved(channel_ids)
            accepted = _accepted(connection, channel_ids)
            return {one: max(0, found.spent - in_hand[one]) for one, found in accepted.items()}

    def begin_closes(self, channel_ids: Iterable[ChannelId]) -> None:
        """Store that the payee is about to close these channels: what is paid on them now would be lost."""
        with self._database.write() as connection:
            connection.executemany(
                "UPDATE vouchers SET closing = 1 WHERE channel_id = ?",
                [(channel_id,) for channel_id in channel_ids],
            )

    def closing(self, chain_id: ChainId) -> Sequence[PayeeChannel]:
        """Channels of a chain that are being closed and take no vouchers, whatever the chain said last."""
        return self._read("WHERE chain_id = ? AND closing = 1", chain_id)

    def end_closes(self, channel_ids: Iterable[ChannelId]) -> None:
        """Store that the closes of these channels have ended, with success or without."""
        with self._database.write() as connection:
            connection.executemany(
                "UPDATE vouchers SET closing = 0, ended_closes = ended_closes + 1"
                " WHERE channel_id = ? AND closing = 1",
                [(channel_id,) for channel_id in channel_ids],
            )

    def record_states(self, states: Mapping[ChannelId, ChannelState], *, as_of: int) -> None:
        """Store what the chain says of channels at `as_of`, Unix seconds; many take several transactions.

        A channel that is open although our close of it was mined becomes closing again: a reorganisation
        undid the close, and anybody can have the same transaction mined once more. It is found by the
        channel's salt.
        """
        self._write_in_parts(
            f"""UPDATE vouchers SET {STATE_ASSIGNMENTS}, closing = CASE
                WHEN ? AND (finalized = 1 OR deposit = ?) THEN max(closing, EXISTS (
                    SELECT 1 FROM transactions AS t WHERE t.chain_id = vouchers.chain_id
                    AND t.purpose = 'close' AND t.status = 'mined'
                    AND instr(t.raw, bytes_of(vouchers.salt)) > 0))
                ELSE closing END
            WHERE channel_id = ?""",
            [
                (*state_values(state), as_of, state.exists and not state.finalized, to_text(0), channel_id)
                for channel_id, state in states.items()
            ],
        )

    def renew(self, chain_id: ChainId, *, as_of: int, before: int) -> None:
        """Store that the chain still says at `as_of` what is known of channels that can change, where that is
        from `before` or older; both Unix seconds."""
        query = """SELECT channel_id FROM vouchers
            WHERE chain_id = ? AND close_confirmed = 0 AND (as_of IS NULL OR as_of < ?)"""
        with self._database.read() as connection:
            old = connection.execute(query, (chain_id, before)).fetchall()
        self._write_in_parts(
            "UPDATE vouchers SET as_of = ? WHERE channel_id = ?", [(as_of, *row) for row in old]
        )

    def confirm_closes(self, channel_ids: Iterable[ChannelId]) -> None:
        """Store that the close of these channels is too deep to be undone: they are not looked at again."""
        self._write_in_parts(
            "UPDATE vouchers SET close_confirmed = 1 WHERE channel_id = ? AND finalized = 1",
            [(channel_id,) for channel_id in channel_ids],
        )

    def untold_ends(self, chain_id: ChainId) -> Sequence[ChannelId]:
        """Finalized channels of a chain whose end was not told yet."""
        with self._database.read() as connection:
            query = "SELECT channel_id FROM vouchers WHERE chain_id = ? AND untold = 1"
            return [channel_id for (channel_id,) in connection.execute(query, (chain_id,))]

    def record_told(self, channel_ids: Iterable[ChannelId]) -> None:
        """Store that the end of these channels was told, or that it was done here."""
        self._write_in_parts(
            "UPDATE vouchers SET untold = 0 WHERE channel_id = ?", [(one,) for one in channel_ids]
        )

    def _read(self, clause: str, *values: Any) -> Sequence[PayeeChannel]:
        with self._database.read() as connection:
            return [_channel(row) for row in connection.execute(f"{_SELECT} {clause}", values)]

    def _write_in_parts(self, statement: str, values: Sequence[tuple[Any, ...]]) -> None:
        """Change channels in several short transactions, as selling waits for each. Nothing for no values."""
        for start in range(0, len(values), WRITTEN_AT_ONCE):
            with self._database.write() as connection:
                connection.executemany(statement, values[start : start + WRITTEN_AT_ONCE])


def _accepted(connection: sqlite3.Connection, channel_ids: Iterable[ChannelId]) -> dict[ChannelId, Accepted]:
    query = """SELECT authorized, spent, signature, closing, ended_closes, deposit, finalized
        FROM current_vouchers WHERE channel_id = ?"""
    found: dict[ChannelId, Accepted] = {}
    for channel_id in channel_ids:
        row = connection.execute(query, (channel_id,)).fetchone()
        if row:
            authorized, spent, signature, closing, ended_closes, deposit, finalized = row
            found[channel_id] = Accepted(
                authorized=int(authorized),
                spent=int(spent),
                signature=signature,
                is_closing=bool(closing),
                ended_closes=ended_closes,
                is_open=int(deposit) > 0 and not finalized,
            )
    return found


def _channel(row: tuple[Any, ...]) -> PayeeChannel:
    *shared, signature = row
    return PayeeChannel(**channel_fields(shared), signature=signature)
