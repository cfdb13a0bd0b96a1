"""Payments in the ledger: one row a batch, committed with the amount it raises, or not at all."""

from __future__ import annotations

import sqlite3

import pytest
from model import keyed

from microwallet.domain.payment import next_payment
from microwallet.errors import AmountExceedsDeposit, IdempotencyMismatch, LedgerError, UnknownReference
from microwallet.ledger.payments import check_same

ONE = keyed(1)


@pytest.fixture
def ledger(ledger):
    """A ledger with a channel of 1000 base units."""
    ledger.channels.add(ONE.payer_channel(deposit=1000), now=0)
    return ledger


def record(ledger, key, step, count=1, channel=ONE):
    """Record a payment."""
    return ledger.payments.record(
        channel.channel_id,
        key,
        lambda found: next_payment(found, idempotency_key=key, step=step, count=count, memo=None, now=0),
    )


def test_payments_follow_each_other_without_gap(ledger):
    """Each starts where the one before ended; the channel knows the sum."""
    assert record(ledger, "a", 10, 3).end == 30
    second = record(ledger, "b", 5)
    assert (second.start, second.end) == (30, 35)
    assert list(second.cumulative_amounts) == [35]
    assert ledger.channels.get(ONE.channel_id).authorized == 35


def test_a_payment_is_of_its_own_channel_alone(ledger):
    """It raises what is authorized and spent there, beside what requests have spent, and nowhere else."""
    other = keyed(2)
    ledger.channels.add(other.payer_channel(deposit=1000, authorized=7), now=0)
    ledger.channels.import_voucher(ONE.channel_id, 3)
    mine = [record(ledger, "b", 10, 3), record(ledger, "a", 5)]
    theirs = record(ledger, "c", 100, channel=other)
    found = [ledger.channels.get(one.channel_id) for one in (ONE, other)]
    assert [(one.authorized, one.spent) for one in found] == [(38, 38), (107, 107)]
    for channel, payments, total in ((ONE, mine, 35), (other, [theirs], 100)):
        assert ledger.payments.of_channel(channel.channel_id) == payments
        assert ledger.payments.total(channel.channel_id) == total


def test_a_key_that_was_used_gives_the_first_payment(ledger):
    """Whatever is asked for under it now; the caller compares."""
    first = record(ledger, "a", 10, 3)
    assert record(ledger, "a", 999) == first
    assert ledger.channels.get(ONE.channel_id).authorized == 30


def test_what_does_not_fit_leaves_nothing(ledger):
    """The plan is made inside the transaction, so a refusal rolls it back whole."""
    with pytest.raises(AmountExceedsDeposit):
        record(ledger, "a", 334, 3)
    assert ledger.payments.find("a") is None
    assert record(ledger, "a", 1000).end == 1000


def test_an_unknown_channel(ledger):
    """No row, no payment."""
    with pytest.raises(UnknownReference):
        record(ledger, "a", 1, channel=keyed(2))


@pytest.mark.parametrize(
    "other", [{"channel_id": keyed(2).channel_id}, {"step": 9}, {"count": 2}, {"memo": ""}]
)
def test_arguments_of_a_used_key_are_compared_one_by_one(ledger, other):
    """Channel, amount, count and memo; an empty memo is not none."""
    recorded = record(ledger, "a", 10)
    same = {"channel_id": ONE.channel_id, "step": 10, "count": 1, "memo": None}
    check_same(recorded, **same)
    with pytest.raises(IdempotencyMismatch):
        check_same(recorded, **{**same, **other})


@pytest.mark.parametrize("amount", ["1", "-" + "1" * 38, "1e3".rjust(39, "0"), 5, "0" * 38 + "\u0661"])
def test_the_table_refuses_what_is_no_amount(ledger, amount):
    """39 digits or nothing: a mistake in the program cannot store a wrong sum."""
    with (
        pytest.raises(LedgerError) as refused,
        ledger.database.write() as connection,
    ):
        connection.execute("UPDATE channels SET authorized = ?", (amount,))
    assert isinstance(refused.value.__cause__, sqlite3.IntegrityError)
    assert ledger.channels.get(ONE.channel_id).authorized == 0
