"""Accepting and charging: every boundary, and the invariant under any order of requests."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from microwallet.domain.identifiers import ChannelId
from microwallet.http402.charging.account import Refused, SessionAccount
from microwallet.http402.wire.problems import ProblemType

ACCOUNT = SessionAccount(channel_id=ChannelId("0x" + "22" * 32), deposit=1000, accepted=100, spent=40)


def refusal(attempt) -> ProblemType:
    with pytest.raises(Refused) as raised:
        attempt()
    assert raised.value.problem.extensions["channelId"] == ACCOUNT.channel_id
    return raised.value.problem.type


@pytest.mark.parametrize("amount", [0, 99, 100])
def test_a_voucher_that_is_not_higher_changes_nothing(amount):
    """Whatever the smallest step: a replay is answered like the first time."""
    assert ACCOUNT.accept(amount, min_voucher_delta=50) == ACCOUNT


def test_the_smallest_step():
    """One below it is refused, it itself is not; by default any step will do."""
    assert refusal(lambda: ACCOUNT.accept(149, min_voucher_delta=50)) is ProblemType.DELTA_TOO_SMALL
    assert ACCOUNT.accept(150, min_voucher_delta=50).accepted == 150
    assert ACCOUNT.accept(101, min_voucher_delta=0).accepted == 101


def test_the_deposit_is_the_end():
    """All of it may be authorized, and no base unit more."""
    assert ACCOUNT.accept(1000, min_voucher_delta=0).available == 960
    assert refusal(lambda: ACCOUNT.accept(1001, min_voucher_delta=0)) is ProblemType.AMOUNT_EXCEEDS_DEPOSIT


def test_a_channel_that_takes_no_more():
    """Closing or finalized: not even a voucher it has already."""
    closing = dataclasses.replace(ACCOUNT, is_closing=True)
    finalized = dataclasses.replace(ACCOUNT, is_finalized=True, is_closing=True)
    for amount in (100, 200):
        assert refusal(lambda: closing.accept(amount, min_voucher_delta=0)) is ProblemType.VERIFICATION_FAILED  # noqa: B023
        assert refusal(lambda: finalized.accept(amount, min_voucher_delta=0)) is ProblemType.CHANNEL_FINALIZED  # noqa: B023


def test_what_is_available_can_be_charged():
    """To the last base unit; beyond it the problem says which amount would do."""
    assert ACCOUNT.charge(60).available == 0
    assert ACCOUNT.charge(0) == ACCOUNT
    with pytest.raises(Refused) as raised:
        ACCOUNT.charge(61)
    assert raised.value.problem.type is ProblemType.INSUFFICIENT_BALANCE
    assert raised.value.problem.extensions["requiredCumulative"] == "101"


def test_no_more_is_given_back_than_was_spent():
    """Neither more nor a negative amount."""
    assert ACCOUNT.charge(10).give_back(10) == ACCOUNT
    for amount in (41, -1):
        with pytest.raises(ValueError, match="cannot be given back"):
            ACCOUNT.give_back(amount)


@given(st.lists(st.tuples(st.sampled_from(["accept", "charge", "give back"]), st.integers(0, 1200))))
def test_the_invariant_holds_in_any_order(steps):
    """0 <= spent <= accepted <= deposit, accepted never falls, and a refusal changes nothing."""
    account = ACCOUNT
    for step, amount in steps:
        before = account
        try:
            if step == "accept":
                account = account.accept(amount, min_voucher_delta=10)
            elif step == "charge":
                account = account.charge(amount)
            else:
                account = account.give_back(min(amount, account.spent))
        except Refused:
            assert account is before
        assert 0 <= account.spent <= account.accepted <= account.deposit
        assert account.accepted >= before.accepted
