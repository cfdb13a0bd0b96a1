"""The payee's channels, brought up to what the chain says now, for what is done once; see lookout."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from microwallet.domain.channel import ChannelState, PayeeChannel
from microwallet.domain.identifiers import Address, ChainId, ChannelId
from microwallet.errors import EscrowMissing, NetworkError
from microwallet.ledger.vouchers import Vouchers

if TYPE_CHECKING:
    from microwallet.escrow.reader import EscrowReader, Head, ReaderOf

CONFIRMED_DEPTH = 64
"""Blocks on top of a close after which no reorganisation is expected to take it back."""

STALE_SECONDS = 60
"""Once what is stored is older, it is written down again that the chain says what it said before."""


def refresh(
    vouchers: Vouchers,
    chain_id: ChainId,
    reader_of: ReaderOf,
    channel_ids: Iterable[ChannelId] | None = None,
    *,
    now: int,
) -> Sequence[PayeeChannel]:
    """Ask the chain for the state of every channel whose close is not confirmed, and store it; the channels.

    Only those of `channel_ids`, if given: whoever closes one need not wait for thousands.

    A channel whose close was taken back by a reorganisation becomes open again here; its voucher
    was kept. Raises NetworkError; the ledger is then untouched. EscrowMissing comes last, when what the other
    escrows say is stored.
    """
    known = vouchers.live(chain_id, channel_ids)
    states: dict[ChannelId, ChannelState] = {}
    confirmed: list[ChannelId] = []
    missing: EscrowMissing | None = None
    for escrow_contract, channels in _by_escrow(known).items():
        reader = reader_of(escrow_contract)
        head = reader.head()
        ids = [channel.channel_id for channel in channels]
        try:
            states |= reader.channel_states(ids)
        except EscrowMissing as error:
            missing = error
            continue
        finalized = [channel_id for channel_id in ids if states[channel_id].finalized]
        confirmed += confirmed_closes(reader, finalized, head)
    known = [one for one in known if one.channel_id in states]
    news = {  # a command that asks several times writes next to nothing after the first
        one.channel_id: states[one.channel_id]
        for one in known
        if one.state != states[one.channel_id] or one.as_of is None or now - one.as_of > STALE_SECONDS
    }
    vouchers.record_states(news, as_of=now)
    vouchers.confirm_closes(confirmed)
    if missing is not None:
        raise missing
    return [replace(channel, state=states[channel.channel_id], as_of=now) for channel in known]


def confirmed_closes(reader: EscrowReader, finalized: Sequence[ChannelId], head: Head) -> list[ChannelId]:
    """Those of finalized channels whose close was so deep below `head` that none is expected to be undone."""
    block = head.number - CONFIRMED_DEPTH
    if not finalized or block < 0:
        return []
    try:
        deep = reader.channel_states(finalized, block)
    except NetworkError:
        # A server without history, or an escrow younger than that: all is asked again next time.
        return []
    return [channel_id for channel_id, state in deep.items() if state.finalized]


def _by_escrow(channels: Iterable[PayeeChannel]) -> dict[Address, list[PayeeChannel]]:
    grouped: dict[Address, list[PayeeChannel]] = {}
    for channel in channels:
        grouped.setdefault(channel.descriptor.escrow_contract, []).append(channel)
    return grouped
