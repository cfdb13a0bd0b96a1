"""A request as the gateway takes it apart."""

from __future__ import annotations

import asyncio

import pytest

from microwallet.http402.charging.checks import fingerprint_of
from microwallet.http402.charging.request import Request


def request(chunks, *fields):
    """A request whose body comes in pieces."""
    rest = iter(chunks)

    async def receive():
        chunk = next(rest)
        return {"type": "http.request", "body": chunk, "more_body": chunk is not chunks[-1]}

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
    """It is none that was read, however it comes: the same request stays the same."""
    whole, pieces = request([b"z" * 12]), request(chunks)
    assert asyncio.run(pieces.body(10)) is None
    assert pieces.whole_body is None
    assert fingerprint_of(pieces, "/") == fingerprint_of(whole, "/")


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
