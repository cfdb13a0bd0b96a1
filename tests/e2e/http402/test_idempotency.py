"""Requests under a key: answered as before, made again where that is safe, refused where it is another."""

from __future__ import annotations

import pytest
from counter import PAYER, amounts, credential, only_challenge, problem, receipt

from microwallet.domain.voucher import VoucherKey
from microwallet.errors import LedgerUnwritable
from microwallet.http402.charging.middleware import PaymentMiddleware
from microwallet.http402.serving.request_log import RequestLog


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


@pytest.mark.parametrize("status", [204, 304])
def test_an_answer_without_a_body_is_told_no_length_of_one(counter, status):
    """RFC 9110, section 8.6: a 204 has none, and that of a 304 would be the length of the whole."""
    counter.app.status, counter.app.body, key = status, b"", {"idempotency-key": "k"}
    for _ in range(2):
        answer = counter.pay(PAYER, PAYER.pay(1000), headers=key)
        assert (answer.status_code, "content-length" in answer.headers) == (status, False)
    assert len(counter.app.requests) == 1


@pytest.mark.parametrize("fails", ["transaction", "sync"])
def test_an_answer_that_cannot_be_kept(counter, monkeypatch, fails):
    """The seller's log tells it; the application hears nothing, as it might undo what its client got."""
    sessions, logged, heard = counter.ledger.sessions, [], []

    def failing():
        monkeypatch.undo()
        raise LedgerUnwritable("the disk failed")

    async def app(scope, receive, send):
        monkeypatch.setattr(sessions, fails, failing)
        await counter.app(scope, receive, send)
        heard.append("nothing")

    counter.application = RequestLog(
        PaymentMiddleware(app, counter.gateway), lambda *line: logged.append(line)
    )
    answer = counter.pay(PAYER, PAYER.pay(1000), headers={"idempotency-key": "k"})
    assert (answer.status_code, answer.content, heard) == (200, b"served", ["nothing"])
    assert logged[-1][1]["warning"] == "what was answered is not kept: the disk failed"
    assert amounts(counter) == (1000, 1000)


def test_an_answer_that_the_server_sends_itself_is_not_kept(counter):
    """By an extension of ASGI: what is in it is not seen here, and a part would be told for the whole."""
    sent = []

    async def app(_scope, _receive, send):
        sent.append(b"served")
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.zerocopysend", "file": 3, "more_body": True})
        await send({"type": "http.response.body", "body": b"the end"})

    counter.application._app = app
    for _ in range(2):
        assert counter.pay(PAYER, PAYER.pay(1000), headers={"idempotency-key": "k"}).status_code == 200
    assert (amounts(counter), len(sent)) == ((1000, 1000), 2)


def test_units_of_another_price_are_not_told(sold_by):
    """What was answered before the price changed is answered again: what it cost is not counted in units of
    the new price."""
    units = {"path": "/**", "per": "header", "units-header": "x-units", "max-units": 100}
    before, now = (sold_by({**units, "price": price}) for price in ("10", "20"))
    before.app.headers, key = [(b"x-units", b"7")], {"idempotency-key": "k"}
    told = [receipt(one.pay(PAYER, PAYER.pay(2000), headers=key)) for one in (before, before, now)]
    assert [(one.spent, one.units) for one in told] == [(70, 7), (70, 7), (70, None)]
    assert now.app.requests == []


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
