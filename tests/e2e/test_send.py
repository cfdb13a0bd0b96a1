"""`send` by the real command: what moves money moves it once."""

from __future__ import annotations

import subprocess
import sys

import pytest
from test_transactions import forwarder

from microwallet.domain.identifiers import parse_address
from microwallet.escrow.reader import EscrowReader

STOPS_BEFORE = (
    "import os, signal; from microwallet.escrow.rpc import Rpc; call = Rpc.call\n"
    "def stop(self, method, params=()):\n"
    "    if method == 'eth_sendRawTransaction': os.kill(os.getpid(), signal.SIGKILL)\n"
    "    return call(self, method, params)\n"
    "Rpc.call = stop\n"
    "from microwallet.cli.main import run; run()"
)
"""The command, killed between the journal and the broadcast."""


@pytest.fixture
def received(chain, bob):
    """How many base units of USDC bob has got."""
    reader = EscrowReader(chain.rpc, chain.escrow_contract)
    before = reader.token_balance(chain.token, bob.address)
    return lambda: reader.token_balance(chain.token, bob.address) - before


def test_killed_and_typed_again_it_sends_once(alice, bob, received):
    """Without a key too: the second command finishes what the first had signed."""
    command = ("send", bob.address, "7 USDC", "--yes", "--json")
    killed = subprocess.run(
        [sys.executable, "-c", STOPS_BEFORE, *command],
        env=alice.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert killed.returncode == -9
    key = killed.stderr.split("idempotency key: ")[1].split()[0]
    assert alice.run("send", bob.address, "7 USDC", "--dry-run", "--json").data["transactionHash"] is None
    assert received() == 0
    assert alice.run("send", bob.address, "7.0 USDC", "--yes", "--json").data["idempotencyKey"] == key
    assert received() == 7_000_000
    alice.run(*command).succeeded()
    assert received() == 14_000_000


def test_a_key_is_for_one_transfer(alice, bob, make_wallet, received):
    """The same key sends once; with another receiver, amount, token or account it is refused."""
    key = ("--idempotency-key", "rent", "--yes", "--json")
    first = alice.run("send", bob.address, "7 USDC", *key).data
    assert (
        alice.run("send", bob.address, "7.00 usdc", *key).data["transactionHash"] == first["transactionHash"]
    )
    carol = make_wallet("carol")
    (carol.path / "keys" / "accounts" / "carol.json").rename(alice.path / "keys" / "accounts" / "carol.json")
    for arguments in (
        (carol.address, "7 USDC"),
        (bob.address, "8 USDC"),
        (bob.address, "7 ETH"),
        (bob.address, "all"),
        (bob.address, "7 USDC", "--account", "carol"),
    ):
        account = () if "--account" in arguments else ("--account", "alice")
        refused = alice.run("send", *arguments, *account, *key)
        assert (refused.exit_code, refused.error["code"]) == (2, "idempotency-mismatch"), arguments
    assert received() == 7_000_000


def test_what_was_sent_before_is_told_with_its_amount(alice, bob):
    """Again under its key: what it was, and no more of "all" than that, as the balance is another by now."""
    first = alice.run("send", bob.address, "7.00 USDC", "--idempotency-key", "rent", "--yes", "--json").data
    again = alice.run("send", bob.address, "7 USDC", "--idempotency-key", "rent", "--yes", "--json").data
    assert again == first
    told = alice.run("send", bob.address, "7 USDC", "--idempotency-key", "rent", "--yes").stdout
    assert told.startswith(f"7 USDC was sent to {bob.address} before, under the key rent\n")
    everything = ("send", bob.address, "all USDC", "--idempotency-key", "rest", "--yes")
    alice.run(*everything).succeeded()
    assert alice.run(*everything).stdout.startswith(f"all USDC was sent to {bob.address} before")
    assert alice.run(*everything, "--json").data["amount"] is None


def test_contracts_that_keep_what_is_sent(alice, chain):
    """The token's own contract and trusted escrows, addresses that are copied by mistake, are refused: nobody
    could take it out again."""
    other = parse_address("0x" + "ab" * 20)
    alice.run("escrow", "trust", other, "--yes").succeeded()
    for receiver, named in ((chain.token, "USDC"), (chain.escrow_contract, "escrow"), (other, "escrow")):
        refused = alice.run("send", receiver, "7 USDC", "--yes", "--json")
        assert (refused.exit_code, refused.error["code"]) == (2, "usage")
        assert receiver in refused.error["message"]
        assert named in refused.error["message"]


def test_a_key_that_begins_another_is_its_own(alice, bob, received):
    """As where the parts of keys are told apart by colons: each sends once."""
    for key in ("2026-01:rent", "2026-01", "2026-01:rent", "2026-01"):
        alice.run("send", bob.address, "7 USDC", "--idempotency-key", key, "--yes").succeeded()
    assert received() == 14_000_000


def test_an_empty_key_is_no_key(alice, bob, received):
    """A script whose variable is empty is told, rather than made to send again each time."""
    refused = alice.run("send", bob.address, "7 USDC", "--idempotency-key", "", "--yes", "--json")
    assert (refused.exit_code, received()) == (2, 0)


@pytest.mark.parametrize(
    ("method", "field", "lie"),
    [
        pytest.param("eth_chainId", None, "0x" + "9" * 100_000, marks=pytest.mark.long),
        ("eth_getTransactionCount", None, "0x" + "f" * 64),
        pytest.param("eth_getBlockByNumber", "timestamp", "0x" + "f" * 64, marks=pytest.mark.long),
        pytest.param("eth_getTransactionReceipt", "blockNumber", "0x" + "f" * 64, marks=pytest.mark.long),
        ("eth_getTransactionReceipt", "logs", 7),
    ],
)
def test_answers_that_cannot_be(alice, bob, chain, received, method, field, lie):
    """A server that lies is a network error, or an outcome unknown, until an honest one is asked."""

    def change(request, answer):
        if request["method"] == method and answer.get("result"):
            if field is None:
                answer["result"] = lie
            else:
                answer["result"][field] = lie
        return answer

    key = ("--idempotency-key", "rent", "--yes", "--json")
    with forwarder(chain.rpc_url, change=change) as url:
        lied_to = {"MICROWALLET_RPC_URL": url, "MICROWALLET_WAIT_SECONDS": "1"}
        told = [
            alice.run(*command, env=lied_to).exit_code
            for command in (("send", bob.address, "7 USDC", *key), ("channel", "sync"))
        ]
    assert set(told) <= {0, 3, 4, 5}
    alice.run("send", bob.address, "7 USDC", *key).succeeded()
    assert received() == 7_000_000


@pytest.mark.parametrize(
    ("method", "lie"),
    [
        ("eth_sendRawTransaction", {"error": {"code": -32000, "message": "insufficient funds for gas"}}),
        ("eth_getTransactionReceipt", {"status": "0x0"}),
    ],
)
def test_what_was_said_to_have_failed_is_looked_at_again(alice, bob, chain, received, method, lie):
    """A server, or a reorganisation, that told of a failure: before the same key sends anew, all it
    ever signed is looked up."""

    def change(request, answer):
        if request["method"] == method and answer.get("result"):
            if "error" in lie:
                return {"jsonrpc": "2.0", "id": answer["id"], **lie}
            answer["result"].update(lie)
        return answer

    command = ("send", bob.address, "7 USDC", "--idempotency-key", "rent", "--yes", "--json")
    with forwarder(chain.rpc_url, change=change) as url:
        assert alice.run(*command, env={"MICROWALLET_RPC_URL": url}).exit_code in (4, 8)
    assert received() == 7_000_000
    alice.run(*command).succeeded()
    assert received() == 7_000_000


def test_a_rollup_takes_a_fee_for_the_data(alice, bob, chain):
    """Beside the gas, by its oracle, and perhaps more by the time it is mined: all of the coin leaves it."""
    command = ("send", bob.address, "all ETH", "--dry-run", "--json")
    opening = ("channel", "open", bob.address, "1 USDC", "--dry-run", "--json")
    before, opening_before = alice.run(*command).data, int(alice.run(*opening).data["maxFee"])
    oracle = "0x420000000000000000000000000000000000000F"
    chain.rpc.call("anvil_setCode", [oracle, "0x64e8d4a5100060005260206000f3"])  # 10**12 wei for each call
    after = alice.run(*command).data
    assert int(after["maxFee"]) - int(before["maxFee"]) == 2 * 10**12
    assert int(before["amount"]) - int(after["amount"]) >= 2 * 10**12
    opening_after = int(alice.run(*opening).data["maxFee"])
    assert 2 * 10**12 <= opening_after - opening_before < 12 * 10**12
    alice.run("send", bob.address, "all ETH", "--yes").succeeded()
