"""What a gateway serves and refuses: one request after another, against a real ledger."""

from __future__ import annotations

import asyncio
import dataclasses
import errno
import time

import httpx
import pytest
from counter import EURC, NOW, PAYER, Payer, amounts, credential, only_challenge, problem, receipt
from migrated import migrate
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from microwallet.domain.identifiers import checksum_address
from microwallet.domain.voucher import VoucherKey
from microwallet.http402.charging import opening
from microwallet.http402.charging.checks import BODY_LIMIT
from microwallet.http402.charging.gateway import IN_HAND_SECONDS
from microwallet.http402.charging.middleware import PaymentMiddleware
from microwallet.http402.charging.request_log import RequestLog, request_line
from microwallet.http402.wire.body_digest import body_digest
from microwallet.http402.wire.challenge import PAYMENT_AUTHORIZATION, Challenge, offered_challenges
from microwallet.http402.wire.encoding import base64url
from microwallet.http402.wire.session_payload import payload_object
from microwallet.ledger import database
from microwallet.ledger.ledger import Ledger


def test_a_voucher_buys_a_request(counter):
    """The application is asked once, and the receipt says what was accepted and spent."""
    answer = counter.pay(PAYER, PAYER.pay(1000))
    assert (answer.status_code, answer.text) == (200, "served")
    assert (receipt(answer).accepted_cumulative, receipt(answer).spent) == (1000, 1000)
    assert receipt(answer).channel_id == PAYER.channel_id
    assert answer.headers["cache-control"] == "private"
    assert len(counter.app.requests) == 1


def test_without_a_credential_it_says_what_it_costs(counter):
    """402, a fresh challenge each time, and nothing that a cache may keep."""
    first, second = counter.ask(), counter.ask()
    assert (first.status_code, problem(first)) == (402, "payment-required")
    assert first.headers["cache-control"] == "no-store"
    assert only_challenge(first).id != only_challenge(second).id
    assert counter.app.requests == []


def test_one_challenge_buys_again_and_again(counter):
    """Until it expires: no round trip for a fresh one is needed."""
    challenge = counter.challenge()
    for number in range(1, 4):
        assert counter.pay(PAYER, PAYER.pay(1000 * number), challenge=challenge).status_code == 200
    assert amounts(counter) == (3000, 3000)


def test_each_voucher_buys_once(counter):
    """The same one again is told which amount would do, and changes nothing."""
    counter.pay(PAYER, PAYER.pay(1000))
    again = counter.pay(PAYER, PAYER.pay(1000))
    assert (again.status_code, problem(again)) == (402, "session/insufficient-balance")
    assert again.json()["requiredCumulative"] == "2000"
    assert amounts(counter) == (1000, 1000)
    assert len(counter.app.requests) == 1


def test_a_ledger_that_was_migrated_meanwhile(counter):
    """503, and the application is not asked: nothing is accepted or charged in what is not known here."""
    path = counter.ledger.database.path
    before = amounts(counter)
    migrate(path)
    answer = counter.pay(PAYER, PAYER.pay(1000))
    assert (answer.status_code, problem(answer)) == (503, "urn:microwallet:problem:try-again")
    assert "nothing was charged (ledger-too-new)" in answer.json()["detail"]
    migrate(path, by=0)
    assert (amounts(counter), counter.app.requests) == (before, [])


def test_a_disk_that_fails_while_a_sale_is_recorded(counter, monkeypatch):
    """It may be found there when the gateway starts again: nobody is told that nothing was charged. What
    comes later is not recorded."""
    challenge = counter.challenge()

    def fail(_descriptor):
        raise OSError(errno.EIO, "the disk failed")

    monkeypatch.setattr(database, "_sync", fail)
    answer = counter.pay(PAYER, PAYER.pay(1000), challenge=challenge)
    assert (answer.status_code, problem(answer)) == (503, "urn:microwallet:problem:outcome-unknown")
    assert "whether it was charged is not known" in answer.json()["detail"]
    later = counter.pay(PAYER, PAYER.pay(2000), challenge=challenge)
    assert (later.status_code, "nothing was charged" in later.json()["detail"]) == (503, True)
    assert counter.app.requests == []
    with Ledger.open(counter.ledger.database.path) as ledger:
        assert ledger.vouchers.get(PAYER.channel_id).spent == 1000


def test_vouchers_may_come_in_any_order(counter):
    """An older one that has bought nothing still buys, while what is authorized covers it."""
    for amount in (3000, 1000, 2000):
        assert counter.pay(PAYER, PAYER.pay(amount)).status_code == 200
    assert amounts(counter) == (3000, 3000)
    assert counter.pay(PAYER, PAYER.pay(500)).status_code == 402


def test_a_voucher_that_is_not_enough_is_kept(counter):
    """It is the payer's word all the same: the next request needs only the rest."""
    assert problem(counter.pay(PAYER, PAYER.pay(999))) == "session/insufficient-balance"
    assert amounts(counter) == (999, 0)
    assert counter.pay(PAYER, PAYER.pay(1000)).status_code == 200


@pytest.mark.parametrize("status", [200, 201, 302, 304, 400, 404, 499])
def test_what_is_answered_below_500_is_charged(counter, status):
    """Also what the application refuses; a receipt comes with success alone, told again or not."""
    counter.app.status = status
    for _ in range(2):
        answer = counter.pay(PAYER, PAYER.pay(1000), headers={"idempotency-key": "k"})
        assert answer.status_code == status
        assert (receipt(answer) is not None) == (status < 400)
    assert (amounts(counter), len(counter.app.requests)) == ((1000, 1000), 1)


@pytest.mark.parametrize("status", [500, 502, 503, 599])
def test_what_fails_is_given_back(counter, status):
    """And its voucher can buy again."""
    counter.app.status = status
    answer = counter.pay(PAYER, PAYER.pay(1000))
    assert (answer.status_code, receipt(answer)) == (status, None)
    assert only_challenge(answer).id  # what an intermediary would answer has none
    assert amounts(counter) == (1000, 0)
    counter.app.status = 200
    assert counter.pay(PAYER, PAYER.pay(1000)).status_code == 200


@pytest.mark.parametrize("name", [b"Cache-Control", b"cache-control"])
@pytest.mark.parametrize(
    ("said", "heard"),
    [
        ([b"no-store"], "no-store, private"),
        ([b"public, max-age=600, s-maxage=9"], "max-age=600, private"),
        (
            [b"private", b'No-Cache="x-own, x-other", must-revalidate'],
            'No-Cache="x-own, x-other", must-revalidate, private',
        ),
        ([b"public"], "private"),
        ([b"max-age=600 public; no", b""], "no-store, private"),
    ],
)
def test_what_is_paid_for_is_cached_no_more_than_the_application_allows(counter, said, heard, name):
    """Shared caches keep nothing that was paid for; for others what the application said counts still."""
    counter.app.headers = [(name, value) for value in said]
    for _ in range(2):
        answer = counter.pay(PAYER, PAYER.pay(1000), headers={"idempotency-key": "k"})
        assert answer.headers["cache-control"] == heard
    assert len(counter.app.requests) == 1


@pytest.mark.parametrize("said", [[], [(b"Cache-Control", b"public, s-maxage=600")]])
def test_an_error_that_was_paid_for_is_for_its_payer_alone(counter, said):
    """A cache may keep a 404 of which nothing is said, and knows nothing of the field it was paid in."""
    counter.app.status, counter.app.headers = 404, said
    for _ in range(2):
        answer = counter.pay(PAYER, PAYER.pay(1000), headers={"idempotency-key": "k"})
        assert (answer.status_code, answer.headers.get_list("cache-control")) == (404, ["private"])
    assert len(counter.app.requests) == 1


@pytest.mark.parametrize(
    "name",
    ["CDN-Cache-Control", "Vercel-CDN-Cache-Control", "Surrogate-Control", "X-Accel-Expires", "Edge-Control"],
)
@pytest.mark.parametrize("status", [200, 404, 503])
def test_what_is_told_to_shared_caches_alone_does_not_reach_them(counter, name, status):
    """To those that know it, it counts more than Cache-Control."""
    for number, spelled in enumerate((name, name.lower()), start=1):
        counter.app.status, counter.app.headers = status, [(spelled.encode(), b"600")]
        assert name not in counter.pay(PAYER, PAYER.pay(1000 * number)).headers


@pytest.mark.parametrize(("status", "receipts"), [(200, 1), (404, 0), (503, 0)])
def test_an_application_gives_no_receipts(counter, status, receipts):
    """It does not know what was paid: of two receipts a payer would believe either."""
    for number, name in enumerate((b"Payment-Receipt", b"payment-receipt"), start=1):
        counter.app.status, counter.app.headers = status, [(name, b"forged")]
        told = counter.pay(PAYER, PAYER.pay(1000 * number)).headers.get_list("payment-receipt")
        assert (len(told), "forged" in told) == (receipts, False)


def test_what_asks_to_be_paid_itself_is_given_back(counter):
    """A payer takes a 402 for a refusal: it has a challenge, as any, and its voucher can buy again."""
    counter.app.status, counter.app.headers = 402, [(b"cache-control", b"max-age=600")]
    answer = counter.pay(PAYER, PAYER.pay(1000))
    assert (answer.status_code, receipt(answer)) == (402, None)
    assert only_challenge(answer).id
    assert answer.headers["cache-control"] == "no-store"
    assert amounts(counter) == (1000, 0)
    counter.app.status = 200
    assert counter.pay(PAYER, PAYER.pay(1000)).status_code == 200


def test_what_is_made_again_and_fails_stays_paid(counter):
    """It has no challenge, by which a payer would take it for given back."""
    counter.app.body = b"x" * 70_000
    for counter.app.status in (200, 500):
        answer = counter.pay(PAYER, PAYER.pay(1000), headers={"idempotency-key": "k"})
    assert (answer.status_code, "www-authenticate" in answer.headers) == (500, False)
    assert amounts(counter) == (1000, 1000)


def test_what_is_made_again_and_asks_to_be_paid_then(counter):
    """A 402 has a challenge here too; what was served before stays charged."""
    counter.app.body = b"x" * 70_000
    for counter.app.status in (200, 402):
        answer = counter.pay(PAYER, PAYER.pay(1000), headers={"idempotency-key": "k"})
    assert answer.status_code == 402
    assert only_challenge(answer).id
    assert amounts(counter) == (1000, 1000)


def test_no_cache_keeps_the_challenge_of_what_failed(counter):
    """Whatever the application lets caches do with its errors."""
    counter.app.status, counter.app.headers = 501, [(b"Cache-Control", b"public, max-age=600")]
    answer = counter.pay(PAYER, PAYER.pay(1000))
    assert only_challenge(answer).id
    assert answer.headers["cache-control"] == "no-store"


def test_an_application_that_falls_over_costs_nothing(counter):
    """Whoever serves the gateway answers 500 then."""
    counter.app.fails = True
    assert counter.pay(PAYER, PAYER.pay(1000)).status_code == 500
    assert amounts(counter) == (1000, 0)


def test_a_head_hands_a_voucher_over(counter):
    """It buys nothing, and the application does not hear of it; without one it is told the price."""
    assert counter.ask("HEAD").status_code == 402
    answer = counter.pay(PAYER, PAYER.pay(5000), "HEAD")
    assert (answer.status_code, answer.content) == (200, b"")
    assert (receipt(answer).accepted_cumulative, receipt(answer).spent) == (5000, 0)
    assert counter.app.requests == []
    assert counter.pay(PAYER, PAYER.pay(5000)).status_code == 200


def test_a_post_to_what_is_got_hands_a_voucher_over(sold_by):
    """Where nothing is sold by POST; without a credential there is nothing there."""
    counter = sold_by({"path": "/a", "method": "GET", "price": "1000"})
    assert counter.ask("POST", "/a").status_code == 404
    assert counter.pay(PAYER, PAYER.pay(5000), "POST", "/a").status_code == 200
    assert amounts(counter) == (5000, 0)
    assert counter.app.requests == []


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
def test_a_head_to_what_is_sold_otherwise_hands_a_voucher_over(sold_by, method):
    """Also where nothing is sold by GET; without a credential there is nothing there."""
    counter = sold_by({"path": "/a", "method": method, "price": "1000"})
    assert counter.ask("HEAD", "/a").status_code == 404
    challenge = counter.challenge(method, "/a")
    assert counter.pay(PAYER, PAYER.pay(5000), "HEAD", "/a", challenge=challenge).status_code == 200
    assert amounts(counter) == (5000, 0)
    assert counter.app.requests == []


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


def test_a_post_to_what_is_free_hands_a_voucher_over(sold_by):
    """Where the GET has a price; without a credential it is the application's."""
    counter = sold_by({"path": "/a", "method": "GET", "price": "1000"}, {"path": "/**", "free": True})
    assert counter.pay(PAYER, PAYER.pay(5000), "POST", "/a").status_code == 200
    assert amounts(counter) == (5000, 0)
    assert counter.app.requests == []
    assert counter.ask("POST", "/a").content == b"served"


# The same request again


def test_the_same_key_is_answered_as_before(counter):
    """Byte for byte, without asking the application, and nothing is charged."""
    key = {"idempotency-key": "order-1"}
    first = counter.pay(PAYER, PAYER.pay(1000), "PUT", "/order", headers=key, content=b"tea")
    counter.app.body = b"another"
    second = counter.pay(PAYER, PAYER.pay(1000), "PUT", "/order", headers=key, content=b"tea")
    assert (first.status_code, first.content) == (second.status_code, second.content) == (200, b"served")
    assert [(one.spent, one.units) for one in map(receipt, (first, second))] == [(1000, None)] * 2
    assert len(counter.app.requests) == 1
    assert counter.pay(PAYER, PAYER.pay(2000), "PUT", "/order", content=b"tea").content == b"another"


def test_a_better_voucher_with_the_same_key_is_kept(sold_by):
    """It is the payer's word, and buys nothing; one that cannot be accepted is answered all the same."""
    counter = sold_by({"path": "/**", "price": "1000", "min-voucher-delta": "1000"})
    key = {"idempotency-key": "order-1"}
    for amount, accepted in ((1000, 1000), (3000, 3000), (3999, 3000), (2000, 3000), (2_000_000, 3000)):
        answer = counter.pay(PAYER, PAYER.pay(amount), headers=key)
        assert (answer.status_code, receipt(answer).accepted_cumulative) == (200, accepted)
        assert amounts(counter) == (accepted, 1000)
    assert counter.ledger.vouchers.get(PAYER.channel_id).signature == PAYER.voucher(3000).signature
    assert len(counter.app.requests) == 1
    assert counter.pay(PAYER, PAYER.pay(3000)).status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [("POST", "/order", b"tea"), ("PUT", "/other", b"tea"), ("PUT", "/order", b"tee")],
)
def test_a_key_for_another_request_is_a_conflict(counter, method, path, body):
    """409, and nothing is charged."""
    key = {"idempotency-key": "order-1"}
    counter.pay(PAYER, PAYER.pay(1000), "PUT", "/order", headers=key, content=b"tea")
    challenge = counter.challenge("PUT", path)
    answer = counter.pay(PAYER, PAYER.pay(2000), method, path, headers=key, content=body, challenge=challenge)
    assert (answer.status_code, problem(answer)) == (409, "urn:microwallet:problem:idempotency-mismatch")
    assert amounts(counter) == (1000, 1000)


def test_a_key_is_for_one_body_whatever_challenge_is_answered(counter):
    """Also one that was issued for no body, and answered before: each body is read."""
    challenge, key = counter.challenge(), {"idempotency-key": "order-1"}
    answers = [
        counter.pay(PAYER, PAYER.pay(1000), "PUT", challenge=challenge, headers=key, content=body)
        for body in (b"tea", b"tea", b"tee")
    ]
    assert [one.status_code for one in answers] == [200, 200, 409]
    assert len(counter.app.requests) == 1


def test_a_key_does_not_help_without_the_signature(counter):
    """Knowing a channel and a key gets nobody an answer that was paid by somebody else."""
    key = {"idempotency-key": "order-1"}
    counter.pay(PAYER, PAYER.pay(1000), headers=key)
    stranger = VoucherKey((99).to_bytes(32, "big"))
    answer = counter.pay(PAYER, PAYER.pay(1000, key=stranger), headers=key)
    assert problem(answer) == "session/signer-mismatch"


def test_a_large_answer_is_made_again_only_where_that_is_safe(counter):
    """A GET is served again for nothing; a POST answers that its outcome is unknown."""

    async def chunks():
        yield b"x"
        yield b"x" * 70_000

    counter.app.chunks = chunks
    key = {"idempotency-key": "k"}
    for _ in range(2):
        assert counter.pay(PAYER, PAYER.pay(1000), headers=key).status_code == 200
    assert (amounts(counter), len(counter.app.requests)) == ((1000, 1000), 2)
    key = {"idempotency-key": "l"}
    challenge = counter.challenge("POST")
    assert counter.pay(PAYER, PAYER.pay(2000), "POST", headers=key, challenge=challenge).status_code == 200
    answer = counter.pay(PAYER, PAYER.pay(2000), "POST", headers=key, challenge=challenge)
    assert (answer.status_code, problem(answer)) == (409, "urn:microwallet:problem:outcome-unknown")
    assert (amounts(counter), len(counter.app.requests)) == ((2000, 2000), 3)


def test_what_has_a_body_is_not_made_again(counter):
    """Of a large one no more than its length may be known: another request would be served for nothing."""
    counter.app.body, key, challenge = b"x" * 70_000, {"idempotency-key": "k"}, counter.challenge()
    for body, told in ((b"tea", 200), (b"tea", 409)):
        answer = counter.pay(PAYER, PAYER.pay(1000), headers=key, content=body, challenge=challenge)
        assert answer.status_code == told
    assert problem(answer) == "urn:microwallet:problem:outcome-unknown"
    assert (amounts(counter), len(counter.app.requests)) == ((1000, 1000), 1)


@pytest.mark.parametrize(
    "cheap",
    [{"price": "10"}, {"price": "10", "per": "header", "units-header": "x-units", "max-units": 100}],
)
def test_what_is_made_again_is_what_was_paid_for(sold_by, cheap):
    """Another gateway of the same home may sell something dearer under the same path."""
    one = sold_by({"path": "/**", **cheap})
    other = sold_by({"path": "/**", "price": "1000"}, realm="another")
    one.app.body, one.app.headers = b"x" * 70_000, [(b"x-units", b"1")]
    key = {"idempotency-key": "k"}
    assert one.pay(PAYER, PAYER.pay(1000), headers=key).status_code == 200
    answer = other.pay(PAYER, PAYER.pay(1000), headers=key)
    assert (answer.status_code, problem(answer)) == (409, "urn:microwallet:problem:outcome-unknown")
    assert (amounts(one), other.app.requests) == ((1000, 10), [])
    assert one.pay(PAYER, PAYER.pay(1000), headers=key).status_code == 200


# Bad credentials


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


@pytest.mark.parametrize("keys", [["k", "l"], ["k", "k"], [""], ["a\tb"], ["x" * 256]])
def test_what_is_no_key(counter, keys):
    """400 with or without a body, and nothing is charged; the longest one is a key."""
    fields = [("authorization", credential(PAYER, PAYER.pay(1000), counter.challenge()))]
    for method, body in (("GET", b""), ("POST", b"tea")):
        answer = counter.ask(
            method, content=body, headers=[*fields, *(("idempotency-key", key) for key in keys)]
        )
        assert (answer.status_code, problem(answer)) == (400, "malformed-credential")
    assert (amounts(counter), counter.app.requests) == ((0, 0), [])
    assert counter.ask(headers=[*fields, ("idempotency-key", "x" * 255)]).status_code == 200


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


# Bad vouchers


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


def test_a_voucher_by_somebody_else(counter):
    """Or one whose signature is none: 402, before the chain is asked."""
    stranger = VoucherKey((99).to_bytes(32, "big"))
    answer = counter.pay(PAYER, PAYER.pay(1000, key=stranger))
    assert (answer.status_code, problem(answer)) == (402, "session/signer-mismatch")
    payload = {
        "action": "voucher",
        "channelId": PAYER.channel_id,
        "cumulativeAmount": "1000",
        "signature": "0x" + "ff" * 65,
    }
    assert problem(counter.pay(PAYER, payload)) == "session/invalid-signature"
    assert counter.chain.asked == 0
    assert amounts(counter) == (0, 0)


def test_the_deposit_is_the_end(counter):
    """All of it can be spent, and no base unit more."""
    assert counter.pay(PAYER, PAYER.pay(1_000_000)).status_code == 200
    answer = counter.pay(PAYER, PAYER.pay(1_000_001))
    assert (answer.status_code, problem(answer)) == (402, "session/amount-exceeds-deposit")
    assert amounts(counter) == (1_000_000, 1000)


def test_the_smallest_step(sold_by):
    """One below it is refused; equal and lower vouchers are no steps."""
    counter = sold_by({"path": "/**", "price": "1000", "min-voucher-delta": "5000"})
    assert problem(counter.pay(PAYER, PAYER.pay(4999))) == "session/delta-too-small"
    assert counter.pay(PAYER, PAYER.pay(5000)).status_code == 200
    assert counter.pay(PAYER, PAYER.pay(4000)).status_code == 200
    assert amounts(counter) == (5000, 2000)


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


# Opening, topping up, closing


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


def test_a_close_is_done_and_receipted(counter):
    """By a voucher rightly signed, whatever its amount; a stranger closes nothing."""
    counter.pay(PAYER, PAYER.pay(1000))
    stranger = VoucherKey((99).to_bytes(32, "big"))
    forged = PAYER.close(1000).__class__(voucher=PAYER.voucher(1000, key=stranger))
    assert problem(counter.pay(PAYER, forged)) == "session/signer-mismatch"
    assert counter.closed == []
    answer = counter.pay(PAYER, PAYER.close(1000))
    assert (answer.status_code, receipt(answer).transaction_hash) == (200, "0x" + "99" * 32)
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


# What the application hears


def test_the_application_hears_who_paid(counter):
    """In fields that no client can forge, however it spells them; credentials do not reach it."""
    counter.pay(
        PAYER,
        PAYER.pay(1000),
        headers={
            "X-Payment-Payer": "0xforged",
            "x_payment_payer": "0xforged",
            "X.Payment.Payer": "0xforged",
            "X-Payment-Anything": "forged",
            "Payment-Receipt": "forged",
            "Accept-Payment": "evm/session",
            "Cookie": "mine",
        },
    )
    heard = counter.app.requests[0][2]
    assert heard[b"x-payment-payer"] == PAYER.address.encode()
    assert heard[b"x-payment-channel"] == PAYER.channel_id.encode()
    assert (heard[b"x-payment-amount"], heard[b"x-payment-asset"]) == (b"1000", b"USDC")
    assert heard[b"cookie"] == b"mine"
    assert not any(b"forged" in value for value in heard.values())
    assert b"authorization" not in heard
    assert b"accept-payment" not in heard


def test_another_authorization_is_the_applications(sold_by):
    """A Basic credential on a free route is handed on; payer fields are not."""
    counter = sold_by({"path": "/free", "free": True})
    headers = {"authorization": "Basic eDp5", "x-payment-payer": "0xforged"}
    assert counter.ask(path="/free", headers=headers).status_code == 200
    heard = counter.app.requests[0][2]
    assert heard[b"authorization"] == b"Basic eDp5"
    assert b"x-payment-payer" not in heard


@pytest.mark.parametrize(
    "path",
    [
        "//a",
        "/a/../b",
        "/%2e%2e/b",
        "/a%2fb",
        "/a%00",
        "/a\\b",
        "/./a",
        "/a//b",
        "/b/..;/a",
        "/c;/a",
        "/c/;/a",
        "/c/a/",
        "/C/a",
        "/C;/a/",
        "/report",
    ],
)
def test_no_side_door(sold_by, path):
    """A path that another program might read as a free one, or as one that costs, is no path."""
    counter = sold_by(
        {"path": "/b/**", "free": True},
        {"path": "/c/*", "price": "1000"},
        {"path": "/Report", "price": "1000"},
        {"path": "/**", "free": True},
    )

    async def raw():
        sent = []
        scope = {
            "type": "http",
            "method": "GET",
            "raw_path": path.encode(),
            "path": path,
            "query_string": b"",
            "headers": [],
            "scheme": "http",
        }

        async def receive():
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message):
            sent.append(message)

        await counter.application(scope, receive, send)
        return sent[0]["status"]

    assert httpx.codes(asyncio.run(raw())) == 400
    assert counter.app.requests == []


@pytest.mark.parametrize(
    ("root", "path"),
    [
        ("", "/article"),
        ("/api", "/api/article"),
        ("/api", "/article"),
        ("/api/v 1", "/api/v%201/%61rticle"),
        ("/art", "/article"),
    ],
)
def test_a_route_is_found_as_the_application_finds_its_own(sold_by, root, path):
    """Below the root path, where there is one: by which path it is asked for, nothing is for nothing."""
    counter = sold_by({"path": "/article", "price": "1000"}, {"path": "/**", "free": True})
    app = Starlette(routes=[Route("/article", lambda _request: PlainTextResponse("sold"))])
    transport = httpx.ASGITransport(PaymentMiddleware(app, counter.gateway), root_path=root)

    async def ask():
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            unpaid = await client.get(path)
            challenge = only_challenge(unpaid)
            return unpaid, await client.get(
                path, headers={"authorization": credential(PAYER, PAYER.pay(1000), challenge)}
            )

    unpaid, paid = asyncio.run(ask())
    assert (unpaid.status_code, paid.status_code, paid.text) == (402, 200, "sold")


def test_a_server_that_hands_on_a_method_in_lowercase(sold_by):
    """Some do, against ASGI, and many an application takes it for the one in capitals: so is it paid for."""
    counter = sold_by({"method": "GET", "path": "/article", "price": "1000"}, {"path": "/**", "free": True})
    sent = []

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": "get", "path": "/article", "query_string": b"", "headers": []}
    asyncio.run(counter.application(scope, None, send))
    assert (sent[0]["status"], counter.app.requests) == (402, [])


@pytest.mark.parametrize("unknown", [{}, {"raw_path": None}])
def test_a_server_that_does_not_know_how_a_path_was_written(sold_by, unknown):
    """ASGI leaves it open: it is sold by the path without escapes then, and none slips through."""
    counter = sold_by({"path": "/a%20b", "free": True}, {"path": "/**", "price": "1000"})

    async def ask(path):
        sent = []
        scope = {"type": "http", "method": "GET", "path": path, "query_string": b"", "headers": [], **unknown}

        async def send(message):
            sent.append(message)

        await counter.application(scope, None, send)
        return sent[0]["status"]

    paths = ["/a b", "/a%20b", "/a b/../c", "//a b", "/\u00e9"]
    assert [asyncio.run(ask(path)) for path in paths] == [200, 402, 400, 400, 402]
    assert [one[1] for one in counter.app.requests] == ["/a%20b"]


def test_what_may_be_read_as_free_is_not_sold(sold_by):
    """By an application that leaves parameters out; where they make no difference, they are a part of it."""
    counter = sold_by({"path": "/free", "free": True}, {"path": "/**", "price": "1000"})
    for path, told in (("/free;a", 400), ("/other;a", 402), ("/free", 200)):
        assert counter.ask(path=path).status_code == told


def test_what_fits_no_route_is_not_there(sold_by):
    """And one spelling is matched and forwarded."""
    counter = sold_by({"path": "/a b".replace(" ", "%20"), "price": "1000"}, {"path": "/free", "free": True})
    assert counter.ask(path="/other").status_code == 404
    assert counter.ask(path="/f%72ee").status_code == 200
    assert counter.app.requests[0][1] == "/free"


def test_an_upgrade_is_refused(counter):
    """A WebSocket would not be metered."""

    async def connect():
        sent = []

        async def receive():
            return {"type": "websocket.connect"}

        async def send(message):
            sent.append(message)

        await counter.application({"type": "websocket", "path": "/"}, receive, send)
        return sent

    assert asyncio.run(connect())[0]["type"] == "websocket.close"


def test_a_person_gets_a_page(counter):
    """A browser is told in words, with the same challenge field; a program is not."""
    page = counter.ask(headers={"accept": "text/html,application/xhtml+xml,*/*;q=0.8"})
    assert (page.status_code, page.headers["content-type"]) == (402, "text/html; charset=utf-8")
    assert only_challenge(page).method == "evm"
    assert "0.001 USDC" in page.text
    assert problem(counter.ask(headers={"accept": "*/*"})) == "payment-required"


# Units in a field

BY_UNITS = {"path": "/**", "price": "10", "per": "header", "units-header": "X-Units", "max-units": 100}


def test_units_are_charged_and_hidden(sold_by):
    """The most is reserved first, what was used is charged, and the client does not see the field."""
    counter = sold_by(BY_UNITS)
    answer = counter.pay(PAYER, PAYER.pay(999))
    assert answer.json()["requiredCumulative"] == "1000"
    counter.app.headers = [(b"X-Units", b"7")]
    answer = counter.pay(PAYER, PAYER.pay(1000))
    assert (receipt(answer).spent, receipt(answer).units) == (70, 7)
    assert "x-units" not in answer.headers
    assert amounts(counter) == (1000, 70)


def test_a_request_made_again_is_charged_what_it_used(sold_by):
    """Though the first one fails, which was to tell it; and once, though both of them tell it."""
    counter = sold_by(BY_UNITS)
    challenge = counter.challenge()

    async def twice(amount, first_status):
        begun, fails = asyncio.Event(), asyncio.Event()

        async def app(_scope, _receive, send):
            is_first, status = not begun.is_set(), 200
            begun.set()
            if is_first:
                await fails.wait()
                status = first_status
            headers = [(b"x-units", b"9" if is_first else b"7")]
            await send({"type": "http.response.start", "status": status, "headers": headers})
            await send({"type": "http.response.body", "body": b"x" * 100_000})
            fails.set()

        counter.application = PaymentMiddleware(app, counter.gateway)
        fields = {
            "authorization": credential(PAYER, PAYER.pay(amount), challenge),
            "idempotency-key": f"{amount}",
        }
        first = asyncio.create_task(counter.asked(headers=fields))
        await begun.wait()
        again = await counter.asked(headers=fields)
        return (await first).status_code, receipt(again).units, receipt(again).spent

    assert asyncio.run(twice(1000, 504)) == (504, 7, 70)
    assert asyncio.run(twice(2000, 200)) == (200, 7, 140)
    assert counter.account(PAYER).spent == 140


def test_an_application_that_asks_for_money_itself(counter):
    """It is answered as it is, and the seller's log says what is wrong."""
    logged = []
    counter.application = RequestLog(counter.application, lambda *line: logged.append(line))
    counter.app.status = 402
    assert counter.pay(PAYER, PAYER.pay(1000)).status_code == 402
    assert logged[-1][1]["warning"] == "what was paid for here asks to be paid itself"


@pytest.mark.parametrize("size", [10, 70_000])
def test_the_same_key_says_again_how_many_units_were_used(sold_by, size):
    """Whether its answer was kept or is made again: sale and receipt are of what was used, not reserved."""
    counter = sold_by(BY_UNITS)
    counter.app.headers = [(b"X-Units", b"7")]
    counter.app.body = b"x" * size
    for _ in range(3):
        answer = counter.pay(PAYER, PAYER.pay(1000), headers={"idempotency-key": "k"})
        assert (receipt(answer).units, receipt(answer).spent) == (7, 70)
    assert amounts(counter) == (1000, 70)
    with counter.ledger.sessions.transaction() as rows:
        assert rows.sale(PAYER.channel_id, 1000).cost == 70


@pytest.mark.parametrize(
    ("told", "charged", "warning"),
    [
        ([b"100"], 1000, None),
        ([b"0"], 0, None),
        ([b"101"], 1000, "101 units told, 100 are the most"),
        ([b"-1"], 0, "no number of units told in x-units"),
        ([b"x"], 0, "no number of units told in x-units"),
        ([b"9" * 5000], 0, "no number of units told in x-units"),
        ([], 0, "no number of units told in x-units"),
        ([b"1", b"2"], 0, "no number of units told in x-units"),
    ],
)
def test_units_beyond_reason(sold_by, told, charged, warning):
    """Never more than was reserved; what is no number is nothing. The seller's log warns of both."""
    counter = sold_by(BY_UNITS)
    logged = []
    counter.application = RequestLog(counter.application, lambda *line: logged.append(line))
    counter.app.headers = [(b"x-units", value) for value in told]
    answer = counter.pay(PAYER, PAYER.pay(1000))
    assert (answer.status_code, receipt(answer).units) == (200, charged // 10)
    assert amounts(counter) == (1000, charged)
    assert logged[-1][1].get("warning") == warning
    assert request_line(*logged[-1]).endswith(warning or " USDC")


def test_an_error_needs_no_units(sold_by):
    """It costs nothing where it tells none, and the seller's log has no warning."""
    counter, logged = sold_by(BY_UNITS), []
    counter.application = RequestLog(counter.application, lambda *line: logged.append(line))
    counter.app.status = 400
    assert counter.pay(PAYER, PAYER.pay(1000)).status_code == 400
    assert (amounts(counter), logged[-1][1].get("warning")) == ((1000, 0), None)


@pytest.mark.parametrize(
    "more", [(), ((b"cache-control", b"public"),), ((b"content-encoding", b"identity"),)]
)
def test_fields_that_can_be_read_once(counter, more):
    """An application may hand the fields of its answer over as an iterator: all arrive."""

    async def application(_scope, _receive, send):
        fields = iter([(b"content-type", b"text/plain"), (b"x-own", b"1"), *more])
        await send({"type": "http.response.start", "status": 200, "headers": fields})
        await send({"type": "http.response.body", "body": b"served"})

    counter.application = PaymentMiddleware(application, counter.gateway)
    answer = counter.pay(PAYER, PAYER.pay(1000))
    assert (answer.headers["x-own"], answer.headers["content-type"]) == ("1", "text/plain")
    assert receipt(answer).spent == 1000


@pytest.mark.parametrize(
    ("fields", "is_stream", "cached"),
    [
        (None, False, "private"),
        ([], False, "private"),
        ([(b"x-own", b"1")], False, "private"),
        ([(b"cache-control", b"public, max-age=9")], False, "max-age=9, private"),
        ([(b"x-own", b"1"), (b"content-type", b"text/event-stream")], True, "no-transform, private"),
    ],
)
def test_an_answer_with_few_fields(counter, fields, is_stream, cached):
    """It is paid for as any, though nothing tells what it is; a stream has its receipt at its end."""

    async def application(_scope, _receive, send):
        told = {} if fields is None else {"headers": fields}
        await send({"type": "http.response.start", "status": 200, **told})
        await send({"type": "http.response.body", "body": b"data: 0\n\n"})

    counter.application = PaymentMiddleware(application, counter.gateway)
    answer = counter.pay(PAYER, PAYER.pay(1000))
    assert (receipt(answer).spent, answer.headers["cache-control"]) == (1000, cached)
    assert answer.text.partition("\n\n")[2].startswith("event: payment-receipt") is is_stream
