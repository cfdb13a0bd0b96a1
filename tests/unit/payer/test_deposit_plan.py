"""Plans of deposits: the way and the gas, and whether a request to close ends by it."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
from model import PAYEE, USDC, keyed

from microwallet.domain.deposit import DepositKind, Way
from microwallet.domain.money import Amount
from microwallet.payer.deposit_plan import plan_deposit

ONE = keyed(1).payer_channel(deposit=100)
REQUESTED = replace(ONE, state=replace(ONE.state, close_requested_at=1))


@pytest.fixture
def plan(ledger, monkeypatch):
    """Plan a deposit into a channel, or a new one, by a token that can do what is wanted, or permits."""

    def make(channel=None, *, way=None, is_gasless=False):
        here = "microwallet.payer.deposit_plan"
        monkeypatch.setattr(f"{here}.choose_way", lambda _account, _asset, _amount, way: way or Way.PERMIT)
        monkeypatch.setattr(f"{here}.require_funds", lambda _account, _amount, gas: gas)
        return plan_deposit(
            SimpleNamespace(ledger=ledger),
            payee=PAYEE,
            amount=Amount(5, USDC),
            arguments={},
            check=lambda: None,
            channel=channel,
            idempotency_key=None,
            way=way,
            is_gasless=is_gasless,
        )

    return make


def test_who_pays_the_gas(plan):
    """What the payee sends is signed as an authorization, for no gas; else it is of the way that is taken."""
    for wanted in (None, Way.PERMIT):
        gasless = plan(way=wanted, is_gasless=True)
        assert (gasless.way, gasless.max_fee) == (Way.AUTHORIZATION, 0)
    for channel, kind in ((None, DepositKind.OPEN), (ONE, DepositKind.TOP_UP)):
        for way in (Way.PERMIT, Way.APPROVE):
            made = plan(channel, way=way)
            assert (made.kind, made.way, made.max_fee) == (kind, way, way.gas(kind))


@pytest.mark.parametrize(("channel", "cancels"), [(None, False), (ONE, False), (REQUESTED, True)])
def test_which_deposit_cancels_a_close(plan, channel, cancels):
    """A top-up of a channel whose close is requested."""
    assert plan(channel).cancels_close is cancels
