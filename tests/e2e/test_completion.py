"""What the shell offers at the tab key, asked as zsh asks it."""

from __future__ import annotations

import pytest


@pytest.fixture
def offered():
    """The words offered after a line: `offered(home, "pay c")`."""

    def ask(home, line):
        asking = {"_MICROWALLET_COMPLETE": "complete_zsh", "_TYPER_COMPLETE_ARGS": f"microwallet {line}"}
        said = home.run(env=asking).succeeded()
        assert said.stderr == ""
        return [entry.split('"')[1] for entry in said.stdout.splitlines() if '"' in entry]

    return ask


def test_live_channels(alice, bob, offered):
    """By label and id for who pays, by id for who is paid; a label that is two words is left to its id."""
    named = alice.run("channel", "open", bob.address, "1 USDC", "--label", "tea", "--yes", "--json").data
    spaced = alice.run("channel", "open", bob.address, "1 USDC", "--label", "my tea", "--yes", "--json").data
    bob.run("payee", "accept", "-", input=alice.run("pay", "tea", "0.1").succeeded().stdout).succeeded()
    assert offered(alice, "pay t") == ["tea"]
    assert set(offered(alice, "channel close ")) == {"tea", named["channelId"], spaced["channelId"]}
    assert offered(bob, "payee close 0x") == [named["channelId"]]


def test_names(alice, offered):
    """Accounts, networks, settings, topics and verbs."""
    assert offered(alice, "account show ") == ["alice"]
    assert offered(alice, "balance --network base") == ["base-sepolia"]
    assert offered(alice, "config set max-f") == ["max-fee-gwei"]
    assert offered(alice, "help s") == ["safety", "selling", "scripting"]
    assert offered(alice, "channel wi") == ["withdraw"]


def test_an_empty_home_stays_empty(home, offered):
    """Asking makes no ledger and no folder, and is no error."""
    assert offered(home, "pay ") == []
    assert offered(home, "account show ") == []
    assert not home.path.exists()
