"""A chain and how it is reached: those that need no configuration, and those where money is real."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from microwallet.domain.identifiers import Address, ChainId, parse_address
from microwallet.domain.money import format_units
from microwallet.escrow.artifacts import artifact
from microwallet.escrow.devnet_notes import LOCAL_CHAIN_ID

NATIVE_DECIMALS = 18
LOCAL_NETWORK = "anvil"

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
            LOCAL_NETWORK,
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
