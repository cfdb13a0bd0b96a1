"""`microwallet channel close`."""

from __future__ import annotations

import shlex
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from microwallet.cli.channel_reference import ChannelReference, paying_account_of
from microwallet.cli.channel_view import authorized_text, channel_document, local_time, money
from microwallet.cli.channel_withdraw import (
    Wait,
    ending_document,
    ending_fee,
    ending_summary,
    finalized_text,
    receipt_line,
    withdrawn,
)
from microwallet.cli.context import Stderr, confirm
from microwallet.cli.options import DryRun, Json, NetworkName, PasswordFile, RpcUrl, Yes
from microwallet.cli.result import Result
from microwallet.domain.channel import CLOSE_GRACE_PERIOD, ChannelState, PayerChannel
from microwallet.http402.paying.origins import Origin

if TYPE_CHECKING:
    from microwallet.cli.max_fee import MaxFee
    from microwallet.payer.close import Closing
    from microwallet.paying import PaidByHand
    from microwallet.wallet import Wallet


def close(
    channel: ChannelReference,
    wait: Wait = False,
    on_chain: Annotated[
        bool, typer.Option("--on-chain", help="Do not ask the payee over HTTP first.")
    ] = False,
    network: NetworkName = None,
    rpc_url: RpcUrl = None,
    password_file: PasswordFile = None,
    yes: Yes = False,
    dry_run: DryRun = False,
    json: Json = False,
) -> Result:
    """Ask for the money back.

    A payee that was paid over HTTP is asked to close at once. Any other has 15 minutes to take what it
    is owed; withdraw then.
    """
    from microwallet.escrow import calls
    from microwallet.payer.close import CloseStage
    from microwallet.payer.close import close as close_channel
    from microwallet.payer.refresh import refreshed
    from microwallet.payer.withdraw import withdraw as withdraw_channel
    from microwallet.paying import ask_payee, paid_by_hand

    with paying_account_of(channel, network=network, rpc_url=rpc_url, password_file=password_file) as found:
        wallet, known, paying = found
        known = refreshed(paying, known)
        is_open = _is_open(known.state)
        by_hand = paid_by_hand(wallet, known) if is_open and not on_chain else None
        uncounted = {"uncountedPayments": None if by_hand is None else str(by_hand.uncounted)}
        if by_hand is not None and by_hand.uncounted:
            Stderr().say(_uncounted(known, by_hand))
        if dry_run or (not yes and is_open):
            fee = ending_fee(wallet, paying, calls.request_close(known.descriptor), "requestClose")
            summary = _close_summary(wallet, known, fee, on_chain=on_chain)
            if dry_run:
                data = channel_document(known, now=wallet.now()) | {"dryRun": True} | fee.document | uncounted
                return Result(data=data, text=summary)
            confirm(summary, yes=False)
        closing = close_channel(paying, known, ask_payee=None if on_chain else partial(ask_payee, wallet))
        if wait and closing.stage is not CloseStage.CLOSED:
            result = withdrawn(withdraw_channel(paying, closing.channel, wait=True), now=wallet.now())
        else:
            result = _closing(closing, now=wallet.now())
        return replace(result, data=result.data | uncounted)


def _uncounted(channel: PayerChannel, by_hand: PaidByHand) -> str:
    """The figure, and the vouchers to hand over."""
    keys = by_hand.idempotency_keys
    words = f"microwallet pay --resume {shlex.quote(keys[-1])}"
    more = "" if len(keys) == 1 else f", and the same for {len(keys) - 1} more before it"
    least = "" if by_hand.is_exact else "at least "
    return (
        f"warning: {least}{money(channel, by_hand.uncounted)} of {money(channel, by_hand.total)} paid by"
        f" hand is not counted by the payee yet, and its close leaves it out; hand the vouchers over first:"
        f" {words}{more}"
    )


def _is_open(state: ChannelState) -> bool:
    return state.exists and not state.finalized and state.close_requested_at == 0


def _close_summary(wallet: Wallet, channel: PayerChannel, fee: MaxFee, *, on_chain: bool) -> str:
    purchase = None if on_chain else wallet.ledger.purchases.newest(channel.channel_id)
    asked = "" if purchase is None else f"asked of {Origin.of(purchase.url)}; else "
    spared = "" if purchase is None else "none if the payee closes; else "
    rows = [
        ("  authorized", f"{authorized_text(channel)}: the payee can still take {_claim(channel)}"),
        (
            "  comes back",
            f"at least {money(channel, channel.remaining)}" if channel.voucher_known else "unknown",
        ),
        (
            "  way",
            f"{asked}requested now; withdrawn {CLOSE_GRACE_PERIOD // 60} minutes later at the earliest",
        ),
    ]
    return ending_summary(wallet, channel, "close a channel", rows, spared + fee.text)


def _claim(channel: PayerChannel) -> str:
    """What of it the payee has not taken yet."""
    settled = channel.state.settled
    return money(channel, max(0, channel.authorized - settled)) if channel.voucher_known and settled else "it"


def _closing(closing: Closing, *, now: int) -> Result:
    from microwallet.payer.close import CloseStage

    channel = closing.channel
    name = channel.name
    data = ending_document(channel, closing.receipt, now=now) | {"stage": str(closing.stage)}
    if closing.payee_transaction is not None:
        data["transactionHash"] = closing.payee_transaction
        text = (
            f"the payee closed channel {name}: it got {money(channel, channel.state.settled)},"
            f" {money(channel, channel.state.refundable)} came back\ntransaction {closing.payee_transaction}"
        )
        return Result(data=data, text=text)
    if closing.stage is CloseStage.CLOSED:
        return Result(data=data, text=finalized_text(channel))
    if closing.stage is CloseStage.WITHDRAWABLE:
        text = f"the grace period of channel {name} is over: what is left can be taken now"
        return Result(data=data, text=text, notes=[f"microwallet channel withdraw {name}"])
    asked = "requested" if closing.receipt else "requested already"
    text = (
        f"close of channel {name} {asked}: what is left can be taken at"
        f" {local_time(channel.state.withdrawable_at)},"
        f" in {closing.seconds_left} seconds; until then the payee can take what it is owed"
    )
    notes = [f"take the rest then: microwallet channel withdraw {name} --wait"]
    return Result(data=data, text=text + receipt_line(closing.receipt), notes=notes)
