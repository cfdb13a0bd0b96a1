"""Where a request goes: the path that is matched is the one that is forwarded, and there is no side door."""

from __future__ import annotations

import asyncio

import httpx
import pytest
from counter import PAYER, amounts, credential, only_challenge, receipt
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from microwallet.http402.charging.middleware import PaymentMiddleware


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


def test_a_post_to_what_is_free_hands_a_voucher_over(sold_by):
    """Where the GET has a price; without a credential it is the application's."""
    counter = sold_by({"path": "/a", "method": "GET", "price": "1000"}, {"path": "/**", "free": True})
    assert counter.pay(PAYER, PAYER.pay(5000), "POST", "/a").status_code == 200
    assert amounts(counter) == (5000, 0)
    assert counter.app.requests == []
    assert counter.ask("POST", "/a").content == b"served"


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
