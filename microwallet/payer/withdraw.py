"""Withdrawing what is left of a channel once the grace period is over."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from microwallet.domain.channel import ChannelStatus, PayerChannel
from microwallet.errors import ChannelNotOpen, CloseNotReady, NetworkError, TransactionReverted
from microwallet.escrow import calls
from microwallet.escrow.transactions import Receipt
from microwallet.payer.close import chain_time, newest, require_on_chain
from microwallet.payer.paying_account import PayingAccount

_LONGEST_PAUSE = 5.0
_SECONDS_BETWEEN_NEWS = 60
_SILENCE_LIMIT = 300
"""Seconds the chain may be out of reach while waiting before that is an error."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Withdrawal:
    """A finalized channel. `receipt` is None where the payee, or an earlier run, finalized it."""

    channel: PayerChannel
    receipt: Receipt | None

    @property
    def refunded(self) -> int:
        """Base units the payer got back over the channel's life."""
        return self.channel.state.deposit - self.channel.state.settled


def withdraw(
    account: PayingAccount,
    channel: PayerChannel,
    *,
    wait: bool,
    sleep: Callable[[float], None] = time.sleep,
) -> Withdrawal:
    """Take the unsettled rest. With `wait`, stays until the grace period is over.

    Raises CloseNotReady before that time, ChannelNotOpen when no close was requested. A channel
    that is finalized already, before or while waiting, is told as it is.
    """
    channel = newest(account, channel)
    if wait and _status(account, channel) is ChannelStatus.CLOSING:
        channel = _await_grace(account, channel, sleep)
    with account.ledger.turns.turn(f"channel {channel.channel_id}"):
        channel = newest(account, channel)
        if channel.state.finalized:
            return Withdrawal(channel=channel, receipt=None)
        _require_withdrawable(account, channel)
        return _send(account, channel)


def _send(account: PayingAccount, channel: PayerChannel) -> Withdrawal:
    try:
        receipt = account.sender.send(
            calls.withdraw(channel.descriptor),
            operation=f"withdraw {channel.channel_id}",
            purpose="withdraw",
            channel_id=channel.channel_id,
        )
    except TransactionReverted:
        channel = newest(account, channel)
        if channel.state.finalized:
            return Withdrawal(channel=channel, receipt=None)
        raise
    return Withdrawal(channel=newest(account, channel), receipt=receipt)


def _require_withdrawable(account: PayingAccount, channel: PayerChannel) -> None:
    require_on_chain(channel)
    name = channel.label or channel.channel_id
    status = _status(account, channel)
    if status is ChannelStatus.OPEN:
        raise ChannelNotOpen(
            f"channel {name} is open: a close must be requested before anything can be withdrawn",
            hint=f"microwallet channel close {name}",
        )
    if status is ChannelStatus.CLOSING:
        left = channel.state.withdrawable_at - chain_time(account, channel)
        raise CloseNotReady(
            f"the grace period of channel {name} ends in {left} seconds"
            f" (Unix time {channel.state.withdrawable_at}); until then the payee may still be paid from it",
            hint=f"microwallet channel withdraw {name} --wait",
        )


def _await_grace(
    account: PayingAccount, channel: PayerChannel, sleep: Callable[[float], None]
) -> PayerChannel:
    """Wait until the close may be withdrawn, or is none any more; nothing is sent meanwhile."""
    said_at: int | None = None
    heard_at = account.clock()
    while _status(account, channel) is ChannelStatus.CLOSING:
        left = channel.state.withdrawable_at - chain_time(account, channel)
        if said_at is None or said_at - left >= _SECONDS_BETWEEN_NEWS:
            account.reporter.say(f"waiting {left} seconds for the end of the grace period (Ctrl-C is safe)")
            said_at = left
        sleep(max(0.2, min(_LONGEST_PAUSE, left)))
        try:
            channel = newest(account, channel)
            heard_at = account.clock()
        except NetworkError as error:
            if account.clock() - heard_at > _SILENCE_LIMIT:
                raise
            account.reporter.say(f"still waiting: {error.message}")
    return channel


def _status(account: PayingAccount, channel: PayerChannel) -> ChannelStatus:
    return channel.state.status(now=chain_time(account, channel))
