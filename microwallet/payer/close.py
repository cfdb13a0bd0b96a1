"""Closing a channel from the payer's side: ask the payee, else start the grace period."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from microwallet.domain.channel import ChannelStatus, PayerChannel
from microwallet.errors import ChannelNotOpen, TransactionReverted
from microwallet.escrow import calls
from microwallet.escrow.transactions import Receipt
from microwallet.payer.paying_account import PayingAccount
from microwallet.payer.refresh import refresh

AskPayee = Callable[[PayerChannel], bool]
"""Asks the payee to close now: True if it says that it did."""


class CloseStage(StrEnum):
    """How far a close has come."""

    CLOSED = "closed"
    """The payee closed: all is paid and refunded."""
    REQUESTED = "requested"
    """The grace period runs; the payee can still settle or close."""
    WITHDRAWABLE = "withdrawable"
    """The grace period is over: the payer can take the rest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Closing:
    """A channel on its way out. `receipt` is None where nothing had to be sent."""

    channel: PayerChannel
    stage: CloseStage
    receipt: Receipt | None


def close(account: PayingAccount, channel: PayerChannel, *, ask_payee: AskPayee | None = None) -> Closing:
    """Close cooperatively where the payee can be asked and does, else request the close.

    What was requested or closed before is told, not repeated. ChannelNotOpen if the channel is not
    on the chain.
    """
    with account.ledger.turns.turn(f"channel {channel.channel_id}"):
        channel = newest(account, channel)
        done = _ended(channel, account.clock())
        if done is not None:
            return done
        if ask_payee is not None and ask_payee(channel):
            channel = newest(account, channel)
            done = _ended(channel, account.clock())
            if done is not None:
                return done
            account.reporter.say("the payee says that it closed, the chain does not: requesting the close")
        return _request(account, channel)


def newest(account: PayingAccount, channel: PayerChannel) -> PayerChannel:
    """The channel as the chain has it now; notes go to the reporter."""
    refreshed = refresh(account.ledger, lambda _: account.reader, [channel], now=account.clock())
    for note in refreshed.notes:
        account.reporter.say(note)
    return refreshed.channels[0]


def require_on_chain(channel: PayerChannel) -> None:
    """ChannelNotOpen unless the channel exists on the chain."""
    if not channel.state.exists:
        raise ChannelNotOpen(
            f"channel {channel.label or channel.channel_id} is not on the chain (yet)",
            hint="microwallet channel sync",
        )


def _ended(channel: PayerChannel, now: int) -> Closing | None:
    require_on_chain(channel)
    stages = {
        ChannelStatus.FINALIZED: CloseStage.CLOSED,
        ChannelStatus.CLOSING: CloseStage.REQUESTED,
        ChannelStatus.WITHDRAWABLE: CloseStage.WITHDRAWABLE,
    }
    stage = stages.get(channel.state.status(now=max(now, channel.as_of or 0)))
    return Closing(channel=channel, stage=stage, receipt=None) if stage else None


def _request(account: PayingAccount, channel: PayerChannel) -> Closing:
    try:
        receipt = account.sender.send(
            calls.request_close(channel.descriptor),
            # Every top-up cancels the close and raises the deposit: the next request is another one.
            operation=f"requestClose {channel.channel_id} {channel.state.deposit}",
            purpose="requestClose",
            channel_id=channel.channel_id,
        )
    except TransactionReverted:
        channel = newest(account, channel)
        if channel.state.finalized:
            return Closing(channel=channel, stage=CloseStage.CLOSED, receipt=None)
        raise
    channel = newest(account, channel)
    stage = CloseStage.CLOSED if channel.state.finalized else CloseStage.REQUESTED
    return Closing(channel=channel, stage=stage, receipt=receipt)
