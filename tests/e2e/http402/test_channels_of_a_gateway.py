"""The channels that pay a gateway: opened, topped up and closed through it."""

from __future__ import annotations

import asyncio
import dataclasses
import time

import pytest
from counter import EURC, NOW, PAYER, Payer, amounts, credential, problem, receipt

from microwallet.domain.identifiers import checksum_address
from microwallet.domain.voucher import VoucherKey
from microwallet.http402.charging import opening
from microwallet.http402.charging.gateway import IN_HAND_SECONDS
from microwallet.http402.charging.middleware import PaymentMiddleware


def test_a_channel_that_nobody_told_of(counter):
    """410: an open action tells of it."""
    stranger = Payer(7)
    answer = counter.pay(stranger, stranger.pay(1000))
    assert (answer.status_code, problem(answer)) == (410, "session/channel-not-found")
    assert counter.chain.asked == 0


@pytest.mark.parametrize("state", [{"finalized": True}, {"close_requested_at": NOW - 10}])
def test_a_channel_that_ends(counter, state):
    """What the chain says counts from when it is asked the next time, whatever challenge is answered."""
    challenge = counter.challenge()
    assert counter.pay(PAYER, PAYER.pay(1000), challenge=challenge).status_code == 200
    counter.chain.channels[PAYER.channel_id] = dataclasses.replace(PAYER.state, **state)
    counter.now += 31
    expected = (410, "session/channel-finalized") if "finalized" in state else (402, "verification-failed")
    for again in (challenge, counter.challenge()):
        answer = counter.pay(PAYER, PAYER.pay(2000), challenge=again)
        assert (answer.status_code, problem(answer)) == expected
        assert not counter.in_hand.has(PAYER.channel_id)
    assert amounts(counter) == (1000, 1000)


def test_a_channel_of_another_payee_or_token(counter):
    """What the ledger knows of other business buys nothing here."""
    for number, other in enumerate(
        [Payer(3, payee=checksum_address(b"\x45" * 20)), Payer(4, asset=EURC)], start=1
    ):
        counter.know(other)
        answer = counter.pay(other, other.pay(1000))
        assert (answer.status_code, problem(answer)) == (402, "verification-failed"), number
        assert amounts(counter, other) == (0, 0)


def test_an_open_serves_its_request(counter):
    """The first voucher may cover it already; told again, it is a voucher like another."""
    new = Payer(5)
    counter.chain.channels[new.channel_id] = new.state
    answer = counter.pay(new, new.open(1000))
    assert (answer.status_code, receipt(answer).spent) == (200, 1000)
    assert counter.pay(new, new.open(2000)).status_code == 200
    assert amounts(counter, new) == (2000, 2000)
    assert counter.chain.asked == 1


def test_an_open_with_nothing_authorized(counter):
    """The channel is known from then on, and the request is still to be paid."""
    new = Payer(5)
    counter.chain.channels[new.channel_id] = new.state
    assert problem(counter.pay(new, new.open(0))) == "session/insufficient-balance"
    assert counter.pay(new, new.pay(1000)).status_code == 200


def test_an_open_is_waited_for(counter, monkeypatch):
    """The chain confirms its transaction a little later: as soon as it does, the request is served."""
    monkeypatch.setattr(opening, "_PAUSE", 0.01)
    new, looks = Payer(5), []

    def opened(_transaction_hash, _channel_id):
        looks.append(len(looks))
        return new.state if len(looks) == 3 else None

    counter.chain.opened = opened
    assert counter.pay(new, new.open(1000)).status_code == 200
    assert (len(looks), amounts(counter, new)) == (3, (1000, 1000))


def test_an_open_of_dust(counter):
    """A deposit that does not even pay for this one request is no channel."""
    poor = Payer(6, deposit=999)
    counter.chain.channels[poor.channel_id] = poor.state
    assert problem(counter.pay(poor, poor.open(999))) == "session/insufficient-balance"
    assert counter.account(poor) is None


def test_an_open_that_is_not_what_it_says(counter):
    """Another salt, signer or payer makes another channel; the chain is not asked for it."""
    new = Payer(5)
    for change in (
        {"salt": "0x" + "34" * 32},
        {"authorized_signer": new.address},
    ):
        answer = counter.pay(new, dataclasses.replace(new.open(1000), **change))
        assert problem(answer) == "verification-failed"
    other = Payer(8)
    challenge = counter.challenge()
    answer = counter.ask(headers={"authorization": credential(other, new.open(1000), challenge)})
    assert problem(answer) == "verification-failed"
    assert counter.chain.asked == 0
    assert problem(counter.pay(new, new.open(1000))) == "verification-failed"  # the chain knows nothing
    assert counter.account(new) is None


def test_a_top_up_raises_what_may_be_authorized(counter):
    """It buys nothing itself."""
    counter.pay(PAYER, PAYER.pay(1_000_000))
    counter.chain.channels[PAYER.channel_id] = dataclasses.replace(PAYER.state, deposit=2_000_000)
    assert problem(counter.pay(PAYER, PAYER.pay(1_001_000))) == "session/amount-exceeds-deposit"
    answer = counter.pay(PAYER, PAYER.top_up(1_000_000), "HEAD")
    assert answer.status_code == 200
    assert counter.pay(PAYER, PAYER.pay(1_001_000)).status_code == 200


@pytest.mark.parametrize("is_like_another", [True, False])
def test_a_top_up_that_another_worker_was_told_of(counter, sold_by, is_like_another):
    """The chain is asked about it where it was not told of: not before somebody signs for more than is known,
    and not again and again where it has no more."""
    other = sold_by({"path": "/**", "price": "1000"}, in_hand_of=counter.ledger.database.path.parent)
    challenge = counter.challenge()
    counter.pay(PAYER, PAYER.pay(1000), challenge=challenge)
    more = dataclasses.replace(PAYER.state, deposit=2_000_000)
    other.chain.channels[PAYER.channel_id] = more
    assert other.pay(PAYER, PAYER.top_up(1_000_000), "HEAD").status_code == 200
    assert counter.pay(PAYER, PAYER.pay(2000), challenge=challenge).status_code == 200
    assert counter.chain.asked == 1
    counter.chain.channels[PAYER.channel_id] = more
    again = challenge if is_like_another else counter.challenge()
    assert counter.pay(PAYER, PAYER.pay(1_500_000), challenge=again).status_code == 200
    assert counter.chain.asked == 2
    stranger = VoucherKey((99).to_bytes(32, "big"))
    for amount, key, told in [
        (2_000_001, PAYER.key, "amount-exceeds-deposit"),
        (2_000_001, stranger, "signer-mismatch"),
    ]:
        answer = counter.pay(PAYER, PAYER.pay(amount, key=key), challenge=again)
        assert (answer.status_code, problem(answer)) == (402, f"session/{told}")
    assert counter.chain.asked == 2
    assert amounts(counter) == (1_500_000, 3000)


@pytest.mark.parametrize("amount", [0, 999, 1000, 2_000_000])
def test_a_close_is_done_and_receipted(counter, amount):
    """By a voucher rightly signed, whatever its amount, which is not accepted; a stranger closes nothing."""
    counter.pay(PAYER, PAYER.pay(1000))
    stranger = VoucherKey((99).to_bytes(32, "big"))
    forged = PAYER.close(1000).__class__(voucher=PAYER.voucher(1000, key=stranger))
    assert problem(counter.pay(PAYER, forged)) == "session/signer-mismatch"
    assert counter.closed == []
    answer = counter.pay(PAYER, PAYER.close(amount))
    assert (answer.status_code, receipt(answer).transaction_hash) == (200, "0x" + "99" * 32)
    assert (receipt(answer).accepted_cumulative, receipt(answer).spent) == (1000, 1000)
    assert counter.closed == [PAYER.channel_id]


class Late:
    """An application that fails when it is told to."""

    def __init__(self):
        self.begun, self.gate = asyncio.Event(), asyncio.Event()

    async def __call__(self, _scope, _receive, send):
        self.begun.set()
        await self.gate.wait()
        await send({"type": "http.response.start", "status": 500, "headers": []})
        await send({"type": "http.response.body", "body": b""})


def closed_meanwhile(counter, serving, *, is_begun=True):
    """The answer to a close that came while a request was served, perhaps by another worker; that failed."""
    first, second = counter.challenge(), counter.challenge()

    async def close_meanwhile():
        late = Late()
        serving.application = PaymentMiddleware(late, serving.gateway)
        request = asyncio.create_task(serving.paid(PAYER, PAYER.pay(1000), challenge=first))
        if is_begun:
            await late.begun.wait()
            assert counter.account(PAYER).spent == 1000
        closing = asyncio.create_task(counter.paid(PAYER, PAYER.close(1000), challenge=second))
        await asyncio.sleep(0.2)
        assert counter.closed == []
        late.gate.set()
        assert (await request).status_code == 500
        return await closing

    return asyncio.run(close_meanwhile())


def test_a_close_does_not_wait_for_itself(counter):
    """It may answer the challenge that vouchers have answered before."""
    challenge = counter.challenge()
    for amount in (1000, 2000, 3000):
        assert counter.pay(PAYER, PAYER.pay(amount), challenge=challenge).status_code == 200
    begun = time.monotonic()
    assert counter.pay(PAYER, PAYER.close(3000), challenge=challenge).status_code == 200
    assert counter.closed == [PAYER.channel_id]
    assert time.monotonic() - begun < IN_HAND_SECONDS / 2


@pytest.mark.parametrize("is_begun", [True, False])
def test_a_close_waits_for_requests_in_hand(counter, is_begun):
    """What they turn out to cost is captured, not what was reserved for them; a request that comes just
    before is one of them."""
    answer = closed_meanwhile(counter, counter, is_begun=is_begun)
    assert (answer.status_code, receipt(answer).spent) == (200, 0)
    assert counter.closed == [PAYER.channel_id]


def test_a_close_waits_for_requests_of_other_workers(counter, sold_by):
    """What they turn out to cost is captured."""
    other = sold_by({"path": "/**", "price": "1000"}, in_hand_of=counter.ledger.database.path.parent)
    answer = closed_meanwhile(counter, other)
    assert (answer.status_code, receipt(answer).spent) == (200, 0)
    assert counter.closed == [PAYER.channel_id]


def test_what_is_not_sold_is_in_nobody_s_hand(counter):
    """Refused, answered as before, made again or not known any more: no close need wait for it."""
    counter.app.body = b"x" * 70_000
    for method, key, amount in (("GET", "k", 1000), ("POST", "l", 2000)):
        challenge = counter.challenge(method)
        for _ in range(2):
            headers = {"idempotency-key": key}
            counter.pay(PAYER, PAYER.pay(amount), method, headers=headers, challenge=challenge)
    counter.app.body = b"small"
    for _ in range(2):
        counter.pay(PAYER, PAYER.pay(3000), headers={"idempotency-key": "m"})
    assert problem(counter.pay(PAYER, PAYER.pay(3500))) == "session/insufficient-balance"
    assert len(counter.app.requests) == 4
    assert not counter.gateway.in_hand.has(PAYER.channel_id)


def test_what_is_not_sold_reserves_nothing(counter):
    """A close leaves nothing to the payer for requests that are refused, or made again for one price."""
    counter.app.body = b"x" * 70_000
    reserved, challenge, app = [], counter.challenge(), counter.app

    async def served(*connection):
        reserved.append(counter.in_hand.reserved([PAYER.channel_id])[PAYER.channel_id])
        await app(*connection)

    async def refused():
        asking = asyncio.create_task(counter.paid(PAYER, PAYER.pay(1000), challenge=challenge))
        was_in_hand = False
        while not asking.done():
            was_in_hand |= counter.in_hand.has(PAYER.channel_id)
            assert counter.in_hand.reserved([PAYER.channel_id]) == {PAYER.channel_id: 0}
            await asyncio.sleep(0)
        assert was_in_hand
        return await asking

    counter.application._app = served
    for _ in range(2):
        headers = {"idempotency-key": "k"}
        assert counter.pay(PAYER, PAYER.pay(1000), headers=headers, challenge=challenge).status_code == 200
    assert reserved == [1000, 0]
    assert problem(asyncio.run(refused())) == "session/insufficient-balance"


def test_nothing_is_sold_while_a_close_is_waited_for(counter):
    """It would be in nobody's hand when the close is sent; what was sold before is told again."""
    challenge, key = counter.challenge(), {"idempotency-key": "k"}
    assert counter.pay(PAYER, PAYER.pay(1000), challenge=challenge, headers=key).status_code == 200

    async def pay_meanwhile():
        going_on, sold = asyncio.Event(), counter.app

        async def close(_channel_id):
            await going_on.wait()

        counter.gateway._close_channel = close
        closing = asyncio.create_task(counter.paid(PAYER, PAYER.close(1000), challenge=challenge))
        await asyncio.sleep(0.1)
        refused = [
            await counter.paid(PAYER, PAYER.pay(2000), challenge=challenge, headers=headers)
            for headers in ({}, {"idempotency-key": "l"})
        ]
        again = await counter.paid(PAYER, PAYER.pay(1000), challenge=challenge, headers=key)
        going_on.set()
        assert (await closing).status_code == 200
        assert len(sold.requests) == 1
        return again, *refused

    again, *refused = asyncio.run(pay_meanwhile())
    assert (again.status_code, again.content) == (200, b"served")
    told = (503, "urn:microwallet:problem:try-again", "1")
    assert [(one.status_code, problem(one), one.headers["retry-after"]) for one in refused] == [told] * 2
    assert amounts(counter) == (1000, 1000)
    assert counter.pay(PAYER, PAYER.pay(2000)).status_code == 200  # the close has not come about


@pytest.mark.parametrize(("status", "spent"), [(500, 0), (404, 1000), (200, 1000)])
def test_what_is_told_at_length_is_no_more_in_hand(counter, status, spent):
    """What it costs is certain as soon as it begins: a close need not wait for its end."""

    async def close_meanwhile():
        begun, gate = asyncio.Event(), asyncio.Event()

        async def answering_at_length(_scope, _receive, send):
            await send({"type": "http.response.start", "status": status, "headers": []})
            begun.set()
            await gate.wait()
            await send({"type": "http.response.body", "body": b""})

        counter.application = PaymentMiddleware(answering_at_length, counter.gateway)
        request = asyncio.create_task(counter.paid(PAYER, PAYER.pay(1000)))
        await begun.wait()
        async with asyncio.timeout(5):
            answer = await counter.paid(PAYER, PAYER.close(1000))
        gate.set()
        await request
        return answer

    assert receipt(asyncio.run(close_meanwhile())).spent == spent
