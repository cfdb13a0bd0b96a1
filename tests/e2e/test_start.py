"""What the commands on the voucher path load while they really work."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

SLOW = {"web3", "eth_account"}
PAYING_NEEDS_NOT = SLOW | {"http", "keyring", "requests", "rich", "urllib3"}


def imported(home, *arguments: object, stdin: str = "") -> set[str]:
    """The top-level packages that a successful `microwallet ARGUMENTS` imports."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "microwallet", *map(str, arguments)],
        input=stdin,
        capture_output=True,
        text=True,
        env=home.environment,
        cwd=os.fspath(home.path.parent),
        check=False,
    )
    assert done.returncode == 0, done
    lines = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    return {line.rpartition("|")[2].strip().partition(".")[0] for line in lines}


@pytest.fixture
def channel(alice, bob):
    """A channel from alice to bob, and a voucher on it."""
    alice.run("channel", "open", bob.address, "10 USDC", "--label", "coffee", "--yes").succeeded()
    return alice.run("pay", "coffee", "0.001 USDC").succeeded().stdout


@pytest.mark.usefixtures("channel")
def test_paying_loads_no_chain_library(alice):
    """`pay` signs without web3 and without eth_account, and almost without anything else."""
    assert not imported(alice, "pay", "coffee", "0.001 USDC") & PAYING_NEEDS_NOT


def test_accepting_loads_no_chain_library(bob, channel):
    """`payee accept` verifies, asks the chain and stores without web3."""
    assert not imported(bob, "payee", "accept", "-", stdin=channel) & SLOW


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
    assert not imported(alice, *arguments) & SLOW


def test_checking_a_voucher_loads_no_chain_library(alice, channel):
    """`voucher verify` needs no web3."""
    assert not imported(alice, "voucher", "verify", "-", stdin=channel) & SLOW
