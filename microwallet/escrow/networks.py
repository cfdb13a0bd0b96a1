"""The chains microwallet knows, what the user adds to them, and the gate before mainnets."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import cache
from typing import Any

from microwallet.config import Configuration
from microwallet.domain.identifiers import Address, ChainId, parse_address
from microwallet.domain.money import format_units
from microwallet.errors import NotTrusted, UnknownReference, UsageError
from microwallet.escrow.artifacts import artifact
from microwallet.escrow.devnet_notes import LOCAL_CHAIN_ID, only_devnet

NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")
NATIVE_DECIMALS = 18
SYMBOL = re.compile(r"[A-Za-z][A-Za-z0-9.\-]{0,19}", re.ASCII)
_USE = "microwallet network use"
_LOCAL = "anvil"

MAINNETS: Mapping[int, str] = {
    1: "Ethereum",
    10: "OP Mainnet",
    25: "Cronos",
    56: "BNB Smart Chain",
    100: "Gnosis",
    130: "Unichain",
    137: "Polygon",
    143: "Monad",
    146: "Sonic",
    204: "opBNB",
    250: "Fantom",
    252: "Fraxtal",
    288: "Boba",
    324: "ZKsync Era",
    480: "World Chain",
    999: "HyperEVM",
    1088: "Metis",
    1101: "Polygon zkEVM",
    1135: "Lisk",
    1284: "Moonbeam",
    1329: "Sei",
    2020: "Ronin",
    2741: "Abstract",
    4217: "Tempo",
    5000: "Mantle",
    8217: "Kaia",
    8453: "Base",
    33139: "ApeChain",
    34443: "Mode",
    42161: "Arbitrum One",
    42170: "Arbitrum Nova",
    42220: "Celo",
    43114: "Avalanche",
    57073: "Ink",
    59144: "Linea",
    80094: "Berachain",
    81457: "Blast",
    98866: "Plume",
    167000: "Taiko",
    534352: "Scroll",
    7777777: "Zora",
}
"""Chain ids on which money is real, whatever a configuration claims."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """A chain and how it is reached. `confirmations` is what a payee waits for before it trusts a deposit."""

    name: str
    chain_id: ChainId
    rpc_urls: tuple[str, ...]
    explorer: str | None
    native_symbol: str
    usdc: Address | None
    confirmations: int
    testnet: bool
    faucets: tuple[str, ...] = ()
    allowed: bool = True
    """Whether money may move here: testnets always, others once the user turned them on."""
    built_in: bool = False

    @property
    def described(self) -> str:
        """Its name and the chain's id, as a person reads them."""
        return f"{self.name} (chain {self.chain_id})"

    def coins(self, wei: int) -> str:
        """So much of the chain's coin, as a person reads it."""
        return f"{format_units(wei, NATIVE_DECIMALS)} {self.native_symbol}"

    def faucet_hint(self, address: Address) -> str:
        """Where an address gets some of the coin."""
        return self.faucets[0].replace("ACCOUNT", address) if self.faucets else "microwallet balance"


@cache
def built_in_networks() -> Mapping[str, Network]:
    """The networks that need no configuration, by name."""
    # A rollup's single sequencer orders each block once, so one confirmation is enough there; chains
    # of many block producers reorganise now and then.
    circle = "https://faucet.circle.com"
    networks = (
        _testnet(
            _LOCAL,
            LOCAL_CHAIN_ID,
            "http://127.0.0.1:8545",
            usdc=artifact("TestUSDC").address,
            faucets=('microwallet devnet fund ACCOUNT "10 ETH"',),
        ),
        _testnet(
            "sepolia",
            11155111,
            "https://ethereum-sepolia-rpc.publicnode.com",
            "https://sepolia.drpc.org",
            explorer="https://sepolia.etherscan.io",
            usdc="0x1c7D4B196Cb0C7B01d743Fbc6116a902379C7238",
            confirmations=3,
            faucets=("https://cloud.google.com/application/web3/faucet/ethereum/sepolia", circle),
        ),
        _testnet(
            "base-sepolia",
            84532,
            "https://sepolia.base.org",
            "https://base-sepolia-rpc.publicnode.com",
            explorer="https://sepolia.basescan.org",
            usdc="0x036CbD53842c5426634e7929541eC2318f3dCF7e",
            faucets=("https://www.alchemy.com/faucets/base-sepolia", circle),
        ),
        _testnet(
            "optimism-sepolia",
            11155420,
            "https://sepolia.optimism.io",
            "https://optimism-sepolia-rpc.publicnode.com",
            explorer="https://sepolia-optimism.etherscan.io",
            usdc="0x5fd84259d66Cd46123540766Be93DFE6D43130D7",
            faucets=("https://www.alchemy.com/faucets/optimism-sepolia", circle),
        ),
        _testnet(
            "arbitrum-sepolia",
            421614,
            "https://sepolia-rollup.arbitrum.io/rpc",
            "https://arbitrum-sepolia-rpc.publicnode.com",
            explorer="https://sepolia.arbiscan.io",
            usdc="0x75faf114eafb1BDbe2F0316DF893fd58CE46AA4d",
            faucets=("https://www.alchemy.com/faucets/arbitrum-sepolia", circle),
        ),
        _testnet(
            "polygon-amoy",
            80002,
            "https://rpc-amoy.polygon.technology",
            "https://polygon-amoy-bor-rpc.publicnode.com",
            explorer="https://amoy.polygonscan.com",
            native_symbol="POL",
            usdc="0x41E94Eb019C0762f9Bfcf9Fb1E58725BfB0e7582",
            confirmations=5,
            faucets=("https://faucet.polygon.technology", circle),
        ),
    )
    return {network.name: network for network in networks}


def known_networks(configuration: Configuration) -> dict[str, Network]:
    """Every network by name, allowed or not: the built-in ones, then the user's.

    While the home has one local chain running, `anvil` is that one, on whatever port.
    """
    section = configuration.section("networks")
    networks = dict(built_in_networks())
    local = networks[_LOCAL]
    if (devnet := only_devnet(configuration.paths.devnet, local.chain_id)) is not None:
        networks[_LOCAL] = replace(local, rpc_urls=(devnet.rpc_url,))
    for name, entry in section.items():
        networks[name] = _merged(name, networks.get(name), entry)
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
    local, named = built_in_networks()[_LOCAL].faucets, configuration.get("rpc-url")
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
        network = _merged(name, built_in_networks().get(name), merged)
        for url in network.rpc_urls:
            Endpoint(url)
        content.setdefault("networks", {})[name] = merged
    return network


def allow_network(configuration: Configuration, name: str) -> None:
    """Turn on, by name, a chain whose money is real."""
    with configuration.editing() as content:
        content.setdefault("networks", {}).setdefault(name, {})["allow-mainnet"] = True


def _testnet(
    name: str,
    chain_id: int,
    *rpc_urls: str,
    explorer: str | None = None,
    native_symbol: str = "ETH",
    usdc: str,
    confirmations: int = 1,
    faucets: tuple[str, ...],
) -> Network:
    return Network(
        name=name,
        chain_id=ChainId(chain_id),
        rpc_urls=rpc_urls,
        explorer=explorer,
        native_symbol=native_symbol,
        usdc=parse_address(usdc),
        confirmations=confirmations,
        testnet=True,
        faucets=faucets,
        built_in=True,
    )


def _merged(name: str, base: Network | None, entry: Any) -> Network:
    """A network of the user file; where the name is built in, its entry changes single fields."""
    fields = _Fields(name, entry)
    chain_id = fields.number("chain-id", low=1, high=2**53)
    rpc_urls = fields.texts("rpc-urls")
    base = _added(fields, chain_id, rpc_urls) if base is None else _trusted(base, fields, chain_id)
    usdc = fields.text("usdc")
    confirmations = fields.number("confirmations", low=1, high=1000)
    return replace(
        base,
        rpc_urls=rpc_urls or base.rpc_urls,
        explorer=fields.text("explorer") or base.explorer,
        native_symbol=fields.symbol("native-symbol") or base.native_symbol,
        usdc=base.usdc if usdc is None else parse_address(usdc),
        confirmations=base.confirmations if confirmations is None else confirmations,
    )


def _trusted(base: Network, fields: _Fields, chain_id: int | None) -> Network:
    """A built-in network, which stays the same chain; whoever says that it is no testnet has to allow it."""
    if chain_id not in (None, base.chain_id):
        raise UsageError(
            f"[networks.{base.name}] has chain-id {chain_id}; {base.name} is built in as chain"
            f" {base.chain_id}",
            hint="give the network another name",
        )
    if fields.flag("testnet") is False:
        return replace(base, testnet=False, allowed=fields.flag("allow-mainnet") is True)
    return base


def _added(fields: _Fields, chain_id: int | None, rpc_urls: tuple[str, ...]) -> Network:
    """A network that only the user file has; off until it is allowed, unless it can be a testnet."""
    if chain_id is None or not rpc_urls:
        missing = {"chain-id": chain_id is None, "rpc-urls": not rpc_urls}
        needed = " and ".join(key for key in missing if missing[key])
        hint = f"microwallet network add {fields.name} --chain-id N --rpc-url URL"
        raise UsageError(f"[networks.{fields.name}] needs {needed}", hint=hint)
    testnet = fields.flag("testnet") is True and chain_id not in MAINNETS
    return Network(
        name=fields.name,
        chain_id=ChainId(chain_id),
        rpc_urls=rpc_urls,
        explorer=None,
        native_symbol="ETH",
        usdc=None,
        confirmations=1 if testnet else 5,
        testnet=testnet,
        allowed=testnet or fields.flag("allow-mainnet") is True,
    )


class _Fields:
    """Typed reading of one [networks.NAME] table."""

    def __init__(self, name: str, entry: Any) -> None:
        self.name = name
        self._where = f"[networks.{name}]"
        if NAME.fullmatch(name) is None:
            raise UsageError(f"{self._where} is no name for a network: a-z, 0-9 and - are expected")
        if not isinstance(entry, dict):
            raise UsageError(f"{self._where} is not a table")
        self._entry = entry

    def text(self, key: str) -> str | None:
        value: str | None = self._read(key, str)
        return value

    def flag(self, key: str) -> bool | None:
        value: bool | None = self._read(key, bool)
        return value

    def number(self, key: str, *, low: int, high: int) -> int | None:
        value: int | None = self._read(key, int)
        if value is not None and (isinstance(value, bool) or not low <= value <= high):
            raise UsageError(f"{self._where} {key} is {value!r}; {low} to {high} is expected")
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        values = self._read(key, list) or []
        if not all(isinstance(value, str) for value in values):
            raise UsageError(f"{self._where} {key} is not a list of texts")
        return tuple(values)

    def symbol(self, key: str) -> str | None:
        value = self.text(key)
        if value is not None and SYMBOL.fullmatch(value) is None:
            raise UsageError(f"{self._where} {key} is {value[:40]!r}; a symbol like ETH is expected")
        return value

    def _read(self, key: str, kind: type[Any]) -> Any:
        value = self._entry.get(key)
        if value is not None and not isinstance(value, kind):
            raise UsageError(f"{self._where} {key} is {value!r}, not a {kind.__name__}")
        return value
