"""A disk that is full by the time a transaction is on its way: it was signed, and may be mined."""

from __future__ import annotations

import json
import resource
import subprocess

import pytest

OPEN = ("channel", "open", "BOB", "5 USDC", "--yes", "--idempotency-key", "order-17")
TOP_UP = ("channel", "top-up", "coffee", "5 USDC", "--yes", "--idempotency-key", "order-17")
REQUEST = ("channel", "close", "coffee", "--yes")
SEND = ("send", "BOB", "5 USDC", "--yes", "--idempotency-key", "order-17")
SETTLE = ("payee", "settle", "--all", "--yes")
CLOSE = ("payee", "close", "--all", "--yes")


@pytest.mark.parametrize("words", [OPEN, TOP_UP, REQUEST, SEND, SETTLE, CLOSE], ids=" ".join)
@pytest.mark.usefixtures("coffee")
def test_what_was_sent_is_unknown_and_finished_by_the_same_command(alice, bob, witness, faults, words):
    """Exit 5, and not that nothing was signed. Once there is room again it is found, and done no second
    time."""
    bob.run("payee", "accept", "-", input=alice.run("pay", "coffee", "1").stdout).succeeded()
    home = bob if words[0] == "payee" else alice
    words = [bob.address if word == "BOB" else word for word in words]
    before = witness.of(home.address).transactions
    asked = {"env": {"MICROWALLET_RPC_URL": faults.url}, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = home.start(*words, "--json", **asked)
    faults.when_sent = lambda: resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (16, 16))
    told, said = process.communicate(timeout=60)
    assert process.returncode == 5, (told, said)
    assert json.loads(told)["error"]["code"] == "outcome-unknown"
    assert b"nothing was signed" not in told
    home.run(*words, "--json").data  # noqa: B018
    assert witness.of(home.address).transactions == before + 1
