"""What the middleware answers where the server ends before a request is done."""

from __future__ import annotations

import asyncio
import json

import pytest

from microwallet.http402.charging.checkout import Place
from microwallet.http402.charging.middleware import PaymentMiddleware

FREE = Place.of("/", None)
SCOPE = {"type": "http", "method": "GET", "path": "/", "raw_path": b"/", "query_string": b"", "headers": []}


class Admission:
    """A gateway for which everything is free, once it is ready."""

    def __init__(self, ready: asyncio.Event) -> None:
        self._ready = ready

    async def admit(self, _request: object) -> Place:
        """A place that costs nothing."""
        await self._ready.wait()
        return FREE


async def cancelled(app, *, is_ready: bool) -> list[dict]:
    """What was sent to a client whose request was cancelled while `app`, or what is before it, waited."""
    ready, sent = asyncio.Event(), []
    if is_ready:
        ready.set()

    async def send(message):
        sent.append(message)

    async def receive():
        return {"type": "http.request"}

    request = asyncio.ensure_future(PaymentMiddleware(app, Admission(ready))(dict(SCOPE), receive, send))
    await asyncio.sleep(0.01)
    request.cancel()
    with pytest.raises(asyncio.CancelledError):
        await request
    return sent


async def never(_scope, _receive, _send):
    await asyncio.Event().wait()


async def half(_scope, _receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await asyncio.Event().wait()


@pytest.mark.parametrize("is_ready", [True, False])
def test_what_was_not_answered_is_told_that_the_server_ends(is_ready):
    """503 for what is free, and for what was not admitted yet: the server would make a 500 of it."""
    start, body = asyncio.run(cancelled(never, is_ready=is_ready))
    assert start["status"] == 503
    assert json.loads(body["body"])["detail"] == "the server ends; nothing was charged"


def test_what_was_begun_is_not_answered_twice():
    """It is cut off where it was."""
    (start,) = asyncio.run(cancelled(half, is_ready=True))
    assert start["status"] == 200
