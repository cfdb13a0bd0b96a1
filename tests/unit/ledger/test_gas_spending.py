"""The gas budget of the last hour, shared by the processes of a home."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import pytest

from microwallet.domain.identifiers import NATIVE_TOKEN, ChainId, checksum_address
from microwallet.domain.ports import TransactionStatus
from microwallet.escrow import calls
from microwallet.escrow.fees import Fees
from microwallet.escrow.signing import Intent, sign_transaction
from microwallet.ledger.gas_spending import BUDGET_SECONDS, GasSpending
from microwallet.ledger.ledger import Ledger

CHAIN, OTHER = ChainId(31337), ChainId(84532)
NOW = 1_800_000_000


@pytest.fixture
def clock():
    """A clock that a test sets."""
    return SimpleNamespace(now=NOW)


@pytest.fixture
def spending(ledger, clock):
    """The spending of an empty ledger."""
    return GasSpending(ledger.database, lambda: clock.now)


def test_a_budget_is_spent_to_the_last_wei(spending):
    """What fits exactly is set aside, one wei more is not, and a refusal sets nothing aside."""
    assert spending.set_aside(CHAIN, "one", 60, budget=100)
    assert not spending.set_aside(CHAIN, "two", 41, budget=100)
    assert spending.set_aside(CHAIN, "two", 40, budget=100)
    assert not spending.set_aside(CHAIN, "three", 1, budget=100)


def test_an_hour_later_it_is_there_again(spending, clock):
    """What was set aside counts for an hour, to the second."""
    assert spending.set_aside(CHAIN, "one", 100, budget=100)
    clock.now = NOW + BUDGET_SECONDS - 1
    assert not spending.set_aside(CHAIN, "two", 1, budget=100)
    clock.now = NOW + BUDGET_SECONDS
    assert spending.set_aside(CHAIN, "two", 100, budget=100)


def test_a_clock_that_is_set_back_keeps_it_away_for_an_hour_at_most(spending, clock):
    """What was set aside by one that went a day ahead counts from the first look of the one that is right."""
    clock.now = NOW + 24 * 3600
    assert spending.set_aside(CHAIN, "one", 100, budget=100)
    clock.now = NOW
    assert not spending.set_aside(CHAIN, "two", 1, budget=100)
    clock.now = NOW + BUDGET_SECONDS - 1
    assert not spending.set_aside(CHAIN, "two", 1, budget=100)
    clock.now = NOW + BUDGET_SECONDS
    assert spending.set_aside(CHAIN, "two", 100, budget=100)


def test_what_can_still_be_mined_counts_longer(ledger, spending, clock):
    """However old it is; and what it costs in the end for an hour from then, and no longer."""
    secret, sender = b"\x61" * 32, checksum_address(b"\x62" * 20)

    def sign(nonce):
        return sign_transaction(
            secret,
            sender,
            CHAIN,
            Intent(operation="one", purpose="open", channel_id=None),
            nonce=nonce,
            call=calls.transfer(NATIVE_TOKEN, sender, 1),
            gas=21_000,
            fees=Fees(max_fee_per_gas=2, max_priority_fee_per_gas=1),
        )

    assert spending.set_aside(CHAIN, "one", 60, budget=100)
    transaction = ledger.journal.reserve(CHAIN, sender, chain_nonce=0, sign=sign)
    clock.now = NOW + 3 * BUDGET_SECONDS
    assert not spending.set_aside(CHAIN, "two", 41, budget=100)
    ledger.journal.record(transaction.hash, TransactionStatus.MINED, block_number=7, gas_used=21_000)
    for clock.now in (NOW + 3 * BUDGET_SECONDS, NOW + 4 * BUDGET_SECONDS - 1):
        spending.record("one", 50)  # each time it is looked up
        assert not spending.set_aside(CHAIN, "two", 51, budget=100)
    clock.now = NOW + 4 * BUDGET_SECONDS
    assert spending.set_aside(CHAIN, "two", 100, budget=100)


def test_what_it_cost_counts_in_the_end(spending):
    """A transaction that cost less than was set aside leaves the rest to others."""
    assert spending.set_aside(CHAIN, "one", 100, budget=100)
    spending.record("one", 30)
    assert not spending.set_aside(CHAIN, "two", 71, budget=100)
    assert spending.set_aside(CHAIN, "two", 70, budget=100)


def test_a_raise_needs_room(spending):
    """The highest offer of an operation counts, and one above the budget is not made."""
    assert spending.set_aside(CHAIN, "one", 60, budget=100)
    assert spending.set_aside(CHAIN, "two", 20, budget=100)
    assert not spending.set_more_aside("one", 81, is_needed=False)
    assert spending.set_more_aside("one", 80, is_needed=False)
    assert not spending.set_aside(CHAIN, "three", 1, budget=100)
    assert spending.set_more_aside("one", 70, is_needed=False)
    assert not spending.set_aside(CHAIN, "three", 1, budget=100)


def test_what_must_be_sent_is_counted(spending):
    """A cancellation is allowed whatever there is room for, and leaves less to others."""
    assert spending.set_aside(CHAIN, "one", 60, budget=100)
    assert spending.set_more_aside("one", 150, is_needed=True)
    assert not spending.set_more_aside("one", 151, is_needed=False)
    assert not spending.set_aside(CHAIN, "two", 1, budget=150)
    assert spending.set_more_aside("one", 20, is_needed=True)
    assert not spending.set_aside(CHAIN, "two", 1, budget=150)
    assert spending.set_more_aside("a payment of the payee's own", 10**30, is_needed=True)
    assert spending.set_aside(CHAIN, "two", 50, budget=200)


def test_the_newest_transaction_of_an_operation_is_meant(spending):
    """One that failed has cost what it has; a budget has no say in what was never set aside for."""
    assert spending.set_aside(CHAIN, "one", 50, budget=100)
    spending.record("one", 10)
    assert spending.set_aside(CHAIN, "one", 50, budget=100)
    spending.record("one", 20)
    assert not spending.set_aside(CHAIN, "two", 71, budget=100)
    assert spending.set_more_aside("a payment of the payee's own", 10**30, is_needed=False)
    assert spending.set_aside(CHAIN, "two", 70, budget=100)


def test_what_is_set_aside_for_others_stays(spending):
    """A raise and a cost are of their own operation, and of its newest transaction."""
    assert spending.set_aside(CHAIN, "one", 10, budget=100)
    spending.record("one", 5)
    assert spending.set_aside(CHAIN, "one", 20, budget=100)
    assert spending.set_aside(CHAIN, "two", 30, budget=100)
    assert spending.set_more_aside("one", 25, is_needed=False)
    assert not spending.set_aside(CHAIN, "three", 41, budget=100)
    spending.record("one", 15)
    assert not spending.set_aside(CHAIN, "three", 51, budget=100)
    assert spending.set_aside(CHAIN, "three", 50, budget=100)


def test_each_chain_has_its_own(spending):
    """A coin of another chain is another coin."""
    assert spending.set_aside(CHAIN, "one", 100, budget=100)
    assert spending.set_aside(OTHER, "two", 100, budget=100)


def test_a_clock_that_was_set_back_frees_nothing(spending, clock):
    """What was set aside in what is now the future still counts."""
    assert spending.set_aside(CHAIN, "one", 100, budget=100)
    clock.now = NOW - BUDGET_SECONDS
    assert not spending.set_aside(CHAIN, "two", 1, budget=100)


def test_workers_do_not_overdraw_it(ledger):
    """Many connections at once set aside no more than the budget in all."""
    found = []

    def work() -> None:
        with Ledger.open(ledger.database.path) as own:
            found.extend(own.gas_spending.set_aside(CHAIN, str(n), 7, budget=100) for n in range(5))

    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(found) == 20
    assert sum(found) == 14
