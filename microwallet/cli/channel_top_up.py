"""`microwallet channel top-up`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from microwallet.cli.channel_deposit import (
    Via,
    chosen_way,
    deposit_document,
    deposit_summary,
    next_step,
    plan_document,
    say_what_begins,
)
from microwallet.cli.channel_reference import ChannelReference, paying_account_of
from microwallet.cli.channel_view import channel_document, money, transaction_line
from microwallet.cli.context import confirm
from microwallet.cli.options import DryRun, IdempotencyKey, Json, NetworkName, PasswordFile, RpcUrl, Yes
from microwallet.cli.result import Result
from microwallet.domain.money import Amount

if TYPE_CHECKING:
    from microwallet.payer.deposit import MadeDeposit


def top_up(
    channel: ChannelReference,
    amount: Annotated[str, typer.Argument(metavar="AMOUNT", help='Such as "5 USDC"; a bare number too.')],
    via: Via = None,
    idempotency_key: IdempotencyKey = None,
    network: NetworkName = None,
    rpc_url: RpcUrl = None,
    password_file: PasswordFile = None,
    yes: Yes = False,
    dry_run: DryRun = False,
    json: Json = False,
) -> Result:
    """Add to a channel's deposit. It cancels a pending close.

    Run again after a crash, it finishes what was begun and never adds twice.
    """
    from microwallet.payer.deposit import make_deposit
    from microwallet.payer.top_up import plan_top_up

    with paying_account_of(channel, network=network, rpc_url=rpc_url, password_file=password_file) as found:
        wallet, known, paying = found
        plan = plan_top_up(
            paying,
            known,
            Amount.parse(amount, known.asset),
            idempotency_key=idempotency_key,
            way=chosen_way(via),
        )
        if dry_run:
            data = (
                channel_document(plan.channel or known, now=wallet.now())
                | plan_document(plan)
                | {"amount": str(plan.amount.base_units), "cancelsClose": plan.cancels_close}
            )
            return Result(data=data, text=deposit_summary(paying, plan))
        confirm(deposit_summary(paying, plan), yes=yes)
        say_what_begins(plan, is_new_key=idempotency_key is None)
        return _topped_up(make_deposit(paying, plan), plan.amount, now=wallet.now())


def _topped_up(made: MadeDeposit, amount: Amount, *, now: int) -> Result:
    channel = made.channel
    name = channel.name
    left = money(channel, channel.remaining) if channel.voucher_known else "an unknown part of it"
    text = (
        f"{amount} added to channel {name}: the deposit is {money(channel, channel.state.deposit)},"
        f" {left} is left"
    )
    notes = ["the pending close is cancelled: the channel is open again"] if made.cancelled_close else []
    notes.append(next_step(channel, now=now))
    data = deposit_document(made, now=now) | {
        "amount": str(amount.base_units),
        "cancelledClose": made.cancelled_close,
    }
    return Result(data=data, text=text + transaction_line(made.transaction_hash, made.gas_used), notes=notes)
