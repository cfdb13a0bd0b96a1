"""`microwallet send`: move what an account has to an address."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Annotated, Any

import typer

from microwallet.cli import completion
from microwallet.cli.channel_view import transaction_line
from microwallet.cli.command import TakesAmount, command, new_group
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
from microwallet.domain.money import unit_of
from microwallet.errors import UsageError

if TYPE_CHECKING:
    from microwallet.domain.identifiers import Address
    from microwallet.domain.money import Amount, Asset
    from microwallet.payer.send import Sent, Transfer
    from microwallet.wallet import Wallet

app = new_group("Send coins or tokens to an address.")


@command(
    app,
    "send",
    'microwallet send alice "1 USDC"',
    'microwallet send 0xADDRESS "all ETH" --dry-run',
    cls=TakesAmount,
)
def send(
    to: Annotated[
        str,
        typer.Argument(
            metavar="TO", help="An address, or one of your accounts.", autocompletion=completion.accounts
        ),
    ],
    amount: Annotated[
        str, typer.Argument(metavar="AMOUNT", help='Such as "1 USDC", "0.1 ETH", "all USDC" or all.')
    ],
    token: Token = None,
    network: NetworkName = None,
    account: AccountName = None,
    rpc_url: RpcUrl = None,
    idempotency_key: IdempotencyKey = None,
    password_file: PasswordFile = None,
    dry_run: DryRun = False,
    yes: Yes = False,
    json: Json = False,
) -> Result:
    """Send coins or tokens from an account to an address."""
    from microwallet.payer.pay import check_idempotency_key
    from microwallet.payer.send import plan_transfer, unfinished_key
    from microwallet.payer.send import send as send_once

    if idempotency_key is not None:
        check_idempotency_key(idempotency_key)
    with open_wallet(
        network=network, account=account, rpc_url=rpc_url, password_file=password_file
    ) as wallet:
        typed = amount
        amount, unit = _amount_and_unit(amount, token)
        asset = wallet.resolve_asset(token or unit, amount=typed)
        sender, receiver, escrows = wallet.sender(), wallet.address_of(to), wallet.known_escrows
        begun = idempotency_key or unfinished_key(sender, wallet.ledger.journal, receiver, asset, amount)
        key = begun or f"send-{secrets.token_hex(12)}"
        data: dict[str, Any] = {
            "from": sender.address,
            "to": receiver,
            "asset": asset.symbol,
            "idempotencyKey": key,
        }
        if dry_run:
            planned = plan_transfer(sender, wallet.reader, receiver, amount, asset, escrow_contracts=escrows)
            cost = {"maxFee": str(planned.quote.max_cost)}
            data |= _amount(planned.amount, asset) | cost | {"transactionHash": None, "dryRun": True}
            return Result(data=data, text=_summary(wallet, planned, receiver))

        def agree(planned: Transfer) -> None:
            confirm(_summary(wallet, planned, receiver), yes=yes)
            if begun is None:
                Stderr().say(f"idempotency key: {key}")

        sent = send_once(
            sender,
            wallet.reader,
            wallet.ledger,
            receiver,
            asset,
            amount,
            escrow_contracts=escrows,
            idempotency_key=key,
            agree=agree,
        )
    return _sent(data, sent, asset)


def _summary(wallet: Wallet, planned: Transfer, receiver: Address) -> str:
    return named(
        [
            ("send", ""),
            ("  amount", planned.amount),
            ("  to", receiver),
            ("  from", f"{wallet.account.name} {wallet.account.address}"),
            ("  network", wallet.network.described),
            ("  fee", f"at most {wallet.network.coins(planned.quote.max_cost)}"),
        ]
    )


def _amount(amount: Amount | None, asset: Asset) -> dict[str, Any]:
    return {"amount": None if amount is None else str(amount.base_units), "decimals": asset.decimals}


def _sent(data: dict[str, Any], sent: Sent, asset: Asset) -> Result:
    receipt = sent.receipt
    data |= {"transactionHash": receipt.hash, "gasUsed": receipt.gas_used} | _amount(sent.amount, asset)
    if sent.is_new:
        text = f"sent {sent.amount} to {data['to']}"
    else:
        what = sent.amount or f"all {asset.symbol}"
        text = f"{what} was sent to {data['to']} before, under the key {data['idempotencyKey']}"
    return Result(data=data, text=text + transaction_line(receipt.hash, receipt.gas_used))


def _amount_and_unit(text: str, token: str | None) -> tuple[str, str | None]:
    """An amount as typed and its unit; "all USDC" is all of it."""
    from microwallet.payer.send import ALL

    words = text.split()
    if words[:1] != [ALL] or len(words) > 2:
        return text, unit_of(text)
    if len(words) == 2 and token is not None:
        raise UsageError(f"{text!r} names its token, and so does --token {token}", hint="name it once")
    return ALL, words[1] if len(words) == 2 else None
