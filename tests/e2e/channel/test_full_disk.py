"""A disk that is full by the time a transaction is on its way: it was signed, and may be mined."""

from __future__ import annotations

import json
import resource
import subprocess
from functools import partial

import pytest

from microwallet.domain.channel import CLOSE_GRACE_PERIOD

OPEN = ("channel", "open", "BOB", "5 USDC", "--yes", "--idempotency-key", "order-17")
TOP_UP = ("channel", "top-up", "coffee", "5 USDC", "--yes", "--idempotency-key", "order-17")
REQUEST = ("channel", "close", "coffee", "--yes")
WITHDRAW = ("channel", "withdraw", "coffee", "--yes")
SEND = ("send", "BOB", "5 USDC", "--yes", "--idempotency-key", "order-17")
SETTLE = ("payee", "settle", "--all", "--yes")
CLOSE = ("payee", "close", "--all", "--yes")


@pytest.fixture
def run_until(alice, bob, faults):
    """Runs a command, and does something to its process once the chain has been asked by one method after the
    other; its exit code and what it told."""
    bob.run("payee", "accept", "-", input=alice.run("pay", "coffee", "1").stdout).succeeded()

    def run(home, words, act, *methods):
        asked = {"env": {"MICROWALLET_RPC_URL": faults.url}, "stdout": subprocess.PIPE}
        process = home.start(*words, "--json", stderr=subprocess.DEVNULL, **asked)

        def await_rest(method, *rest):
            then = partial(await_rest, *rest) if rest else partial(act, process)
            faults.when_asked = {method: then}

        await_rest(*methods)
        told, _ = process.communicate(timeout=60)
        return process.returncode, json.loads(told)

    return run


def fill(process):
    """The disk of a process takes nothing more."""
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (16, 16))


@pytest.mark.parametrize("words", [OPEN, TOP_UP, REQUEST, SEND, SETTLE, CLOSE], ids=" ".join)
@pytest.mark.usefixtures("coffee")
def test_what_was_sent_is_unknown_and_finished_by_the_same_command(alice, bob, witness, run_until, words):
    """Exit 5, and not that nothing was signed. Once there is room again it is found, and done no second
    time."""
    home = bob if words[0] == "payee" else alice
    words = [bob.address if word == "BOB" else word for word in words]
    before = witness.of(home.address).transactions
    exit_code, told = run_until(home, words, fill, "eth_sendRawTransaction")
    assert (exit_code, told["error"]["code"]) == (5, "outcome-unknown"), told
    home.run(*words, "--json").data  # noqa: B018
    assert witness.of(home.address).transactions == before + 1


@pytest.mark.parametrize("fails", ["disk", "chain"])
@pytest.mark.parametrize("words", [REQUEST, WITHDRAW, SETTLE], ids=" ".join)
@pytest.mark.usefixtures("coffee")
def test_what_was_mined_is_told_where_it_cannot_be_looked_at(
    alice, bob, chain, faults, witness, run_until, words, fails
):
    """That nobody answers, or that nothing can be written, is not all there is to say then."""
    home = bob if words[0] == "payee" else alice
    if words == WITHDRAW:
        alice.run(*REQUEST).succeeded()
        chain.node.advance(CLOSE_GRACE_PERIOD + 5)
    before = witness.of(home.address).transactions
    act = fill if fails == "disk" else lambda _: setattr(faults, "dead", True)
    exit_code, told = run_until(home, words, act, "eth_sendRawTransaction", "eth_getBlockByNumber")
    assert witness.of(home.address).transactions == before + 1
    if words == SETTLE:
        assert [one["captured"] for one in told["data"]["channels"]] == ["1000000"]
    else:
        assert (exit_code, told["error"]["code"]) == (5, "outcome-unknown"), told
        assert "was mined" in told["error"]["message"]
