"""A request as the gateway takes it apart."""

from __future__ import annotations

import asyncio

import pytest

from microwallet.http402.charging.checks import fingerprint_of
from microwallet.http402.charging.request import Request


def request(chunks, *fields):
    """A request whose body comes in pieces, and whose client leaves then."""
    rest = iter(chunks)

    async def receive():
        chunk = next(rest, None)
        if chunk is None:
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": chunk} | ({} if chunk is chunks[-1] else {"more_body": True})

    length = str(sum(map(len, chunks))).encode()
    return Request(
        {
            "type": "http",
            "http_version": "1.1",
            "method": "POST",
            "raw_path": b"/",
            "query_string": b"",
            "headers": [(b"host", b"h"), (b"content-length", length), *fields],
        },
        receive,
    )


@pytest.mark.parametrize(
    "chunks", [[b"x" * 12], [b"x" * 6, b"y" * 6], [b"x" * 11, b"y"], [b"x" * 10, b"y", b"z"]]
)
def test_a_body_that_is_too_large(chunks):
    """It is none that was read, however it comes and however often it is asked for: the same request stays
    the same."""
    whole, pieces = request([b"z" * 12]), request(chunks)
    for _ in range(2):
        assert asyncio.run(pieces.body(10)) is None
    assert pieces.whole_body is None
    assert fingerprint_of(pieces, "/") == fingerprint_of(whole, "/")


@pytest.mark.parametrize("chunks", [[b""], [b"x" * 10], [b"x" * 6, b"y" * 4], [b"x" * 10, b""]])
def test_a_body_that_is_read_ahead(chunks):
    """As large as it may be, too; the application gets it all the same, as it came."""
    ahead = request(chunks)

    async def run():
        read = [await ahead.body(10) for _ in range(2)]
        return read, [(await ahead.receive())["body"] for _ in chunks]

    assert asyncio.run(run()) == ([b"".join(chunks)] * 2, chunks)


@pytest.mark.parametrize(
    ("version", "method", "fields", "has_body"),
    [
        ("1.1", "POST", [], False),
        ("1.1", "POST", [(b"content-length", b"0")], False),
        ("1.1", "GET", [(b"content-length", b"1")], True),
        ("1.1", "GET", [(b"transfer-encoding", b"chunked")], True),
        ("2", "POST", [], True),
        ("2", "get", [], False),
        ("2", "GET", [(b"content-length", b"1"), (b"content-length", b"0")], True),
        ("2", "GET", [(b"content-length", b"0"), (b"content-length", b"1")], True),
        ("3", "HEAD", [], False),
        ("3", "PUT", [], True),
    ],
)
def test_whether_a_body_may_come(version, method, fields, has_body):
    """It is told of by a field; from HTTP/2 on it need not be, but what is only got has none."""
    scope = {"http_version": version, "method": method, "path": "/", "headers": fields}
    assert Request(scope, None).has_body is has_body


@pytest.mark.parametrize("is_waited_for", [True, False])
def test_a_body_is_handed_on_as_it_comes(is_waited_for):
    """Whoever waits for the client to leave takes nothing of it, and hears of that afterwards."""
    coming = request([b"a", b"b"])

    async def run():
        leaving = [asyncio.ensure_future(coming.client_leaves())] if is_waited_for else []
        await asyncio.sleep(0)
        handed = [(await coming.receive())["body"] for _ in range(2)]
        async with asyncio.timeout(5):
            await asyncio.gather(*leaving, coming.client_leaves())
            return handed, await coming.receive()

    assert asyncio.run(run()) == ([b"a", b"b"], {"type": "http.disconnect"})


def test_no_body_is_no_reason_to_wait():
    """An application that reads all the same is told at once that there is none; then, that the client has
    left, and no earlier than it has."""
    scope = {"http_version": "1.1", "method": "GET", "path": "/", "headers": []}

    async def run():
        gone = asyncio.Event()

        async def receive():
            await gone.wait()
            return {"type": "http.disconnect"}

        got = Request(scope, receive)
        assert await got.receive() == {"type": "http.request", "body": b"", "more_body": False}
        leaving = asyncio.ensure_future(got.receive())
        await asyncio.sleep(0.01)
        assert not leaving.done()
        gone.set()
        return await leaving

    assert asyncio.run(run()) == {"type": "http.disconnect"}


@pytest.mark.parametrize(
    ("value", "credentials"), [(b"Payment abc", [b"Payment abc"]), (b"Basic abc", []), (b"", [])]
)
def test_a_field_for_credentials_alone(value, credentials):
    """Whatever is in it, the application does not see it; Authorization beside it is the application's."""
    own = (b"authorization", b"Basic own")
    fields = [own, (b"payment-authorization", value)]
    got = Request({"method": "GET", "path": "/", "headers": fields}, None)
    assert (got.credentials, got.fields) == (credentials, [own])


@pytest.mark.parametrize(
    ("accepted", "wants_events"),
    [
        ([], False),
        ([b"text/html"], False),
        ([b"text/html", b"text/html, Text/Event-Stream;q=0.1"], True),
        ([b"text/event-stream", b"*/*"], True),
    ],
)
def test_whether_events_are_asked_for(accepted, wants_events):
    """In any of the fields that say what is accepted, by name."""
    fields = [(b"accept", one) for one in accepted]
    assert Request({"method": "GET", "path": "/", "headers": fields}, None).wants_events is wants_events


@pytest.mark.parametrize(
    ("query", "url"),
    [(b"", "https://api.example/a%20b"), (b"q=%C3%A4&n=1", "https://api.example/a%20b?q=%C3%A4&n=1")],
)
def test_a_url_is_told_whole(query, url):
    """A person pays for just what was asked for, its query with it."""
    fields = [(b"accept", b"text/html"), (b"host", b"api.example")]
    scope = {"method": "GET", "scheme": "https", "raw_path": b"/a%20b", "path": "/a b", "headers": fields}
    assert Request({**scope, "query_string": query}, None).url == url


@pytest.mark.parametrize(
    ("connection", "is_kept"),
    [
        (b"keep-alive", True),
        (b"close, X-Other", True),
        (b"x-payment-payer", False),
        (b"a, Payment-Receipt", False),
    ],
)
def test_fields_by_what_they_are_for(connection, is_kept):
    """Of each the next request's own: nothing is remembered but what names are for."""
    for value in (b"Payment abc", b"Basic abc", b"payment def"):
        fields = [(b"connection", connection), (b"authorization", value), (b"X_Payment-Payer", b"me")]
        got = request([b"b"], *fields, (b"idempotency-key", b"k"), (b"accept", b"*/*"))
        is_payment = value != b"Basic abc"
        assert got.credentials == ([value] if is_payment else [])
        assert got.idempotency_keys == ["k"]
        assert got.has_body
        expected = [(b"host", b"h"), (b"content-length", b"1")]
        expected += [(b"connection", connection)] if is_kept else []
        expected += [] if is_payment else [(b"authorization", value)]
        assert got.fields == [*expected, (b"idempotency-key", b"k"), (b"accept", b"*/*")]
