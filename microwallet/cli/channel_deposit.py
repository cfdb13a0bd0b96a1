"""What opening a channel and topping one up have in common on the command line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from microwallet.cli.channel_view import channel_document, id_and_label, money
from microwallet.cli.context import Stderr
from microwallet.cli.table import named
from microwallet.domain.deposit import Way
from microwallet.errors import PaymentRefused, UsageError

if TYPE_CHECKING:
    from microwallet.domain.channel import PayerChannel
    from microwallet.payer.deposit import MadeDeposit
    from microwallet.payer.deposit_plan import DepositPlan
    from microwallet.payer.paying_account import PayingAccount
    from microwallet.payer.sync import SettledDeposit

Via = Annotated[
    str | None,
    typer.Option(
        "--via",
        metavar="WAY",
        help="authorization, permit or approve; auto, or none, is the shortest the token allows.",
    ),
]


def chosen_way(text: str | None) -> Way | None:
    """The way that `--via` names; None for the shortest."""
    if text in (None, "auto"):
        return None
    try:
        return Way(text)
    except ValueError:
        ways = f"auto, {Way.AUTHORIZATION}, {Way.PERMIT}, {Way.APPROVE}"
        raise UsageError(f"--via is {text!r}; there are: {ways}") from None


def deposit_summary(paying: PayingAccount, plan: DepositPlan, *, price: str = "") -> str:
    """What is about to be opened or added, for a person to agree to; `price` is what it is to pay."""
    channel, asset = plan.channel, plan.amount.asset
    begun = f"resumed: begun as {plan.idempotency_key}" if plan.begun else ""
    if channel is None:
        rows = [("open a channel", begun), ("  deposit", str(plan.amount))]
    else:
        rows = [
            ("top up a channel", begun),
            ("  amount", str(plan.amount)),
            ("  channel", id_and_label(channel)),
            ("  deposit now", money(channel, channel.state.deposit)),
        ]
    if price:
        rows.append(("  price", price))
    rows += [
        ("  payee", plan.payee),
        ("  from", f"{paying.name} {paying.address}"),
        ("  network", paying.network.described),
    ]
    if channel is None:
        coin = "(the coin of the chain)" if asset.is_native else asset.token
        rows.append(("  asset", f"{asset.symbol} {coin}"))
    rows += [("  escrow", paying.reader.escrow_contract), ("  way", plan.way.described)]
    if plan.is_gasless and not plan.begun:
        rows.append(("  fee", "none: it is signed here, and the payee brings it onto the chain"))
    elif plan.max_fee is not None:
        rows.append(("  fee", f"at most {paying.network.coins(plan.max_fee)}"))
    if plan.cancels_close:
        rows.append(("  note", "the close that is pending will be cancelled"))
    return named(rows)


def plan_document(plan: DepositPlan) -> dict[str, Any]:
    """What `--dry-run` tells of how a deposit would be made."""
    return {
        "dryRun": True,
        "way": str(plan.way),
        "maxFee": None if plan.max_fee is None else str(plan.max_fee),
        "resumes": plan.idempotency_key if plan.begun else None,
    }


def say_what_begins(plan: DepositPlan, *, is_new_key: bool) -> None:
    """The key of what is resumed, or a new key that was made for it, on stderr."""
    if plan.begun is not None:
        Stderr().say(f"resuming the {plan.kind.noun} begun as {plan.idempotency_key}")
    elif is_new_key:
        Stderr().say(f"idempotency key: {plan.idempotency_key}")


def next_step(channel: PayerChannel, *, now: int) -> str:
    """To pay from a channel with a new deposit, or what is to be done before: one begun earlier may have
    been finished while the channel ended."""
    from microwallet.domain.payment import require_open

    try:
        require_open(channel, now=now)
    except PaymentRefused as refused:
        return f"next: {refused.hint}"
    return f'pay from it: microwallet pay {channel.name} "0.001 {channel.asset.symbol}"'


def recorded_deposit(settled: SettledDeposit) -> dict[str, Any]:
    """A deposit as the ledger has it, and what is known of its end."""
    deposit = settled.deposit
    return {
        "idempotencyKey": deposit.idempotency_key,
        "kind": str(deposit.kind),
        "channelId": deposit.channel_id,
        "amount": str(deposit.amount),
        "status": str(settled.status),
        "expiresAt": settled.expires_at,
    }


def deposit_document(made: MadeDeposit, *, now: int) -> dict[str, Any]:
    """The channel, and the transaction that put the deposit into it."""
    return channel_document(made.channel, now=now) | {
        "transactionHash": made.transaction_hash,
        "gasUsed": made.gas_used,
        "idempotencyKey": made.idempotency_key,
        "resumed": made.resumed,
    }
