"""What failed in other payment systems does not fail here. Each failure has a test named after it.

Where another file holds the test, this table says so; `test_the_table_is_true` keeps it right.

| what went wrong elsewhere | the test |
| --- | --- |
| a voucher equal to the settled amount closed a channel for free (CVE-2026-34209) | here: test_boundary_of_capture |
| ... and bought goods again | tests/e2e/payee/test_accept.py::test_a_captured_voucher_buys_nothing_again |
| ... in the contract | tests/contract/test/Capture.t.sol::testFuzz_settle_equal_to_settled_is_refused |
| a finalized channel was opened again | here: test_finalized_channel_reopened |
| two processes signed one amount (tempo-foundry#381) | tests/e2e/test_pay.py::test_fifty_processes_on_one_channel |
| ... and the payee's total differed (mpp-rs#177) | here: test_concurrent_payers_lost_an_update |
| a killed holder of a lock stopped everybody | tests/e2e/test_pay.py::test_killed_lock_holder_delays_nobody |
| a replayed voucher bought extra work (mppx#405) | tests/e2e/payee/test_accept.py::test_any_order_and_twice |
| a deposit was orphaned between broadcast and save (tempo wallet 0.1.2) | tests/e2e/channel/test_open_crash.py::test_killed_after_a_commit |
| ... at any other moment | tests/e2e/channel/test_open_crash.py::test_killed_anywhere |
| ... of a close | tests/e2e/payee/test_payee.py::test_a_close_killed_after_it_was_sent_is_finished |
| an RPC failure deleted channels and keys (tempo wallet#170) | here: test_rpc_failure_deleted_channels |
| the payer was charged what it had signed, not what it used (mppx 0.4.7) | tests/e2e/payee/test_payee.py::test_a_payee_may_capture_less |
| a voucher of the other side was trusted (x402#3251) | tests/e2e/channel/test_sync.py::test_a_voucher_that_proves_nothing_is_refused |
| an unknown outcome was paid twice (x402#808) | tests/e2e/test_transactions.py::test_a_lost_answer_to_the_broadcast_moves_money_once |
| ... by an open | tests/e2e/channel/test_open_crash.py::test_an_answer_that_never_came |
| ... by a top up | tests/e2e/channel/test_top_up.py::test_unknown_outcome_never_adds_twice |
| ... by a payment asked for again | tests/e2e/test_pay.py::test_same_key_same_vouchers |
| a signature was good for another chain, contract or payee (mppx 0.6.1) | tests/e2e/payee/test_accept.py::test_every_bad_line_in_a_good_stream |
| ... in the contract | tests/contract/test/Signatures.t.sol::test_signature_for_another_channel_is_refused |
| ... by one flipped bit | tests/property/test_hostile_input.py::test_every_flipped_bit_of_what_is_signed_is_rejected |
| anyone could refund a known channel | here: test_anyone_could_refund_a_known_channel |
| a reorganisation was not foreseen (go-nitro#549), of an open | tests/e2e/channel/test_open_crash.py::test_a_reorganisation_of_the_open |
| ... of a top up | tests/e2e/channel/test_sync.py::test_a_reorganised_top_up |
| ... of a close | tests/e2e/payee/test_payee.py::test_a_close_undone_by_a_reorganisation_is_done_again |
| ... of a close that could be mined again | tests/e2e/payee/test_payee.py::test_a_batch_that_a_reorganisation_undid_is_sent_again |
| ... of a close, beside a new channel of its name | tests/unit/ledger/test_channels.py::test_a_reorganisation_gives_a_closed_channel_back_beside_its_successor |
| a redemption that reverted was dropped (go-livepeer#4013) | tests/e2e/payee/test_payee.py::test_a_payer_that_turns_hostile_in_the_same_block_harms_nobody |
| a redemption counted as done before it was (go-livepeer#2016) | tests/e2e/payee/test_payee.py::test_a_close_whose_fate_is_unknown_is_resolved_by_the_next_run |
| a forced close was not noticed (mppx#142) | tests/e2e/payee/test_watch.py::test_a_requested_close_is_answered_at_once |
| ... by a watcher that was down | tests/e2e/payee/test_watch.py::test_around_the_end_of_the_grace_period_it_still_closes |
| an old backup signed again (lnd#2757) | tests/e2e/test_pay.py::test_older_copy_of_the_ledger_does_not_pay |
| ... in any order of crashes and backups | tests/property/test_state_machine.py::test_payer_payee_and_chain_against_a_model |
| an old backup left money in limbo (lnd#2578) | here: test_old_backup_left_money_in_limbo |
"""  # noqa: E501  # a table

from __future__ import annotations

import itertools
import json
import re
import shutil
import sqlite3
import subprocess
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
from local_server import Handler, LocalServer
from model import Keyed

from microwallet.domain.identifiers import keccak
from microwallet.domain.voucher import VoucherKey
from microwallet.errors import NetworkError
from microwallet.escrow import calls
from microwallet.escrow.reader import EscrowReader
from microwallet.wallet import Wallet

REPOSITORY = Path(__file__).parents[2]


def test_the_table_is_true():
    """Every test that the table names exists, in the file it names."""
    rows = re.findall(r"\| (?:here: (\w+)|([\w/.]+)::(\w+)) \|$", __doc__, re.MULTILINE)
    assert len(rows) == __doc__.count("\n| ") - 2
    for own, file, name in rows:
        text = (REPOSITORY / file).read_text() if file else Path(__file__).read_text()
        assert re.search(rf"(def|function) {own or name}\(", text), (file, own or name)


@pytest.fixture
def coffee(alice, bob):
    """What `channel open` told of a channel from alice to bob with 10 USDC."""
    opened = alice.run("channel", "open", bob.address, "10 USDC", "--label", "coffee", "--yes", "--json")
    return opened.data


def keyed_channel(alice):
    """Alice's channel with the key that signs its vouchers."""
    with Wallet.open(environment=alice.environment) as wallet:
        channel = wallet.ledger.channels.find("coffee")
        return Keyed(
            descriptor=channel.descriptor, channel_id=channel.channel_id, key=wallet.voucher_key(channel)
        )


def would_succeed(chain, sender, call):
    """Whether the chain would carry a call out now."""
    try:
        chain.rpc.call("eth_call", [call.request(sender), "latest"])
    except NetworkError as error:
        if "revert" not in str(error):
            raise
        return False
    return True


def signature_of(channel, amount, key=None):
    """The signature of a voucher for an amount."""
    return bytes.fromhex(json.loads(channel.line(amount, key=key))["signature"][2:])


@pytest.mark.usefixtures("coffee")
def test_boundary_of_capture(alice, bob, chain):
    """CVE-2026-34209: settle and close do what the rule says at -1, 0, +1 of every bound."""
    channel = keyed_channel(alice)
    voucher = alice.run("pay", "coffee", "5 USDC").succeeded().stdout
    bob.run("payee", "accept", "-", input=voucher).succeeded()
    bob.run("payee", "settle", channel.channel_id, "--capture", "3 USDC", "--yes").succeeded()
    settled, accepted, deposit = 3_000_000, 5_000_000, 10_000_000
    bounds = sorted(bound + off for bound in (settled, accepted, deposit) for off in (-1, 0, 1))
    for cumulative, amount in itertools.product([*bounds, 2**128 - 1], bounds):
        item = calls.Capture(
            descriptor=channel.descriptor,
            cumulative_amount=cumulative,
            capture_amount=amount,
            signature=signature_of(channel, cumulative),
        )
        closes = settled <= amount <= cumulative and amount <= deposit
        settles = closes and amount > settled
        assert would_succeed(chain, bob.address, calls.close(item)) is closes, (cumulative, amount)
        assert would_succeed(chain, bob.address, calls.settle(item)) is settles, (cumulative, amount)


@pytest.mark.usefixtures("coffee")
def test_finalized_channel_reopened(alice, bob, chain):
    """An id is never used twice: a closed channel takes no call but views."""
    channel = keyed_channel(alice)
    bob.run("payee", "accept", "-", input=alice.run("pay", "coffee", "1 USDC").succeeded().stdout).succeeded()
    bob.run("payee", "close", "--all", "--yes").succeeded()
    for call in (
        calls.open_channel(channel.descriptor, 1_000_000),
        calls.top_up(channel.descriptor, 1_000_000),
        calls.request_close(channel.descriptor),
        calls.withdraw(channel.descriptor),
    ):
        assert not would_succeed(chain, alice.address, call)
    again = calls.Capture(
        descriptor=channel.descriptor,
        cumulative_amount=2_000_000,
        capture_amount=2_000_000,
        signature=signature_of(channel, 2_000_000),
    )
    assert not would_succeed(chain, bob.address, calls.settle(again))
    assert not would_succeed(chain, bob.address, calls.close(again))


@pytest.mark.usefixtures("coffee")
def test_concurrent_payers_lost_an_update(alice, bob):
    """mpp-rs#177: many payers at once, each into its own acceptance; the payee captures the exact sum."""
    processes, payments = 8, 25
    running = []
    for _ in range(processes):
        paying = alice.start("pay", "coffee", "0.0001", "--count", payments, "--each",
                             stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)  # fmt: skip
        accepting = bob.start("payee", "accept", "-", "--json", stdin=paying.stdout, stdout=subprocess.PIPE)
        paying.stdout.close()
        running += [(paying, accepting)]
    told = [json.loads(accepting.communicate(timeout=120)[0])["data"] for _, accepting in running]
    assert [paying.wait() for paying, _ in running] == [0] * processes
    assert sum(data["accepted"] + data["duplicates"] for data in told) == processes * payments
    assert sum(data["rejected"] for data in told) == 0
    closed = bob.run("payee", "close", "--all", "--yes", "--json").data
    assert [one["captured"] for one in closed["channels"]] == [str(100 * processes * payments)]


FAULTS = {
    "500": lambda _: (500, b"Internal Server Error"),
    "empty": lambda _: (200, b""),
    "garbage": lambda _: (200, b"<html>\xff\x00"),
    "null": lambda request: (200, answers(request, lambda _: None)),
    "nothing": lambda request: (200, answers(request, lambda method: known(method) or "0x")),
    "zeros": lambda request: (200, answers(request, lambda method: known(method) or "0x" + "00" * 32)),
    "wrong chain": lambda request: (200, answers(request, lambda _: "0x1")),
}


def known(method):
    """The right chain id: what comes after it is what is wrong."""
    return "0x7a69" if method == "eth_chainId" else None


def answers(request, result):
    """A well-formed answer to each request."""
    document = json.loads(request)
    listed = document if isinstance(document, list) else [document]
    replies = [{"jsonrpc": "2.0", "id": one["id"], "result": result(one["method"])} for one in listed]
    return json.dumps(replies if isinstance(document, list) else replies[0]).encode()


@pytest.fixture
def faulty():
    """A server that answers as the fault it is given; `faulty("500")` gives its address."""
    with ExitStack() as started:

        def serve(fault):
            class Faulty(Handler):
                def respond(self):
                    status, body = FAULTS[fault](self.read_body())
                    self.answer(status, {}, body)

            return started.enter_context(LocalServer(Faulty)).url

        yield serve


def everything_in(home):
    """All rows of a home's ledger, and its key files."""
    with sqlite3.connect(home.path / "ledger.sqlite3") as ledger:
        rows = list(ledger.iterdump())
    ledger.close()
    keys = home.path / "keys"
    return rows, {path: path.read_bytes() for path in sorted(keys.rglob("*.json"))}


@pytest.mark.usefixtures("coffee")
def test_rpc_failure_deleted_channels(alice, bob, faulty):
    """tempo wallet#170: whatever a server answers, or does not, no row, key or voucher is touched."""
    bob.run("payee", "accept", "-", input=alice.run("pay", "coffee", "1 USDC").succeeded().stdout).succeeded()
    before = everything_in(alice), everything_in(bob)
    commands = [
        (alice, ("channel", "sync")),
        (alice, ("channel", "close", "coffee", "--yes")),
        (bob, ("payee", "close", "--all", "--yes")),
        (bob, ("payee", "list")),
    ]

    def run(asked):
        (home, words), url = asked
        return home.run(*words, "--json", env={"MICROWALLET_RPC_URL": url, "MICROWALLET_RPC_TIMEOUT": "1"})

    urls = [faulty(fault) for fault in FAULTS]
    with ThreadPoolExecutor(4) as pool:
        runs = list(pool.map(run, itertools.product(commands, urls)))
    for done in runs:
        assert done.exit_code == 3, done
        assert done.error["message"]
    assert (everything_in(alice), everything_in(bob)) == before
    assert alice.run("pay", "coffee", "1 USDC", "--json").data["cumulativeAmount"] == "2000000"


def test_anyone_could_refund_a_known_channel(alice, bob, chain, coffee):
    """Only the payee settles and closes, only the payer asks for a close; and a voucher is one channel's."""
    channel = keyed_channel(alice)
    stranger = "0x" + keccak(b"stranger")[12:].hex()
    assert coffee["channelId"] == channel.channel_id

    def capture(signature):
        return calls.Capture(
            descriptor=channel.descriptor, cumulative_amount=5, capture_amount=5, signature=signature
        )

    good = capture(signature_of(channel, 5))
    assert would_succeed(chain, bob.address, calls.close(good))
    nothing = replace(good, capture_amount=0, cumulative_amount=0, signature=b"")
    for sender in (stranger, alice.address):
        for call in (calls.close(good), calls.settle(good), calls.close(nothing)):
            assert not would_succeed(chain, sender, call)
    for sender in (stranger, bob.address):
        assert not would_succeed(chain, sender, calls.request_close(channel.descriptor))
    other = replace(channel, channel_id="0x" + "ab" * 32)
    for signature in (
        signature_of(other, 5),
        signature_of(channel, 6),
        signature_of(channel, 5, VoucherKey(b"\x07" * 32)),
        b"",
    ):
        assert not would_succeed(chain, bob.address, calls.close(capture(signature)))


@pytest.mark.usefixtures("coffee")
def test_old_backup_left_money_in_limbo(alice, bob, chain):
    """lnd#2578: an older ledger signs nothing, pays again with the payee's best voucher, and can leave."""
    ledger = alice.path / "ledger.sqlite3"
    shutil.copy(ledger, alice.path / "backup")
    voucher = alice.run("pay", "coffee", "4 USDC").succeeded().stdout
    bob.run("payee", "accept", "-", input=voucher).succeeded()
    shutil.copy(alice.path / "backup", ledger)
    refused = alice.run("pay", "coffee", "1 USDC", "--json")
    assert (refused.exit_code, refused.error["code"]) == (4, "voucher-unknown")
    alice.run("channel", "sync", "--voucher", "-", input=voucher).succeeded()
    paid = alice.run("pay", "coffee", "1 USDC", "--json").data
    assert paid["cumulativeAmount"] == "5000000"
    shutil.copy(alice.path / "backup", ledger)
    alice.run("channel", "close", "coffee", "--yes").succeeded()
    bob.run("payee", "settle", "--all", "--yes").succeeded()
    alice.run("devnet", "advance", "15m").succeeded()
    withdrawn = alice.run("channel", "withdraw", "coffee", "--yes", "--json").data
    assert withdrawn["status"] == "finalized"
    reader = EscrowReader(chain.rpc, chain.escrow_contract)
    assert reader.token_balance(chain.token, alice.address) == 10**9 - 4_000_000
