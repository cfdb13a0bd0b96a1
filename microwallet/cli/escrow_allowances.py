"""`microwallet escrow allowances`: what escrows may still take, shown and taken back."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from microwallet.cli.context import confirm, open_wallet
from microwallet.cli.options import AccountName, Json, NetworkName, PasswordFile, RpcUrl, Yes
from microwallet.cli.result import Result
from microwallet.domain.money import format_units
from microwallet.errors import MicrowalletError
from microwallet.escrow.tokens import known_assets
from microwallet.payer.allowances import Allowance, allowances_left
from microwallet.payer.allowances import revoke as revoke_allowance


def allowances(
    network: NetworkName = None,
    account: AccountName = None,
    rpc_url: RpcUrl = None,
    password_file: PasswordFile = None,
    revoke: Annotated[bool, typer.Option("--revoke", help="Take back every one of them.")] = False,
    yes: Yes = False,
    json: Json = False,
) -> Result:
    """Show what escrows may still take of your tokens, such as after an open that did not happen."""
    flags = {"network": network, "account": account, "rpc_url": rpc_url, "password_file": password_file}
    with open_wallet(**flags) as wallet:
        assets = known_assets(wallet.configuration, wallet.network)
        left = allowances_left(wallet.reader, wallet.account.address, assets, wallet.known_escrows)
        rows = [_document(allowance) for allowance in left]
        text = "\n".join(_line(allowance) for allowance in left) or "no allowance is left over"
        if not revoke or not left:
            return Result(data={"allowances": rows}, text=text)
        confirm(f"take back from the escrows:\n{text}", yes=yes, dry_run=False)
        sender = wallet.sender()
        sender.resume_all()
        for row, allowance in zip(rows, left, strict=True):
            try:
                receipt = revoke_allowance(sender, allowance)
            except MicrowalletError as error:
                return Result(data={"allowances": rows}, text=text, error=error)
            row |= {"allowance": "0", "transactionHash": receipt.hash, "gasUsed": receipt.gas_used}
        return Result(data={"allowances": rows}, text=f"taken back:\n{text}")


def _document(allowance: Allowance) -> dict[str, Any]:
    return {
        "token": allowance.asset.token,
        "asset": allowance.asset.symbol,
        "decimals": allowance.asset.decimals,
        "escrowContract": allowance.escrow_contract,
        "allowance": str(allowance.base_units),
    }


def _line(allowance: Allowance) -> str:
    amount = format_units(allowance.base_units, allowance.asset.decimals)
    return f"{amount:>20} {allowance.asset.symbol} by {allowance.escrow_contract}"
