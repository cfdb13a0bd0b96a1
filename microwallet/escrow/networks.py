"""The networks of a configuration: built-in ones, what the user adds to them, the gate before mainnets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from difflib import get_close_matches
from typing import Any

from microwallet.config import Configuration
from microwallet.errors import NotTrusted, UnknownReference, UsageError
from microwallet.escrow.devnet_notes import only_devnet
from microwallet.escrow.network import LOCAL_NETWORK, MAINNETS, Network, built_in_networks
from microwallet.escrow.network_table import network_of_table

_USE = "microwallet network use"


def known_networks(configuration: Configuration) -> dict[str, Network]:
    """Every network by name, allowed or not: the built-in ones, then the user's.

    While the home has one local chain running, `anvil` is that one, on whatever port.
    """
    section = configuration.section("networks")
    networks = dict(built_in_networks())
    local = networks[LOCAL_NETWORK]
    if (devnet := only_devnet(configuration.paths.devnet, local.chain_id)) is not None:
        networks[LOCAL_NETWORK] = replace(local, rpc_urls=(devnet.rpc_url,))
    for name, entry in section.items():
        networks[name] = network_of_table(name, networks.get(name), entry)
    return networks


def resolve_network(configuration: Configuration, name: str | None = None) -> Network:
    """The network called `name`, or the one in use.

    Raises UnknownReference with close matches, and NotTrusted for a chain whose money is real
    unless the user turned it on.
    """
    network = find_network(configuration, name)
    if not network.allowed:
        what = MAINNETS.get(network.chain_id)
        raise NotTrusted(
            f"{network.name} is chain {network.chain_id}"
            + (f" ({what}), where money is real" if what else ", which is not known to be a testnet")
            + "; it stays off until you turn it on",
            hint=f"microwallet network allow {network.name}",
        )
    return network


def find_network(configuration: Configuration, name: str | None, *, command: str = _USE) -> Network:
    """As `resolve_network`, but a chain that is turned off may be looked at. `command` is the one that was
    typed with the name, for the hint."""
    in_use = configuration.get("network")
    name = in_use if name is None else name
    networks = known_networks(configuration)
    network = networks.get(name)
    if network is None:
        close = get_close_matches(name, networks, n=1)
        hint = "microwallet network list"
        if close:
            hint = configuration.instead("network", close[0]) if name == in_use else f"{command} {close[0]}"
        raise UnknownReference(
            f"there is no network {name[:64]!r}; "
            + (f"did you mean {close[0]}?" if close else f"there are: {', '.join(networks)}"),
            hint=hint,
        )
    return _with_its_faucet(network, configuration)


def _with_its_faucet(network: Network, configuration: Configuration) -> Network:
    """A local chain gives its coins itself, whichever network has its id. An address on this machine leads to
    one of another home, or to a node of the testnet."""
    local, named = built_in_networks()[LOCAL_NETWORK].faucets, configuration.get("rpc-url")
    devnet = only_devnet(configuration.paths.devnet, network.chain_id)
    if devnet is not None and devnet.rpc_url in ([named] if named else network.rpc_urls):
        return replace(network, faucets=local)
    if named and network.faucets not in ((), local) and _is_local(named):
        return replace(network, faucets=(*local, *network.faucets))
    return network


def _is_local(url: str) -> bool:
    from microwallet.escrow.transport import Endpoint, NoRpcAddress

    try:
        return Endpoint(url).is_local
    except NoRpcAddress:
        return False


def network_of_chain(configuration: Configuration, chain_id: int) -> Network | None:
    """A network with this chain id: the one in use first; None when there is none."""
    networks = known_networks(configuration)
    in_use = networks.get(configuration.get("network"))
    candidates = ([in_use] if in_use else []) + list(networks.values())
    return next((network for network in candidates if network.chain_id == chain_id), None)


def add_network(configuration: Configuration, name: str, entry: Mapping[str, Any]) -> Network:
    """Write a network into the user file, or change fields of one; None leaves a field as it is.

    Raises UsageError for fields that cannot be, and for a mainnet's id declared a testnet.
    """
    given = {key: value for key, value in entry.items() if value not in (None, [], ())}
    from microwallet.escrow.transport import Endpoint

    with configuration.editing() as content:
        known = configuration.section("networks").get(name, {})
        merged = {**known, **given}
        chain_id = merged.get("chain-id")
        if chain_id != known.get("chain-id"):
            merged.pop("allow-mainnet", None)  # another chain was turned on
        if merged.get("testnet") and isinstance(chain_id, int) and chain_id in MAINNETS:
            raise UsageError(
                f"chain {chain_id} is {MAINNETS[chain_id]}, where money is real: it is no testnet",
                hint=f"leave out --testnet, then: microwallet network allow {name}",
            )
        network = network_of_table(name, built_in_networks().get(name), merged)
        for url in network.rpc_urls:
            Endpoint(url)
        content.setdefault("networks", {})[name] = merged
    return network


def allow_network(configuration: Configuration, name: str) -> None:
    """Turn on, by name, a chain whose money is real."""
    with configuration.editing() as content:
        content.setdefault("networks", {}).setdefault(name, {})["allow-mainnet"] = True
