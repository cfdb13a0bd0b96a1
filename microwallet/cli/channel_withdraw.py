"""`microwallet channel withdraw`, and what closing says with the same words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from microwallet.cli.channel_reference import ChannelReference, paying_account_of
from microwallet.cli.channel_view import channel_document, id_and_label, local_time, money, transaction_line
from microwallet.cli.max_fee import MaxFee, max_fee
from microwallet.cli.options import DryRun, Json, NetworkName, PasswordFile, RpcUrl
from microwallet.cli.result import Result
from microwallet.cli.table import named
from microwallet.domain.channel import PayerChannel

if TYPE_CHECKING:
    from microwallet.escrow.calls import Call
    from microwallet.escrow.receipt import Receipt
    from microwallet.payer.paying_account import PayingAccount
    from microwallet.payer.withdraw import Withdrawal
    from microwallet.wallet import Wallet

Wait = Annotated[bool, typer.Option("--wait", help="Stay until the grace period is over, then withdraw.")]


def withdraw(
    channel: ChannelReference,
    wait: Wait = False,
    network: NetworkName = None,
    rpc_url: RpcUrl = None,
    password_file: PasswordFile = None,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Taken for scripts: the money is yours, nothing is asked.")
    ] = False,
    dry_run: DryRun = False,
    json: Json = False,
) -> Result:
    """Take back what is left of a channel, once the grace period of its close is over."""
    from microwallet.escrow import calls
    from microwallet.payer.refresh import refreshed
    from microwallet.payer.withdraw import require_requested
    from microwallet.payer.withdraw import withdraw as withdraw_channel

    with paying_account_of(channel, network=network, rpc_url=rpc_url, password_file=password_file) as found:
        wallet, known, paying = found
        if dry_run:
            known = refreshed(paying, known)
            if not known.state.finalized:
                require_requested(known)
            fee = ending_fee(wallet, paying, calls.withdraw(known.descriptor), "withdraw")
            data = channel_document(known, now=wallet.now()) | {"dryRun": True} | fee.document
            return Result(data=data, text=_summary(wallet, known, fee))
        withdrawal = withdraw_channel(paying, known, wait=wait)
        return withdrawn(withdrawal, now=wallet.now())


def ending_fee(wallet: Wallet, paying: PayingAccount, call: Call, purpose: str) -> MaxFee:
    """What a transaction that ends a channel costs at most."""
    return max_fee(wallet, lambda: paying.sender.quote(call, purpose=purpose).max_cost)


def ending_summary(
    wallet: Wallet, channel: PayerChannel, title: str, rows: list[tuple[str, str]], fee: str
) -> str:
    """What is about to happen to a channel; `rows` say how much money it is about."""
    return named(
        [
            (title, ""),
            ("  channel", id_and_label(channel)),
            ("  payee", channel.descriptor.payee),
            ("  deposit", money(channel, channel.state.deposit)),
            *rows,
            ("  network", wallet.network.described),
            ("  fee", fee),
        ]
    )


def withdrawn(withdrawal: Withdrawal, *, now: int) -> Result:
    """What a withdrawal did."""
    channel, refunded = withdrawal.channel, withdrawal.channel.state.refundable
    data = ending_document(channel, withdrawal.receipt, now=now) | {"refunded": str(refunded)}
    if withdrawal.receipt is None:
        return Result(data=data, text=finalized_text(channel))
    text = (
        f"{money(channel, refunded)} withdrawn from channel {channel.name}"
        f" to {channel.descriptor.payer}; the payee got {money(channel, channel.state.settled)}"
    )
    return Result(data=data, text=text + receipt_line(withdrawal.receipt))


def finalized_text(channel: PayerChannel) -> str:
    """That nothing is left to do, and who got what."""
    return (
        f"channel {channel.name} is finalized already: the payee got"
        f" {money(channel, channel.state.settled)}, {money(channel, channel.state.refundable)} came back"
    )


def ending_document(channel: PayerChannel, receipt: Receipt | None, *, now: int) -> dict[str, Any]:
    """The channel, and the transaction that was sent to end it."""
    return channel_document(channel, now=now) | {
        "transactionHash": receipt.hash if receipt else None,
        "gasUsed": receipt.gas_used if receipt else None,
    }


def receipt_line(receipt: Receipt | None) -> str:
    """The transaction for a person; empty where nothing had to be sent."""
    return transaction_line(receipt.hash, receipt.gas_used) if receipt else ""


def _summary(wallet: Wallet, channel: PayerChannel, fee: MaxFee) -> str:
    state = channel.state
    rows = [
        ("  settled", money(channel, state.settled)),
        ("  comes back", f"{money(channel, state.refundable)} to {channel.descriptor.payer}"),
        (
            "  from",
            local_time(state.withdrawable_at) if state.close_requested_at else "no close is requested",
        ),
    ]
    return ending_summary(wallet, channel, "withdraw from a channel", rows, fee.text)
