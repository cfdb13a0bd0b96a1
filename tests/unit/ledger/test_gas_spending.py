"""The gas budget of the last hour, shared by the processes of a home."""

from __future__ import annotations

import threading

import pytest

from microwallet.domain.identifiers import ChainId
from microwallet.ledger.gas_spending import BUDGET_SECONDS
from microwallet.ledger.ledger import Ledger

CHAIN, OTHER = ChainId(31337), ChainId(84532)
NOW = 1_800_000_000


@pytest.fixture
def path(tmp_path):
    """A ledger's file."""
    return tmp_path / "ledger.sqlite3"


@pytest.fixture
def spending(path):
    """The spending of an empty ledger."""
    with Ledger.open(path) as opened:
        yield opened.gas_spending


def test_a_budget_is_spent_to_the_last_wei(spending):
    """What fits exactly is set aside, one wei more is not, and a refusal sets nothing aside."""
    assert spending.set_aside(CHAIN, 60, budget=100, now=NOW)
    assert spending.set_aside(CHAIN, 41, budget=100, now=NOW) is None
    assert spending.set_aside(CHAIN, 40, budget=100, now=NOW)
    assert spending.set_aside(CHAIN, 1, budget=100, now=NOW) is None


def test_an_hour_later_it_is_there_again(spending):
    """What was set aside counts for an hour, to the second."""
    assert spending.set_aside(CHAIN, 100, budget=100, now=NOW)
    assert spending.set_aside(CHAIN, 1, budget=100, now=NOW + BUDGET_SECONDS - 1) is None
    assert spending.set_aside(CHAIN, 100, budget=100, now=NOW + BUDGET_SECONDS)


def test_what_it_cost_counts_in_the_end(spending):
    """A transaction that cost less than was set aside leaves the rest to others."""
    first = spending.set_aside(CHAIN, 100, budget=100, now=NOW)
    spending.record(first, 30)
    assert spending.set_aside(CHAIN, 71, budget=100, now=NOW) is None
    assert spending.set_aside(CHAIN, 70, budget=100, now=NOW)


def test_each_chain_has_its_own(spending):
    """A coin of another chain is another coin."""
    assert spending.set_aside(CHAIN, 100, budget=100, now=NOW)
    assert spending.set_aside(OTHER, 100, budget=100, now=NOW)


def test_a_clock_that_was_set_back_frees_nothing(spending):
    """What was set aside in what is now the future still counts."""
    assert spending.set_aside(CHAIN, 100, budget=100, now=NOW)
    assert spending.set_aside(CHAIN, 1, budget=100, now=NOW - BUDGET_SECONDS) is None


def test_workers_do_not_overdraw_it(path):
    """Many connections at once set aside no more than the budget in all."""
    Ledger.open(path).close()
    found = []

    def work() -> None:
        with Ledger.open(path) as own:
            found.extend(own.gas_spending.set_aside(CHAIN, 7, budget=100, now=NOW) for _ in range(5))

    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(found) == 20
    assert sum(one is not None for one in found) == 14
