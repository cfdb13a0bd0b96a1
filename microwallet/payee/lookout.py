"""Looking at the payee's channels again and again: only what has changed since is worked on.

`refresh` does the same once, and gives all of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace

from microwallet.domain.channel import ChannelState, PayeeChannel
from microwallet.domain.identifiers import Address, ChainId, ChannelId
from microwallet.errors import ChainStandsStill, EscrowMissing, NetworkError
from microwallet.escrow.reader import EscrowReader, ReaderOf, in_chunks
from microwallet.ledger.vouchers import LiveRow, Vouchers
from microwallet.payee.refresh import STALE_SECONDS, confirmed_closes


@dataclass(frozen=True, slots=True, kw_only=True)
class Looked:
    """What a look has found."""

    channels: Sequence[PayeeChannel]
    """Those that are new or have changed since the look before, and all whose close is requested, can still
    be undone, or is not told yet."""
    payees: AbstractSet[Address]
    """Of all channels that can still change."""
    chain_time: int | None
    """The chain's, Unix seconds; None when there was no channel to ask about."""
    flaw: NetworkError | None = None
    """Why something may not be seen: an escrow that is not on the chain, or a chain that stands still."""
    untold: Sequence[ChannelId] = ()
    """Those that are finalized, and whose end was not told yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Chunk:
    """Channels that were asked about together."""

    rows: Sequence[LiveRow]
    """As the ledger had them."""
    encoded: bytes
    """As the chain had them."""
    states: Mapping[ChannelId, ChannelState]
    """The same, decoded."""
    news: Mapping[ChannelId, ChannelState]
    """Those that the ledger had otherwise."""


class Lookout:
    """All channels of one chain that can still change, as they were at the last look."""

    def __init__(self, vouchers: Vouchers, chain_id: ChainId, reader_of: ReaderOf) -> None:
        self._vouchers = vouchers
        self._chain_id = chain_id
        self._reader_of = reader_of
        self._chunks: dict[ChannelId, _Chunk] = {}
        """By their first channel."""
        self.states: Mapping[ChannelId, ChannelState] = {}
        """As the chain had them at the last look."""

    def look(self, *, now: int) -> Looked:
        """Ask the chain for the states of all, and store what is news at `now`, Unix seconds.

        A channel whose close a reorganisation has undone becomes open again here; its voucher was kept.
        Raises NetworkError, the ledger is then untouched, or LedgerError; the next look finds the same.
        """
        chunks: list[_Chunk] = []
        confirmed: list[ChannelId] = []
        chain_time: int | None = None
        missing: EscrowMissing | None = None
        standstill: ChainStandsStill | None = None
        for escrow_contract, rows in self._vouchers.live_rows(self._chain_id).items():
            reader = self._reader_of(escrow_contract)
            head = reader.head()
            chain_time = head.timestamp
            standstill = reader.standstill(head, now=now)
            try:
                asked = self._ask(reader, rows)
            except EscrowMissing as error:
                missing = error
                continue
            finalized = [one for chunk in asked for one, state in chunk.states.items() if state.finalized]
            confirmed += confirmed_closes(reader, finalized, head)
            chunks += asked
        news = _merged(chunk.news for chunk in chunks)
        self._vouchers.record_states(news, as_of=now)
        if missing is None:
            self._vouchers.renew(self._chain_id, as_of=now, before=now - STALE_SECONDS)
        self._vouchers.confirm_closes(confirmed)
        states = _merged(chunk.states for chunk in chunks)
        watched = [
            channel_id
            for channel_id, state in states.items()
            if state.close_requested_at or state.finalized or self.states.get(channel_id) != state
        ]
        untold = self._vouchers.untold_ends(self._chain_id)
        channels = [  # others may have written meanwhile what they were told before
            replace(channel, state=states.get(channel.channel_id, channel.state), as_of=now)
            for channel in self._vouchers.some(dict.fromkeys([*watched, *untold]))
        ]
        self.states = states
        self._chunks = {chunk.rows[0].channel_id: chunk for chunk in chunks}
        return Looked(
            channels=channels,
            payees={row.payee for chunk in chunks for row in chunk.rows},
            chain_time=chain_time,
            flaw=missing or standstill,
            untold=untold,
        )

    def _ask(self, reader: EscrowReader, rows: Sequence[LiveRow]) -> list[_Chunk]:
        """Ask the chain about the channels of one escrow."""
        chunks = list(in_chunks(rows))
        encoded = reader.encoded_states([[row.channel_id for row in chunk] for chunk in chunks])
        return [self._read(reader, *pair) for pair in zip(chunks, encoded, strict=True)]

    def _read(self, reader: EscrowReader, rows: Sequence[LiveRow], encoded: bytes) -> _Chunk:
        """A chunk, which is the one before while ledger and chain are as they were then."""
        before = self._chunks.get(rows[0].channel_id)
        if before is not None and (before.rows, before.encoded) == (rows, encoded):
            return before
        states = reader.decoded_states(encoded, [row.channel_id for row in rows])
        news = {
            row.channel_id: states[row.channel_id] for row in rows if not row.tells(states[row.channel_id])
        }
        return _Chunk(rows=rows, encoded=encoded, states=states, news=news)


def _merged(parts: Iterable[Mapping[ChannelId, ChannelState]]) -> dict[ChannelId, ChannelState]:
    merged: dict[ChannelId, ChannelState] = {}
    for part in parts:
        merged.update(part)
    return merged
