"""Networks as the command line shows them."""

from __future__ import annotations

from typing import Any

from microwallet.cli.result import Result
from microwallet.cli.table import named
from microwallet.escrow.network import Network
from microwallet.escrow.transport import redacted


def network_details(network: Network, in_use: str) -> Result:
    """Every field of one network, one a line; `in_use` is the name of the one in use."""
    data = network_document(network, in_use)
    rows = {
        "name": network.name + (" (in use)" if data["inUse"] else ""),
        "chain id": network.chain_id,
        "kind": kind_of(network),
        "rpc": "\n".join(data["rpcUrls"]),
        "explorer": network.explorer or "-",
        "coin": network.native_symbol,
        "usdc": network.usdc or "-",
        "confirmations": network.confirmations,
        "faucets": "\n".join(network.faucets) or "-",
    }
    return Result(data=data, text=named(rows.items()))


def kind_of(network: Network) -> str:
    """Whether its money is real, and whether it may move."""
    return "testnet" if network.testnet else "mainnet" if network.allowed else "off"


def network_document(network: Network, in_use: str) -> dict[str, Any]:
    """The object of `--json`; RPC addresses without their secrets."""
    return {
        "name": network.name,
        "chainId": network.chain_id,
        "rpcUrls": [redacted(url) for url in network.rpc_urls],
        "explorer": network.explorer,
        "nativeSymbol": network.native_symbol,
        "usdc": network.usdc,
        "confirmations": network.confirmations,
        "testnet": network.testnet,
        "allowed": network.allowed,
        "builtIn": network.built_in,
        "inUse": network.name == in_use,
        "faucets": list(network.faucets),
    }
