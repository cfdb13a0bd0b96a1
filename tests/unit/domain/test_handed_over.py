"""Counting payments that are handed over, against a set of all base units that were counted."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from microwallet.domain.handed_over import HandedOver

VOUCHERS = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 70), st.integers(0, 9)), max_size=30)


def units(ranges):
    """All base units in ranges."""
    return {unit for start, end in ranges for unit in range(start, end)}


@given(VOUCHERS)
def test_each_base_unit_counts_once(vouchers):
    """Whatever comes in whatever order, beside sales: never one twice, never beyond what is authorized."""
    book = HandedOver(authorized=0, spent=0, ranges=[])
    counted: set[int] = set()
    sold = 0
    for cumulative_amount, start, sale in vouchers:
        cost = min(sale, book.authorized - book.spent)
        book.spent, sold = book.spent + cost, sold + cost
        before = book.authorized
        first = before if cumulative_amount > before else start
        missing = set(range(first, cumulative_amount)) - counted
        added = book.count(cumulative_amount, start)
        room = max(before, cumulative_amount) - sold - len(counted)
        assert added == min(len(missing), room)
        assert len(units(book.ranges)) == len(counted) + added
        counted = units(book.ranges)
        assert book.authorized == max(before, cumulative_amount)
        assert book.spent == sold + len(counted) <= book.authorized
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
    book = HandedOver(authorized=601, spent=1, ranges=[])
    for cumulative_amount, start in vouchers:
        book.count(cumulative_amount, start)
    assert book.spent == spent


def test_what_there_was_no_room_for_counts_later():
    """A stream has used what a voucher by hand had authorized: the next voucher makes room for it."""
    book = HandedOver(authorized=600, spent=500, ranges=[])
    assert book.count(600, 0) == 100
    assert book.count(600, 0) == 0
    book.authorized = 1100
    assert book.count(600, 0) == 500
    assert (book.spent, book.ranges) == (1100, [(0, 600)])
