"""`microwallet devnet`: a local chain to try things on."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from microwallet.cli import completion
from microwallet.cli.command import TakesAmount, command, new_group
from microwallet.cli.context import open_wallet
from microwallet.cli.options import Json, NetworkName, RpcUrl, Token
from microwallet.cli.result import Result
from microwallet.devnet.anvil import find_anvil
from microwallet.devnet.background import DevnetFolder
from microwallet.devnet.node import AnvilNode
from microwallet.domain.duration import whole_seconds
from microwallet.domain.money import Amount, Asset, unit_of
from microwallet.errors import InvalidAmount
from microwallet.escrow.devnet_notes import LOCAL_CHAIN_ID, Devnet
from microwallet.escrow.network import MAINNETS
from microwallet.escrow.networks import network_of_chain
from microwallet.wallet import Wallet

app = new_group("A local chain to try things on.")

DEFAULT_PORT = 8545

Port = Annotated[int, typer.Option(metavar="PORT", min=1, max=65535, help="Port on 127.0.0.1.")]


@command(app, "up", "microwallet devnet up", "microwallet devnet up --port 8546 --state")
def up(
    port: Port = DEFAULT_PORT,
    chain_id: Annotated[int, typer.Option(metavar="ID", min=1, max=2**53, help="Chain id.")] = LOCAL_CHAIN_ID,
    state: Annotated[bool, typer.Option("--state", help="Keep the chain's state across runs.")] = False,
    json: Json = False,
) -> Result:
    """Start a local chain with escrow and test USDC, and leave it running."""
    wallet = open_wallet()
    devnet = DevnetFolder(wallet.paths.devnet).up(
        lambda: find_anvil(wallet.environment, wallet.paths.cache, wallet.reporter),
        wallet.reporter,
        port=port,
        chain_id=chain_id,
        keep_state=state,
    )
    text = (
        f"local chain {devnet.chain_id} answers at {devnet.rpc_url} (pid {devnet.pid})\n"
        f"  escrow     {devnet.escrow_contract}\n"
        f"  test USDC  {devnet.token}"
    )
    return Result(data=_described(devnet), text=text, notes=_next_steps(devnet, wallet))


@command(app, "down", "microwallet devnet down")
def down(
    port: Annotated[
        int | None, typer.Option(metavar="PORT", min=1, max=65535, help="Only the one on this port.")
    ] = None,
    json: Json = False,
) -> Result:
    """End the local chains of this home; nothing to end is fine."""
    ended = DevnetFolder(open_wallet().paths.devnet).down(port=port)
    lines = [f"ended the local chain at {devnet.rpc_url} (pid {devnet.pid})" for devnet in ended]
    where = "" if port is None else f" on port {port}"
    return Result(
        data={"stopped": [_described(devnet) for devnet in ended]},
        text="\n".join(lines) or f"no local chain of this home was running{where}",
    )


@command(app, "status", "microwallet devnet status")
def status(json: Json = False) -> Result:
    """The local chains of this home that are running."""
    running = DevnetFolder(open_wallet().paths.devnet).running()
    lines = [f"{devnet.rpc_url}  chain {devnet.chain_id}  pid {devnet.pid}" for devnet in running]
    return Result(
        data={"running": bool(running), "devnets": [_described(devnet) for devnet in running]},
        text="\n".join(lines) or "no local chain of this home is running",
        notes=[] if running else ["start one: microwallet devnet up"],
    )


@command(app, "fund", 'microwallet devnet fund alice "10 ETH"', cls=TakesAmount)
def fund(
    account: Annotated[
        str,
        typer.Argument(
            metavar="ACCOUNT", help="Name of an account, or any address.", autocompletion=completion.accounts
        ),
    ],
    amount: Annotated[str, typer.Argument(metavar="AMOUNT", help='With its unit: "10 ETH", "1000 USDC".')],
    token: Token = None,
    network: NetworkName = None,
    rpc_url: RpcUrl = None,
    json: Json = False,
) -> Result:
    """Give an address coins or test tokens out of nothing. Works on Anvil alone."""
    with open_wallet(network=network, rpc_url=rpc_url) as wallet:
        owner = wallet.address_of(account)
        given = Amount.parse(amount, _asset(amount, token, wallet))
        node = AnvilNode(wallet.rpc)
        node.require_anvil()
        if given.asset.is_native:
            balance = node.add_native(owner, given.base_units)
        else:
            balance = node.mint(given.asset.token, owner, given.base_units)
    data = {
        "address": owner,
        "asset": given.asset.symbol,
        "decimals": given.asset.decimals,
        "amount": str(given.base_units),
        "balance": str(balance),
    }
    return Result(data=data, text=f"{owner} got {given} and holds {Amount(balance, given.asset)}")


@command(app, "advance", "microwallet devnet advance 15m", cls=TakesAmount)
def advance(
    duration: Annotated[str, typer.Argument(metavar="DURATION", help="Seconds, or 90s, 15m, 1h30m, 2d.")],
    network: NetworkName = None,
    rpc_url: RpcUrl = None,
    json: Json = False,
) -> Result:
    """Move the local chain's clock forward and mine a block."""
    seconds = whole_seconds(duration)
    with open_wallet(network=network, rpc_url=rpc_url) as wallet:
        node = AnvilNode(wallet.rpc)
        node.require_anvil()
        head = node.advance(seconds)
    when = datetime.fromtimestamp(head.timestamp, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    return Result(
        data={"seconds": seconds, "timestamp": head.timestamp, "blockNumber": head.number},
        text=f"the chain's clock moved by {seconds} s: block {head.number} is of {when}",
    )


def _described(devnet: Devnet) -> dict[str, Any]:
    return {
        "rpcUrl": devnet.rpc_url,
        "port": devnet.port,
        "chainId": devnet.chain_id,
        "escrowContract": devnet.escrow_contract,
        "token": devnet.token,
        "pid": devnet.pid,
        "keepsState": devnet.keeps_state,
    }


def _next_steps(devnet: Devnet, wallet: Wallet) -> list[str]:
    steps, configuration = [], wallet.configuration
    network = network_of_chain(configuration, devnet.chain_id)
    if network is None:
        steps.append(
            f"no network has this chain id; add one: microwallet network add devnet"
            f" --chain-id {devnet.chain_id} --rpc-url {devnet.rpc_url} --usdc {devnet.token}"
            f"{'' if devnet.chain_id in MAINNETS else ' --testnet'}"
        )
    else:
        if network.name != configuration.get("network"):
            steps.append(f"use the network with this chain id: microwallet network use {network.name}")
        named, pointing = configuration.get("rpc-url"), f"export MICROWALLET_RPC_URL={devnet.rpc_url}"
        if devnet.rpc_url not in ([named] if named else network.rpc_urls):
            steps.append(f"point commands at it: {pointing}  (or --rpc-url)")
        elif devnet.port != DEFAULT_PORT:
            steps.append(f"from another home: {pointing}")
    names = [account.name for account in wallet.accounts.list()]
    if not names:
        return [*steps, 'next: microwallet account create alice && microwallet devnet fund alice "10 ETH"']
    in_use = configuration.get("account")
    return [*steps, f'next: microwallet devnet fund {in_use if in_use in names else names[0]} "10 ETH"']


def _asset(amount: str, token: str | None, wallet: Wallet) -> Asset:
    """The asset given by --token, or the one whose unit the amount carries."""
    unit = unit_of(amount)
    if token is None and unit is None:
        raise InvalidAmount(
            f"{amount!r} names no unit",
            hint=f'write it like "{amount.strip()} USDC" or "{amount.strip()} ETH"',
        )
    return wallet.resolve_asset(token or unit, amount=amount)
