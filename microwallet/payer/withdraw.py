"""Withdrawing what is left of a channel once the grace period is over."""

from __future__ import annotations

import time
from dataclasses import dataclass

from microwallet.domain.channel import PayerChannel
from microwallet.errors import ChannelNotOpen, CloseNotReady, NetworkError, TransactionReverted
from microwallet.escrow import calls
from microwallet.escrow.receipt import Receipt
from microwallet.escrow.reverts import ContractReverted
from microwallet.payer.close import require_on_chain, shown
from microwallet.payer.paying_account import PayingAccount
from microwallet.payer.refresh import refreshed

_LONGEST_PAUSE = 5.0
_SECONDS_BETWEEN_NEWS = 60
_SILENCE_LIMIT = 300
"""Seconds the chain may be out of reach while waiting before that is an error."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Withdrawal:
    """A finalized channel. `receipt` is None where the payee, or an earlier run, finalized it."""

    channel: PayerChannel
    receipt: Receipt | None


def withdraw(account: PayingAccount, channel: PayerChannel, *, wait: bool) -> Withdrawal:
    """Take the unsettled rest. With `wait`, stays until the grace period is over by the chain's clock.

    Raises CloseNotReady before that time, ChannelNotOpen when no close is requested. A channel that
    is finalized already, before or while waiting, is told as it is.
    """
    waiting = _Waiting(account)
    while True:
        channel = waiting.look(channel) if wait else refreshed(account, channel)
        if channel.state.finalized:
            return Withdrawal(channel=channel, receipt=None)
        require_requested(channel)
        left = channel.state.withdrawable_at - account.reader.next_block_time()
        if left <= 0:
            try:
                return _send(account, channel)
            except ContractReverted as error:
                if error.name != "CloseNotReady":
                    raise
                left = 1
                if not wait:  # a top-up may have cancelled it
                    require_requested(refreshed(account, channel))
        if not wait:
            raise _not_ready(channel, left)
        waiting.pause(left)


class _Waiting:
    """Patience: says what is awaited, and stands a chain that is out of reach for a while."""

    def __init__(self, account: PayingAccount) -> None:
        self._account = account
        self._said: int | None = None
        self._heard_at = account.clock()

    def look(self, channel: PayerChannel) -> PayerChannel:
        while True:
            try:
                found = refreshed(self._account, channel)
            except NetworkError as error:
                if self._account.clock() - self._heard_at > _SILENCE_LIMIT:
                    raise
                self._account.reporter.say(f"still waiting: {error.message}")
                time.sleep(_LONGEST_PAUSE)
            else:
                self._heard_at = self._account.clock()
                return found

    def pause(self, left: int) -> None:
        if self._said is None or self._said - left >= _SECONDS_BETWEEN_NEWS:
            self._account.reporter.say(
                f"waiting {left} seconds for the end of the grace period (Ctrl-C is safe)"
            )
            self._said = left
        time.sleep(max(0.2, min(_LONGEST_PAUSE, left)))


def _send(account: PayingAccount, channel: PayerChannel) -> Withdrawal:
    with account.ledger.turns.turn(f"channel {channel.channel_id}"):
        try:
            receipt = account.sender.send(
                calls.withdraw(channel.descriptor),
                operation=f"withdraw {channel.channel_id}",
                purpose="withdraw",
                channel_id=channel.channel_id,
            )
        except TransactionReverted:
            found = refreshed(account, channel)
            if found.state.finalized:
                return Withdrawal(channel=found, receipt=None)
            raise
        taken = shown(account, channel, lambda found: found.state.finalized, "withdrawal")
        return Withdrawal(channel=taken, receipt=receipt)


def require_requested(channel: PayerChannel) -> None:
    """ChannelNotOpen unless a close of the channel, which is not finalized, is requested."""
    require_on_chain(channel)
    name = channel.name
    if channel.state.close_requested_at == 0:
        raise ChannelNotOpen(
            f"channel {name} is open: a close must be requested before anything can be withdrawn",
            hint=f"microwallet channel close {name}",
        )


def _not_ready(channel: PayerChannel, left: int) -> CloseNotReady:
    name = channel.name
    return CloseNotReady(
        f"the grace period of channel {name} ends in {left} seconds; until then the payee may still be"
        " paid from it",
        hint=f"microwallet channel withdraw {name} --wait",
    )
