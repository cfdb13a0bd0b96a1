"""The requests that carry credentials, as they go out."""

from __future__ import annotations

import sys

import httpx
import pytest

from microwallet.errors import NetworkError
from microwallet.http402.paying.asking import looking_at, unreachable
from microwallet.http402.paying.exchange import NoAnswer, NotSent, Sending
from microwallet.http402.paying.handshake import WouldPay
from microwallet.http402.paying.messages import (
    answer_of,
    as_httpx,
    asked_by,
    booked,
    may_be_problem,
    no_answer,
    outgoing,
    reading,
    told_by,
)
from microwallet.http402.paying.origins import Origin

SHOP = Origin.of("https://shop.example")

REQUEST = httpx.Request(
    "POST",
    "https://shop.example/tea?cup=1#top",
    headers=[("Authorization", "Basic eDp5"), ("Authorization", "Payment old")],
    content=b"green",
)


def test_it_says_what_it_can_pay():
    """With every request, paid or not; what the program itself set is sent as it is until then."""
    unpaid = outgoing(REQUEST, Sending())
    assert unpaid.headers["accept-payment"] == "evm/session"
    assert unpaid.headers.get_list("authorization") == ["Basic eDp5", "Payment old"]


def test_one_credential_and_one_key_go_out():
    """Beside them the same method, URL and body; a voucher alone goes with HEAD and without the body."""
    paid = outgoing(REQUEST, Sending(authorization="Payment new", idempotency_key="k"))
    assert paid.headers.get_list("authorization") == ["Payment new"]
    assert paid.headers["idempotency-key"] == "k"
    assert (paid.method, paid.url, paid.content) == ("POST", REQUEST.url, b"green")
    voucher = outgoing(REQUEST, Sending(authorization="Payment new", is_head=True))
    assert (voucher.method, voucher.content) == ("HEAD", b"")
    assert voucher.headers.get_list("authorization") == ["Payment new"]


def test_a_body_goes_out_with_its_length():
    """A program may have sent it in pieces; with a payment it goes out again, as a whole."""
    pieces = httpx.Request("POST", "https://shop.example", content=iter([b"gre", b"en"]))
    pieces.read()
    headers = outgoing(pieces, Sending(authorization="Payment new")).headers
    assert (headers.get("content-length"), headers.get("transfer-encoding")) == ("5", None)


@pytest.mark.parametrize(
    ("accept", "may_be_stream", "encoding"),
    [
        ("*/*", False, "gzip"),
        ("*/*", True, "identity"),
        ("Text/Event-Stream", False, "identity"),
    ],
)
def test_what_may_be_a_stream_is_asked_for_plain(accept, may_be_stream, encoding):
    """Its events are read along, as they tell when it wants to be paid; anything else may come compressed."""
    request = httpx.Request(
        "GET", "https://shop.example", headers={"accept": accept, "accept-encoding": "gzip"}
    )
    sent = outgoing(request, Sending(authorization="Payment new", may_be_stream=may_be_stream))
    assert sent.headers["accept-encoding"] == encoding


@pytest.mark.parametrize(
    ("fields", "is_stream"),
    [
        ({"content-type": "Text/Event-Stream; charset=utf-8"}, True),
        ({"content-type": "text/event-stream", "content-encoding": "identity"}, True),
        ({"content-type": "text/event-stream", "content-encoding": "gzip"}, False),
        ({"content-type": "text/plain"}, False),
        ({}, False),
    ],
)
def test_which_answers_are_streams_of_events(fields, is_stream):
    """Those whose events can be read along: not one that is compressed."""
    assert answer_of(httpx.Response(200, headers=fields)).is_stream is is_stream


PROBLEM, RECEIPT = {"content-type": "Application/Problem+JSON; x=y"}, {"payment-receipt": "e30"}


@pytest.mark.parametrize(
    ("status", "fields", "was_paid_for", "is_refusal"),
    [
        (402, {}, False, True),
        (402, {}, True, True),
        (200, PROBLEM, False, False),
        (404, PROBLEM, False, False),
        (399, PROBLEM, True, False),
        (400, PROBLEM, True, True),
        (499, PROBLEM, True, True),
        (500, PROBLEM, True, False),
        (503, PROBLEM, True, True),
        (404, PROBLEM | RECEIPT, True, False),
        (404, {"content-type": "application/json"}, True, False),
        (404, {}, True, False),
    ],
)
def test_which_bodies_are_read_as_refusals(status, fields, was_paid_for, is_refusal):
    """Those that ask for payment, or say why it was not taken. Any other is an answer, which the program
    reads as it comes."""
    sending = Sending(authorization="Payment x" if was_paid_for else None)
    assert may_be_problem(httpx.Response(status, headers=fields), sending) is is_refusal


def test_a_credential_is_shown_nowhere():
    """Not in the repr of what is to be sent."""
    assert "secret" not in repr(Sending(authorization="Payment secret"))
    assert asked_by(REQUEST).url == "https://shop.example/tea?cup=1"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        ("[Errno 111] Connection refused", "Connection refused"),
        ("[Errno -3] Temporary failure in name resolution", "Temporary failure in name resolution"),
        (
            "[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: self-signed (_ssl.c:1006)",
            "certificate verify failed: self-signed",
        ),
        ("", "ConnectError"),
    ],
)
def test_why_a_connection_failed(error, said):
    """The words of the system, without numbers that mean nothing to a person."""
    assert str(no_answer(REQUEST, httpx.ConnectError(error))) == said


def test_an_unknown_certificate():
    """The hint says how to trust it, not to look whether the server runs."""
    error = NotSent("certificate verify failed: self-signed")
    assert looking_at(SHOP, error).startswith("SSL_CERT_FILE=FILE ")
    assert "server runs" in looking_at(SHOP, NotSent("Connection refused"))


@pytest.mark.parametrize(
    ("url", "error", "hint"),
    [
        ("https://shop:8402", "wrong version number", "look whether it speaks http: http://shop:8402"),
        ("http://shop", "Server disconnected without sending a response.", "look whether it speaks https: "),
        ("https://shop", "Server disconnected without sending a response.", "look whether the address"),
        ("https://shop", "certificate verify failed: IP address mismatch", "its certificate is for another"),
        ("https://shop", "certificate verify failed: certificate has expired", "date -u  ("),
        ("https://shop", "certificate verify failed: certificate is not yet valid", "date -u  ("),
    ],
)
def test_a_server_that_speaks_something_else(url, error, hint):
    """The commonest mistakes: the other scheme, a certificate for another name or of another time."""
    assert looking_at(Origin.of(url), NoAnswer(error)).startswith(hint)


@pytest.mark.parametrize(
    ("reason", "said", "hint"),
    [
        (NotSent("timed out"), "cannot be reached: timed out", "look whether the address is right"),
        (NoAnswer("timed out"), "does not answer: timed out", "--timeout DURATION"),
        (
            NoAnswer("The read operation timed out"),
            "does not answer: The read operation",
            "--timeout DURATION",
        ),
        (NoAnswer("the server broke off"), "does not answer: the server broke off", "look whether"),
    ],
)
def test_a_server_that_takes_a_request_and_says_nothing_can_be_reached(reason, said, hint):
    """What helps is patience, not another address."""
    error = unreachable(SHOP, reason)
    assert error.message.startswith(f"https://shop.example {said}")
    assert error.hint.startswith(hint)


@pytest.mark.parametrize(
    ("error", "told", "at_proxy"),
    [
        (
            httpx.ConnectError("[Errno 111] Connection refused"),
            "the proxy http://p:3128 cannot be reached: Connection refused",
            True,
        ),
        (httpx.ProxyError("403 Forbidden"), "the proxy http://p:3128 says 403 Forbidden", False),
        (
            httpx.ConnectError("[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed (_ssl.c:1)"),
            "certificate verify failed",
            False,
        ),
        (httpx.ConnectTimeout("_ssl.c:989: The handshake operation timed out"), "_ssl.c:989: ", False),
    ],
)
def test_through_a_proxy_nothing_left(error, told, at_proxy):
    """Who failed is named: the proxy, or the server behind it; in either case nothing was paid."""
    request = httpx.Request("GET", "https://shop.example", extensions={"proxy": "http://p:3128"})
    reason = no_answer(request, error)
    assert isinstance(reason, NotSent)
    assert (str(reason).startswith(told), reason.at_proxy) == (True, at_proxy)
    assert ("take another" in looking_at(SHOP, reason)) is at_proxy


@pytest.mark.parametrize(
    ("raised", "said"),
    [
        ("<StreamReset stream_id:3, error_code:2, remote_reset:True>", "the server broke the answer off"),
        (
            "<ConnectionTerminated error_code:0, last_stream_id:1, additional_data:None>",
            "the server closed the connection",
        ),
        ("<PingReceived ping_data:00>", "<PingReceived ping_data:00>"),
    ],
)
def test_an_event_of_http_2_is_told_in_words(raised, said):
    """httpcore raises it as a program would see it, and so it stays where there are no words for it."""
    assert str(no_answer(REQUEST, httpx.RemoteProtocolError(raised))) == said


def test_what_a_program_catches():
    """What httpx raised, where the server could not be asked; an error of the chain stays what it is."""
    refused = httpx.ConnectError("Connection refused")
    with pytest.raises(httpx.ConnectError) as raised, as_httpx():
        reason = NotSent("Connection refused")
        reason.__cause__ = refused
        raise unreachable(SHOP, reason) from reason
    assert raised.value is refused
    for cause in (None, NotSent("no server was asked"), ValueError()):
        with pytest.raises(NetworkError, match="no chain"), as_httpx():
            raise NetworkError("no chain") from cause


def test_what_goes_wrong_without_http_2_is_told_as_it_is(monkeypatch):
    """Its library is not loaded then."""
    monkeypatch.delitem(sys.modules, "h2.exceptions", raising=False)
    with pytest.raises(ValueError, match="gone"), reading():
        raise ValueError("gone")


def test_a_dry_run_is_no_payment():
    """Its answer tells what would be paid; that of a free request tells of neither."""
    would_pay = WouldPay(choice=None, preview=None, most=None)
    assert booked(would_pay) is None
    assert told_by(httpx.Response(402), would_pay).extensions == {"would_pay": would_pay, "payment": None}
    assert told_by(httpx.Response(200), None).extensions == {"payment": None}


def test_a_reason_goes_on_in_a_sentence():
    """It ends without the full stop of the library below: more is said behind it."""
    raised = httpx.RemoteProtocolError("Server disconnected without sending a response.")
    assert str(no_answer(REQUEST, raised)) == "Server disconnected without sending a response"


@pytest.mark.parametrize(
    "types", [["text/plain", "text/event-stream"], ["Text/Event-Stream;a=b", "text/plain"]]
)
def test_a_stream_that_says_more_than_one_type(types):
    """It is a stream, as it is for the gateway that counts its events."""
    response = httpx.Response(200, headers=[("content-type", one) for one in types])
    assert answer_of(response).is_stream
