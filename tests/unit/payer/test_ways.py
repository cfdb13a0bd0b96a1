"""Ways to make a deposit: which one is taken, by what the token can do and what is wanted."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from model import CHAIN, ESCROW, PAYER, TOKEN, USDC

from microwallet.domain.deposit import Way
from microwallet.domain.identifiers import NATIVE_TOKEN
from microwallet.domain.money import Asset
from microwallet.errors import UsageError
from microwallet.payer import ways
from microwallet.payer.ways import choose_way

COIN = Asset(chain_id=CHAIN, token=NATIVE_TOKEN, symbol="ETH", decimals=18)
REFUSED = "refused"


@pytest.fixture
def choose(monkeypatch):
    """The way for a hundred base units of a token that can do some things, or REFUSED."""

    def chosen(wanted, *features, asset=USDC, allowed=0):
        can = {name: name in features for name in ("receive_with_authorization", "permit")}
        monkeypatch.setattr(ways, "token_features", lambda *_: SimpleNamespace(**can))
        reader = SimpleNamespace(
            escrow_contract=ESCROW, allowance=lambda *who: allowed if who == (TOKEN, PAYER, ESCROW) else 0
        )
        try:
            return choose_way(SimpleNamespace(reader=reader, address=PAYER), asset, 100, wanted)
        except UsageError:
            return REFUSED

    return chosen


@pytest.mark.parametrize(
    ("features", "taken"),
    [
        (("receive_with_authorization", "permit"), ("authorization", "authorization", "permit")),
        (("receive_with_authorization",), ("authorization", "authorization", REFUSED)),
        (("permit",), ("permit", REFUSED, "permit")),
        ((), ("approve", REFUSED, REFUSED)),
    ],
)
def test_what_a_token_can_do(choose, features, taken):
    """The shortest way it has, or the one that is wanted and no other."""
    assert tuple(choose(wanted, *features) for wanted in (None, Way.AUTHORIZATION, Way.PERMIT)) == taken
    assert choose(Way.APPROVE, *features) is Way.APPROVE
    assert choose(Way.NATIVE, *features) == REFUSED


@pytest.mark.parametrize(("allowed", "way"), [(99, "approve"), (100, "allowance")])
def test_an_allowance_that_is_there(choose, allowed, way):
    """It is used where it is enough, unless a signature is wanted."""
    every = ("receive_with_authorization", "permit")
    assert choose(Way.APPROVE, *every, allowed=allowed) == way
    assert choose(None, allowed=allowed) == way
    assert choose(Way.PERMIT, *every, allowed=allowed) is Way.PERMIT


@pytest.mark.parametrize("wanted", Way)
def test_the_chains_own_coin(choose, wanted):
    """It is sent along, and nothing else is done with it."""
    assert choose(wanted, asset=COIN) == (Way.NATIVE if wanted is Way.NATIVE else REFUSED)
    assert choose(None, asset=COIN) is Way.NATIVE
