"""`microwallet channel open`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from microwallet.cli import completion
from microwallet.cli.channel_deposit import (
    Via,
    chosen_way,
    deposit_document,
    deposit_summary,
    next_step,
    plan_document,
    say_what_begins,
)
from microwallet.cli.channel_view import id_and_label, money, transaction_line
from microwallet.cli.context import confirm, open_wallet
from microwallet.cli.options import (
    AccountName,
    DryRun,
    IdempotencyKey,
    Json,
    NetworkName,
    PasswordFile,
    RpcUrl,
    Token,
    Yes,
)
from microwallet.cli.result import Result
from microwallet.domain.money import Amount, unit_of

if TYPE_CHECKING:
    from microwallet.payer.deposit import MadeDeposit
    from microwallet.payer.deposit_plan import DepositPlan
    from microwallet.payer.paying_account import PayingAccount


def open_(
    payee: Annotated[
        str,
        typer.Argument(
            metavar="PAYEE",
            help="Address of who is paid, or an account here.",
            autocompletion=completion.accounts,
        ),
    ],
    deposit: Annotated[str, typer.Argument(metavar="DEPOSIT", help='Such as "10 USDC" or "0.5 ETH".')],
    label: Annotated[
        str | None, typer.Option("--label", metavar="TEXT", help="Your own name for the channel.")
    ] = None,
    network: NetworkName = None,
    account: AccountName = None,
    token: Token = None,
    via: Via = None,
    idempotency_key: IdempotencyKey = None,
    rpc_url: RpcUrl = None,
    password_file: PasswordFile = None,
    yes: Yes = False,
    dry_run: DryRun = False,
    json: Json = False,
) -> Result:
    """Lock a deposit for one payee, to be paid from by vouchers.

    Run again after a crash, it finishes what was begun and never opens twice.
    """
    from microwallet.payer.deposit import make_deposit
    from microwallet.payer.open import plan_open

    with open_wallet(
        network=network, account=account, rpc_url=rpc_url, password_file=password_file
    ) as wallet:
        paying = wallet.paying_account()
        amount = Amount.parse(deposit, wallet.resolve_asset(token or unit_of(deposit), amount=deposit))
        plan = plan_open(
            paying,
            wallet.address_of(payee),
            amount,
            label=label,
            idempotency_key=idempotency_key,
            way=chosen_way(via),
        )
        if dry_run:
            return Result(data=_preview(paying, plan), text=deposit_summary(paying, plan))
        confirm(deposit_summary(paying, plan), yes=yes)
        say_what_begins(plan, is_new_key=idempotency_key is None)
        return _opened(make_deposit(paying, plan), now=wallet.now())


def _preview(paying: PayingAccount, plan: DepositPlan) -> dict[str, Any]:
    asset = plan.amount.asset
    return plan_document(plan) | {
        "payer": paying.address,
        "payee": plan.payee,
        "deposit": str(plan.amount.base_units),
        "asset": asset.symbol,
        "decimals": asset.decimals,
        "token": asset.token,
        "network": paying.network.name,
        "chainId": paying.network.chain_id,
        "escrowContract": paying.reader.escrow_contract,
        "label": plan.label,
    }


def _opened(made: MadeDeposit, *, now: int) -> Result:
    channel = made.channel
    text = (
        f"channel {id_and_label(channel)} is"
        f" {channel.status(now=now)}: {money(channel, channel.state.deposit)} for"
        f" {channel.descriptor.payee}{transaction_line(made.transaction_hash, made.gas_used)}"
    )
    return Result(data=deposit_document(made, now=now), text=text, notes=[next_step(channel, now=now)])
