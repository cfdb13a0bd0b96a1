"""Closing a channel from the payer's side: ask the payee, else start the grace period."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum

from microwallet.domain.channel import PayerChannel
from microwallet.domain.identifiers import TxHash
from microwallet.errors import (
    ChannelNotOpen,
    LedgerError,
    NetworkError,
    OutcomeUnknown,
    TransactionReverted,
)
from microwallet.escrow import calls
from microwallet.escrow.receipt import Receipt
from microwallet.escrow.rpc import LAG_SECONDS
from microwallet.payer.paying_account import PayingAccount
from microwallet.payer.refresh import refreshed
from microwallet.polling import polls


@dataclass(frozen=True, slots=True, kw_only=True)
class ClosedByPayee:
    """The payee says that it closed; the chain is asked whether that is so."""

    transaction_hash: TxHash | None


AskPayee = Callable[[PayerChannel], ClosedByPayee | None]
"""Asks the payee to close now; None if it does not, and then it has said why."""


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
    """A channel on its way out. `receipt` is None where this side had to send nothing."""

    channel: PayerChannel
    stage: CloseStage
    receipt: Receipt | None
    payee_transaction: TxHash | None = None
    """By which the payee closed, by its own word, if it was asked just now."""
    seconds_left: int
    """Until the payer can withdraw, by the chain's clock."""


def close(account: PayingAccount, channel: PayerChannel, *, ask_payee: AskPayee | None = None) -> Closing:
    """Close cooperatively where the payee can be asked and does, else request the close.

    What was requested or closed before is told, not repeated. ChannelNotOpen if the channel is not
    on the chain.
    """
    with account.ledger.turns.turn(f"channel {channel.channel_id}"):
        channel = refreshed(account, channel)
        require_on_chain(channel)
        if _is_ending(channel):
            return _closing(account, channel, None)
        if ask_payee is not None and (closed := ask_payee(channel)) is not None:
            seconds = LAG_SECONDS if closed.transaction_hash is not None else 0
            channel = _awaited(account, channel, _is_ending, seconds)
            if _is_ending(channel):
                return replace(_closing(account, channel, None), payee_transaction=closed.transaction_hash)
            account.reporter.say("the payee says that it closed, the chain does not: requesting the close")
        return _request(account, channel)


def shown(
    account: PayingAccount, channel: PayerChannel, is_done: Callable[[PayerChannel], bool], what: str
) -> PayerChannel:
    """The channel as soon as the chain shows what was mined; OutcomeUnknown if it does not, or if that cannot
    be asked or recorded."""
    done = f"the {what} of channel {channel.name} was mined"
    try:
        channel = _awaited(account, channel, is_done, LAG_SECONDS)
    except (LedgerError, NetworkError) as error:
        raise OutcomeUnknown(f"{done}; {error.message}", hint="microwallet channel sync") from error
    if not is_done(channel):
        raise OutcomeUnknown(
            f"{done}, and the chain does not show it: it may have been reorganised",
            hint="microwallet channel sync",
        )
    return channel


def require_on_chain(channel: PayerChannel) -> None:
    """ChannelNotOpen unless the channel exists on the chain."""
    if not channel.state.exists:
        raise ChannelNotOpen(
            f"channel {channel.name} is not on the chain (yet)",
            hint="microwallet channel sync",
        )


def require_live(channel: PayerChannel) -> None:
    """ChannelNotOpen unless the channel takes deposits."""
    require_on_chain(channel)
    if channel.state.finalized:
        raise ChannelNotOpen(
            f"channel {channel.name} is finalized: it takes no more deposits",
            hint=f"microwallet channel open {channel.descriptor.payee} AMOUNT",
        )


def _awaited(
    account: PayingAccount, channel: PayerChannel, is_done: Callable[[PayerChannel], bool], seconds: float
) -> PayerChannel:
    """The channel as soon as the chain shows it done, or as it is when that has taken too long."""
    for _ in polls(within=seconds, every=0.2):
        channel = refreshed(account, channel)
        if is_done(channel):
            break
    return channel


def _is_ending(channel: PayerChannel) -> bool:
    return channel.state.finalized or channel.state.close_requested_at > 0


def _closing(account: PayingAccount, channel: PayerChannel, receipt: Receipt | None) -> Closing:
    left = 0
    stage = CloseStage.CLOSED
    if not channel.state.finalized:
        left = max(0, channel.state.withdrawable_at - account.reader.next_block_time())
        stage = CloseStage.REQUESTED if left else CloseStage.WITHDRAWABLE
    return Closing(channel=channel, stage=stage, receipt=receipt, seconds_left=left)


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
        channel = refreshed(account, channel)
        if _is_ending(channel):
            return _closing(account, channel, None)
        raise
    return _closing(account, shown(account, channel, _is_ending, "request to close"), receipt)
