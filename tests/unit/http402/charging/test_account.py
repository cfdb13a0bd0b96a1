"""Accepting and charging: every boundary, and the invariant under any order of requests."""

from __future__ import annotations

from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from microwallet.domain.identifiers import ChannelId
from microwallet.domain.session import SessionAccount
from microwallet.http402.charging.account import accept, charge, give_back
from microwallet.http402.charging.refusal import Refused
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
    assert accept(ACCOUNT, amount, min_voucher_delta=50) == ACCOUNT


def test_the_smallest_step():
    """One below it is refused, it itself is not; by default any step will do."""
    assert refusal(lambda: accept(ACCOUNT, 149, min_voucher_delta=50)) is ProblemType.DELTA_TOO_SMALL
    assert accept(ACCOUNT, 150, min_voucher_delta=50).accepted == 150
    assert accept(ACCOUNT, 101, min_voucher_delta=0).accepted == 101


def test_the_deposit_is_the_end():
    """All of it may be authorized, and no base unit more."""
    assert accept(ACCOUNT, 1000, min_voucher_delta=0).available == 960
    assert refusal(lambda: accept(ACCOUNT, 1001, min_voucher_delta=0)) is ProblemType.AMOUNT_EXCEEDS_DEPOSIT


def test_a_channel_that_takes_no_more():
    """Finalized, or about to be: not even a voucher it has already. The payee's own close is soon over."""
    closing = ACCOUNT._replace(is_closing=True)
    requested = ACCOUNT._replace(is_close_requested=True, is_closing=True)
    finalized = ACCOUNT._replace(is_finalized=True, is_closing=True)
    assert [one.goes_on for one in (ACCOUNT, closing, requested, finalized)] == [True, False, False, False]
    for account, problem in (
        (closing, ProblemType.TRY_AGAIN),
        (requested, ProblemType.VERIFICATION_FAILED),
        (finalized, ProblemType.CHANNEL_FINALIZED),
    ):
        for amount in (100, 200):
            assert refusal(partial(accept, account, amount, min_voucher_delta=0)) is problem


def test_what_is_available_can_be_charged():
    """To the last base unit; beyond it the problem says which amount would do."""
    assert charge(ACCOUNT, 60).available == 0
    assert charge(ACCOUNT, 0) == ACCOUNT
    with pytest.raises(Refused) as raised:
        charge(ACCOUNT, 61)
    assert raised.value.problem.type is ProblemType.INSUFFICIENT_BALANCE
    assert raised.value.problem.extensions["requiredCumulative"] == "101"


@pytest.mark.parametrize(("deposit", "available"), [(1000, 60), (70, 30), (40, 0), (10, 0)])
def test_what_a_reorganisation_took_of_the_deposit_buys_nothing(deposit, available):
    """Only what is authorized and deposited and not spent can be charged, and that is never below nothing."""
    shrunk = ACCOUNT._replace(deposit=deposit)
    assert shrunk.available == available
    assert charge(shrunk, available).spent == ACCOUNT.spent + available
    assert refusal(lambda: charge(shrunk, available + 1)) is ProblemType.INSUFFICIENT_BALANCE


@pytest.mark.parametrize("ending", ["is_closing", "is_close_requested", "is_finalized"])
def test_each_end_of_a_channel_ends_its_streams(ending):
    """What is charged then may come too late to be captured, whoever ends the channel."""
    assert ACCOUNT.goes_on
    assert not ACCOUNT._replace(**{ending: True}).goes_on


def test_no_more_is_given_back_than_was_spent():
    """Neither more nor a negative amount."""
    assert give_back(charge(ACCOUNT, 10), 10) == ACCOUNT
    for amount in (41, -1):
        with pytest.raises(ValueError, match="cannot be given back"):
            give_back(ACCOUNT, amount)


@given(st.lists(st.tuples(st.sampled_from(["accept", "charge", "give back"]), st.integers(0, 1200))))
def test_the_invariant_holds_in_any_order(steps):
    """0 <= spent <= accepted <= deposit, accepted never falls, and a refusal changes nothing."""
    account = ACCOUNT
    for step, amount in steps:
        before = account
        try:
            if step == "accept":
                account = accept(account, amount, min_voucher_delta=10)
            elif step == "charge":
                account = charge(account, amount)
            else:
                account = give_back(account, min(amount, account.spent))
        except Refused:
            assert account is before
        assert 0 <= account.spent <= account.accepted <= account.deposit
        assert account.accepted >= before.accepted
