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
from microwallet.domain.money import format_units, unit_of
from microwallet.errors import UsageError

if TYPE_CHECKING:
    from microwallet.escrow.delivery import Receipt
    from microwallet.payer.send import Transfer
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
    from microwallet.payer.send import (
        carry_out,
        operation_of,
        plan_transfer,
        resume_transfer,
        unfinished_key,
    )

    if idempotency_key is not None:
        check_idempotency_key(idempotency_key)
    with open_wallet(
        network=network, account=account, rpc_url=rpc_url, password_file=password_file
    ) as wallet:
        amount, unit = _amount_and_unit(amount, token)
        asset = wallet.resolve_asset(token or unit)
        sender = wallet.sender()
        receiver = wallet.address_of(to)
        journal = wallet.ledger.journal
        begun = idempotency_key or unfinished_key(sender, journal, receiver, asset, amount)
        key = begun or f"send-{secrets.token_hex(12)}"
        operation = operation_of(key, receiver, asset, amount)
        with wallet.ledger.turns.turn(f"send {key}"):
            receipt = None
            if not dry_run:
                receipt = resume_transfer(sender, journal, operation, idempotency_key=key, asset=asset)
            data: dict[str, Any] = {
                "from": sender.address,
                "to": receiver,
                "asset": asset.symbol,
                "idempotencyKey": key,
            }
            if receipt is not None:
                return _sent(data, receipt, f"was sent to {receiver} before, under the key {key}")
            planned = plan_transfer(sender, wallet.reader, receiver, amount, asset)
            data["amount"], data["decimals"] = str(planned.amount.base_units), asset.decimals
            summary = _summary(wallet, planned, receiver)
            if dry_run:
                cost = {"maxFee": str(planned.quote.max_cost)}
                return Result(data=data | cost | {"transactionHash": None, "dryRun": True}, text=summary)
            confirm(summary, yes=yes)
            if begun is None:
                Stderr().say(f"idempotency key: {key}")
            receipt = carry_out(sender, planned, operation)
    return _sent(data, receipt, f"sent {planned.amount} to {receiver}")


def _summary(wallet: Wallet, planned: Transfer, receiver: str) -> str:
    network = wallet.network
    return named(
        [
            ("send", ""),
            ("  amount", planned.amount),
            ("  to", receiver),
            ("  from", f"{wallet.account.name} {wallet.account.address}"),
            ("  network", f"{network.name} (chain {network.chain_id})"),
            ("  fee", f"at most {format_units(planned.quote.max_cost, 18)} {network.native_symbol}"),
        ]
    )


def _sent(data: dict[str, Any], receipt: Receipt, text: str) -> Result:
    return Result(
        data={**data, "transactionHash": receipt.hash, "gasUsed": receipt.gas_used},
        text=text + transaction_line(receipt.hash, receipt.gas_used),
    )


def _amount_and_unit(text: str, token: str | None) -> tuple[str, str | None]:
    """An amount as typed and its unit; "all USDC" is all of it."""
    from microwallet.payer.send import ALL

    words = text.split()
    if words[:1] != [ALL] or len(words) > 2:
        return text, unit_of(text)
    if len(words) == 2 and token is not None:
        raise UsageError(f"{text!r} names its token, and so does --token {token}", hint="name it once")
    return ALL, words[1] if len(words) == 2 else None
