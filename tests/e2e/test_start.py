"""What the commands on the voucher path load while they really work."""

from __future__ import annotations

import pytest

SLOW = {"web3", "eth_account", "pydantic"}
PAYING_NEEDS_NOT = SLOW | {"http", "keyring", "requests", "rich", "urllib3"}


@pytest.fixture
def channel(alice, bob):
    """A channel from alice to bob, and a voucher on it."""
    alice.run("channel", "open", bob.address, "10 USDC", "--label", "coffee", "--yes").succeeded()
    return alice.run("pay", "coffee", "0.001 USDC").succeeded().stdout


@pytest.mark.usefixtures("channel")
def test_paying_loads_no_chain_library(alice):
    """`pay` signs without web3 and without eth_account, and almost without anything else."""
    assert not alice.imports("pay", "coffee", "0.001 USDC") & PAYING_NEEDS_NOT


def test_accepting_loads_no_chain_library(bob, channel):
    """`payee accept` verifies, asks the chain and stores without web3."""
    assert not bob.imports("payee", "accept", "-", input=channel) & SLOW


@pytest.mark.parametrize(
    "arguments",
    [
        ("channel", "list"),
        ("channel", "list", "--offline"),
        ("channel", "show", "coffee"),
        ("account", "list"),
        ("network", "list"),
        ("config", "show"),
        ("balance",),
    ],
    ids=" ".join,
)
@pytest.mark.usefixtures("channel")
def test_looking_loads_no_chain_library(alice, arguments):
    """What only reads starts fast too."""
    assert not alice.imports(*arguments) & SLOW


@pytest.mark.parametrize(
    "arguments",
    [("channel", "list"), ("channel", "show", "coffee"), ("payee", "list"), ("balance",)],
    ids=" ".join,
)
@pytest.mark.usefixtures("channel")
def test_looking_offline_loads_nothing_to_ask_a_chain_with(alice, arguments):
    """What `--offline` tells comes from the ledger alone."""
    assert "socket" not in alice.imports(*arguments, "--offline")


def test_checking_a_voucher_loads_no_chain_library(alice, channel):
    """`voucher verify` needs no web3."""
    assert not alice.imports("voucher", "verify", "-", input=channel) & SLOW
