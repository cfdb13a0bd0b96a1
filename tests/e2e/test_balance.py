"""`balance`: every coin is counted once, whatever others did on the chain meanwhile."""

from __future__ import annotations

import pytest
from local_server import Handler, LocalServer

TEN, THREE, SEVEN = 10_000_000, 3_000_000, 7_000_000
HAD = 10**9


def usdc(home, *flags: str) -> list[int]:
    """What a home's account has on chain, locked, authorized, free and unsettled."""
    balances = home.run("balance", "--json", *flags).data["balances"]
    (found,) = [one for one in balances if one["asset"] == "USDC"]
    names = ("onChain", "locked", "authorized", "free", "unsettled")
    return [int(found[name] or 0) for name in names]


@pytest.fixture
def owed(alice, bob):
    """Of ten USDC in a channel, three are bob's to take."""
    alice.run("channel", "open", bob.address, "10 USDC", "--label", "coffee", "--yes").succeeded()
    voucher = alice.run("pay", "coffee", "3 USDC").succeeded().stdout
    bob.run("payee", "accept", "-", input=voucher).succeeded()
    assert usdc(alice) == [HAD - TEN, TEN, THREE, SEVEN, 0]
    assert usdc(bob) == [HAD, 0, 0, 0, THREE]


@pytest.mark.usefixtures("owed")
def test_what_the_payee_has_taken_is_locked_no_more(alice, bob):
    """By a settlement in part, by a close with the rest; neither account need look at its channels before."""
    bob.run("payee", "settle", "--all", "--yes").succeeded()
    assert usdc(alice) == [HAD - TEN, SEVEN, 0, SEVEN, 0]
    assert usdc(bob) == [HAD + THREE, 0, 0, 0, 0]
    bob.run("payee", "close", "--all", "--yes").succeeded()
    assert usdc(alice) == [HAD - THREE, 0, 0, 0, 0]


@pytest.mark.usefixtures("owed")
def test_what_the_payer_has_taken_back_is_unsettled_no_more(alice, bob, chain):
    """A payee that slept through the grace period does not see it as still to be had."""
    alice.run("channel", "close", "coffee", "--yes").succeeded()
    chain.node.advance(900)
    alice.run("channel", "withdraw", "coffee", "--yes").succeeded()
    assert usdc(bob) == [HAD, 0, 0, 0, 0]


@pytest.mark.usefixtures("owed")
def test_offline_it_is_what_the_chain_said_last(alice, bob):
    """Nothing is asked, and nothing on chain is told."""
    bob.run("payee", "close", "--all", "--yes").succeeded()
    assert usdc(alice, "--offline") == [0, TEN, THREE, SEVEN, 0]


@pytest.mark.usefixtures("owed")
def test_an_escrow_that_is_not_there(alice, chain):
    """The accounts are told all the same."""
    chain.rpc.call("anvil_setCode", [chain.escrow_contract, "0x"])
    assert usdc(alice) == [HAD - TEN, TEN, THREE, SEVEN, 0]


@pytest.mark.usefixtures("owed")
def test_a_chain_that_does_not_answer_is_waited_for_once(alice):
    """As long as by a list of the channels, and what is locked is not told as it was."""
    asked = []

    class Busy(Handler):
        def respond(self):
            asked.append(self.read_body())
            self.answer(503, {})

    with LocalServer(Busy) as server:
        times = []
        for words in (("channel", "list"), ("balance",)):
            asked.clear()
            refused = alice.run(*words, "--json", "--rpc-url", server.url)
            assert (refused.exit_code, refused.error["code"]) == (3, "network")
            times.append(len(asked))
    assert times[0] == times[1]
