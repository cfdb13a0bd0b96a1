"""`microwallet network token`: the tokens that have a symbol on a network."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from microwallet.cli.command import command, new_group
from microwallet.cli.context import open_wallet
from microwallet.cli.options import Json, NetworkName, RpcUrl
from microwallet.cli.result import Result
from microwallet.cli.table import table
from microwallet.domain.identifiers import parse_address
from microwallet.domain.money import Asset
from microwallet.escrow.tokens import add_token, known_assets, read_asset

app = new_group("Tokens beside USDC and the chain's coin.")


@command(app, "list", "microwallet network token list")
def list_(network: NetworkName = None, json: Json = False) -> Result:
    """List the assets that have a symbol here."""
    wallet = open_wallet(network=network)
    assets = known_assets(wallet.configuration, wallet.network)
    rows = [
        (asset.symbol, str(asset.decimals), "the coin of the chain" if asset.is_native else asset.token)
        for asset in assets
    ]
    data = {"network": wallet.network.name, "tokens": [_document(asset) for asset in assets]}
    return Result(data=data, text=table(("SYMBOL", "DECIMALS", "TOKEN"), rows, right=("DECIMALS",)))


@command(app, "add", "microwallet network token add 0xTOKEN --alias EURX")
def add(
    address: Annotated[str, typer.Argument(metavar="ADDRESS", help="Address of an ERC-20 token.")],
    alias: Annotated[
        str | None, typer.Option(metavar="SYMBOL", help="Your symbol for it, instead of its own.")
    ] = None,
    network: NetworkName = None,
    rpc_url: RpcUrl = None,
    json: Json = False,
) -> Result:
    """Give a token its symbol: read from the chain, refused where it is another token's."""
    with open_wallet(network=network, rpc_url=rpc_url) as wallet:
        token = parse_address(address)
        asset = read_asset(wallet.configuration, wallet.network, wallet.reader, token, alias=alias)
        add_token(wallet.configuration, wallet.network, asset)
    text = f"{asset.symbol} is {asset.token} on {wallet.network.name}, with {asset.decimals} decimals"
    return Result(data=_document(asset), text=text, notes=[f'write amounts like "1 {asset.symbol}"'])


def _document(asset: Asset) -> dict[str, Any]:
    return {
        "token": asset.token,
        "asset": asset.symbol,
        "decimals": asset.decimals,
        "chainId": asset.chain_id,
    }
