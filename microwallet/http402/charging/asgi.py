"""The few types of ASGI 3 that the gateway speaks, and sending a whole answer by them."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, MutableMapping
from email.utils import formatdate
from functools import lru_cache
from typing import Any

from microwallet.http402.charging.answers import Answer
from microwallet.http402.wire.events import BODILESS

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

WARNING = "microwallet.warning"
"""In the message that starts a response: what the seller should know of it, for the log alone."""

_MARKS = b"!#$%&'*+.^_`|~"
_TO_HYPHENS = bytes.maketrans(_MARKS, b"-" * len(_MARKS))


def plain_name(name: bytes) -> bytes:
    """A field's name as an application may read it: to many, all that is no letter or digit is the same."""
    return name.lower().translate(_TO_HYPHENS)


@lru_cache(maxsize=4)
def http_date(seconds: int) -> bytes:
    """Unix seconds as a Date field has them. RFC 9110, section 5.6.7."""
    return formatdate(seconds, usegmt=True).encode()


async def client_leaves(receive: Receive) -> None:
    """Wait until the client has gone away."""
    while (await receive())["type"] == "http.request":
        pass


async def send_answer(answer: Answer, send: Send, *, with_body: bool = True, is_dated: bool = True) -> None:
    """Send a whole answer; one to a HEAD without its body. `is_dated`: with a Date, which other servers than
    our own add themselves."""
    headers, told = list(answer.headers), {name for name, _ in answer.headers}
    if is_dated and b"date" not in told:  # one that is kept has that of then
        headers.append((b"date", http_date(int(time.time()))))
    if b"content-length" not in told and answer.status not in BODILESS:
        headers.append((b"content-length", str(len(answer.body)).encode()))
    start = {"type": "http.response.start", "status": answer.status, "headers": headers}
    await send(start if answer.warning is None else {**start, WARNING: answer.warning})
    await send({"type": "http.response.body", "body": answer.body if with_body else b""})
