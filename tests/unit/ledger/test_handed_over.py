"""Counting payments that are handed over, against a set of all base units that were counted."""

from __future__ import annotations

import sqlite3
from itertools import chain

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from model import keyed

from microwallet.domain.handed_over import HandedOver
from microwallet.ledger.handed_over import CountedRows
from microwallet.ledger.schema import VERSIONS

CHANNEL_ID = keyed(1).channel_id

VOUCHERS = st.lists(
    st.tuples(st.integers(0, 60), st.integers(0, 70), st.integers(0, 9), st.integers(0, 5), st.booleans()),
    max_size=30,
)
"""Cumulative amount and start of each, what is sold before it, how far a sale's voucher rises then, and
whether a transaction ends after it."""


class Book(HandedOver):
    """An empty one, over rows of its own, which end with it."""

    def __init__(self, *, authorized=0, spent=0):
        self.rows = sqlite3.connect(":memory:", isolation_level=None)
        for statement in chain.from_iterable(VERSIONS.values()):
            self.rows.execute(statement)
        super().__init__(authorized=authorized, spent=spent, counted=CountedRows(self.rows, CHANNEL_ID))

    def __del__(self):
        self.rows.close()

    @property
    def ranges(self):
        """What was counted, in order."""
        self.counted.store()
        return [
            (int(above), int(up_to))
            for above, up_to in self.rows.execute("SELECT above, up_to FROM handed_over ORDER BY above")
        ]


def units(ranges):
    """All base units in ranges."""
    return {unit for start, end in ranges for unit in range(start, end)}


@given(VOUCHERS)
@example([(10, 0, 0, 0, True), (30, 0, 0, 10, True), (28, 25, 0, 0, True)])
@example([(10, 0, 0, 0, True), (30, 0, 0, 10, True), (15, 12, 0, 0, False), (40, 0, 0, 0, False)])
def test_each_base_unit_counts_once(vouchers):
    """Whatever comes in whatever order, beside sales: never one twice, never beyond what is authorized."""
    book = Book()
    counted: set[int] = set()
    sold = 0
    for cumulative_amount, start, sale, rise, is_stored in vouchers:
        book.authorized += rise
        cost = min(sale, book.authorized - book.spent)
        book.spent, sold = book.spent + cost, sold + cost
        before = book.authorized
        first = before if cumulative_amount > before else start
        missing = sorted(set(range(first, cumulative_amount)) - counted)
        added = book.count(cumulative_amount, start)
        room = max(before, cumulative_amount) - sold - len(counted)
        assert added == min(len(missing), room)
        counted.update(missing[:added])
        assert book.authorized == max(before, cumulative_amount)
        assert book.spent == sold + len(counted) <= book.authorized
        if is_stored:
            assert units(book.ranges) == counted
    assert units(book.ranges) == counted
    assert all(first[1] < second[0] for first, second in zip(book.ranges, book.ranges[1:], strict=False))


@pytest.mark.parametrize(
    ("vouchers", "spent"),
    [
        ([(600, 0)], 601),
        ([(600, 0), (600, 0)], 601),
        ([(200, 0), (600, 200)], 601),
        ([(200, 0), (600, 0)], 601),
        ([(600, 500), (300, 200)], 201),
        ([(601, 0)], 601),
        ([(700, 650), (600, 0)], 700),
        ([(600, 600), (600, 700)], 1),
    ],
    ids=["late", "twice", "in-parts", "last-of-it", "some", "no-more-than-authorized", "then", "nothing"],
)
def test_a_payment_that_comes_after_a_request(vouchers, spent):
    """A request was paid by a voucher over 601 and cost 1; what was paid by hand before it comes then."""
    book = Book(authorized=601, spent=1)
    for cumulative_amount, start in vouchers:
        book.count(cumulative_amount, start)
    assert book.spent == spent


def test_what_there_was_no_room_for_counts_later():
    """A stream has used what a voucher by hand had authorized: the next voucher makes room for it."""
    book = Book(authorized=600, spent=500)
    assert book.count(600, 0) == 100
    assert book.count(600, 0) == 0
    book.authorized = 1100
    assert book.count(600, 0) == 500
    assert (book.spent, book.ranges) == (1100, [(0, 600)])


def test_what_was_counted_in_many_parts():
    """A payer who pays by hand and over HTTP in turn makes nothing slow: each voucher takes what it took."""
    book = Book()
    steps = 0

    def step():
        nonlocal steps
        steps += 1

    def taken(vouchers):
        nonlocal steps
        steps = 0
        counted = sum(book.count(*voucher) for voucher in vouchers)
        book.counted.store()
        return counted, steps

    book.rows.set_progress_handler(step, 1)
    costs = []
    for number in range(1000):
        book.authorized, book.spent = book.authorized + 1, book.spent + 1
        costs.append(taken([(2 * number + 2, 2 * number + 1)])[1])
    assert len(book.ranges) == 1000
    assert costs[-1] < 2 * costs[10]
    assert taken([(2000, 0)] * 1000) == (0, 0)
    book.authorized += 1
    assert taken([(2000, 0)] * 1000) == (1, pytest.approx(costs[-1], rel=2))
    book.authorized += 999
    assert taken([(2000, 0)] * 1000) == (999, pytest.approx(999 * costs[-1], rel=2))
    assert book.ranges == [(0, 2000)]
