"""What the chain says of the payer's channels now, taken into the ledger."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from microwallet.domain.channel import ChannelState, PayerChannel
from microwallet.domain.deposit import DepositKind, DepositStatus
from microwallet.domain.identifiers import ChannelId
from microwallet.errors import EscrowMissing
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
    missing: Sequence[EscrowMissing] = ()
    """Escrows that are not on the chain: their channels are as they were."""


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
    states, as_of, missing = _newest_states(reader_of, channels, now=now)
    asked = [channel for channel in channels if channel.channel_id in states]
    before = {channel.channel_id: channel.state for channel in asked}
    # One that stays finalized is not recorded again, so that the ledger has when it was found to be.
    news = {one: state for one, state in states.items() if not (state.finalized and state == before[one])}
    if not ledger.channels.record_states(news, before=before, as_of=as_of):
        # Another process recorded what it heard meanwhile, later than we did or earlier.
        current = [ledger.channels.newest(channel) for channel in channels]
        return refresh(ledger, reader_of, current, now=now)

    def is_outrun(channel: PayerChannel) -> bool:
        return states[channel.channel_id].settled > channel.authorized

    # What was signed while the chain was asked may be settled by now: the ledger has it before the payee.
    asked = [ledger.channels.newest(one) if is_outrun(one) else one for one in asked]
    older = [one.channel_id for one in asked if one.voucher_known and is_outrun(one)]
    if older:
        ledger.channels.forget_vouchers(older)
    after = [
        replace(
            channel,
            state=states[channel.channel_id],
            as_of=as_of,
            voucher_known=channel.voucher_known and channel.channel_id not in older,
        )
        for channel in asked
    ]
    newest = {channel.channel_id: channel for channel in after}
    return Refreshed(
        channels=[newest.get(channel.channel_id, channel) for channel in channels],
        notes=[*_notes(ledger, asked, after, older), *(escrow.note for escrow in missing)],
        missing=missing,
    )


def refreshed(account: PayingAccount, channel: PayerChannel) -> PayerChannel:
    """One channel as the chain has it now; notes go to the reporter. Raises EscrowMissing too."""
    found = refresh(account.ledger, lambda _: account.reader, [channel], now=account.clock())
    for escrow in found.missing:
        raise escrow
    for note in found.notes:
        account.reporter.say(note)
    return found.channels[0]


def _newest_states(
    reader_of: ReaderOf, channels: Sequence[PayerChannel], *, now: int
) -> tuple[dict[ChannelId, ChannelState], int, list[EscrowMissing]]:
    """What the chain says, as of when, and which escrows it has not."""
    states: dict[ChannelId, ChannelState] = {}
    missing = []
    as_of = now
    for escrow in sorted({channel.descriptor.escrow_contract for channel in channels}):
        reader = reader_of(escrow)
        ids = [channel.channel_id for channel in channels if channel.descriptor.escrow_contract == escrow]
        as_of = max(as_of, reader.head().timestamp)
        try:
            states |= reader.channel_states(ids)
        except EscrowMissing as error:
            missing.append(error)
    # One that is not there at all is of a chain that was started anew: finalized it stays.
    for channel in channels:
        found = states.get(channel.channel_id)
        if found is not None and channel.state.finalized and not found.exists:
            states[channel.channel_id] = channel.state
    return states, as_of, missing


def _notes(
    ledger: Ledger, before: Sequence[PayerChannel], after: Sequence[PayerChannel], older: Sequence[ChannelId]
) -> list[str]:
    notes = [_outrun_note(channel) for channel in after if channel.channel_id in older]
    notes += [
        f"channel {then.name} is no longer on the chain, which was reorganised or started"
        " anew: microwallet channel sync"
        for then, now in zip(before, after, strict=True)
        if not now.state.exists and (then.state.exists or _was_opened(ledger, now))
    ]
    return notes


def _outrun_note(channel: PayerChannel) -> str:
    told = f"more of channel {channel.channel_id} is settled than this ledger ever signed: it is an old copy"
    if channel.state.finalized:
        return told
    return f"{told}, and does not pay until: microwallet channel sync --voucher FILE"


def _was_opened(ledger: Ledger, channel: PayerChannel) -> bool:
    opens = ledger.deposits.of_channel(DepositKind.OPEN, channel.channel_id)
    return any(deposit.status is DepositStatus.DONE for deposit in opens)
