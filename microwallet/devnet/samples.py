"""A small API to sell on a throw-away chain: an article, a stream of words, and an image."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from microwallet.http402.charging.answers import Answer, plain_answer
from microwallet.http402.charging.asgi import Receive, Scope, Send, send_answer
from microwallet.http402.charging.caching import NO_STORE
from microwallet.http402.wire.events import EVENT_STREAM

PAUSE_SECONDS = 0.05
"""Between two words of the stream."""

ROUTES: Sequence[Mapping[str, Any]] = (
    {"path": "/", "free": True},
    {"path": "/article", "price": "0.001 USDC", "description": "An article"},
    {
        "path": "/stream",
        "price": "0.0001 USDC",
        "per": "event",
        "min-voucher-delta": "0.001 USDC",
        "description": "A word of the stream",
    },
    {"path": "/image.svg", "price": "0.002 USDC", "description": "A picture"},
)

_TEXT = (
    "A payer locks a deposit for one payee and then signs, request by request, what it owes in all."
    " Each signature is worth more than the one before, so the last one is the only one that counts."
    " The chain sees two transactions, whatever happened between them."
)
_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>{title}</title>
<h1>{title}</h1>
{body}
</html>
"""
_INDEX = """<ul>
<li><a href="/article">An article</a>: 0.001 USDC
<li><a href="/stream">A stream of words</a>: 0.0001 USDC a word
<li><a href="/image.svg">A picture</a>: 0.002 USDC
</ul>"""
_CIRCLES = "\n".join(
    f'<circle cx="160" cy="120" r="{radius}" fill="hsl({radius * 3} 70% 55%)"/>'
    for radius in range(110, 0, -10)
)
_IMAGE = f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 320 240" role="img">
<title>Circles in circles</title>
<rect width="320" height="240" fill="#112"/>
{_CIRCLES}
</svg>
"""


async def sample_api(scope: Scope, _receive: Receive, send: Send) -> None:
    """The application, as ASGI 3 has it."""
    path = scope["path"]
    if path == "/stream":
        await _stream(send)
        return
    whole = {
        "/": ("text/html; charset=utf-8", _PAGE.format(title="What is sold here", body=_INDEX)),
        "/article": (
            "text/html; charset=utf-8",
            _PAGE.format(title="One signature", body=f"<p>{_TEXT}</p>"),
        ),
        "/image.svg": ("image/svg+xml", _IMAGE),
    }
    if path in whole:
        kind, text = whole[path]
        answer = Answer(status=200, headers=[(b"content-type", kind.encode())], body=text.encode())
    else:
        answer = plain_answer(404, "Not Found", "no such sample: / lists them")
    await send_answer(answer, send, with_body=scope["method"] != "HEAD")


async def _stream(send: Send) -> None:
    headers = [(b"content-type", EVENT_STREAM.encode()), NO_STORE]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    for word in _TEXT.split():
        await send({"type": "http.response.body", "body": f"data: {word}\n\n".encode(), "more_body": True})
        await asyncio.sleep(PAUSE_SECONDS)
    await send({"type": "http.response.body", "body": b""})
