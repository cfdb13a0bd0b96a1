"""Networks: the built-in ones, the user's, and the gate before mainnets."""

from __future__ import annotations

import json
import os

import pytest

from microwallet.domain.identifiers import parse_address
from microwallet.errors import NotTrusted, UnknownReference, UsageError
from microwallet.escrow.artifacts import artifact
from microwallet.escrow.devnet_notes import process_identity
from microwallet.escrow.network import MAINNETS, built_in_networks
from microwallet.escrow.networks import (
    add_network,
    allow_network,
    find_network,
    known_networks,
    network_of_chain,
    resolve_network,
)
from microwallet.escrow.transport import Endpoint


def test_the_built_in_networks_are_those_of_the_standards():
    """Chain ids and Circle's test USDC, each address with a right checksum."""
    chains = {name: (network.chain_id, network.usdc) for name, network in built_in_networks().items()}
    assert chains == {
        "anvil": (31337, artifact("TestUSDC").address),
        "sepolia": (11155111, "0x1c7D4B196Cb0C7B01d743Fbc6116a902379C7238"),
        "base-sepolia": (84532, "0x036CbD53842c5426634e7929541eC2318f3dCF7e"),
        "optimism-sepolia": (11155420, "0x5fd84259d66Cd46123540766Be93DFE6D43130D7"),
        "arbitrum-sepolia": (421614, "0x75faf114eafb1BDbe2F0316DF893fd58CE46AA4d"),
        "polygon-amoy": (80002, "0x41E94Eb019C0762f9Bfcf9Fb1E58725BfB0e7582"),
    }
    for network in built_in_networks().values():
        assert parse_address(network.usdc) == network.usdc
        assert network.testnet
        assert network.allowed
        assert network.faucets
        assert network.chain_id not in MAINNETS
        assert [Endpoint(url).shown for url in network.rpc_urls] == list(network.rpc_urls)


def test_the_network_in_use_is_the_setting(configured):
    """Without a name it is the one the configuration chooses; anvil by default."""
    assert resolve_network(configured()).name == "anvil"
    assert resolve_network(configured(network="sepolia")).chain_id == 11155111
    assert resolve_network(configured(network="sepolia"), "base-sepolia").chain_id == 84532


def test_a_misspelt_network_gets_a_suggestion(configured):
    """Close names are suggested and never taken; far ones list what there is."""
    with pytest.raises(UnknownReference, match="did you mean base-sepolia") as caught:
        resolve_network(configured(), "base-sepola")
    assert caught.value.hint == "microwallet network use base-sepolia"
    with pytest.raises(UnknownReference) as caught:
        find_network(configured(), "base-sepola", command="microwallet network show")
    assert caught.value.hint == "microwallet network show base-sepolia"
    with pytest.raises(UnknownReference, match="there are: anvil, sepolia"):
        resolve_network(configured(), "x" * 500)


def test_the_local_chain_of_the_home_is_the_network_anvil(configured, tmp_path):
    """While it runs, on whatever port; not where there are two, nor where the user says another address."""

    def note(port, *, chain_id=31337, **other):
        values = {"port": port, "chain_id": chain_id, "pid": os.getpid()}
        values |= {"identity": process_identity(os.getpid())} | other
        path = tmp_path / "devnet" / f"{port}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(values | {"keeps_state": False}))
        return path

    def urls(name="anvil", **content):
        return known_networks(configured(**content))[name].rpc_urls

    default = built_in_networks()["anvil"].rpc_urls
    note(9001, identity="ended")
    note(9002, chain_id=84532)
    assert urls() == default
    assert urls("base-sepolia") == built_in_networks()["base-sepolia"].rpc_urls
    second = note(9003)
    assert urls() == ("http://127.0.0.1:9003",)
    assert urls(networks={"anvil": {"rpc-urls": ["http://my.node"]}}) == ("http://my.node",)
    note(9004)
    assert urls() == default
    second.write_text("half a no")
    assert urls() == default


def test_the_user_changes_single_fields_of_a_built_in_network(configured):
    """Other RPC addresses and confirmations; the rest stays."""
    mine = configured(networks={"sepolia": {"rpc-urls": ["https://my.node"], "confirmations": 12}})
    network = resolve_network(mine, "sepolia")
    assert (network.rpc_urls, network.confirmations) == (("https://my.node",), 12)
    assert network.usdc == built_in_networks()["sepolia"].usdc


def test_a_built_in_name_keeps_its_chain(configured):
    """A file cannot make "sepolia" mean another chain."""
    with pytest.raises(UsageError, match="built in as chain 11155111"):
        known_networks(configured(networks={"sepolia": {"chain-id": 1, "rpc-urls": ["https://x.y"]}}))


@pytest.mark.parametrize("chain_id", [1, 8453, 42161, 137])
def test_a_mainnet_is_refused_until_it_is_turned_on_by_name(configured, chain_id):
    """Whatever a file declares: a known mainnet needs the user's own word, and that is enough."""
    entry = {"chain-id": chain_id, "rpc-urls": ["https://x.y"], "testnet": True}
    configuration = configured(networks={"mine": entry})
    with pytest.raises(NotTrusted, match="where money is real") as caught:
        resolve_network(configuration, "mine")
    assert caught.value.hint == "microwallet network allow mine"
    assert not find_network(configuration, "mine").allowed
    allow_network(configuration, "mine")
    allowed = resolve_network(configuration, "mine")
    assert allowed.allowed
    assert not allowed.testnet


def test_an_unknown_chain_is_a_mainnet_until_declared_a_testnet(configured):
    """What nobody calls a testnet may hold real money."""
    entry = {"chain-id": 987654, "rpc-urls": ["https://x.y"]}
    with pytest.raises(NotTrusted, match="not known to be a testnet"):
        resolve_network(configured(networks={"mine": entry}), "mine")
    network = resolve_network(configured(networks={"mine": entry | {"testnet": True}}), "mine")
    assert network.testnet


@pytest.mark.parametrize(
    "entry",
    [
        {},
        {"chain-id": 5},
        {"rpc-urls": ["https://x.y"]},
        {"chain-id": "5", "rpc-urls": ["https://x.y"]},
        {"chain-id": True, "rpc-urls": ["https://x.y"]},
        {"chain-id": -5, "rpc-urls": ["https://x.y"]},
        {"chain-id": 0, "rpc-urls": ["https://x.y"]},
        {"chain-id": 5, "rpc-urls": "https://x.y"},
        {"chain-id": 5, "rpc-urls": [7]},
        {"chain-id": 5, "rpc-urls": ["https://x.y"], "confirmations": 0},
        {"chain-id": 5, "rpc-urls": ["https://x.y"], "usdc": "0x12"},
        {"chain-id": 5, "rpc-urls": ["https://x.y"], "native-symbol": "E\x1bTH"},
        {"chain-id": 5, "rpc-urls": ["https://x.y"], "testnet": "yes"},
        "a text",
    ],
)
def test_a_malformed_network_is_a_usage_error(configured, entry):
    """A file that cannot be understood is never guessed at."""
    with pytest.raises(UsageError):
        known_networks(configured(networks={"mine": entry}))


@pytest.mark.parametrize(
    ("entry", "missing"),
    [
        ({}, "chain-id and rpc-urls"),
        ({"chain-id": 5}, "rpc-urls"),
        ({"rpc-urls": ["https://x.y"]}, "chain-id"),
    ],
)
def test_what_a_network_lacks_is_named(configured, entry, missing):
    """What was given is not asked for again."""
    with pytest.raises(UsageError) as raised:
        known_networks(configured(networks={"mine": entry}))
    assert raised.value.message == f"[networks.mine] needs {missing}"


def test_adding_a_network_keeps_what_is_not_named(configured):
    """A second `add` changes the fields it names."""
    configuration = configured()
    add_network(configuration, "mine", {"chain-id": 5, "rpc-urls": ["https://x.y"], "testnet": True})
    add_network(configuration, "mine", {"confirmations": 7, "chain-id": None, "rpc-urls": None})
    network = resolve_network(configuration, "mine")
    assert (network.chain_id, network.confirmations, network.rpc_urls) == (5, 7, ("https://x.y",))


def test_what_was_turned_on_is_off_again_with_another_chain_id(configured):
    """It was one chain that was allowed, not whatever its name is given to next."""
    configuration = configured()
    add_network(configuration, "mine", {"chain-id": 4242, "rpc-urls": ["https://x.y"]})
    allow_network(configuration, "mine")
    assert add_network(configuration, "mine", {"confirmations": 7}).allowed
    assert not add_network(configuration, "mine", {"chain-id": 1}).allowed
    with pytest.raises(NotTrusted):
        resolve_network(configuration, "mine")


def test_adding_a_network_keeps_what_another_process_added_meanwhile(configured):
    """Its fields too, although this process had read the file before."""
    first, second = configured(), configured()
    add_network(first, "mine", {"chain-id": 5, "rpc-urls": ["https://x.y"], "testnet": True})
    add_network(second, "mine", {"confirmations": 7})
    network = resolve_network(second, "mine")
    assert (network.chain_id, network.confirmations, network.rpc_urls) == (5, 7, ("https://x.y",))


@pytest.mark.parametrize(
    ("name", "entry"),
    [
        ("Mine!", {"chain-id": 5, "rpc-urls": ["https://x.y"]}),
        ("mine", {"chain-id": 5, "rpc-urls": ["nonsense"]}),
        ("mine", {"chain-id": 1, "rpc-urls": ["https://x.y"], "testnet": True}),
        ("sepolia", {"chain-id": 5, "rpc-urls": ["https://x.y"]}),
    ],
)
def test_a_network_that_cannot_be_is_not_written(configured, name, entry):
    """What is refused leaves the file as it was."""
    configuration = configured()
    with pytest.raises(UsageError):
        add_network(configuration, name, entry)
    assert configuration.user == {}


def test_a_chain_is_found_by_its_id(configured):
    """The network in use comes first where two share a chain."""
    entry = {"chain-id": 84532, "rpc-urls": ["https://x.y"], "testnet": True}
    assert network_of_chain(configured(networks={"mine": entry}), 84532).name == "base-sepolia"
    assert network_of_chain(configured(networks={"mine": entry}, network="mine"), 84532).name == "mine"
    assert network_of_chain(configured(), 5) is None


def test_confirmations_fit_the_kind_of_chain():
    """One where a single sequencer or Anvil orders the blocks; more where blocks compete."""
    counts = {name: network.confirmations for name, network in built_in_networks().items()}
    assert counts == {
        "anvil": 1,
        "sepolia": 3,
        "base-sepolia": 1,
        "optimism-sepolia": 1,
        "arbitrum-sepolia": 1,
        "polygon-amoy": 5,
    }
