"""What the chain says of the payer's channels now, taken into the ledger."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from microwallet.domain.channel import ChannelState, PayerChannel
from microwallet.domain.deposit import DepositKind, DepositStatus
from microwallet.domain.identifiers import ChannelId
from microwallet.ledger.ledger import Ledger

if TYPE_CHECKING:
    from microwallet.escrow.reader import ReaderOf
    from microwallet.payer.paying_account import PayingAccount

REORGANISATION_SECONDS = 3600
"""How long a finalized channel is looked at again: a reorganisation may give it back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refreshed:
    """Channels as the chain has them now, and what a person should know of them."""

    channels: Sequence[PayerChannel]
    notes: Sequence[str]


def refresh(
    ledger: Ledger,
    reader_of: ReaderOf,
    channels: Sequence[PayerChannel],
    *,
    now: int,
) -> Refreshed:
    """Ask the chain for the states of channels, one call for each escrow, and store them.

    All must be on the chain that `reader_of` reads. A channel of which more was settled than this
    ledger ever signed shows that the ledger is an old copy: it must not pay. NetworkError leaves
    the ledger as it is.
    """
    if not channels:
        return Refreshed(channels=(), notes=())
    states, as_of = _newest_states(reader_of, channels, now=now)
    before = {channel.channel_id: channel.state for channel in channels}
    # One that stays finalized is not recorded again, so that the ledger has when it was found to be.
    news = {one: state for one, state in states.items() if not (state.finalized and state == before[one])}
    if not ledger.channels.record_states(news, before=before, as_of=as_of):
        # Another process recorded what it heard meanwhile, later than we did or earlier.
        current = [ledger.channels.newest(channel) for channel in channels]
        return refresh(ledger, reader_of, current, now=now)

    def is_outrun(channel: PayerChannel) -> bool:
        return states[channel.channel_id].settled > channel.authorized

    # What was signed while the chain was asked may be settled by now: the ledger has it before the payee.
    channels = [ledger.channels.newest(one) if is_outrun(one) else one for one in channels]
    older = [one.channel_id for one in channels if one.voucher_known and is_outrun(one)]
    if older:
        ledger.channels.forget_vouchers(older)
    after = [
        replace(
            channel,
            state=states[channel.channel_id],
            as_of=as_of,
            voucher_known=channel.voucher_known and channel.channel_id not in older,
        )
        for channel in channels
    ]
    return Refreshed(channels=after, notes=_notes(ledger, channels, after, older))


def refreshed(account: PayingAccount, channel: PayerChannel) -> PayerChannel:
    """One channel as the chain has it now; notes go to the reporter."""
    found = refresh(account.ledger, lambda _: account.reader, [channel], now=account.clock())
    for note in found.notes:
        account.reporter.say(note)
    return found.channels[0]


def _newest_states(
    reader_of: ReaderOf, channels: Sequence[PayerChannel], *, now: int
) -> tuple[dict[ChannelId, ChannelState], int]:
    """What the chain says, and as of when."""
    states: dict[ChannelId, ChannelState] = {}
    as_of = now
    for escrow in sorted({channel.descriptor.escrow_contract for channel in channels}):
        reader = reader_of(escrow)
        ids = [channel.channel_id for channel in channels if channel.descriptor.escrow_contract == escrow]
        as_of = max(as_of, reader.head().timestamp)
        states |= reader.channel_states(ids)
    # One that is not there at all is of a chain that was started anew: finalized it stays.
    for channel in channels:
        if channel.state.finalized and not states[channel.channel_id].exists:
            states[channel.channel_id] = channel.state
    return states, as_of


def _notes(
    ledger: Ledger, before: Sequence[PayerChannel], after: Sequence[PayerChannel], older: Sequence[ChannelId]
) -> list[str]:
    notes = [
        f"more of channel {channel_id} is settled than this ledger ever signed: it is an old copy, and does"
        " not pay until: microwallet channel sync --voucher FILE"
        for channel_id in older
    ]
    notes += [
        f"channel {then.name} is no longer on the chain, which was reorganised or started"
        " anew: microwallet channel sync"
        for then, now in zip(before, after, strict=True)
        if not now.state.exists and (then.state.exists or _was_opened(ledger, now))
    ]
    return notes


def _was_opened(ledger: Ledger, channel: PayerChannel) -> bool:
    opens = ledger.deposits.of_channel(DepositKind.OPEN, channel.channel_id)
    return any(deposit.status is DepositStatus.DONE for deposit in opens)
