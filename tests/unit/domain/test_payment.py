"""What a payment adds, and how much of that is beyond a voucher."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from microwallet.domain.identifiers import ChannelId
from microwallet.domain.payment import Payment


def payment(start, step, count):
    """A payment on some channel."""
    return Payment(
        idempotency_key="key",
        channel_id=ChannelId("0x" + "22" * 32),
        start=start,
        step=step,
        count=count,
        deposit=10**6,
        memo=None,
        created_at=0,
    )


@pytest.mark.parametrize(
    ("cumulative", "beyond"), [(0, 6), (9, 6), (10, 6), (11, 5), (15, 1), (16, 0), (17, 0)]
)
def test_beyond_a_cumulative_amount(cumulative, beyond):
    """All of a payment is beyond what it began at, nothing of it beyond its end."""
    assert payment(10, 2, 3).beyond(cumulative) == beyond


@given(st.lists(st.tuples(st.integers(1, 50), st.integers(1, 5), st.integers(0, 9))), st.integers(0, 2000))
def test_payments_side_by_side_cover_each_unit_once(parts, cumulative):
    """Of payments one after another, with gaps between, all that lies beyond an amount is told, once."""
    start, units, payments = 0, set(), []
    for step, count, gap in parts:
        start += gap
        payments.append(payment(start, step, count))
        units.update(range(start, payments[-1].end))
        start = payments[-1].end
    assert sum(one.beyond(cumulative) for one in payments) == sum(unit >= cumulative for unit in units)
