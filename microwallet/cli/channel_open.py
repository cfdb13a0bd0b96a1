"""`microwallet channel open`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from microwallet.cli import completion
from microwallet.cli.channel_view import channel_document, money
from microwallet.cli.context import Stderr, confirm, open_wallet
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
from microwallet.cli.table import named
from microwallet.domain.identifiers import Address, is_address, parse_address
from microwallet.domain.money import Amount, Asset, format_units, unit_of
from microwallet.errors import UsageError
from microwallet.wallet import Wallet

if TYPE_CHECKING:
    from microwallet.payer.deposit import MadeDeposit
    from microwallet.payer.open import OpenPlan
    from microwallet.payer.paying_account import PayingAccount
    from microwallet.payer.ways import Way

Via = Annotated[
    str | None,
    typer.Option(
        "--via", metavar="WAY", help="authorization, permit or approve; else the shortest the token allows."
    ),
]


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
    label: Annotated[str | None, typer.Option("--label", help="Your own name for the channel.")] = None,
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
    from microwallet.payer.open import OpenRequest, open_channel, plan_open

    with open_wallet(
        network=network, account=account, rpc_url=rpc_url, password_file=password_file
    ) as wallet:
        paying = wallet.paying_account()
        amount = Amount.parse(deposit, named_asset(wallet, deposit, token))
        request = OpenRequest(
            payee=_address(wallet, payee),
            deposit=amount,
            label=label,
            idempotency_key=idempotency_key,
            way=chosen_way(via),
        )
        plan = plan_open(paying, request)
        if dry_run:
            return Result(data=_preview(paying, plan), text=_summary(paying, plan))
        confirm(_summary(paying, plan), yes=yes)
        _say_what_begins(plan)
        return _opened(open_channel(paying, plan), now=wallet.now())


def named_asset(wallet: Wallet, amount: str, token: str | None) -> Asset:
    """The asset an amount as typed is in: the token named beside it, else its unit's, else the default."""
    from microwallet.escrow.tokens import native_asset, resolve_asset

    unit = unit_of(amount)
    if token is None and unit is not None and unit.lower() in ("wei", "gwei"):
        return native_asset(wallet.network)
    return resolve_asset(wallet.configuration, wallet.network, wallet.reader, token or unit)


def chosen_way(text: str | None) -> Way | None:
    """The way that `--via` names; None for the shortest."""
    from microwallet.payer.ways import Way

    if text in (None, "auto"):
        return None
    try:
        return Way(text)
    except ValueError:
        ways = f"auto, {Way.AUTHORIZATION}, {Way.PERMIT}, {Way.APPROVE}"
        raise UsageError(f"--via is {text!r}; there are: {ways}") from None


def deposit_document(made: MadeDeposit, *, now: int) -> dict[str, Any]:
    """The channel, and the transaction that put the deposit into it."""
    return channel_document(made.channel, now=now) | {
        "transactionHash": made.transaction_hash,
        "gasUsed": made.gas_used,
        "idempotencyKey": made.idempotency_key,
        "resumed": made.resumed,
    }


def transaction_line(made: MadeDeposit) -> str:
    """The transaction for a person; empty where somebody else sent it."""
    if made.transaction_hash is None:
        return ""
    return f"\ntransaction {made.transaction_hash}, {made.gas_used} gas"


def _address(wallet: Wallet, payee: str) -> Address:
    return parse_address(payee) if is_address(payee) else wallet.accounts.get(payee).address


def _say_what_begins(plan: OpenPlan) -> None:
    if plan.begun is not None:
        Stderr().say(f"resuming the open begun as {plan.idempotency_key}")
    elif plan.request.idempotency_key is None:
        Stderr().say(f"idempotency key: {plan.idempotency_key}")


def _summary(paying: PayingAccount, plan: OpenPlan) -> str:
    request, network = plan.request, paying.network
    asset = request.deposit.asset
    lines = [
        ("open a channel", f"resumed: begun as {plan.idempotency_key}" if plan.begun else ""),
        ("  deposit", str(request.deposit)),
        ("  payee", request.payee),
        ("  from", f"{paying.name} {paying.address}"),
        ("  network", f"{network.name} (chain {network.chain_id})"),
        ("  asset", f"{asset.symbol} {'(the coin of the chain)' if asset.is_native else asset.token}"),
        ("  escrow", paying.reader.escrow_contract),
        ("  way", plan.way.described),
    ]
    if plan.max_fee is not None:
        lines.append(("  gas", f"at most {format_units(plan.max_fee, 18)} {network.native_symbol}"))
    return named(lines)


def _preview(paying: PayingAccount, plan: OpenPlan) -> dict[str, Any]:
    request = plan.request
    return {
        "dryRun": True,
        "payer": paying.address,
        "payee": request.payee,
        "deposit": str(request.deposit.base_units),
        "asset": request.deposit.asset.symbol,
        "decimals": request.deposit.asset.decimals,
        "token": request.deposit.asset.token,
        "network": paying.network.name,
        "chainId": paying.network.chain_id,
        "escrowContract": paying.reader.escrow_contract,
        "way": str(plan.way),
        "maxFee": None if plan.max_fee is None else str(plan.max_fee),
        "label": request.label,
        "resumes": plan.idempotency_key if plan.begun else None,
    }


def _opened(made: MadeDeposit, *, now: int) -> Result:
    channel = made.channel
    name = channel.name
    text = (
        f"channel {channel.channel_id}{f' ({channel.label})' if channel.label else ''} is"
        f" {channel.state.status(now=now)}: {money(channel, channel.state.deposit)} for"
        f" {channel.descriptor.payee}{transaction_line(made)}"
    )
    notes = [f'pay from it: microwallet pay {name} "0.001 {channel.asset.symbol}"']
    return Result(data=deposit_document(made, now=now), text=text, notes=notes)
