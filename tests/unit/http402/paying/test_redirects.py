"""Requests that redirects lead to: what they may still cost."""

from __future__ import annotations

from types import SimpleNamespace

import httpx
import pytest
from model import CHAIN, PAYEE, TOKEN, USDC

from microwallet.domain.money import Asset
from microwallet.http402.paying.client import Limits, PayingClient
from microwallet.http402.paying.redirects import Hop, unanswered

OTHER = Asset(chain_id=CHAIN, token=PAYEE, symbol="EURC", decimals=6)


def paid(asset, taken):
    """A hop that took so much of the limit."""
    return SimpleNamespace(payment=SimpleNamespace(channel=SimpleNamespace(asset=asset), taken=taken))


@pytest.mark.parametrize(("taken", "left"), [((), 100), ((30,), 70), ((30, 70), 0), ((130,), 0)])
def test_what_the_hops_before_have_left(taken, left):
    """Of the limit of their token, never less than nothing; the others' limits are as they were."""
    names = PayingClient.__dataclass_fields__
    limits = Limits(max_amounts={TOKEN: 100, PAYEE: 50}, max_deposits={})
    client = PayingClient(**{**dict.fromkeys(names), "limits": limits})
    free = SimpleNamespace(payment=None)
    hop = Hop(request=None, asked=None, before=[free, *(paid(USDC, one) for one in taken)])
    assert hop.within(client).limits.max_amounts == {TOKEN: left, PAYEE: 50}
    both = Hop(request=None, asked=None, before=[*hop.before, paid(OTHER, 20)])
    assert both.within(client).limits.max_amounts == {TOKEN: left, PAYEE: 30}


def test_a_request_that_never_began_has_no_answer_to_miss():
    """Ctrl-C may end it before its first hop."""
    assert unanswered(httpx.Request("GET", "http://127.0.0.1/")) is None
