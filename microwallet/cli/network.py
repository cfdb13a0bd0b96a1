"""`microwallet network`: chains, and which one is in use."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import typer

from microwallet.cli import completion
from microwallet.cli.command import command, new_group
from microwallet.cli.context import confirm_by_name, open_wallet
from microwallet.cli.network_token import app as token_app
from microwallet.cli.network_view import kind_of, network_details, network_document
from microwallet.cli.options import Json, RpcUrl
from microwallet.cli.result import Result
from microwallet.cli.table import table
from microwallet.escrow.networks import (
    add_network,
    allow_network,
    find_network,
    known_networks,
    resolve_network,
)
from microwallet.escrow.transport import redacted

app = new_group("Chains and tokens.")
app.add_typer(token_app, name="token", help="Tokens beside USDC and the chain's coin.")

Name = Annotated[
    str, typer.Argument(metavar="NAME", help="Name of the network.", autocompletion=completion.networks)
]
OptionalName = Annotated[
    str | None,
    typer.Argument(metavar="NAME", help="Else the network in use.", autocompletion=completion.networks),
]


@command(app, "list", "microwallet network list")
def list_(json: Json = False) -> Result:
    """List the networks; * marks the one in use."""
    configuration = open_wallet().configuration
    in_use = configuration.get("network")
    networks = known_networks(configuration).values()
    rows = [
        (
            ("* " if network.name == in_use else "  ") + network.name,
            str(network.chain_id),
            kind_of(network),
            redacted(network.rpc_urls[0]),
        )
        for network in networks
    ]
    return Result(
        data={"networks": [network_document(network, in_use) for network in networks]},
        text=table(("  NAME", "CHAIN ID", "KIND", "RPC"), rows, right=("CHAIN ID",)),
    )


@command(app, "show", "microwallet network show sepolia")
def show(name: OptionalName = None, json: Json = False) -> Result:
    """Show one network."""
    configuration = open_wallet().configuration
    network = find_network(configuration, name, command="microwallet network show")
    shown = network_details(network, configuration.get("network"))
    override = configuration.resolve("rpc-url")
    if not override.value:
        return shown
    instead = redacted(override.value)
    return replace(shown, notes=[f"its rpc is not asked: the {override.source} says rpc-url {instead}"])


@command(app, "use", "microwallet network use base-sepolia")
def use(name: Name, json: Json = False) -> Result:
    """Choose the network commands work on. The chain is not asked."""
    configuration = open_wallet().configuration
    network = resolve_network(configuration, name)
    with configuration.editing() as content:
        content["network"] = network.name
    text = f"{network.described} is in use"
    chosen = configuration.resolve("network")
    notes = [] if chosen.value == name else [f"not here: the {chosen.source} says {chosen.value}"]
    return Result(data=network_document(network, name), text=text, notes=notes)


@command(
    app,
    "add",
    "microwallet network add mychain --chain-id 4242 --rpc-url https://my.node/key",
    "microwallet network add sepolia --rpc-url https://my.node/key",
)
def add(
    name: Name,
    chain_id: Annotated[
        int | None, typer.Option(metavar="ID", help="Needed for a network that is not built in.")
    ] = None,
    rpc_url: Annotated[list[str] | None, typer.Option(metavar="URL", help="May be repeated.")] = None,
    testnet: Annotated[bool | None, typer.Option("--testnet", help="Its money is worth nothing.")] = None,
    explorer: Annotated[
        str | None, typer.Option(metavar="URL", help="Website that shows its blocks.")
    ] = None,
    native_symbol: Annotated[str | None, typer.Option(metavar="SYMBOL", help="The chain's coin.")] = None,
    usdc: Annotated[str | None, typer.Option(metavar="ADDRESS", help="Its USDC.")] = None,
    confirmations: Annotated[
        int | None, typer.Option(metavar="N", help="Blocks until a deposit is trusted.")
    ] = None,
    json: Json = False,
) -> Result:
    """Add a network, or change fields of one."""
    configuration = open_wallet().configuration
    entry = {
        "chain-id": chain_id,
        "rpc-urls": rpc_url,
        "testnet": testnet or None,
        "explorer": explorer,
        "native-symbol": native_symbol,
        "usdc": usdc,
        "confirmations": confirmations,
    }
    network = add_network(configuration, name, entry)
    shown = network_details(network, configuration.get("network"))
    following = f"microwallet network {'use' if network.allowed else 'allow'} {name}"
    return Result(data=shown.data, text=shown.text, notes=[f"next: {following}"])


@command(app, "allow", "microwallet network allow mychain")
def allow(
    name: Name,
    confirm: Annotated[
        str | None, typer.Option(metavar="NAME", help="The network's name, instead of typing it.")
    ] = None,
    json: Json = False,
) -> Result:
    """Turn on a network whose money is real. It can be lost for ever there."""
    configuration = open_wallet().configuration
    network = find_network(configuration, name, command="microwallet network allow")
    if not network.allowed:
        warning = f"what is lost on {network.described} is lost for real"
        confirm_by_name(name, confirm, warning, to="turn it on")
        allow_network(configuration, name)
    return network_details(find_network(configuration, name), configuration.get("network"))


@command(app, "check", "microwallet network check", "microwallet network check base-sepolia")
def check(name: OptionalName = None, rpc_url: RpcUrl = None, json: Json = False) -> Result:
    """Ask the chain: its id, the age of its newest block, the escrow's code, the latency."""
    from microwallet.escrow.network_check import check_network

    with open_wallet(network=name, rpc_url=rpc_url) as wallet:
        if name is not None:
            find_network(open_wallet().configuration, name, command="microwallet network check")
        network = wallet.network
        checks = check_network(wallet.rpc, network, now=wallet.now())
    failed = next((found.error for found in checks if found.error), None)
    if failed is not None and (failed.hint or "").startswith("microwallet network check"):
        failed.hint = f"microwallet network check {network.name} --rpc-url URL"
    if failed is not None and (failed.hint or "").startswith("--network "):
        other = (failed.hint or "").removeprefix("--network ")
        failed.hint = f"microwallet network check {other} --rpc-url {rpc_url or 'URL'}"
    rows = [{"name": found.name, "ok": found.ok, "detail": found.detail} for found in checks]
    text = "\n".join(f"{'ok' if row['ok'] else 'failed':8}{row['name']:10}{row['detail']}" for row in rows)
    data = {"network": network.name, "chainId": network.chain_id, "checks": rows}
    return Result(data=data, text=text, error=failed)
