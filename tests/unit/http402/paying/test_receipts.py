"""Reading what a server tells after a payment, whatever it is."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from model import keyed

from microwallet.http402.paying.receipts import Books, ToldReceipt, read_receipt
from microwallet.http402.wire.encoding import base64url
from microwallet.http402.wire.receipt import SessionReceipt
from microwallet.ledger.purchases import Unconfirmed

ONE = keyed(1)
OTHER = "0x" + "ab" * 32
NO_WORD = ToldReceipt()


def books(*, authorized=300, spent=300, **known):
    """Those of a request for ten units that may be twenty, on a channel of which 200 were spent before."""
    usual = {
        "challenge_id": "c",
        "cumulative_amount": 300,
        "reserved": 100,
        "price": 10,
        "agreed": 200,
        "delivered": 0,
        "least_spent": 200,
        "most_spent": 300,
        "unconfirmed": Unconfirmed(),
        "is_final": True,
    }
    channel = replace(ONE.payer_channel(deposit=1_000), authorized=authorized, spent=spent)
    return Books(channel=channel, **(usual | known))


def receipt(**said):
    """An honest one, but for what it is made to say."""
    usual = {
        "timestamp": 1,
        "challenge_id": "c",
        "channel_id": ONE.channel_id,
        "chain_id": ONE.descriptor.chain_id,
        "accepted_cumulative": 300,
        "spent": 300,
        "units": None,
    }
    return ToldReceipt(receipt=SessionReceipt(**(usual | said)))


@pytest.mark.parametrize(
    ("told", "delivered", "cost"),
    [
        (NO_WORD, 0, 100),
        (NO_WORD, 150, 150),
        (NO_WORD, 500, 200),
        (receipt(), 0, 100),
        (receipt(units=3), 0, 30),
        (receipt(units=3), 50, 50),
        (receipt(units=30), 0, 100),
        (receipt(units=12), 150, 150),
        (receipt(units=3, channel_id=OTHER), 0, 100),
    ],
)
def test_what_a_request_cost(told, delivered, cost):
    """By the units in a receipt for its channel, or all that was reserved; at least what was received, and
    that no further than was agreed to."""
    assert books(delivered=delivered).cost(told) == cost


@pytest.mark.parametrize(
    ("told", "is_by_use", "delivered", "untold", "uncharged"),
    [
        (NO_WORD, False, 0, 100, 0),
        (NO_WORD, True, 40, 60, 0),
        (receipt(), False, 0, 0, 0),
        (receipt(), True, 0, 100, 0),
        (receipt(units=3, spent=230), True, 0, 0, 0),
        (receipt(units=3, spent=230), True, 50, 20, 20),
        (receipt(units=12, spent=350), True, 150, 30, 0),
        (receipt(spent=250), False, 0, 0, 50),
        (receipt(spent=400), False, 0, 0, 0),
    ],
)
def test_what_a_receipt_confirms(told, is_by_use, delivered, untold, uncharged):
    """It leaves open what it does not tell, and tells what of the channel was not charged after all."""
    known = Unconfirmed(amount=7)
    found = books(delivered=delivered, unconfirmed=known).confirmation(
        told, problems=[], is_by_use=is_by_use, charged_until=9
    )
    assert (found.untold, found.uncharged) == (untold, uncharged)
    assert (found.known, found.charged_until) == (known, 9)


@pytest.mark.parametrize(("problems", "is_final"), [(["it lies"], True), ([], False)])
def test_what_a_receipt_does_not_confirm(problems, is_final):
    """One with a problem is not believed, nor that less was charged while more still may be."""
    found = books(is_final=is_final).confirmation(
        receipt(spent=250), problems=problems, is_by_use=False, charged_until=0
    )
    assert found.uncharged == 0


@pytest.mark.parametrize(
    ("said", "known", "problem"),
    [
        ({}, {}, None),
        ({"challenge_id": "d"}, {}, "challengeId is d, not c"),
        ({"challenge_id": "d"}, {"challenge_id": None}, None),
        ({"accepted_cumulative": 299}, {}, "acceptedCumulative is 299, by our books it is 300"),
        ({"accepted_cumulative": 350}, {"authorized": 350}, None),
        ({"accepted_cumulative": 351}, {"authorized": 350}, "is 351, by our books it is 300 to 350"),
        ({}, {"authorized": 250}, None),
        ({"spent": 299}, {}, "spent is 299, by our books it is 300"),
        ({"spent": 250}, {"unconfirmed": Unconfirmed(amount=50)}, None),
        (
            {"spent": 249},
            {"unconfirmed": Unconfirmed(amount=50)},
            "spent is 249, by our books it is 250 to 300",
        ),
        ({"spent": 99}, {"least_spent": -100}, "spent is 99, by our books it is 100 to 300"),
        ({"spent": 320}, {"spent": 320}, None),
        ({"spent": 300}, {"spent": 250}, None),
        ({"spent": 301}, {"spent": 250}, "spent is 301, by our books it is 300"),
        ({"units": 5, "spent": 250}, {"delivered": 50}, None),
        ({"units": 4, "spent": 250}, {"delivered": 50}, "cost by units is 40, by our books it is 50 to 100"),
        ({"units": 11}, {}, "cost by units is 110, by our books it is 0 to 100"),
        ({}, {"delivered": 50}, None),
    ],
)
def test_what_in_a_receipt_cannot_be_true(said, known, problem):
    """Each bound of what the payer's own books allow, and the first value beyond it."""
    found = books(**known).problems(receipt(**said))
    assert len(found) == (problem is not None)
    assert problem is None or found[0].endswith(problem)


@pytest.mark.parametrize("name", [b"method", b"more"])
def test_a_receipt_that_nests_deeper_than_python_recurses(name):
    """It is told of as a problem, and nothing is kept of it that could not be shown."""
    for depth in (10, 200, 500, 1000):
        told = read_receipt(base64url(b'{"%s":%s}' % (name, b"[" * depth + b"]" * depth)))
        assert told.problem is not None
        assert told.receipt is None
        json.dumps(told.document)
