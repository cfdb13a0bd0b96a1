"""`channel top-up`: as careful as an open, and it cancels a pending close."""

from __future__ import annotations

import subprocess
import time
from dataclasses import replace

import pytest
from anybody import done_as

from microwallet.domain.deposit import DepositStatus, Way
from microwallet.domain.identifiers import unhexed
from microwallet.domain.money import Amount
from microwallet.escrow.calls import Call, top_up_with_authorization
from microwallet.escrow.reader import EscrowReader
from microwallet.escrow.rpc import RpcError
from microwallet.payer.deposit import make_deposit
from microwallet.payer.refresh import refresh
from microwallet.payer.signed_deposit import await_signed, sign_deposit
from microwallet.payer.sync import settle_deposit
from microwallet.payer.top_up import plan_top_up
from microwallet.wallet import Wallet

LONG = pytest.mark.long
IMPATIENT = {"MICROWALLET_WAIT_SECONDS": "1"}


def top_up(home, amount: str, *more: object, channel: str = "coffee", **options):
    """`channel top-up` to its end."""
    return home.run("channel", "top-up", channel, amount, *more, "--yes", "--json", **options)


@pytest.mark.parametrize(
    ("via", "transactions"), [("auto", 2), ("authorization", 2), ("permit", 2), ("approve", 3)]
)
@pytest.mark.usefixtures("coffee")
def test_adds_to_the_deposit(alice, chain, witness, via, transactions):
    """Every way of a token adds exactly the amount, and leaves no allowance."""
    told = top_up(alice, "5 USDC", "--via", via).data
    assert (told["deposit"], told["amount"], told["status"]) == ("15000000", "5000000", "open")
    assert told["transactionHash"].startswith("0x")
    seen = witness.of(alice.address)
    assert (seen.deposit, seen.transactions) == (15_000_000, transactions)
    assert witness.allowance(chain.token, alice.address) == 0
    assert alice.run("pay", "coffee", "12", "--json").data["remaining"] == "3000000"


@pytest.mark.usefixtures("coffee")
def test_a_list_that_asked_before_does_not_undo_it(alice):
    """Its answer is older than what the top-up recorded meanwhile: what was added can be paid with."""
    late = []

    class Slow(EscrowReader):
        def channel_states(self, *arguments):
            found = super().channel_states(*arguments)
            late.append(late or top_up(alice, "5 USDC").data)
            return found

    with Wallet.open(environment=alice.environment) as wallet:
        channels = wallet.ledger.channels.list(finalized=False)
        reader = Slow(wallet.rpc, wallet.escrow_contract)
        refreshed = refresh(wallet.ledger, lambda _: reader, channels, now=wallet.now())
    assert [channel.state.deposit for channel in refreshed.channels] == [15_000_000]
    assert alice.run("pay", "coffee", "12", "--json").data["remaining"] == "3000000"


@pytest.mark.parametrize(
    ("sender", "behind"), [("payer", "state"), ("somebody else", "state"), ("somebody else", "head")]
)
@pytest.mark.usefixtures("coffee")
def test_a_node_that_is_behind_does_not_hide_it(alice, sender, behind):
    """Of several behind one address the one that is asked for the state may lag: the channel is told with the
    deposit in it all the same, so that nobody makes it twice."""
    lagging = []

    class TwoNodes(EscrowReader):
        def head(self, block="latest"):
            return super().head(lagging.pop() if lagging and behind == "head" else block)

        def channel_states(self, channel_ids, block=None):
            if lagging and behind == "state":
                newest = lagging.pop()
                if block is not None and block > newest:
                    raise RpcError("header not found", error_code=-32000, error_data=None, where="it")
                block = newest
            return super().channel_states(channel_ids, block)

    with Wallet.open(environment=alice.environment) as wallet:
        (channel,) = wallet.ledger.channels.list(finalized=False)
        account = wallet.paying_account()
        account = replace(account, reader=TwoNodes(wallet.rpc, wallet.escrow_contract))
        plan = plan_top_up(account, channel, Amount(5_000_000, channel.asset), idempotency_key="t1")
        if sender == "payer":
            lagging.append(account.reader.head().number)
            made = make_deposit(account, plan)
        else:
            signed = sign_deposit(account, plan)
            call = top_up_with_authorization(channel.descriptor, 5_000_000, signed.authorization)
            lagging.append(account.reader.head().number)
            account.sender.send(call, operation="of another wallet", purpose="other")
            made = await_signed(account, signed, seconds=30, told=None, again="")
        found = wallet.ledger.channels.get(channel.channel_id)
    assert (made.channel.state.deposit, found.state.deposit, lagging) == (15_000_000, 15_000_000, [])


@pytest.mark.usefixtures("coffee")
def test_one_begun_by_permit_is_seen_once_it_was_handed_over(alice):
    """It is signed as an authorization for the payee to send, and its end is looked for as that of one."""
    with Wallet.open(environment=alice.environment) as wallet:
        (channel,) = wallet.ledger.channels.list(finalized=False)
        account, amount = wallet.paying_account(), Amount(5_000_000, channel.asset)
        plan = plan_top_up(account, channel, amount, idempotency_key="t1", way=Way.PERMIT)
        signed = sign_deposit(account, plan)
        call = top_up_with_authorization(channel.descriptor, 5_000_000, signed.authorization)
        account.sender.send(call, operation="of the payee", purpose="other")
        made = await_signed(account, signed, seconds=1, told=None, again="")
    assert made.channel.state.deposit == 15_000_000


def test_adds_native_coin(alice, bob, witness):
    """The chain's own coin is sent along; a bare number is in the channel's asset."""
    alice.run("channel", "open", bob.address, "0.1 ETH", "--label", "eth", "--yes").succeeded()
    assert top_up(alice, "0.2", channel="eth").data["deposit"] == str(3 * 10**17)
    assert witness.of(alice.address).transactions == 2


def test_the_same_key_adds_once(alice, coffee, witness):
    """The same key again adds nothing and tells the same transaction; other arguments are exit 2."""
    first = top_up(alice, "5 USDC", "--idempotency-key", "t1").data
    again = top_up(alice, "5 USDC", "--idempotency-key", "t1").data
    assert (again["transactionHash"], again["resumed"]) == (first["transactionHash"], True)
    other = top_up(alice, "6 USDC", "--idempotency-key", "t1")
    assert (other.exit_code, other.error["code"]) == (2, "idempotency-mismatch")
    opening = alice.run(
        "channel", "open", coffee["payee"], "5 USDC", "--idempotency-key", "t1", "--yes", "--json"
    )
    assert (opening.exit_code, opening.error["code"]) == (2, "idempotency-mismatch")
    assert witness.of(alice.address).deposit == 15_000_000


@pytest.mark.usefixtures("coffee")
def test_cancels_a_pending_close(alice):
    """It says so before and after, and the channel pays again."""
    alice.run("channel", "close", "coffee", "--yes").succeeded()
    assert alice.run("pay", "coffee", "1").exit_code == 4
    preview = alice.run("channel", "top-up", "coffee", "5 USDC", "--dry-run")
    assert "will be cancelled" in preview.stdout
    told = top_up(alice, "5 USDC")
    assert (told.data["status"], told.data["cancelledClose"]) == ("open", True)
    assert "open again" in told.stderr
    assert alice.run("pay", "coffee", "1").exit_code == 0
    assert alice.run("channel", "close", "coffee", "--yes", "--json").data["stage"] == "requested"


@pytest.mark.usefixtures("coffee")
def test_refusals(alice, bob, chain):
    """Too little money, no yes, an unknown or finalized channel, another unit: nothing is sent."""
    assert top_up(alice, "100000 USDC").exit_code == 4
    assert top_up(alice, "1 ETH").exit_code == 2
    assert top_up(alice, "-1").exit_code == 2
    assert top_up(alice, "1", channel="tea").exit_code == 2
    unconfirmed = alice.run("channel", "top-up", "coffee", "1", "--json")
    assert unconfirmed.error["code"] == "confirmation-required"
    too_large = top_up(alice, "79228162514264337593533.950336 USDC")  # with the deposit it is 2**96
    assert (too_large.exit_code, too_large.error["code"]) == (2, "invalid-amount")
    alice.run("channel", "close", "coffee", "--yes").succeeded()
    chain.node.advance(901)
    assert alice.run("channel", "withdraw", "coffee", "--json").data["refunded"] == "10000000"
    assert top_up(alice, "1", "--dry-run").exit_code == 4
    closed = top_up(alice, "1")
    assert (closed.exit_code, closed.error["code"]) == (4, "channel-not-open")
    assert bob.address in closed.error["hint"]


@pytest.mark.usefixtures("coffee")
def test_a_key_that_is_locked(alice, tmp_path):
    """A wrong password is exit 6 and nothing is begun: the next top-up, and the next sync, find nothing."""
    wrong = tmp_path / "wrong"
    wrong.write_text("another password\n")
    locked = top_up(alice, "1 USDC", "--password-file", wrong)
    assert (locked.exit_code, locked.error["code"]) == (6, "key-unavailable")
    assert alice.run("channel", "sync", "--json").data["deposits"] == []
    assert "resuming" not in top_up(alice, "1 USDC").stderr


@pytest.mark.parametrize(
    "via",
    [
        "authorization",
        pytest.param("native", marks=LONG),
        pytest.param("permit", marks=LONG),
        pytest.param("approve", marks=LONG),
    ],
)
def test_unknown_outcome_never_adds_twice(alice, bob, chain, witness, via):
    """Not mined in time, dropped, run again without and with the key: the amount is added once."""
    deposit, amount, ways = (
        ("0.1 ETH", "0.2 ETH", ()) if via == "native" else ("10 USDC", "5 USDC", ("--via", via))
    )
    alice.run("channel", "open", bob.address, deposit, "--label", "coffee", "--yes").succeeded()
    if via == "approve":
        top_up(alice, "1 USDC", "--via", "approve")
    before = witness.of(alice.address).deposit
    chain.rpc.call("evm_setAutomine", [False])
    first = top_up(alice, amount, *ways, "--idempotency-key", "t1", env=IMPATIENT)
    assert (first.exit_code, first.error["code"]) == (5, "outcome-unknown")
    assert "--idempotency-key t1" in first.error["hint"]
    chain.rpc.call("anvil_dropTransaction", [witness.pooled()[0]])
    chain.rpc.call("evm_setAutomine", [True])
    assert top_up(alice, amount, *ways).data["idempotencyKey"] == "t1"
    assert top_up(alice, amount, *ways, "--idempotency-key", "t1").data["resumed"] is True
    added = witness.of(alice.address).deposit - before
    assert added == (2 * 10**17 if via == "native" else 5_000_000)


def test_a_node_that_is_behind_does_not_end_it(alice, bob, chain, witness, monkeypatch):
    """One counts the nonce of a top-up that was mined, others have no receipt for it yet: it is not given up,
    so that the same command without its key does not add another."""
    monkeypatch.setattr("microwallet.payer.sync.LAG_SECONDS", 3)
    alice.run("channel", "open", bob.address, "0.1 ETH", "--label", "coffee", "--yes").succeeded()
    chain.rpc.call("evm_setAutomine", [False])
    assert top_up(alice, "0.2 ETH", "--idempotency-key", "t1", env=IMPATIENT).exit_code == 5
    witness.mine()
    chain.rpc.call("evm_setAutomine", [True])
    behind = [True, True]

    class TwoNodes(EscrowReader):
        def have_succeeded(self, hashes):
            return [None for _ in hashes] if behind and behind.pop() else super().have_succeeded(hashes)

    with Wallet.open(environment=alice.environment) as wallet:
        (channel,) = wallet.ledger.channels.list(finalized=False)
        account = wallet.paying_account()
        account = replace(account, reader=TwoNodes(wallet.rpc, wallet.escrow_contract))
        deposit = wallet.ledger.deposits.find("t1")
        assert settle_deposit(account, deposit, channel) is DepositStatus.PENDING
    assert behind == []
    assert top_up(alice, "0.2 ETH").data["idempotencyKey"] == "t1"
    assert witness.of(alice.address).deposit == 3 * 10**17


@pytest.mark.usefixtures("coffee")
def test_an_authorization_that_expired_is_signed_anew(alice, chain, witness):
    """The retry after its end signs the same nonce again: the token carries it out once."""
    chain.rpc.call("evm_setAutomine", [False])
    assert top_up(alice, "5 USDC", "--idempotency-key", "t1", env=IMPATIENT).exit_code == 5
    chain.rpc.call("anvil_dropTransaction", [witness.pooled()[0]])
    chain.rpc.call("evm_setAutomine", [True])
    chain.node.advance(7200)
    assert top_up(alice, "5 USDC", "--idempotency-key", "t1").data["deposit"] == "15000000"
    assert witness.of(alice.address).deposit == 15_000_000


@pytest.mark.usefixtures("coffee")
def test_an_authorization_that_somebody_else_submitted(alice, bob, chain, witness):
    """Another sender carries the authorization to the chain: the retry finds it done."""
    chain.rpc.call("evm_setAutomine", [False])
    assert top_up(alice, "5 USDC", "--idempotency-key", "t1", env=IMPATIENT).exit_code == 5
    (pooled,) = witness.pooled()
    data = unhexed(chain.rpc.call("eth_getTransactionByHash", [pooled])["input"])
    chain.rpc.call("anvil_dropTransaction", [pooled])
    chain.rpc.call("evm_setAutomine", [True])
    done_as(bob.address, Call(to=chain.escrow_contract, data=data), chain)
    told = top_up(alice, "5 USDC", "--idempotency-key", "t1", env={"MICROWALLET_WAIT_SECONDS": "10"}).data
    assert told["deposit"] == "15000000"
    assert witness.of(alice.address).deposit == 15_000_000


@pytest.mark.parametrize("amount", ["5 USDC", pytest.param("0.2 ETH", marks=LONG)])
def test_killed_top_ups_add_once(alice, bob, witness, amount):
    """Killed at growing moments and run again until it ends: the amount is added once."""
    native = amount.endswith("ETH")
    deposit = "0.1 ETH" if native else "10 USDC"
    alice.run("channel", "open", bob.address, deposit, "--label", "coffee", "--yes").succeeded()
    before = witness.of(alice.address).deposit
    for seconds in (0.3, 0.5, 0.7, 0.9):
        process = alice.start(
            "channel", "top-up", "coffee", amount, "--idempotency-key", "t1", "--yes",
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        time.sleep(seconds)
        process.kill()
        process.wait()
    assert top_up(alice, amount, "--idempotency-key", "t1").exit_code == 0
    assert witness.of(alice.address).deposit - before == (2 * 10**17 if native else 5_000_000)
