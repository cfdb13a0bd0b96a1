"""Credentials and the challenges that they answer: what is none, what it is good for, and for how long."""

from __future__ import annotations

import asyncio
import dataclasses

import pytest
from counter import NOW, PAYER, Payer, amounts, credential, only_challenge, problem

from microwallet.http402.charging.checks import BODY_LIMIT
from microwallet.http402.wire.body_digest import body_digest
from microwallet.http402.wire.challenge import PAYMENT_AUTHORIZATION, Challenge, offered_challenges
from microwallet.http402.wire.encoding import base64url
from microwallet.http402.wire.session_payload import payload_object


def test_one_challenge_buys_again_and_again(counter):
    """Until it expires: no round trip for a fresh one is needed."""
    challenge = counter.challenge()
    for number in range(1, 4):
        assert counter.pay(PAYER, PAYER.pay(1000 * number), challenge=challenge).status_code == 200
    assert amounts(counter) == (3000, 3000)


@pytest.mark.parametrize(
    "beside",
    [
        {"path": "/**", "free": True},
        {"path": "/a", "method": "GET", "free": True},
        {"path": "/a", "method": "GET", "price": "2000"},
        {"path": "/a", "method": "POST", "price": "2000"},
    ],
)
def test_a_head_is_for_the_offer_that_its_challenge_asked_for(sold_by, beside):
    """Whatever the other methods cost there, be it nothing; so is a fresh challenge, for no body."""
    counter = sold_by({"path": "/a", "method": "PATCH", "price": "1000"}, beside)
    bound = counter.challenge("PATCH", "/a", content=b"tea")
    refused = counter.pay(PAYER, PAYER.pay(5000), "HEAD", "/a", challenge=bound)
    assert refused.status_code == 402
    fresh = only_challenge(refused)
    assert (fresh.request, fresh.digest) == (bound.request, None)
    unknown = changed(fresh, opaque=base64url(b"{}"))
    for forged in (unknown, dataclasses.replace(unknown, opaque=None)):
        assert counter.pay(PAYER, PAYER.pay(5000), "HEAD", "/a", challenge=forged).status_code == 402
    assert counter.pay(PAYER, PAYER.pay(5000), "HEAD", "/a", challenge=fresh).status_code == 200
    assert amounts(counter) == (5000, 0)
    assert counter.app.requests == []


def test_what_is_no_credential(counter):
    """Each is refused with its problem and a fresh challenge, without a question to the chain."""
    challenge = counter.challenge()
    good = credential(PAYER, PAYER.pay(1000), challenge)
    bad = {
        "Payment": "malformed-credential",
        "Payment x": "malformed-credential",
        "Payment " + base64url(b"no json"): "malformed-credential",
        "Payment " + base64url(b"[]"): "malformed-credential",
        "Payment " + base64url(b"\xff\xfe{}"): "malformed-credential",
        "Payment " + base64url(b'{"challenge":{"id":["x"]},"payload":{}}'): "malformed-credential",
        good + "A" * 70_000: "malformed-credential",
        good[:-3]: "malformed-credential",
    }
    for value, name in bad.items():
        answer = counter.ask(headers={"authorization": value})
        assert (answer.status_code, problem(answer)) == (402, name), value[:40]
        assert "www-authenticate" in answer.headers
    assert counter.chain.asked == 0
    assert amounts(counter) == (0, 0)


def test_what_begins_like_a_credential_that_was_read_is_read_whole(counter):
    """What ends otherwise is none; one whose voucher is written otherwise is one."""
    challenge = counter.challenge()
    assert counter.pay(PAYER, PAYER.pay(1000), challenge=challenge).status_code == 200
    value = credential(PAYER, PAYER.pay(2000), challenge)
    answer = counter.ask(headers={"authorization": value[:-4] + "!!!!"})
    assert (answer.status_code, problem(answer)) == (402, "malformed-credential")
    payload = payload_object(PAYER.pay(2000))
    capitals = payload | {"signature": "0x" + payload["signature"][2:].upper()}
    assert counter.pay(PAYER, capitals, challenge=challenge).status_code == 200
    assert amounts(counter) == (2000, 2000)


def test_two_credentials_are_one_too_many(counter):
    """400, as the core draft wants it."""
    good = credential(PAYER, PAYER.pay(1000), counter.challenge())
    answer = counter.ask(headers=[("authorization", good), ("authorization", good)])
    assert (answer.status_code, problem(answer)) == (400, "malformed-credential")
    assert amounts(counter) == (0, 0)


@pytest.mark.parametrize(
    "change",
    [
        {"action": "steal"},
        {"action": None},
        {"cumulativeAmount": 1000},
        {"cumulativeAmount": "-1"},
        {"cumulativeAmount": str(2**128)},
        {"cumulativeAmount": "01000"},
        {"signature": "0x" + "00" * 64},
        {"signature": None},
        {"channelId": "0x12"},
    ],
)
def test_what_is_no_payload(counter, change):
    """400, naming the field."""
    voucher = PAYER.voucher(1000)
    payload = {
        "action": "voucher",
        "channelId": PAYER.channel_id,
        "cumulativeAmount": "1000",
        "signature": "0x" + voucher.signature.hex(),
    }
    payload = {key: value for key, value in (payload | change).items() if value is not None}
    answer = counter.pay(PAYER, payload)
    assert (answer.status_code, problem(answer)) == (400, "malformed-credential")
    assert next(iter(change)) in answer.json()["detail"]
    assert counter.chain.asked == 0


def changed(challenge, **parameters):
    return Challenge.parse({**challenge.parameters(), **parameters})


def test_a_description_may_be_read_as_latin_1(sold_by):
    """As browsers and Node read fields, and cannot read them otherwise: their echo is known all the same."""
    counter = sold_by({"path": "/**", "price": "1000", "description": "Käse ☕"})
    field = dict(counter.ask().headers.raw)[b"www-authenticate"]
    for number, encoding in enumerate(("latin-1", "utf-8"), 1):
        (challenge,) = offered_challenges([field.decode(encoding)]).challenges
        assert (challenge.description == "Käse ☕") is (encoding == "utf-8")
        assert counter.pay(PAYER, PAYER.pay(1000 * number), challenge=challenge).status_code == 200


def test_a_challenge_is_good_for_what_it_was_issued_for(sold_by):
    """Every field counts, the route too; what was never issued here is not known."""
    tea = {"price": "1000", "description": "tea"}
    counter = sold_by({"path": "/a", **tea}, {"path": "/b", **tea})
    challenge = counter.challenge(path="/a")
    for change in (
        {"realm": "other"},
        {"method": "other"},
        {"intent": "charge"},
        {"request": base64url(b"{}")},
        {"expires": "2099-01-01T00:00:00Z"},
        {"digest": "sha-256=:AAAA:"},
        {"opaque": base64url(b"{}")},
        {"id": ("y" if challenge.id[0] == "x" else "x") + challenge.id[1:]},
    ):
        answer = counter.pay(PAYER, PAYER.pay(1000), path="/a", challenge=changed(challenge, **change))
        assert problem(answer) == "session/challenge-not-found", change
    answer = counter.pay(
        PAYER, PAYER.pay(1000), path="/a", challenge=changed(challenge, description="coffee")
    )
    assert problem(answer) == "invalid-challenge"
    answer = counter.pay(PAYER, PAYER.pay(1000), path="/b", challenge=challenge)
    assert (answer.status_code, problem(answer)) == (402, "invalid-challenge")
    assert (counter.chain.asked, counter.app.requests) == (0, [])
    assert counter.pay(PAYER, PAYER.pay(1000), path="/a", challenge=challenge).status_code == 200
    answer = counter.pay(PAYER, PAYER.pay(2000), path="/a", challenge=changed(challenge, realm="other"))
    assert problem(answer) == "session/challenge-not-found"  # though the id is known by now


@pytest.mark.parametrize(
    ("price", "terms"),
    [("10", {}), ("1000", {"realm": "other"}), ("1000", {"header": PAYMENT_AUTHORIZATION})],
)
def test_a_challenge_is_for_what_is_sold_now(sold_by, price, terms):
    """One of before a gateway was set up otherwise is known, but whoever agreed to that pays nothing else."""
    before, now = sold_by({"path": "/**", "price": price}, **terms), sold_by({"path": "/**", "price": "1000"})
    answer = now.pay(PAYER, PAYER.pay(1000), challenge=before.challenge())
    assert (problem(answer), amounts(now), now.app.requests) == ("invalid-challenge", (0, 0), [])


def test_an_expired_challenge(counter):
    """Good in the second before, not in the one it names."""
    challenge = counter.challenge()
    counter.now = NOW + 299
    assert counter.pay(PAYER, PAYER.pay(1000), challenge=challenge).status_code == 200
    counter.now = NOW + 300
    answer = counter.pay(PAYER, PAYER.pay(2000), challenge=challenge)
    assert (answer.status_code, problem(answer)) == (402, "payment-expired")


def test_a_challenge_that_expires_while_the_chain_is_asked(counter):
    """It was in time: what it asks for is sold."""
    friend, challenge = Payer(3), counter.challenge()
    counter.chain.channels[friend.channel_id] = friend.state
    opened = counter.chain.opened

    def slowly(*what):
        counter.now += 301
        return opened(*what)

    counter.chain.opened = slowly
    answer = counter.pay(friend, friend.open(1000), challenge=challenge)
    assert (answer.status_code, counter.account(friend).spent) == (200, 1000)


def test_secrets_change_every_day(counter):
    """A challenge of yesterday is still known, one of the day before is not; both have expired."""
    one, other = counter.challenge(), counter.challenge()
    counter.now = NOW + 86_400
    assert problem(counter.pay(PAYER, PAYER.pay(1000), challenge=one)) == "payment-expired"
    counter.now = NOW + 2 * 86_400
    assert problem(counter.pay(PAYER, PAYER.pay(1000), challenge=other)) == "session/challenge-not-found"


def test_a_challenge_serves_one_channel(counter):
    """Also where another process saw the first."""
    other = Payer(2)
    counter.know(other)
    challenge = counter.challenge()
    assert counter.pay(PAYER, PAYER.pay(1000), challenge=challenge).status_code == 200
    assert problem(counter.pay(other, other.pay(1000), challenge=challenge)) == "invalid-challenge"
    asked, new = counter.chain.asked, Payer(5)
    assert problem(counter.pay(new, new.open(1000), challenge=challenge)) == "invalid-challenge"
    assert counter.chain.asked == asked
    counter.gateway._checkout.challenges._known.clear()
    assert problem(counter.pay(other, other.pay(1000), challenge=challenge)) == "invalid-challenge"
    assert amounts(counter, other) == (0, 0)


def test_a_challenge_serves_one_channel_of_two_at_once(counter):
    """Whichever buys first: also while the chain is asked about the other."""
    friend, challenge, opened, bought = Payer(3), counter.challenge(), counter.chain.opened, []
    counter.chain.channels[friend.channel_id] = friend.state

    async def open_meanwhile():
        loop = asyncio.get_running_loop()

        def slowly(*what):
            paying = counter.paid(PAYER, PAYER.pay(1000), challenge=challenge)
            bought.append(asyncio.run_coroutine_threadsafe(paying, loop).result(5))
            return opened(*what)

        counter.chain.opened = slowly
        return await counter.paid(friend, friend.open(1000), challenge=challenge)

    assert problem(asyncio.run(open_meanwhile())) == "invalid-challenge"
    assert ([one.status_code for one in bought], amounts(counter)) == ([200], (1000, 1000))
    assert amounts(counter, friend) == (0, 0)


def test_a_body_is_bound(counter):
    """A challenge for a request with a body is for that alone, and for none that is too large to be read."""
    challenge = counter.challenge("POST", content=b"one")
    assert challenge.digest is not None
    for other in (b"two", b"one" * BODY_LIMIT):
        answer = counter.pay(PAYER, PAYER.pay(1000), "POST", challenge=challenge, content=other)
        assert (answer.status_code, problem(answer)) == (402, "invalid-challenge")
    answer = counter.pay(PAYER, PAYER.pay(1000), "POST", challenge=challenge, content=b"one")
    assert answer.status_code == 200
    assert counter.app.requests[0][3] == b"one"


def test_a_challenge_after_a_refusal_is_bound_to_the_body_too(counter):
    """Whatever was wrong, and where the application has failed: it is for what was asked."""
    challenge = counter.challenge("POST", content=b"one")

    def digest_after(action, **request):
        return only_challenge(counter.pay(PAYER, action, "POST", challenge=challenge, **request)).digest

    assert digest_after(PAYER.pay(999), content=b"one") == challenge.digest
    other = only_challenge(counter.ask("POST", content=b"two")).digest
    assert digest_after(PAYER.pay(1000), content=b"two") == other
    assert digest_after({"action": "steal"}, content=b"two") == other
    assert digest_after(PAYER.pay(1000), content=b"one" * BODY_LIMIT) is None
    counter.app.status = 503
    assert digest_after(PAYER.pay(1000), content=b"one") == challenge.digest


def test_what_is_handed_over_is_for_no_body(sold_by):
    """A refusal of it asks for what others get there, which has none."""
    counter = sold_by({"path": "/**", "method": "GET", "price": "1000"})
    answer = counter.ask("POST", content=b"one", headers={"authorization": "Payment x"})
    assert (answer.status_code, only_challenge(answer).digest) == (402, None)


@pytest.mark.parametrize("version", ["1.1", "2", "3"])
def test_a_body_that_nothing_tells_of(counter, version):
    """Since HTTP/2 there is a body without any field about it: it is bound and served like others."""

    async def ask(*fields):
        sent = []

        async def receive():
            return {"type": "http.request", "body": b"the question", "more_body": False}

        async def send(message):
            sent.append(message)

        scope = {
            "type": "http",
            "http_version": version,
            "method": "POST",
            "raw_path": b"/",
            "query_string": b"",
            "headers": list(fields),
        }
        await counter.application(scope, receive, send)
        return sent[0]["status"], dict(sent[0]["headers"])

    async def buy():
        _, headers = await ask()
        (challenge,) = offered_challenges([headers[b"www-authenticate"].decode()]).challenges
        status, _ = await ask((b"authorization", credential(PAYER, PAYER.pay(1000), challenge).encode()))
        return status, challenge.digest

    is_read = version != "1.1"
    assert asyncio.run(buy()) == (200, body_digest(b"the question") if is_read else None)
    assert counter.app.requests[0][3] == (b"the question" if is_read else b"")


def test_another_authorization_is_the_applications(sold_by):
    """A Basic credential on a free route is handed on; payer fields are not."""
    counter = sold_by({"path": "/free", "free": True})
    headers = {"authorization": "Basic eDp5", "x-payment-payer": "0xforged"}
    assert counter.ask(path="/free", headers=headers).status_code == 200
    heard = counter.app.requests[0][2]
    assert heard[b"authorization"] == b"Basic eDp5"
    assert b"x-payment-payer" not in heard
