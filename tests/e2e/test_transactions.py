"""Transactions on a real chain that drops, replaces, reorders, reorganises, and loses answers."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import textwrap
import threading
import time
import urllib.request
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
from local_server import Handler, LocalServer
from waiting import wait_until

from microwallet.devnet.local_chain import local_chain
from microwallet.domain.identifiers import NATIVE_TOKEN, hexed
from microwallet.domain.ports import TransactionStatus
from microwallet.domain.voucher import VoucherKey
from microwallet.errors import (
    InsufficientFunds,
    KeyUnavailable,
    NetworkError,
    OutcomeUnknown,
    PaymentRefused,
    TransactionReplaced,
    TransactionReverted,
)
from microwallet.escrow import calls
from microwallet.escrow.fees import GWEI, Fees
from microwallet.escrow.network import built_in_networks
from microwallet.escrow.reader import EscrowReader
from microwallet.escrow.rpc import Rpc
from microwallet.escrow.signing import Intent, sign_transaction, signed_call
from microwallet.escrow.transactions import TransactionSender
from microwallet.ledger.gas_spending import GasSpending
from microwallet.ledger.ledger import Ledger

SECRET = b"\x61" * 32
SENDER = VoucherKey(SECRET).address
BOB = VoucherKey(b"\x62" * 32).address
ETHER = 10**18
ORACLE = "0x420000000000000000000000000000000000000F"
"""Where a rollup tells what it takes for data."""
BROADCAST, MINED, REVERTED, REPLACED = (
    TransactionStatus.BROADCAST,
    TransactionStatus.MINED,
    TransactionStatus.REVERTED,
    TransactionStatus.REPLACED,
)


class Said:
    """A reporter that remembers."""

    def __init__(self):
        self.lines = []

    def say(self, message):
        self.lines.append(message)


@pytest.fixture
def chain(anvil):
    """A chain of the test's own: a moved base fee and dropped transactions outlive a snapshot."""
    with local_chain(anvil) as own:
        yield own


@pytest.fixture
def payer(chain, tmp_path):
    """An account with ten ether and a ledger, and what a test asks of them."""
    chain.node.add_native(SENDER, 10 * ETHER)
    ledger = Ledger.open(tmp_path / "ledger.sqlite3")
    network = built_in_networks()["anvil"]
    said = Said()

    def sender(rpc=chain.rpc, journal=ledger.journal, **settings):
        defaults = {"max_fee_gwei": 200, "wait_seconds": 15, "reporter": said}
        return TransactionSender(rpc, network, journal, SENDER, lambda: SECRET, **(defaults | settings))

    yield SimpleNamespace(
        sender=sender,
        send=lambda operation, amount=ETHER, **settings: sender(**settings).send(
            calls.transfer(NATIVE_TOKEN, BOB, amount), operation=operation, purpose="send"
        ),
        statuses=lambda operation: [entry.status for entry in ledger.journal.of_operation(operation)],
        entries=ledger.journal.of_operation,
        journal=ledger.journal,
        balance=lambda: EscrowReader(chain.rpc, chain.escrow_contract).native_balance(SENDER),
        received=lambda: EscrowReader(chain.rpc, chain.escrow_contract).native_balance(BOB),
        nonce=lambda: int(chain.rpc.call("eth_getTransactionCount", [SENDER, "latest"]), 16),
        ledger_path=tmp_path / "ledger.sqlite3",
        said=said.lines,
        spending=ledger.gas_spending,
        set_aside=lambda operation: set_aside(ledger, operation),
    )
    ledger.database.close()


@pytest.fixture
def held(chain):
    """The chain, mining nothing until told."""
    chain.rpc.call("evm_setAutomine", [False])
    return SimpleNamespace(
        mine=lambda: chain.rpc.call("evm_mine"),
        drop=lambda transaction: chain.rpc.call("anvil_dropTransaction", [transaction]),
        next_base_fee=lambda wei: chain.rpc.call("anvil_setNextBlockBaseFeePerGas", [hex(wei)]),
        release=lambda: (chain.rpc.call("evm_setAutomine", [True]), chain.rpc.call("evm_mine")),
    )


def pending(payer, operation, **settings):
    """Send while nothing is mined; the hash of which nobody knows what will become."""
    with pytest.raises(OutcomeUnknown) as caught:
        payer.send(operation, wait_seconds=0.3, **settings)
    assert caught.value.exit_code == 5
    return caught.value.data["transactionHash"]


@contextmanager
def in_background(payer, work):
    """Run `work(journal)` in a thread; yields the place of its outcome, there after leaving."""
    outcome = SimpleNamespace(value=None, error=None)

    def run():
        ledger = Ledger.open(payer.ledger_path)
        try:
            outcome.value = work(ledger.journal)
        except Exception as error:  # noqa: BLE001 the test looks at it
            outcome.error = error
        finally:
            ledger.database.close()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield outcome
    finally:
        thread.join(30)
        assert not thread.is_alive()
        assert outcome.error is None, outcome.error


class TestSend:
    def test_a_transaction_is_mined_and_journaled(self, payer):
        """The receipt has block, gas and price; the journal the same."""
        receipt = payer.send("pay-1")
        (entry,) = payer.entries("pay-1")
        assert (entry.status, entry.block_number, entry.gas_used) == (MINED, receipt.block_number, 21_000)
        assert entry.transaction.hash == receipt.hash
        assert receipt.effective_gas_price < 10 * GWEI
        assert payer.received() == ETHER

    def test_the_same_operation_moves_money_once(self, payer):
        """Sending it again gives the first receipt, and signs nothing."""
        first = payer.send("pay-1")
        assert payer.send("pay-1") == first
        assert (payer.nonce(), payer.received()) == (1, ETHER)

    def test_purposes_of_one_operation_are_apart(self, chain, payer):
        """An approve does not stand in for the open that follows it."""
        sender = payer.sender()
        approve = calls.approve(chain.token, chain.escrow_contract, 5)
        sender.send(approve, operation="open-1", purpose="approve")
        sender.send(calls.transfer(NATIVE_TOKEN, BOB, 1), operation="open-1", purpose="open")
        assert payer.nonce() == 2
        assert sender.resume("open-1", "approve").hash == payer.entries("open-1")[0].transaction.hash

    def test_a_sure_revert_costs_nothing(self, chain, payer):
        """The contract's error is told with its values before anything is signed."""
        call = calls.transfer(chain.token, BOB, 5)
        with pytest.raises(InsufficientFunds, match="0 base units of the token; 5 are needed"):
            payer.sender().send(call, operation="pay-1", purpose="send")
        assert payer.entries("pay-1") == []
        assert payer.balance() == 10 * ETHER

    def test_gas_is_checked_before_signing(self, payer):
        """Too little for value and gas is exit 4, with the faucet that helps."""
        with pytest.raises(InsufficientFunds, match="holds 10 ETH on anvil; up to") as caught:
            payer.send("pay-1", 10 * ETHER)
        assert caught.value.exit_code == 4
        assert SENDER in caught.value.hint
        assert payer.entries("pay-1") == []

    def test_a_whole_balance_can_be_sent(self, payer):
        """A quote fixes gas and fees, so that value and gas add up to what is there."""
        sender = payer.sender()
        quoted = sender.quote(calls.transfer(NATIVE_TOKEN, BOB, 1), purpose="send")
        call = calls.transfer(NATIVE_TOKEN, BOB, quoted.balance - quoted.max_cost)
        sender.send(call, operation="all", purpose="send", quoted=quoted)
        assert payer.balance() < quoted.max_cost

    def test_gas_above_the_cap_is_refused(self, chain, payer):
        """The setting is named, and nothing is signed."""
        chain.rpc.call("anvil_setNextBlockBaseFeePerGas", [hex(50 * GWEI)])
        chain.rpc.call("evm_mine")
        with pytest.raises(PaymentRefused, match="max-fee-gwei"):
            payer.send("pay-1", max_fee_gwei=20)
        assert payer.entries("pay-1") == []

    def test_a_revert_in_the_block_is_exit_8_with_its_reason(self, chain, payer, held):
        """Two transfers of the same tokens both pass the simulation; the second reverts."""
        chain.rpc.call("evm_setAutomine", [True])
        chain.node.mint(chain.token, SENDER, 5)
        chain.rpc.call("evm_setAutomine", [False])
        call = calls.transfer(chain.token, BOB, 5)
        quoted = payer.sender().quote(call, purpose="send")
        for operation in ("pay-1", "pay-2"):
            with pytest.raises(OutcomeUnknown):
                payer.sender(wait_seconds=0.2).send(call, operation=operation, purpose="send", quoted=quoted)
        held.mine()
        payer.sender().resume("pay-1")
        with pytest.raises(TransactionReverted) as caught:
            payer.sender().resume("pay-2")
        assert caught.value.exit_code == 8
        assert caught.value.data["transactionHash"] == payer.entries("pay-2")[0].transaction.hash
        assert payer.statuses("pay-2") == [REVERTED]
        assert payer.sender().resume("pay-2") is None


class TestUnknown:
    def test_what_is_not_mined_in_time_is_unknown_until_it_is(self, payer, held):
        """Exit 5 with the hash; the next run finds the receipt and signs nothing new."""
        transaction = pending(payer, "pay-1")
        assert payer.statuses("pay-1") == [BROADCAST]
        held.release()
        assert payer.send("pay-1").hash == transaction
        assert (payer.nonce(), payer.received()) == (1, ETHER)

    def test_a_dropped_transaction_is_sent_again_byte_for_byte(self, payer, held):
        """A pool that forgot it gets the same bytes, so it is the same transaction."""
        transaction = pending(payer, "pay-1")
        held.drop(transaction)
        held.release()
        assert payer.sender().resume("pay-1").hash == transaction

    def test_a_transaction_dropped_while_it_is_waited_for_is_sent_again(self, payer, held):
        """The wait rebroadcasts by itself."""
        with in_background(payer, lambda journal: payer.send("pay-1", journal=journal)) as outcome:
            time.sleep(0.5)
            transaction = payer.entries("pay-1")[0].transaction.hash
            held.drop(transaction)
            held.release()
        assert outcome.value.hash == transaction

    def test_a_crash_between_signing_and_sending_is_made_good(self, payer):
        """A journaled transaction that never left is sent by the next command of that account."""
        transaction = journaled(payer, "pay-1")
        (resumed,) = payer.sender().resume_all()
        assert (resumed.operation, resumed.status, resumed.receipt.hash) == ("pay-1", MINED, transaction.hash)
        assert payer.sender().resume_all() == []

    def test_a_killed_process_is_continued(self, chain, payer, held):
        """SIGKILL while waiting: the next process finds the transaction and its receipt."""
        process = start_sending(chain, payer, "pay-1")
        wait_until(lambda: BROADCAST in payer.statuses("pay-1"))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        held.release()
        payer.send("pay-1")
        assert (payer.nonce(), payer.received()) == (1, ETHER)

    def test_the_journal_comes_first(self, chain, payer):
        """When the node receives the bytes, they are in the ledger already, as being sent."""
        found = []

        def look(request):
            if isinstance(request, dict) and request["method"] == "eth_sendRawTransaction":
                ledger = Ledger.open(payer.ledger_path)
                (entry,) = ledger.journal.of_operation("pay-1")
                ledger.database.close()
                found.append((hexed(entry.transaction.raw) in request["params"], entry.status))

        with forwarder(chain.rpc_url, before=look) as url, Rpc([url], timeout=5) as rpc:
            payer.send("pay-1", rpc=rpc)
        assert found == [(True, BROADCAST)]

    def test_a_lost_answer_to_the_broadcast_moves_money_once(self, chain, payer):
        """The node has it, the answer is lost: asked again, it is known already."""
        lost = iter([True])

        def after(request):
            sends = isinstance(request, dict) and request["method"] == "eth_sendRawTransaction"
            return sends and next(lost, False)

        with forwarder(chain.rpc_url, lose=after) as url, Rpc([url], timeout=5) as rpc:
            payer.send("pay-1", rpc=rpc)
        assert (payer.nonce(), payer.received()) == (1, ETHER)

    def test_a_refusal_after_a_lost_answer_is_not_final(self, chain, payer, held):
        """The node that took it did not answer, and one that is behind refuses it: it may be mined, so the
        same operation sends no other."""
        seen = []

        def change(request, answer):
            return refuse(request, answer) if seen else answer

        def lose(request):
            is_first = (
                isinstance(request, dict) and request["method"] == "eth_sendRawTransaction" and not seen
            )
            seen.extend([request] * is_first)
            return is_first

        with forwarder(chain.rpc_url, lose=lose, change=change) as url, Rpc([url], timeout=5) as rpc:
            pending(payer, "pay-1", rpc=rpc)
        pending(payer, "pay-1")
        held.release()
        payer.send("pay-1")
        assert (payer.nonce(), payer.received()) == (1, ETHER)

    def test_a_node_that_took_what_it_refused(self, chain, payer, held):
        """A balancer tells the refusal of one node and another has it: the next try takes its place."""
        with refusing(chain) as rpc, pytest.raises(InsufficientFunds):
            payer.send("pay-1", rpc=rpc)
        assert payer.statuses("pay-1") == [REPLACED]
        pending(payer, "pay-1")
        held.release()
        payer.send("pay-1")
        assert (payer.nonce(), payer.received()) == (1, ETHER)

    def test_what_was_refused_is_mined_while_it_is_signed_again(self, chain, payer, held):
        """Its nonce is used up, by itself: nothing else is sent."""
        with refusing(chain) as rpc, pytest.raises(InsufficientFunds):
            payer.send("pay-1", rpc=rpc)

        def mine(request):
            if request["method"] == "eth_getTransactionCount":
                held.mine()

        with forwarder(chain.rpc_url, before=mine) as url, Rpc([url], timeout=5) as rpc:
            payer.send("pay-1", rpc=rpc)
        held.release()
        assert (payer.nonce(), payer.received()) == (1, ETHER)

    def test_a_nonce_that_is_told_to_be_used_and_is_not(self, chain, payer, held, monkeypatch):
        """A node lies for so long that its word is taken; its transaction waits in an honest one."""
        monkeypatch.setattr("microwallet.escrow.delivery.LAG_SECONDS", 2)
        pending(payer, "pay-1")

        def count(request, answer):
            return answer | ({"result": "0x1"} if request["method"] == "eth_getTransactionCount" else {})

        with forwarder(chain.rpc_url, change=count) as url, Rpc([url], timeout=5) as rpc:
            assert payer.sender(rpc).resume("pay-1") is None
        assert payer.statuses("pay-1") == [REPLACED]
        pending(payer, "pay-1")
        held.release()
        payer.send("pay-1")
        assert (payer.nonce(), payer.received()) == (1, ETHER)

    def test_what_waits_at_a_nonce_that_another_operation_has(self, chain, payer, held):
        """Only one of the two is mined, so the operation waits until that is decided."""
        with refusing(chain) as rpc, pytest.raises(InsufficientFunds):
            payer.send("pay-1", rpc=rpc)
        journaled(payer, "pay-2")
        with pytest.raises(OutcomeUnknown, match="nonce 0"):
            payer.send("pay-1")
        held.release()
        payer.send("pay-1")
        assert payer.statuses("pay-1")[-1] is MINED
        assert payer.statuses("pay-2") == [REPLACED]
        assert (payer.nonce(), payer.received()) == (1, ETHER)

    def test_a_nonce_of_a_chain_that_was_started_anew(self, payer, monkeypatch):
        """What was signed on the one before it waits nowhere, and its nonce may be far ahead."""
        with monkeypatch.context() as earlier:
            earlier.setattr(payer.journal, "_clock", lambda: 1)
            earlier.setattr(payer, "nonce", lambda: 7)
            payer.journal.record(journaled(payer, "pay-1").hash, REPLACED)
        payer.send("pay-1")
        assert (payer.nonce(), payer.received()) == (1, ETHER)

    def test_a_revert_that_was_undone_and_waits_again(self, payer, held):
        """It may succeed this time, so that what is signed for it takes its place."""
        payer.journal.record(pending(payer, "pay-1"), REVERTED)
        pending(payer, "pay-1")
        held.release()
        payer.send("pay-1")
        assert (payer.nonce(), payer.received()) == (1, ETHER)

    def test_a_server_that_dies_after_the_broadcast_leaves_the_outcome_unknown(self, chain, payer):
        """Not a network error: money may have moved. The next run knows."""
        dead = threading.Event()

        def lose(request):
            if isinstance(request, dict) and request["method"] == "eth_sendRawTransaction":
                dead.set()
            return dead.is_set()

        with (
            forwarder(chain.rpc_url, lose=lose) as url,
            Rpc([url], timeout=1) as rpc,
            pytest.raises(OutcomeUnknown),
        ):
            payer.send("pay-1", rpc=rpc, wait_seconds=0.5)
        assert payer.statuses("pay-1") == [BROADCAST]
        payer.send("pay-1")
        assert (payer.nonce(), payer.received()) == (1, ETHER)

    def test_a_server_that_is_dead_from_the_start_is_a_network_error(self, payer):
        """Before signing nothing is unknown: exit 3, and the journal stays empty."""
        with Rpc(["http://127.0.0.1:1"], timeout=1) as rpc, pytest.raises(NetworkError):
            payer.send("pay-1", rpc=rpc)
        assert payer.entries("pay-1") == []


class TestStuck:
    def test_a_fee_that_became_too_low_is_raised(self, payer, held):
        """The base fee rose above the offer: the same transaction is offered with more."""
        first = pending(payer, "pay-1")
        held.next_base_fee(40 * GWEI)
        held.mine()
        assert payer.nonce() == 0
        held.release()
        receipt = payer.sender(stuck_seconds=0.3).resume("pay-1")
        assert receipt.hash != first
        assert payer.statuses("pay-1") == [REPLACED, MINED]
        old, new = (entry.transaction for entry in payer.entries("pay-1"))
        assert new.nonce == old.nonce
        assert new.max_fee_per_gas * 1000 >= old.max_fee_per_gas * 1125
        assert new.max_priority_fee_per_gas > old.max_priority_fee_per_gas
        assert payer.received() == ETHER

    def test_no_more_is_offered_while_no_blocks_come(self, payer, held):
        """It would change nothing, and be paid once they do come."""
        first = pending(payer, "pay-1")
        with pytest.raises(OutcomeUnknown):
            payer.sender(stuck_seconds=0.2, wait_seconds=2).resume("pay-1")
        held.release()
        assert payer.sender().resume("pay-1").hash == first
        assert payer.statuses("pay-1") == [MINED]

    def test_more_is_offered_after_a_block_without_it(self, payer, held):
        """Its price is good, and others are preferred."""
        first = pending(payer, "pay-1")
        with in_background(
            payer, lambda journal: payer.sender(journal=journal, stuck_seconds=0.2).resume("pay-1")
        ) as outcome:
            time.sleep(1)
            held.drop(first)
            held.mine()
            deadline = time.monotonic() + 10
            while len(payer.entries("pay-1")) < 2 and time.monotonic() < deadline:
                time.sleep(0.05)
            held.release()
        assert outcome.value.hash != first
        assert payer.statuses("pay-1") == [REPLACED, MINED]

    def test_what_is_set_aside_grows_with_the_offer(self, payer, held):
        """A raise counts before it is signed, and once it is mined what was truly paid."""
        pending(payer, "pay-1")
        first = payer.entries("pay-1")[0].transaction
        assert payer.spending.set_aside(31337, "pay-1", 21_000 * first.max_fee_per_gas, budget=10**16)
        with in_background(payer, lambda journal: hasty(payer, journal).resume("pay-1")) as outcome:
            held.next_base_fee(40 * GWEI)
            held.mine()
            wait_until(lambda: payer.entries("pay-1")[-1].transaction.max_fee_per_gas > 40 * GWEI)
            raised = payer.entries("pay-1")[-1].transaction
            assert payer.set_aside("pay-1") == 21_000 * raised.max_fee_per_gas
            wait_until(lambda: held.release() and payer.nonce())
        assert payer.set_aside("pay-1") == 21_000 * outcome.value.effective_gas_price

    def test_what_a_rollup_takes_for_data_is_set_aside(self, chain, payer, held):
        """By a raise what it takes at most, and once it is mined what the receipt tells."""
        data_fee = 10**15
        chain.rpc.call("anvil_setCode", [ORACLE, "0x66038d7ea4c6800060005260206000f3"])

        def rollup(request, answer):
            if request["method"] == "eth_getTransactionReceipt" and answer["result"]:
                answer["result"]["l1Fee"] = hex(data_fee)
            return answer

        pending(payer, "pay-1")
        assert payer.spending.set_aside(31337, "pay-1", 5, budget=10**17)
        with (
            forwarder(chain.rpc_url, change=rollup) as url,
            Rpc([url], timeout=5) as rpc,
            in_background(payer, lambda journal: hasty(payer, journal, rpc).resume("pay-1")) as outcome,
        ):
            held.next_base_fee(40 * GWEI)
            held.mine()
            wait_until(lambda: payer.entries("pay-1")[-1].transaction.max_fee_per_gas > 40 * GWEI)
            raised = payer.entries("pay-1")[-1].transaction
            assert payer.set_aside("pay-1") == 21_000 * raised.max_fee_per_gas + 2 * data_fee
            wait_until(lambda: held.release() and payer.nonce())
        assert payer.set_aside("pay-1") == 21_000 * outcome.value.effective_gas_price + data_fee

    def test_a_raise_that_the_budget_has_no_room_for(self, payer, held):
        """It is cancelled, which costs less: what is signed after it by this account, as closes, is not to
        wait for it."""
        sender = payer.sender(wait_seconds=0.3, gas_budget=payer.spending)
        call = calls.Call(to=BOB, data=bytes(10_000))
        with pytest.raises(OutcomeUnknown):
            sender.send(call, operation="pay-1", purpose="send")
        first = payer.entries("pay-1")[0].transaction
        cost = signed_call(first)[1] * first.max_fee_per_gas
        assert payer.spending.set_aside(31337, "pay-1", cost, budget=cost)
        with in_background(payer, lambda journal: hasty(payer, journal).resume("pay-1")) as outcome:
            time.sleep(1)
            held.drop(first.hash)
            held.mine()
            wait_until(lambda: len(payer.entries("pay-1")) > 1)
            held.release()
        assert outcome.value is None
        assert payer.statuses("pay-1") == [REPLACED, MINED]
        assert payer.entries("pay-1")[1].transaction.purpose == "cancel"
        assert payer.set_aside("pay-1") < cost / 3

    def test_a_raise_that_the_account_cannot_pay_for(self, chain, payer, held):
        """Nothing is signed while the fees for gas and data are not there; what is needed is told."""
        pending(payer, "pay-1")
        first = payer.entries("pay-1")[0].transaction
        chain.rpc.call("anvil_setCode", [ORACLE, "0x66038d7ea4c6800060005260206000f3"])
        held.next_base_fee(40 * GWEI)
        held.mine()
        base_fee = int(chain.rpc.call("eth_getBlockByNumber", ["latest", False])["baseFeePerGas"], 16)
        raised = 2 * base_fee + first.max_priority_fee_per_gas * 9 // 8 + 1
        needed = ETHER + 21_000 * raised + 2 * 10**15
        chain.rpc.call("anvil_setBalance", [SENDER, hex(needed - 10**15)])
        with pytest.raises(OutcomeUnknown, match="is needed for this transaction and its gas"):
            payer.sender(stuck_seconds=0.2, wait_seconds=1).resume("pay-1")
        assert payer.statuses("pay-1") == [BROADCAST]
        assert sum("not raising the fee" in line for line in payer.said) == 1
        chain.rpc.call("anvil_setBalance", [SENDER, hex(needed + 10**15)])
        held.release()
        payer.sender(stuck_seconds=0.2).resume("pay-1")
        assert payer.statuses("pay-1") == [REPLACED, MINED]

    def test_a_raise_that_the_key_cannot_sign(self, payer, held):
        """Its password was changed meanwhile: what was sent may still be mined, and is waited for."""
        transaction = pending(payer, "pay-1")
        asked = []

        def secret():
            asked.append(True)
            raise KeyUnavailable("the password is another one now")

        def resume(journal):
            sender = payer.sender(journal=journal, stuck_seconds=0.2, wait_seconds=3)
            sender.secret = secret
            with pytest.raises(OutcomeUnknown, match="the password is another one now"):
                sender.resume("pay-1")

        with in_background(payer, resume):
            held.next_base_fee(40 * GWEI)
            held.mine()
        assert (len(asked), payer.statuses("pay-1")) == (1, [BROADCAST])
        held.next_base_fee(GWEI)
        held.release()
        assert payer.sender().resume("pay-1").hash == transaction

    @pytest.mark.usefixtures("held")
    def test_a_cancellation_that_the_account_cannot_pay_for(self, chain, payer):
        """It is no transaction that waits for ever: none is signed."""
        pending(payer, "pay-1")
        chain.rpc.call("anvil_setBalance", [SENDER, hex(21_000 * GWEI)])
        with pytest.raises(InsufficientFunds, match="is needed for this transaction and its gas"):
            payer.sender().cancel("pay-1")
        assert payer.statuses("pay-1") == [BROADCAST]

    def test_a_fee_is_never_raised_above_the_cap(self, payer, held):
        """It stays pending, the outcome unknown, and the setting is named once."""
        pending(payer, "pay-1", max_fee_gwei=5)
        held.next_base_fee(40 * GWEI)
        held.mine()
        with pytest.raises(OutcomeUnknown):
            payer.sender(stuck_seconds=0.2, wait_seconds=1, max_fee_gwei=5).resume("pay-1")
        assert payer.statuses("pay-1") == [BROADCAST]
        assert sum("max-fee-gwei" in line for line in payer.said) == 1

    def test_an_underpriced_transaction_is_offered_more_at_once(self, chain, payer):
        """The base fee rose between quote and broadcast, so the node refuses the first offer."""
        sender = payer.sender()
        call = calls.transfer(NATIVE_TOKEN, BOB, ETHER)
        quoted = sender.quote(call, purpose="send")
        chain.rpc.call("anvil_setNextBlockBaseFeePerGas", [hex(40 * GWEI)])
        chain.rpc.call("evm_mine")
        sender.send(call, operation="pay-1", purpose="send", quoted=quoted)
        assert payer.statuses("pay-1")[-1] is MINED
        assert payer.received() == ETHER

    def test_funds_that_went_meanwhile_free_the_nonce(self, chain, payer):
        """A transaction the node refused by name never happens, and does not block the next one."""
        sender = payer.sender()
        call = calls.transfer(NATIVE_TOKEN, BOB, ETHER)
        quoted = sender.quote(call, purpose="send")
        chain.rpc.call("anvil_setBalance", [SENDER, hex(GWEI)])
        with pytest.raises(InsufficientFunds):
            sender.send(call, operation="pay-1", purpose="send", quoted=quoted)
        assert payer.statuses("pay-1") == [REPLACED]
        chain.rpc.call("anvil_setBalance", [SENDER, hex(5 * ETHER)])
        payer.send("pay-1")
        assert (payer.nonce(), payer.received()) == (1, ETHER)

    def test_a_nonce_taken_by_another_wallet_means_replaced(self, chain, payer, held, monkeypatch):
        """The same key used elsewhere with a higher fee: ours did not happen, and can be done anew."""
        monkeypatch.setattr("microwallet.escrow.delivery.LAG_SECONDS", 2)
        pending(payer, "pay-1")
        rival = foreign(nonce=0)
        chain.rpc.call("eth_sendRawTransaction", [hexed(rival.raw)])
        held.release()
        with pytest.raises(TransactionReplaced, match="took nonce 0"):
            payer.sender()._delivery([payer.entries("pay-1")[0].transaction]).deliver()
        assert payer.statuses("pay-1") == [REPLACED]
        payer.send("pay-1")
        assert (payer.nonce(), payer.received()) == (2, ETHER)

    def test_resuming_all_ends_what_was_replaced(self, chain, payer, held, monkeypatch):
        """However short its wait is: a nonce that something else used up is not waited for at each sync."""
        monkeypatch.setattr("microwallet.escrow.delivery.LAG_SECONDS", 4)
        held.drop(pending(payer, "pay-1"))
        chain.rpc.call("eth_sendRawTransaction", [hexed(foreign(nonce=0).raw)])
        held.release()
        (resumed,) = payer.sender().resume_all(wait_seconds=0.1)
        assert (resumed.status, type(resumed.error)) == (REPLACED, TransactionReplaced)
        assert payer.statuses("pay-1") == [REPLACED]
        assert payer.sender().resume_all() == []

    @pytest.mark.usefixtures("held")
    def test_transactions_of_another_wallet_are_counted(self, chain, payer):
        """A pending transaction the journal does not know takes its nonce all the same."""
        chain.rpc.call("eth_sendRawTransaction", [hexed(foreign(nonce=0).raw)])
        pending(payer, "pay-1")
        assert payer.entries("pay-1")[0].transaction.nonce == 1


class TestCancel:
    def test_a_cancellation_counts_in_the_budget(self, payer, held):
        """It is made however little room there is, and so is a higher offer for it."""
        pending(payer, "pay-1")
        assert payer.spending.set_aside(31337, "pay-1", 5, budget=5)
        with pytest.raises(OutcomeUnknown):
            payer.sender(wait_seconds=0.3, gas_budget=payer.spending).cancel("pay-1")

        def offered():
            return 21_000 * payer.entries("pay-1")[-1].transaction.max_fee_per_gas

        assert payer.set_aside("pay-1") == offered()
        with in_background(payer, lambda journal: hasty(payer, journal).resume("pay-1")):
            held.next_base_fee(40 * GWEI)
            held.mine()
            wait_until(lambda: len(payer.entries("pay-1")) > 2 and payer.set_aside("pay-1") == offered())
            held.release()
        [paid] = [entry.transaction for entry in payer.entries("pay-1") if entry.status is MINED]
        assert paid.purpose == "cancel"
        assert 0 < payer.set_aside("pay-1") <= 21_000 * paid.max_fee_per_gas

    def test_a_pending_transaction_is_cancelled_at_its_nonce(self, payer, held):
        """A transfer of nothing to oneself takes its place, journaled before it is sent."""
        pending(payer, "pay-1")
        with in_background(payer, lambda journal: payer.sender(journal=journal).cancel("pay-1")) as outcome:
            wait_until(lambda: any(line.startswith("cancel: sent ") for line in payer.said))
            assert len(payer.entries("pay-1")) == 2
            held.release()
        assert (outcome.value, outcome.error) == (None, None)
        assert payer.statuses("pay-1") == [REPLACED, MINED]
        assert payer.entries("pay-1")[1].transaction.purpose == "cancel"
        assert (payer.nonce(), payer.received()) == (1, 0)
        assert payer.sender().resume("pay-1") is None

    def test_a_cancelled_operation_can_be_done_anew(self, chain, payer):
        """After a cancellation the same key is signed again, at the next nonce."""
        transaction = journaled(payer, "pay-1")
        assert payer.sender().cancel("pay-1") is None
        assert chain.rpc.call("eth_getTransactionReceipt", [transaction.hash]) is None
        payer.send("pay-1")
        assert (payer.nonce(), payer.received()) == (2, ETHER)

    def test_too_late_gives_the_receipt(self, payer, held):
        """What was mined meanwhile is not cancelled, and nothing is sent."""
        transaction = pending(payer, "pay-1")
        held.release()
        assert payer.sender().cancel("pay-1").hash == transaction
        assert payer.nonce() == 1

    def test_nothing_to_cancel(self, payer):
        """An operation nobody signed is cancelled already."""
        assert payer.sender().cancel("pay-1") is None


class TestReorganisation:
    def test_a_transaction_that_lost_its_block_is_sent_again(self, chain, payer):
        """The journal said mined; the chain forgot; the same bytes go out once more."""
        first = payer.send("pay-1")
        chain.rpc.call("anvil_reorg", [1, []])
        if payer.nonce():
            pytest.fail("the reorganisation kept the transaction")
        again = payer.sender().resume("pay-1")
        assert again.hash == first.hash
        assert (payer.nonce(), payer.received()) == (1, ETHER)
        assert payer.statuses("pay-1") == [MINED]

    def test_what_a_reorganisation_took_from_below_is_sent_again(self, chain, payer, held):
        """What was done and is not any more has the nonce that another waits for: the same bytes go out, and
        nothing of what is done still."""
        held.release()
        payer.send("pay-0")
        first = payer.send("pay-1")
        chain.rpc.call("evm_setAutomine", [False])
        second = pending(payer, "pay-2")
        chain.rpc.call("anvil_reorg", [1, []])
        held.drop(first.hash)
        held.release()
        assert payer.nonce() == 1
        sent = set()

        def note(request, answer):
            if request["method"] == "eth_sendRawTransaction":
                sent.add(request["params"][0])
            return answer

        with forwarder(chain.rpc_url, change=note) as url, Rpc([url], timeout=5) as rpc:
            assert payer.sender(rpc).resume("pay-2").hash == second
        assert (payer.nonce(), payer.received()) == (3, 3 * ETHER)
        entries = [payer.entries(operation) for operation in ("pay-1", "pay-2")]
        assert [[one.status for one in found] for found in entries] == [[MINED], [MINED]]
        assert sent == {hexed(found[-1].transaction.raw) for found in entries}

    def test_a_chain_that_was_started_anew_gets_nothing_of_the_one_before(self, payer, monkeypatch):
        """Its nonces are free as well: what was done on another chain is not to be done on this one."""
        with monkeypatch.context() as earlier:
            earlier.setattr(payer.journal, "_clock", lambda: 1)
            done = journaled(payer, "pay-1")
            payer.journal.record(done.hash, MINED, block_number=1, gas_used=21_000)
        journaled(payer, "pay-2", nonce=1)
        payer.sender().resume_all(wait_seconds=3)
        assert payer.statuses("pay-1") == [MINED]
        assert (payer.nonce(), payer.received()) == (0, 0)

    def test_a_forgetful_server_is_no_reorganisation(self, chain, payer):
        """A receipt missing below many blocks was pruned: the journal's word stands."""
        first = payer.send("pay-1")
        chain.rpc.call("anvil_mine", [hex(300)])

        def hide(request, answer):
            if request["method"] == "eth_getTransactionReceipt":
                return answer | {"result": None}
            return answer

        with forwarder(chain.rpc_url, change=hide) as url, Rpc([url], timeout=5) as rpc:
            kept = payer.sender(rpc).resume("pay-1")
        assert (kept.hash, kept.block_number, kept.gas_used) == (first.hash, first.block_number, 21_000)
        assert kept.effective_gas_price is None
        assert payer.nonce() == 1

    def test_nodes_that_lag_are_no_foreign_transaction(self, chain, payer):
        """One counts the nonce, the others have no receipt for seconds: ours was mined all the same."""
        hidden = []

        def hide(request, answer):
            if request["method"] == "eth_getTransactionReceipt" and len(hidden) < 6:
                hidden.append(answer)
                return answer | {"result": None}
            return answer

        with forwarder(chain.rpc_url, change=hide) as url, Rpc([url], timeout=5) as rpc:
            assert payer.sender(rpc).send(
                calls.transfer(NATIVE_TOKEN, BOB, ETHER),
                operation="pay-1",
                purpose="send",
                quoted=payer.sender().quote(calls.transfer(NATIVE_TOKEN, BOB, ETHER), purpose="send"),
            )
        assert len(hidden) == 6
        assert payer.statuses("pay-1") == [MINED]


class TestTogether:
    def test_two_processes_never_share_a_nonce(self, chain, payer):
        """Two processes, ten payments each, at once: twenty are mined, without a gap."""
        processes = [start_sending(chain, payer, f"process-{n}", count=10) for n in range(2)]
        for process in processes:
            output, _ = process.communicate(timeout=60)
            assert process.returncode == 0, output
        assert (payer.nonce(), payer.received()) == (20, 20 * ETHER // 10)
        # One that was signed at a nonce which the other had just used up is replaced by another.
        mined = [payer.entries(f"process-{n}-{k}")[-1].transaction.nonce for n in range(2) for k in range(10)]
        assert sorted(mined) == list(range(20))

    @pytest.mark.parametrize("behind", [False, True])
    def test_a_crashed_process_does_not_block_the_next(self, payer, monkeypatch, behind):
        """What it signed and never sent is sent for it, or all later nonces would wait for ever: also where
        its clock was behind the start of the chain."""
        with monkeypatch.context() as earlier:
            if behind:
                earlier.setattr(payer.journal, "_clock", lambda: 1)
            journaled(payer, "crashed")
        receipt = payer.send("pay-1", 2 * ETHER)
        assert receipt.block_number
        assert (payer.nonce(), payer.received()) == (2, 3 * ETHER)
        assert payer.sender().resume("crashed") is not None

    def test_what_is_known_to_be_mined_is_not_merely_sent(self, chain, payer):
        """A process that sent it for a crashed one hears so after another has seen it mined."""
        crashed = hexed(journaled(payer, "crashed").raw)

        def finish(request, answer):
            if request["params"] == [crashed]:
                with in_background(payer, lambda journal: payer.sender(journal=journal).resume("crashed")):
                    pass
            return answer

        with forwarder(chain.rpc_url, change=finish) as url, Rpc([url], timeout=5) as rpc:
            payer.send("pay-1", rpc=rpc)
        assert payer.statuses("crashed") == [MINED]

    def test_what_another_process_sent_first_is_not_signed_again(self, chain, payer):
        """Mined by whoever found it in the journal, before its own process sent it: it is paid once."""

        def finish(request):
            if request["method"] == "eth_getTransactionCount":
                with in_background(payer, lambda journal: payer.sender(journal=journal).resume_all()):
                    pass

        with forwarder(chain.rpc_url, before=finish) as url, Rpc([url], timeout=5) as rpc:
            receipt = payer.send("pay-1", rpc=rpc)
        (entry,) = payer.entries("pay-1")
        assert (entry.status, entry.transaction.hash) == (MINED, receipt.hash)
        assert (payer.nonce(), payer.received()) == (1, ETHER)

    def test_what_another_process_may_have_sent_is_not_signed_again(self, chain, payer):
        """Nor while the node shows no receipt yet, and the other process does not know its end."""
        hidden = 3

        def hide(request, answer):
            nonlocal hidden
            if request["method"] == "eth_getTransactionReceipt" and hidden:
                hidden -= 1
                return {**answer, "result": None}
            return answer

        with forwarder(chain.rpc_url, change=hide) as slow, Rpc([slow], timeout=5) as other:

            def finish(request):
                if request["method"] == "eth_getTransactionCount" and payer.nonce() == 0:
                    with in_background(
                        payer,
                        lambda journal: payer.sender(other, journal).resume_all(wait_seconds=0),
                    ):
                        pass

            with forwarder(slow, before=finish) as url, Rpc([url], timeout=5) as rpc:
                receipt = payer.send("pay-1", rpc=rpc)
        (entry,) = payer.entries("pay-1")
        assert (entry.status, entry.transaction.hash) == (MINED, receipt.hash)
        assert (payer.nonce(), payer.received()) == (1, ETHER)

    def test_resuming_all_keeps_the_order_of_nonces(self, payer):
        """Several unfinished ones come in, lowest nonce first."""
        for operation in ("first", "second", "third"):
            journaled(payer, operation)
        resumed = payer.sender().resume_all()
        assert [item.operation for item in resumed] == ["first", "second", "third"]
        assert [item.status for item in resumed] == [MINED] * 3

    @pytest.mark.usefixtures("held")
    def test_resuming_all_does_not_wait_long(self, payer):
        """What is still pending is said, and the command goes on."""
        pending(payer, "pay-1")
        started = time.monotonic()
        (resumed,) = payer.sender().resume_all(wait_seconds=0.3)
        assert time.monotonic() - started < 2
        assert resumed.status is BROADCAST
        assert isinstance(resumed.error, OutcomeUnknown)


def test_a_transaction_is_for_one_chain(anvil, tmp_path):
    """On a chain with Base Sepolia's id it is mined there, and its bytes are worthless elsewhere."""
    with local_chain(anvil, chain_id=84532) as base, local_chain(anvil) as other:
        ledger = Ledger.open(tmp_path / "ledger.sqlite3")
        base.node.add_native(SENDER, ETHER)
        other.node.add_native(SENDER, ETHER)
        sender = TransactionSender(
            base.rpc,
            built_in_networks()["base-sepolia"],
            ledger.journal,
            SENDER,
            lambda: SECRET,
            max_fee_gwei=200,
            wait_seconds=10,
            reporter=Said(),
        )
        sender.send(calls.transfer(NATIVE_TOKEN, BOB, 5), operation="pay-1", purpose="send")
        (entry,) = ledger.journal.of_operation("pay-1")
        assert entry.transaction.chain_id == 84532
        with pytest.raises(NetworkError, match="chain id"):
            other.rpc.call("eth_sendRawTransaction", [hexed(entry.transaction.raw)])
        ledger.database.close()


def journaled(payer, operation, *, nonce=None):
    """Sign and journal a payment as `send` does, and stop before the broadcast."""

    def sign(nonce):
        intent = Intent(operation=operation, purpose="send", channel_id=None)
        return foreign(nonce=nonce, intent=intent, receiver=BOB, amount=ETHER, gwei=10)

    chain_nonce = payer.nonce() if nonce is None else nonce
    return payer.journal.reserve(31337, SENDER, chain_nonce=chain_nonce, sign=sign)


def foreign(*, nonce, intent=None, receiver=SENDER, amount=0, gwei=100):
    """A transaction of the same key that the journal does not know."""
    return sign_transaction(
        SECRET,
        SENDER,
        31337,
        intent or Intent(operation="foreign", purpose="send", channel_id=None),
        nonce=nonce,
        call=calls.transfer(NATIVE_TOKEN, receiver, amount),
        gas=21_000,
        fees=Fees(max_fee_per_gas=gwei * GWEI, max_priority_fee_per_gas=gwei * GWEI // 10),
    )


def hasty(payer, journal, *rpc):
    """A sender in another thread that soon offers more, within the budget."""
    spending = GasSpending(journal._database, lambda: int(time.time()))
    return payer.sender(*rpc, journal=journal, stuck_seconds=0.2, gas_budget=spending)


def set_aside(ledger, operation):
    """Wei that count for an operation by now."""
    with ledger.database.read() as connection:
        rows = connection.execute("SELECT wei FROM gas_spending WHERE operation = ?", (operation,))
        return sum(int(row[0]) for row in rows)


def start_sending(chain, payer, operation, *, count=None):
    """Another process that sends one payment, or `count` of a tenth each, from the same ledger."""
    program = f"""
        from pathlib import Path
        from microwallet.domain.identifiers import NATIVE_TOKEN
        from microwallet.escrow import calls
        from microwallet.escrow.network import built_in_networks
        from microwallet.escrow.rpc import Rpc
        from microwallet.escrow.transactions import TransactionSender
        from microwallet.ledger.ledger import Ledger

        class Quiet:
            def say(self, message): pass

        ledger = Ledger.open(Path({str(payer.ledger_path)!r}))
        sender = TransactionSender(
            Rpc([{chain.rpc_url!r}], timeout=10, chain_id=31337), built_in_networks()["anvil"],
            ledger.journal, {SENDER!r}, lambda: {SECRET!r},
            max_fee_gwei=200, wait_seconds=40, reporter=Quiet())
        count = {count!r}
        names = [{operation!r}] if count is None else [{operation!r} + f"-{{n}}" for n in range(count)]
        for name in names:
            call = calls.transfer(NATIVE_TOKEN, {BOB!r}, {ETHER} if count is None else {ETHER // 10})
            sender.send(call, operation=name, purpose="send")
    """
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def refuse(request, answer):
    """Change the answer of a node that took a transaction to one that did not."""
    if request["method"] != "eth_sendRawTransaction":
        return answer
    refusal = {"code": -32000, "message": "insufficient funds for gas * price + value"}
    return {"jsonrpc": "2.0", "id": answer["id"], "error": refusal}


@contextmanager
def refusing(chain):
    """An Rpc whose node takes what it is sent, and says that it does not."""
    with forwarder(chain.rpc_url, change=refuse) as url, Rpc([url], timeout=5) as rpc:
        yield rpc


@contextmanager
def forwarder(target, *, before=lambda _: None, lose=lambda _: False, change=lambda _, answer: answer):
    """A server between wallet and chain: it may look, lose an answer, or change it."""

    def each(request, answer):
        if isinstance(request, list):
            by_id = {item["id"]: item for item in answer}
            return [change(item, by_id[item["id"]]) for item in request]
        return change(request, answer)

    class Forwarder(Handler):
        protocol_version = "HTTP/1.1"

        def respond(self):
            body = self.read_body()
            request = json.loads(body)
            if isinstance(request, dict):
                before(request)
            passed_on = urllib.request.Request(target, body, {"Content-Type": "application/json"})
            with urllib.request.urlopen(passed_on) as answer:
                content = json.dumps(each(request, json.loads(answer.read()))).encode()
            if lose(request):
                self.answer(502, {})
            else:
                self.answer(200, {}, content)

    with LocalServer(Forwarder) as server:
        yield server.url
