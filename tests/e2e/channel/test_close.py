"""`channel close` and `channel withdraw`: the grace period to the second, and what the payee does in it."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import time
from dataclasses import replace

import pytest

from microwallet.domain.channel import NO_CHANNEL
from microwallet.domain.deposit import DepositKind
from microwallet.errors import ChannelNotOpen
from microwallet.escrow.reader import EscrowReader
from microwallet.ledger.ledger import Ledger
from microwallet.payer.close import CloseStage, close
from microwallet.payer.withdraw import withdraw
from microwallet.wallet import Wallet

GRACE = 900


@pytest.fixture
def coffee(alice, coffee) -> dict:
    """A channel with 10 USDC, 4 of them authorized."""
    return coffee | {"voucher": alice.run("pay", "coffee", "4", "--json").data}


def test_close_asks_first(alice, coffee, witness):
    """Without a yes nothing is sent; --dry-run shows what the payee can still take."""
    refused = alice.run("channel", "close", "coffee", "--json")
    assert (refused.exit_code, refused.error["code"]) == (2, "confirmation-required")
    told = alice.run("channel", "close", "coffee", "--dry-run").stdout
    for word in (coffee["channelId"], "4 USDC", "6 USDC", "15 minutes"):
        assert word in told
    assert alice.run("channel", "show", "coffee", "--json").data["status"] == "open"
    assert witness.of(alice.address).transactions == 1


def test_close_says_what_the_payee_can_still_take(alice, coffee, payee_takes):
    """What it has taken before is not still to be taken."""
    payee_takes(coffee, 3_000_000, close=False)
    told = alice.run("channel", "close", "coffee", "--dry-run").stdout
    assert "authorized     4 USDC: the payee can still take 1 USDC\n" in told


@pytest.mark.usefixtures("coffee")
def test_close_says_when_the_money_can_be_taken(alice, witness):
    """The request is sent once; asking again tells the same time and the next command."""
    first = alice.run("channel", "close", "coffee", "--yes")
    assert first.exit_code == 0
    assert re.search("in (900|89[0-9]) seconds", first.stdout)
    assert "microwallet channel withdraw coffee --wait" in first.stderr
    again = alice.run("channel", "close", "coffee", "--json").data
    assert (again["stage"], again["status"], again["transactionHash"]) == ("requested", "closing", None)
    assert witness.of(alice.address).transactions == 2


@pytest.mark.usefixtures("coffee")
def test_a_node_that_is_behind_is_not_believed(alice, chain):
    """Of several behind one address the one that is asked afterwards may lag: nothing is over too soon."""
    blocks = []

    class TwoNodes(EscrowReader):
        def channel_states(self, channel_ids, _block=None):
            return super().channel_states(channel_ids, blocks.pop(0) if blocks else None)

    with Wallet.open(environment=alice.environment) as wallet:
        (channel,) = wallet.ledger.channels.list(finalized=False)
        account = wallet.paying_account()
        account = replace(account, reader=TwoNodes(wallet.rpc, wallet.escrow_contract))
        blocks[:] = [None, account.reader.head().number]
        closing = close(account, channel)
        assert (closing.stage, closing.seconds_left > GRACE - 60) == (CloseStage.REQUESTED, True)
        chain.node.advance(GRACE)
        blocks[:] = [None, account.reader.head().number]
        assert withdraw(account, channel, wait=False).channel.state.finalized
        assert (wallet.ledger.channels.get(channel.channel_id).state.finalized, blocks) == (True, [])


@pytest.mark.usefixtures("coffee")
def test_a_top_up_that_comes_before_the_withdrawal(alice, chain):
    """It has cancelled the close: nobody is told to wait for the end of a grace period."""
    alice.run("channel", "close", "coffee", "--yes").succeeded()
    chain.node.advance(GRACE)

    class Late(EscrowReader):
        def next_block_time(self):
            told = super().next_block_time()
            alice.run("channel", "top-up", "coffee", "1 USDC", "--yes").succeeded()
            return told

    with Wallet.open(environment=alice.environment) as wallet:
        (channel,) = wallet.ledger.channels.list(finalized=False)
        account = wallet.paying_account()
        account = replace(account, reader=Late(wallet.rpc, wallet.escrow_contract))
        with pytest.raises(ChannelNotOpen, match="coffee is open"):
            withdraw(account, channel, wait=False)


def test_withdraw_to_the_second(alice, coffee, chain, witness):
    """One second early is exit 4 and says how long; at the second it pays back everything."""
    early = alice.run("channel", "withdraw", "coffee", "--json")
    assert (early.exit_code, early.error["code"]) == (4, "channel-not-open")
    assert early.error["hint"] == "microwallet channel close coffee"
    at = alice.run("channel", "close", "coffee", "--yes", "--json").data["withdrawableAt"]
    chain.rpc.call("anvil_setBlockTimestampInterval", [0])
    try:
        chain.rpc.call("evm_setNextBlockTimestamp", [at - 1])
        witness.mine()
        early = alice.run("channel", "withdraw", "coffee", "--json")
        assert (early.exit_code, early.error["code"]) == (4, "close-not-ready")
        assert "in 1 seconds" in early.error["message"]
        assert early.error["hint"] == "microwallet channel withdraw coffee --wait"
        chain.rpc.call("evm_setNextBlockTimestamp", [at])
        witness.mine()
        taken = alice.run("channel", "withdraw", "coffee", "--json").data
    finally:
        chain.rpc.call("anvil_removeBlockTimestampInterval")
    assert (taken["status"], taken["refunded"]) == ("finalized", "10000000")
    assert 30_000 < taken["gasUsed"] < 60_000
    assert witness.reader.token_balance(coffee["token"], alice.address) == 10**9
    again = alice.run("channel", "withdraw", "coffee", "--json").data
    assert (again["transactionHash"], again["refunded"]) == (None, "10000000")
    closed = alice.run("channel", "close", "coffee")
    assert (closed.exit_code, "finalized already" in closed.stdout) == (0, True)


def test_withdraw_says_what_comes_back(alice, coffee, chain, witness):
    """`--dry-run` tells how much, or that no close is requested; scripts may say `--yes` as everywhere."""
    early = alice.run("channel", "withdraw", "coffee", "--dry-run", "--json")
    assert (early.exit_code, early.error["code"]) == (4, "channel-not-open")
    alice.run("channel", "close", "coffee", "--yes").succeeded()
    chain.node.advance(GRACE)
    told = alice.run("channel", "withdraw", "coffee", "--dry-run").stdout
    assert f"10 USDC to {coffee['payer']}" in told
    assert witness.of(alice.address).transactions == 2
    assert alice.run("channel", "withdraw", "coffee", "--yes", "--json").data["status"] == "finalized"
    assert alice.run("channel", "withdraw", "coffee", "--dry-run", "--json").data["status"] == "finalized"


@pytest.mark.parametrize("undone", ["withdraw", "requestClose"])
def test_a_reorganisation_of_a_withdraw_or_a_close_request(alice, coffee, chain, witness, undone):
    """What came back is gone again: the channel is listed again, as it is, and the command is done again."""
    alice.run("channel", "close", "coffee", "--yes").succeeded()
    if undone == "withdraw":
        chain.node.advance(GRACE)
        alice.run("channel", "withdraw", "coffee", "--yes").succeeded()
        assert alice.run("channel", "list", "--json").data["channels"] == []
    chain.rpc.call("anvil_reorg", [1, []])
    (listed,) = alice.run("channel", "list", "--json").data["channels"]
    assert (listed["label"], listed["status"]) == (
        "coffee",
        "withdrawable" if undone == "withdraw" else "open",
    )
    if undone == "requestClose":
        assert alice.run("channel", "withdraw", "coffee", "--yes").exit_code == 4
        alice.run("channel", "close", "coffee", "--yes").succeeded()
        chain.node.advance(GRACE)
    taken = alice.run("channel", "withdraw", "coffee", "--yes", "--json").data
    assert (taken["status"], taken["refunded"]) == ("finalized", "10000000")
    assert witness.reader.token_balance(coffee["token"], alice.address) == 10**9


def test_a_chain_that_is_started_anew_gives_no_finalized_channel_back(alice, bob, chain, payee_takes):
    """It is not listed, and its label is free, whatever the new chain knows."""
    fresh = chain.rpc.call("evm_snapshot")
    opening = ("channel", "open", bob.address, "1 USDC", "--label", "coffee", "--yes", "--json")
    channel = alice.run(*opening).data
    payee_takes(channel | {"voucher": alice.run("pay", "coffee", "1", "--json").data}, 1_000_000, close=True)
    assert alice.run("channel", "show", "coffee", "--json").data["status"] == "finalized"
    assert chain.rpc.call("evm_revert", [fresh])
    assert alice.run("channel", "list", "--json").data["channels"] == []
    alice.run(*opening).succeeded()


@pytest.mark.usefixtures("coffee")
def test_withdraw_waits(alice, chain):
    """`--wait` says how long, and withdraws when the chain's clock is there, blocks or not."""
    alice.run("channel", "close", "coffee", "--yes").succeeded()
    process = alice.start(
        "channel", "withdraw", "coffee", "--wait", stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    said = process.stderr.readline()
    assert "waiting" in said
    assert "Ctrl-C is safe" in said
    # No block is mined: only the next one would be late enough.
    chain.rpc.call("evm_increaseTime", [hex(GRACE + 1)])
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    assert "10 USDC withdrawn" in output


def test_withdraw_can_be_interrupted(alice, coffee, witness):
    """Ctrl-C while waiting is exit 130; nothing was sent, and it can be run again."""
    alice.run("channel", "close", "coffee", "--yes").succeeded()
    process = alice.start(
        "channel", "withdraw", "coffee", "--wait", stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert "waiting" in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=10)
    assert process.returncode == 130
    assert witness.of(coffee["payer"]).transactions == 2


def test_the_payee_closes_while_the_payer_waits(alice, coffee, payee_takes):
    """What the payee did meanwhile is told: paid, refunded, nothing left to withdraw."""
    alice.run("channel", "close", "coffee", "--yes").succeeded()
    process = alice.start(
        "channel", "withdraw", "coffee", "--wait", "--json", stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert b"waiting" in process.stderr.readline()
    payee_takes(coffee, 4_000_000, close=True)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    assert b'"refunded": "6000000"' in output
    assert b'"transactionHash": null' in output


def test_the_payee_settles_in_the_grace_period(alice, coffee, chain, witness, payee_takes):
    """A settle does not stop the close: the payer gets back what is left."""
    alice.run("channel", "close", "coffee", "--yes").succeeded()
    payee_takes(coffee, 3_000_000, close=False)
    chain.node.advance(GRACE)
    taken = alice.run("channel", "withdraw", "coffee", "--json").data
    assert (taken["settled"], taken["refunded"]) == ("3000000", "7000000")
    assert witness.reader.token_balance(coffee["token"], coffee["payee"]) == 10**9 + 3_000_000


def test_close_of_a_channel_the_payee_closed(alice, coffee, payee_takes):
    """A channel closed by the payee is told as it is, exit 0, and leaves the list."""
    payee_takes(coffee, 4_000_000, close=True)
    told = alice.run("channel", "close", "coffee", "--json").data
    assert (told["stage"], told["settled"]) == ("closed", "4000000")
    assert alice.run("channel", "list", "--json").data["channels"] == []
    (listed,) = alice.run("channel", "list", "--all", "--json").data["channels"]
    assert (listed["status"], listed["settled"]) == ("finalized", "4000000")


@pytest.mark.usefixtures("coffee")
def test_close_and_wait(alice, chain):
    """`close --wait` requests, waits and withdraws in one go."""
    process = alice.start(
        "channel",
        "close",
        "coffee",
        "--wait",
        "--yes",
        "--json",
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    while b"waiting" not in (line := process.stderr.readline()) or b"seconds" not in line:
        assert line
    chain.node.advance(GRACE)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    assert b'"refunded": "10000000"' in output


@pytest.mark.usefixtures("coffee")
def test_a_close_request_that_is_lost_is_resumed(alice, chain, witness):
    """Not mined in time is exit 5; the same command again finishes that one and sends no second."""
    chain.rpc.call("evm_setAutomine", [False])
    lost = alice.run("channel", "close", "coffee", "--yes", "--json", env={"MICROWALLET_WAIT_SECONDS": "1"})
    assert lost.exit_code == 5
    chain.rpc.call("anvil_dropTransaction", [witness.pooled()[0]])
    chain.rpc.call("evm_setAutomine", [True])
    assert alice.run("channel", "close", "coffee", "--yes", "--json").data["stage"] == "requested"
    assert witness.of(alice.address).transactions == 2


@pytest.mark.usefixtures("coffee")
def test_a_channel_of_another_network_is_used_on_its_own(alice):
    """A channel says which network it is on: another one in use does not stop its commands."""
    alice.run("network", "use", "sepolia").succeeded()
    without_url = {"MICROWALLET_RPC_URL": ""}
    refused = alice.run("channel", "close", "coffee", "--network", "sepolia", "--yes", "--json")
    assert refused.exit_code == 2
    offline = alice.run("channel", "show", "coffee", "--offline", "--json", env=without_url)
    assert offline.data["chainId"] == 31337


class TestAll:
    """`channel close --all`: every channel of the network, each as if it was named."""

    @pytest.fixture
    def tea(self, alice, bob) -> dict:
        """Another channel, with 3 USDC."""
        return alice.run("channel", "open", bob.address, "3 USDC", "--label", "tea", "--yes", "--json").data

    def test_it_asks_once_for_all(self, alice, coffee, tea, witness):
        """One screen tells what comes back of each and in all; nothing is sent before the yes."""
        refused = alice.run("channel", "close", "--all", "--json")
        assert (refused.exit_code, refused.error["code"]) == (2, "confirmation-required")
        planned = alice.run("channel", "close", "--all", "--dry-run", "--json").data
        assert [one["channelId"] for one in planned["channels"]] == [coffee["channelId"], tea["channelId"]]
        single = alice.run("channel", "close", "tea", "--dry-run", "--json").data
        assert int(planned["maxFee"]) > int(single["maxFee"])
        told = alice.run("channel", "close", "--all", "--dry-run").stdout
        of_each = ("close 2 channels", "at least 6 USDC", "at least 3 USDC", "in all      at least 9 USDC")
        assert all(words in told for words in of_each)
        assert witness.of(alice.address).transactions == 2

    @pytest.mark.usefixtures("tea")
    def test_each_is_closed(self, alice, coffee, payee_takes, witness):
        """What is closing already is told, not repeated; what is finalized is left out."""
        payee_takes(coffee, 4_000_000, close=True)
        alice.run("channel", "open", coffee["payee"], "5 USDC", "--label", "cake", "--yes").succeeded()
        alice.run("channel", "close", "tea", "--yes").succeeded()
        before = witness.of(alice.address).transactions
        planned = alice.run("channel", "close", "--all", "--dry-run")
        assert planned.stdout.startswith("close 1 channel on anvil")
        closed = alice.run("channel", "close", "--all", "--yes", "--json")
        stages = [(one["label"], one["stage"], one["transactionHash"]) for one in closed.data["channels"]]
        assert [stage[:2] for stage in stages] == [("tea", "requested"), ("cake", "requested")]
        assert (stages[0][2], closed.exit_code, "failed" in closed.data) == (None, 0, False)
        assert "microwallet channel withdraw cake --wait" in closed.stderr
        assert witness.of(alice.address).transactions == before + 1
        again = alice.run("channel", "close", "--all", "--json")
        assert (again.exit_code, len(again.data["channels"])) == (0, 2)

    @pytest.fixture
    def other(self, alice, bob, chain) -> tuple[str, str]:
        """Another account, and the id of its channel, with 1 USDC."""
        address = alice.run("account", "create", "other", "--json").data["address"]
        chain.node.add_native(address, 10**18)
        chain.node.mint(chain.token, address, 10**7)
        words = (bob.address, "1 USDC", "--account", "other", "--yes", "--json")
        opened = alice.run("channel", "open", *words).data["channelId"]
        alice.run("account", "use", "alice").succeeded()
        return address, opened

    def test_what_fails_with_one_leaves_the_others_alone(self, alice, coffee, tea, other):
        """One's account is not here any more: that is told, and is the exit code, when the rest is closed."""
        _, opened = other
        (alice.path / "keys" / "accounts" / "other.json").unlink()
        closed = alice.run("channel", "close", "--all", "--yes", "--json")
        told = json.loads(closed.stdout)["data"]
        ids = [one["channelId"] for one in told["channels"]]
        assert ids == [coffee["channelId"], tea["channelId"]]
        [failed] = told["failed"]
        assert failed["channelId"] == opened
        assert (closed.exit_code, failed["code"]) == (closed.error["exitCode"], closed.error["code"])
        assert f"channel {opened} cannot be closed: " in alice.run("channel", "close", "--all").stdout

    def test_one_without_gas_leaves_the_others_alone(self, alice, coffee, other, tea, chain):
        """Its account has no coin for the close."""
        address, opened = other
        chain.rpc.call("anvil_setBalance", [address, "0x0"])
        closed = alice.run("channel", "close", "--all", "--yes", "--json")
        told = json.loads(closed.stdout)["data"]
        assert [one["label"] for one in told["channels"]] == [coffee["label"], tea["label"]]
        failed = [(one["channelId"], one["code"]) for one in told["failed"]]
        assert (closed.exit_code, failed) == (4, [(opened, "insufficient-funds")])

    @pytest.mark.usefixtures("coffee", "tea")
    def test_a_chain_that_is_away_is_told_once(self, alice):
        """Nothing is known of any channel then."""
        away = {"MICROWALLET_RPC_URL": "http://127.0.0.1:9"}
        closed = alice.run("channel", "close", "--all", "--yes", "--json", env=away)
        assert (closed.exit_code, closed.error["code"], "data" in closed.json) == (3, "network", False)

    def test_all_are_withdrawn_after_one_wait(self, alice, coffee, other, tea, chain, witness):
        """`--wait` requests every close before it waits for the first. One that cannot be withdrawn then
        leaves the others alone."""
        process = alice.start(
            "channel", "close", "--all", "--wait", "--yes", "--json",
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        while b"waiting" not in (line := process.stderr.readline()) or b"seconds" not in line:
            assert line
        assert witness.of(alice.address).transactions == 4
        address, opened = other
        chain.rpc.call("anvil_setBalance", [address, "0x0"])
        chain.node.advance(GRACE)
        output, _ = process.communicate(timeout=30)
        assert process.returncode == 4
        told = json.loads(output)["data"]
        assert [one["refunded"] for one in told["channels"]] == [coffee["deposit"], tea["deposit"]]
        failed = [(one["channelId"], one["code"]) for one in told["failed"]]
        assert failed == [(opened, "insufficient-funds")]

    @pytest.mark.usefixtures("coffee")
    def test_those_of_another_network_are_left_alone(self, alice):
        """They are closed where they are."""
        alice.run("network", "use", "sepolia").succeeded()
        told = alice.run("channel", "close", "--all", "--dry-run", env={"MICROWALLET_RPC_URL": ""})
        assert (told.exit_code, told.stdout) == (0, "no channel is open\n")

    @pytest.mark.parametrize("is_abandoned", [False, True])
    def test_what_is_not_on_the_chain_is_left_out(self, alice, bob, chain, is_abandoned):
        """An open that a reorganisation undid; of one that was given up the account is not missed."""
        before = chain.rpc.call("evm_snapshot", [])
        opened = alice.run("channel", "open", bob.address, "1 USDC", "--yes", "--json").data["channelId"]
        chain.rpc.call("evm_revert", [before])
        named = alice.run("channel", "close", opened, "--json")
        assert (named.exit_code, named.error["code"]) == (4, "channel-not-open")
        if is_abandoned:
            with Ledger.open(alice.path / "ledger.sqlite3") as ledger:
                ledger.channels.record_states({opened: NO_CHANNEL}, as_of=int(time.time()))
                [deposit] = ledger.deposits.of_channel(DepositKind.OPEN, opened)
                ledger.deposits.abandon(deposit)
            (alice.path / "keys" / "accounts" / "alice.json").unlink()
        told = alice.run("channel", "close", "--all", "--yes")
        assert (told.exit_code, told.stdout) == (0, "no channel is open\n")

    def test_nothing_is_open(self, alice):
        """That is no failure."""
        for words in ((), ("--yes",), ("--dry-run",)):
            told = alice.run("channel", "close", "--all", *words)
            assert (told.exit_code, told.stdout) == (0, "no channel is open\n")

    @pytest.mark.parametrize("words", [(), ("coffee", "--all")])
    def test_one_or_all(self, alice, words):
        """Which is meant is never guessed."""
        refused = alice.run("channel", "close", *words, "--yes", "--json")
        assert (refused.exit_code, refused.error["code"]) == (2, "usage")
        assert "name one channel, or say --all" in refused.error["message"]
