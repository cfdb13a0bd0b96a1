"""The payer's channels: finding one by what a person types, and what the chain says of them."""

from __future__ import annotations

import shlex
import sqlite3
from collections.abc import Mapping, Sequence
from typing import Any

from microwallet.domain.channel import ChannelState, PayerChannel
from microwallet.domain.identifiers import Address, ChannelId, is_address, parse_address
from microwallet.domain.money import Amount
from microwallet.errors import AmbiguousReference, UnknownReference, UsageError, did_you_mean
from microwallet.ledger.database import Database, to_text
from microwallet.ledger.rows import (
    COLUMNS,
    SELECTED,
    STATE_ASSIGNMENTS,
    STATE_CONDITIONS,
    channel_fields,
    channel_values,
    state_values,
)

# Deposits are looked through only for a channel that is not on the chain.
_OPEN_ABANDONED = f"""CASE deposit WHEN '{to_text(0)}' THEN EXISTS (SELECT 1 FROM deposits
    WHERE deposits.channel_id = channels.channel_id AND kind = 'open' AND status = 'abandoned') ELSE 0 END"""
_SELECT = f"SELECT {SELECTED}, label, voucher_known, {_OPEN_ABANDONED} FROM channels"
_OLDEST, _NEWEST = "created_at, position", "created_at DESC, position DESC"
"""First; those of one second in the order in which they were added."""
CANDIDATES = 10
SHORTEST_PREFIX = len("0x1234")
"""Of an id that a person types: fewer digits are too easily those of another channel."""
TOO_SHORT = "of an id at least four digits are needed"


class Channels:
    """Every channel this wallet ever paid through; rows are never deleted."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def find(self, reference: str) -> PayerChannel:
        """The channel meant by an id, an id's prefix, a label, or a payee with one open channel.

        Raises UnknownReference or AmbiguousReference, candidates listed.
        """
        with self._database.read() as connection:
            matches = _matches(connection, reference)
            if len(matches) == 1:
                return matches[0]
            if matches:
                raise AmbiguousReference(
                    f"{reference!r} means {len(matches)} channels:\n{_choice(matches)}",
                    hint=f"name one by its label, or by its id or more characters of it: {matches[0].name}",
                )
            known = connection.execute(f"{_SELECT} ORDER BY {_NEWEST} LIMIT {CANDIDATES}")
            labels = connection.execute("SELECT DISTINCT label FROM channels WHERE label IS NOT NULL")
            raise _unknown(reference, [_channel(row) for row in known], [label for (label,) in labels])

    def get(self, channel_id: ChannelId) -> PayerChannel | None:
        """The channel with this id, or None."""
        with self._database.read() as connection:
            return read_channel(connection, channel_id)

    def newest(self, channel: PayerChannel) -> PayerChannel:
        """A channel as the ledger has it now."""
        return self.get(channel.channel_id) or channel

    def list(self, *, finalized: bool, since: int | None = None) -> Sequence[PayerChannel]:
        """Channels, oldest first; those that are finalized only when asked for, or when they were
        found to be at `since` or later, Unix seconds."""
        where = "" if finalized else " WHERE finalized = 0 OR as_of >= :since"
        query = f"{_SELECT}{where} ORDER BY {_OLDEST}"
        with self._database.read() as connection:
            return [_channel(row) for row in connection.execute(query, {"since": since})]

    def has_label(self, label: str) -> bool:
        """Whether a channel that is not finalized has this label."""
        with self._database.read() as connection:
            query = "SELECT 1 FROM channels WHERE label = ? AND finalized = 0"
            return connection.execute(query, (label,)).fetchone() is not None

    def add(self, channel: PayerChannel, *, now: int) -> None:
        """Remember a new channel. UsageError if its label is taken by a live one; the same channel
        again changes nothing."""
        with self._database.write() as connection:
            insert_channel(connection, channel, now=now)

    def record_states(
        self,
        states: dict[ChannelId, ChannelState],
        *,
        as_of: int,
        before: Mapping[ChannelId, ChannelState] | None = None,
    ) -> bool:
        """Store what the chain says of channels at `as_of`, Unix seconds.

        `before` is what the ledger said when the chain was asked. Where it says something else by
        now, of another process, nothing is stored: that may be the newer. False if there is such a
        channel; the chain is then to be asked again.

        A finalized channel that a reorganisation gives back loses a label another live one has now.
        """
        unchanged = "" if before is None else f" AND {STATE_CONDITIONS}"
        stored = 0
        with self._database.write() as connection:
            for channel_id, state in reversed(states.items()):  # of two that come back, the newer is named
                if not state.finalized:
                    connection.execute(
                        """UPDATE channels SET label = NULL WHERE channel_id = ? AND finalized = 1
                        AND label IN (SELECT label FROM channels WHERE finalized = 0)""",
                        (channel_id,),
                    )
                updated = connection.execute(
                    f"UPDATE channels SET {STATE_ASSIGNMENTS} WHERE channel_id = ?{unchanged}",
                    (
                        *state_values(state),
                        as_of,
                        channel_id,
                        *(state_values(before[channel_id]) if before is not None else ()),
                    ),
                )
                stored += updated.rowcount
        return stored == len(states)

    def import_voucher(self, channel_id: ChannelId, cumulative_amount: int) -> None:
        """The highest voucher of a channel is known to be at least this; authorized never falls.

        What it authorizes beyond what was known counts as spent: nobody remembers for what.
        """
        with self._database.write_vouchers() as connection:
            connection.execute(
                """UPDATE channels SET spent = CASE WHEN authorized < :amount THEN :amount ELSE spent END,
                    authorized = max(authorized, :amount), voucher_known = 1
                WHERE channel_id = :channel_id""",
                {"amount": to_text(cumulative_amount), "channel_id": channel_id},
            )

    def forget_vouchers(self, channel_ids: Sequence[ChannelId] | None = None) -> None:
        """Mark channels (or all that are live) as not knowing their highest voucher."""
        with self._database.write() as connection:
            if channel_ids is None:
                connection.execute("UPDATE channels SET voucher_known = 0 WHERE finalized = 0")
            else:
                connection.executemany(
                    "UPDATE channels SET voucher_known = 0 WHERE channel_id = ?",
                    [(channel_id,) for channel_id in channel_ids],
                )


def insert_channel(connection: sqlite3.Connection, channel: PayerChannel, *, now: int) -> None:
    """Insert a channel inside a write transaction; the same channel again changes nothing."""
    if read_channel(connection, channel.channel_id):
        return
    marks = ", ".join("?" * (len(COLUMNS) + 3))
    connection.execute(
        f"""INSERT INTO channels ({SELECTED}, created_at, label, voucher_known, position)
        VALUES ({marks}, (SELECT coalesce(max(position), 0) + 1 FROM channels))""",
        (*channel_values(channel), now, None, int(channel.voucher_known)),
    )
    set_label(connection, channel.channel_id, channel.label)


def set_label(connection: sqlite3.Connection, channel_id: ChannelId, label: str | None) -> None:
    """Name a channel inside a write transaction; UsageError if another live one has the name."""
    try:
        connection.execute("UPDATE channels SET label = ? WHERE channel_id = ?", (label, channel_id))
    except sqlite3.IntegrityError as error:
        raise label_taken(label) from error


def label_taken(label: str | None) -> UsageError:
    """The refusal of a label that another live channel has."""
    return UsageError(
        f"the label {label!r} is taken by another channel; choose another --label",
        hint=f"microwallet channel show {shlex.quote(label or '')}",
    )


def read_channel(connection: sqlite3.Connection, channel_id: ChannelId) -> PayerChannel | None:
    """The channel with this id, inside a transaction."""
    row = connection.execute(f"{_SELECT} WHERE channel_id = ?", (channel_id,)).fetchone()
    return _channel(row) if row else None


def check_label(label: str) -> str:
    """The label, if it can be one: not shaped like an id or an address."""
    if not label or len(label) > 64 or label.startswith(("0x", "-")) or not label.isprintable():
        raise UsageError(
            f"{label[:80]!r} cannot be a label: 1 to 64 printable characters, not starting with 0x or -"
        )
    return label


def _matches(connection: sqlite3.Connection, reference: str) -> Sequence[PayerChannel]:
    if not reference.startswith("0x"):
        query = f"{_SELECT} WHERE label = ? ORDER BY finalized, {_NEWEST} LIMIT 1"
        return [_channel(row) for row in connection.execute(query, (reference,))]
    if is_address(reference):
        return _of_payee(connection, parse_address(reference))
    prefix = reference.lower()
    if len(prefix) < SHORTEST_PREFIX:
        return []
    query = f"{_SELECT} WHERE channel_id >= ? AND channel_id < ? LIMIT {CANDIDATES}"
    return [_channel(row) for row in connection.execute(query, (prefix, prefix + "g"))]


def _of_payee(connection: sqlite3.Connection, payee: Address) -> Sequence[PayerChannel]:
    """The open channels to a payee; where there is none, those that are opening or closing."""
    query = f"{_SELECT} WHERE payee = ? AND finalized = 0 AND {{}} ORDER BY {_OLDEST} LIMIT {CANDIDATES}"
    is_open = "close_requested_at = 0 AND deposit > ?"
    none = to_text(0)
    for condition in (is_open, f"NOT ({is_open})"):
        found = [_channel(row) for row in connection.execute(query.format(condition), (payee, none))]
        if found:
            return found
    return []


def _unknown(reference: str, known: Sequence[PayerChannel], labels: Sequence[str]) -> UnknownReference:
    if not known:
        return UnknownReference(
            f"there is no channel {reference!r}: this wallet has none yet",
            hint='microwallet channel open PAYEE "1 USDC"',
        )
    if reference.startswith("0x") and len(reference) < SHORTEST_PREFIX:
        told = f"{TOO_SHORT}; there are:"
    else:
        told = did_you_mean(reference, labels, otherwise="there are:")
    return UnknownReference(
        f"there is no channel {reference[:80]!r}; {told}\n{_listing(known)}",
        hint="microwallet channel list --all",
    )


def _listing(channels: Sequence[PayerChannel]) -> str:
    return "\n".join(
        f"  {channel.channel_id}  {channel.label or '-'}  to {channel.descriptor.payee}"
        + ("  finalized" if channel.state.finalized else "")
        for channel in channels
    )


def _choice(channels: Sequence[PayerChannel]) -> str:
    """What tells channels apart that are to be chosen from."""
    has_payees = len({channel.descriptor.payee for channel in channels}) > 1
    return "\n".join(
        f"  {channel.channel_id}  {channel.label or '-'}"
        + (f"  to {channel.descriptor.payee}" if has_payees else "")
        + f"  {_left(channel)}"
        for channel in channels
    )


def _left(channel: PayerChannel) -> str:
    if channel.state.finalized:
        return "finalized"
    deposit = Amount(channel.state.deposit, channel.asset)
    left = Amount(channel.remaining, channel.asset) if channel.voucher_known else "an unknown part"
    return f"{left} of {deposit} left"


def _channel(row: tuple[Any, ...]) -> PayerChannel:
    *shared, label, voucher_known, open_abandoned = row
    return PayerChannel(
        **channel_fields(shared),
        label=label,
        voucher_known=bool(voucher_known),
        open_abandoned=bool(open_abandoned),
    )
