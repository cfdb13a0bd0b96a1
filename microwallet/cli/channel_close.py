"""`microwallet channel close` and `microwallet channel withdraw`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from microwallet.cli.channel_reference import ChannelReference, paying_account_of, wallet_of_channel
from microwallet.cli.channel_view import authorized_text, channel_document, local_time, money
from microwallet.cli.context import confirm
from microwallet.cli.options import DryRun, Json, NetworkName, PasswordFile, RpcUrl, Yes
from microwallet.cli.result import Result
from microwallet.cli.table import named
from microwallet.domain.channel import CLOSE_GRACE_PERIOD, PayerChannel

if TYPE_CHECKING:
    from microwallet.escrow.delivery import Receipt
    from microwallet.payer.close import Closing
    from microwallet.payer.paying_account import PayingAccount
    from microwallet.payer.withdraw import Withdrawal

Wait = Annotated[bool, typer.Option("--wait", help="Stay until the grace period is over, then withdraw.")]


def close(
    channel: ChannelReference,
    wait: Wait = False,
    network: NetworkName = None,
    rpc_url: RpcUrl = None,
    password_file: PasswordFile = None,
    yes: Yes = False,
    dry_run: DryRun = False,
    json: Json = False,
) -> Result:
    """Ask for the money back: the payee has 15 minutes to take what it is owed, then withdraw."""
    from microwallet.payer.close import CloseStage, newest
    from microwallet.payer.close import close as close_channel
    from microwallet.payer.withdraw import withdraw as withdraw_channel

    with wallet_of_channel(channel, network=network, rpc_url=rpc_url, password_file=password_file) as found:
        wallet, known = found
        paying = paying_account_of(wallet, known)
        known = newest(paying, known)
        if dry_run:
            data = channel_document(known, now=wallet.now()) | {"dryRun": True}
            return Result(data=data, text=_close_summary(paying, known))
        if known.state.exists and not known.state.finalized and known.state.close_requested_at == 0:
            confirm(_close_summary(paying, known), yes=yes)
        closing = close_channel(paying, known)
        if wait and closing.stage is not CloseStage.CLOSED:
            return _withdrawn(withdraw_channel(paying, closing.channel, wait=True), now=wallet.now())
        return _closing(closing, now=wallet.now())


def withdraw(
    channel: ChannelReference,
    wait: Wait = False,
    network: NetworkName = None,
    rpc_url: RpcUrl = None,
    password_file: PasswordFile = None,
    yes: Annotated[
        bool, typer.Option("--yes", help="Taken for scripts: the money is yours, nothing is asked.")
    ] = False,
    dry_run: DryRun = False,
    json: Json = False,
) -> Result:
    """Take back what is left of a channel, once the grace period of its close is over."""
    from microwallet.payer.close import newest
    from microwallet.payer.withdraw import withdraw as withdraw_channel

    with wallet_of_channel(channel, network=network, rpc_url=rpc_url, password_file=password_file) as found:
        wallet, known = found
        paying = paying_account_of(wallet, known)
        if dry_run:
            known = newest(paying, known)
            data = channel_document(known, now=wallet.now()) | {"dryRun": True}
            return Result(data=data, text=_withdraw_summary(paying, known))
        withdrawal = withdraw_channel(paying, known, wait=wait)
        return _withdrawn(withdrawal, now=wallet.now())


def _summary(paying: PayingAccount, channel: PayerChannel, title: str, rows: list[tuple[str, str]]) -> str:
    return named(
        [
            (title, ""),
            ("  channel", f"{channel.channel_id}{f' ({channel.label})' if channel.label else ''}"),
            ("  payee", channel.descriptor.payee),
            ("  deposit", money(channel, channel.state.deposit)),
            *rows,
            ("  network", f"{paying.network.name} (chain {paying.network.chain_id})"),
        ]
    )


def _withdraw_summary(paying: PayingAccount, channel: PayerChannel) -> str:
    state = channel.state
    rows = [
        ("  settled", money(channel, state.settled)),
        ("  comes back", f"{money(channel, state.deposit - state.settled)} to {channel.descriptor.payer}"),
        (
            "  from",
            local_time(state.withdrawable_at) if state.close_requested_at else "no close is requested",
        ),
    ]
    return _summary(paying, channel, "withdraw from a channel", rows)


def _close_summary(paying: PayingAccount, channel: PayerChannel) -> str:
    rows = [
        ("  authorized", f"{authorized_text(channel)}: the payee can still take it"),
        (
            "  comes back",
            f"at least {money(channel, channel.remaining)}" if channel.voucher_known else "unknown",
        ),
        ("  way", f"requested now; withdrawn {CLOSE_GRACE_PERIOD // 60} minutes later at the earliest"),
    ]
    return _summary(paying, channel, "close a channel", rows)


def _closing(closing: Closing, *, now: int) -> Result:
    from microwallet.payer.close import CloseStage

    channel = closing.channel
    name = channel.name
    data = _document(channel, closing.receipt, now=now) | {"stage": str(closing.stage)}
    if closing.stage is CloseStage.CLOSED:
        return Result(data=data, text=_finalized(channel))
    at = channel.state.withdrawable_at
    notes = [f"take the rest then: microwallet channel withdraw {name} --wait"]
    if closing.stage is CloseStage.WITHDRAWABLE:
        text = f"the grace period of channel {name} is over: what is left can be taken now"
        return Result(data=data, text=text, notes=[f"microwallet channel withdraw {name}"])
    asked = "requested" if closing.receipt else "requested already"
    text = (
        f"close of channel {name} {asked}: what is left can be taken at {local_time(at)},"
        f" in {closing.seconds_left} seconds; until then the payee can take what it is owed"
    )
    return Result(data=data, text=text + _transaction(closing.receipt), notes=notes)


def _withdrawn(withdrawal: Withdrawal, *, now: int) -> Result:
    channel = withdrawal.channel
    data = _document(channel, withdrawal.receipt, now=now) | {"refunded": str(withdrawal.refunded)}
    if withdrawal.receipt is None:
        return Result(data=data, text=_finalized(channel))
    text = (
        f"{money(channel, withdrawal.refunded)} withdrawn from channel {channel.name}"
        f" to {channel.descriptor.payer}; the payee got {money(channel, channel.state.settled)}"
    )
    return Result(data=data, text=text + _transaction(withdrawal.receipt))


def _finalized(channel: PayerChannel) -> str:
    refunded = channel.state.deposit - channel.state.settled
    return (
        f"channel {channel.name} is finalized already: the payee got"
        f" {money(channel, channel.state.settled)}, {money(channel, refunded)} came back"
    )


def _document(channel: PayerChannel, receipt: Receipt | None, *, now: int) -> dict[str, Any]:
    return channel_document(channel, now=now) | {
        "transactionHash": receipt.hash if receipt else None,
        "gasUsed": receipt.gas_used if receipt else None,
    }


def _transaction(receipt: Receipt | None) -> str:
    return f"\ntransaction {receipt.hash}, {receipt.gas_used} gas" if receipt else ""
