"""Fees: room for the base fee to rise, and never above the user's cap."""

from __future__ import annotations

import pytest

from microwallet.errors import PaymentRefused
from microwallet.escrow.fees import GWEI, Fees, bump, cap_in_wei, suggest


def test_the_base_fee_may_double():
    """Twice the base fee and the tip are offered; what is paid is the block's price."""
    fees = suggest(base_fee=10 * GWEI, priority_fee=2 * GWEI, cap=200 * GWEI)
    assert fees == Fees(max_fee_per_gas=22 * GWEI, max_priority_fee_per_gas=2 * GWEI)
    assert fees.cost(21_000) == 21_000 * 22 * GWEI


@pytest.mark.parametrize(("cap", "offered"), [(23, 22), (22, 22), (21, 21), (12, 12)])
def test_the_cap_holds_to_the_last_wei(cap, offered):
    """Below it, it shortens the offer; at the next block's price it still works."""
    fees = suggest(base_fee=10 * GWEI, priority_fee=2 * GWEI, cap=cap * GWEI)
    assert fees.max_fee_per_gas == offered * GWEI


def test_gas_dearer_than_the_cap_is_refused_and_names_the_setting():
    """Nothing is signed, and the hint is the command that raises the cap far enough."""
    with pytest.raises(PaymentRefused, match="max-fee-gwei") as caught:
        suggest(base_fee=10 * GWEI, priority_fee=2 * GWEI, cap=12 * GWEI - 1)
    assert caught.value.hint.endswith("config set max-fee-gwei 13")


def test_a_bump_offers_an_eighth_more_of_both():
    """Nodes replace a pending transaction only for at least a tenth more of each fee."""
    old = Fees(max_fee_per_gas=10 * GWEI, max_priority_fee_per_gas=1)
    suggested = Fees(max_fee_per_gas=9 * GWEI, max_priority_fee_per_gas=1)
    new = bump(old, suggested, cap=100 * GWEI)
    assert new.max_fee_per_gas * 1000 >= old.max_fee_per_gas * 1125
    assert new.max_priority_fee_per_gas >= 2
    assert new.max_priority_fee_per_gas <= new.max_fee_per_gas


def test_a_bump_follows_a_market_that_rose_further():
    """Where the chain asks for more than an eighth, that is offered."""
    old = Fees(max_fee_per_gas=GWEI, max_priority_fee_per_gas=1)
    suggested = Fees(max_fee_per_gas=50 * GWEI, max_priority_fee_per_gas=7)
    assert bump(old, suggested, cap=100 * GWEI) == suggested


def test_a_bump_stops_at_the_cap():
    """A stuck transaction does not raise the price without bound."""
    old = Fees(max_fee_per_gas=100 * GWEI, max_priority_fee_per_gas=GWEI)
    with pytest.raises(PaymentRefused, match="max-fee-gwei"):
        bump(old, old, cap=112 * GWEI)


@pytest.mark.parametrize(("gwei", "wei"), [(200, 200 * GWEI), (0.1, GWEI // 10), (1.5, 3 * GWEI // 2)])
def test_the_setting_is_read_exactly(gwei, wei):
    """A fraction of a gwei is a whole number of wei."""
    assert cap_in_wei(gwei) == wei
