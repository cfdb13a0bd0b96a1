"""A request as it came: what of it concerns paying, what of it the application sees, and its body."""

from __future__ import annotations

import asyncio
from collections import deque
from enum import Enum, auto
from functools import lru_cache

from microwallet.http402.charging.asgi import Message, Receive, Scope, client_leaves, plain_name
from microwallet.http402.charging.paths import raw_path
from microwallet.http402.loopback import is_loopback, parse_ip
from microwallet.http402.wire.challenge import PAYMENT_AUTHORIZATION
from microwallet.http402.wire.credential import is_payment
from microwallet.http402.wire.events import EVENT_STREAM

BODY_SECONDS = 30.0
"""For how long a client may take to send a body that is read ahead."""
_OURS = (b"x-payment-", b"payment-")
"""What the fields begin with that only the gateway may set."""
_KEPT_BACK = (b"accept-payment", b"x-original-url", b"x-rewrite-url")
"""What is for the gateway alone; and where some applications have a server in front tell them another path
than the one that was asked for, by which the price is found."""
_UNANNOUNCED = ("2", "3")
"""Versions of HTTP in which a body may come without a field that tells of it."""
_WITHOUT_BODY = ("GET", "HEAD", "OPTIONS")
"""Methods of which a body means nothing: they have none unless it is told of."""
_EVENT_STREAM = EVENT_STREAM.encode()
_TELLING = 32
"""Bytes of a field's name that say what it is for; what is longer is not kept in memory."""
_USUAL = 32
"""Fields of a request of which it is remembered what they are for."""


class _Use(Enum):
    """What the gateway does with a field."""

    CREDENTIAL = auto()
    CREDENTIAL_BESIDE = auto()
    IDEMPOTENCY_KEY = auto()
    BODY = auto()
    CONNECTION = auto()
    ACCEPT = auto()
    RANGE = auto()
    KEPT_BACK = auto()


_BESIDE = PAYMENT_AUTHORIZATION.lower().encode()
_USES = {
    b"authorization": _Use.CREDENTIAL,
    b"idempotency-key": _Use.IDEMPOTENCY_KEY,
    b"content-length": _Use.BODY,
    b"transfer-encoding": _Use.BODY,
    b"connection": _Use.CONNECTION,
    b"accept": _Use.ACCEPT,
    b"range": _Use.RANGE,
}


def _use_of(name: bytes) -> _Use | None:
    """What a field of this name, of which the first bytes do, is for; None for one that is only forwarded."""
    if name == _BESIDE:
        return _Use.CREDENTIAL_BESIDE
    plain = plain_name(name)
    if plain.startswith(_OURS) or plain in _KEPT_BACK:
        return _Use.KEPT_BACK
    return _USES.get(name)


def _find_uses(names: tuple[bytes, ...]) -> tuple[tuple[int, _Use], ...]:
    """What the fields of these names are for, those that are only forwarded left out; the last one first."""
    uses = ((index, _use_of(name)) for index, name in enumerate(names))
    return tuple((index, use) for index, use in uses if use is not None)[::-1]


_uses_of = lru_cache(maxsize=1024)(_find_uses)


@lru_cache(maxsize=64)
def _takes_ours_away(connection: bytes) -> bool:
    """Whether a Connection field names one that only the gateway may set."""
    return any(_use_of(one.strip()[:_TELLING]) is _Use.KEPT_BACK for one in connection.split(b","))


@lru_cache(maxsize=1024)
def _is_elsewhere(client: str) -> bool:
    """Whether it is the address of another machine; that of a socket of this one, or of a test, is none."""
    return parse_ip(client) is not None and not is_loopback(client)


class Request:
    """One request. Its body is read ahead where a decision needs it, and handed on all the same."""

    whole_body: bytes | None = None
    """Once it was read ahead, if it is not too large."""
    ranges: tuple[str, ...] = ()
    """Which parts of the answer are asked for; nothing for all of it."""
    _read_ahead: deque[Message] | None = None
    _is_handed_on = False
    _handed_on: asyncio.Event | None = None

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self.scope = scope
        self.method: str = scope["method"].upper()  # not all servers see to that
        self.raw_path: bytes = scope.get("raw_path") or raw_path(scope["path"])
        self.root: str = scope.get("root_path", "")
        """Where the application is mounted: its own routes are below that."""
        self.credentials: list[bytes] = []
        """What the scheme Payment has in Authorization fields, and in those for it alone."""
        self.idempotency_keys: list[str] = []
        self.wants_events = False
        """Whether server-sent events are asked for by name."""
        self.has_body = scope.get("http_version") in _UNANNOUNCED and self.method not in _WITHOUT_BODY
        self._receive = receive
        self.fields: list[tuple[bytes, bytes]] = list(scope["headers"])
        """Those that the application sees: nothing about paying, and nothing that would take away what
        the gateway says about it."""
        names = tuple([field[0][:_TELLING] for field in self.fields])
        for index, use in _uses_of(names) if len(names) <= _USUAL else _find_uses(names):
            if self._uses(use, *self.fields[index]):
                del self.fields[index]

    @property
    def query(self) -> bytes:
        """What stands behind the question mark."""
        query: bytes = self.scope["query_string"]
        return query

    @property
    def url(self) -> str:
        """The whole URL, as the client names it: for a person to read, not to be trusted."""
        host = next(iter(self.values(b"host")), "")
        query = "?" + self.query.decode("latin-1") if self.query else ""
        return f"{self.scope.get('scheme', 'http')}://{host}{self.raw_path.decode('latin-1')}{query}"

    @property
    def is_in_the_clear(self) -> bool:
        """Whether others may read along: it came from another machine, and not over https, as far as the
        server knows. draft-httpauth-payment-00, section "Transport Security"."""
        client = self.scope.get("client")
        return self.scope.get("scheme", "http") == "http" and client is not None and _is_elsewhere(client[0])

    def fields_but(self, plain: bytes) -> list[tuple[bytes, bytes]]:
        """The fields that the application sees, without those that it may read as this one."""
        return [field for field in self.fields if plain_name(field[0]) != plain]

    def values(self, name: bytes) -> list[str]:
        """The values of a header field, in order; `name` in lowercase."""
        return [value.decode("latin-1") for key, value in self.scope["headers"] if key == name]

    async def body(self, limit: int) -> bytes | None:
        """The whole body, or None if it has more than `limit` bytes, or does not come in time."""
        if self._read_ahead is not None:
            return self.whole_body
        read = self._read_ahead = deque()
        size = 0
        try:
            async with asyncio.timeout(BODY_SECONDS):
                while size <= limit:
                    message = await self._receive()
                    read.append(message)
                    if message["type"] != "http.request":
                        return None
                    size += len(message.get("body", b""))
                    if size <= limit and not message.get("more_body", False):
                        self.whole_body = b"".join(one.get("body", b"") for one in read)
                        return self.whole_body
        except TimeoutError:
            return None
        return None

    async def own_body(self, limit: int) -> bytes | None:
        """As `body`; None too for a request without one."""
        return await self.body(limit) if self.has_body else None

    async def receive(self) -> Message:
        """The next message: what was read ahead first; after the body only that the client has left."""
        if self._is_handed_on:
            await self.client_leaves()
            return {"type": "http.disconnect"}
        if self._read_ahead:
            message = self._read_ahead.popleft()
        elif self.has_body:
            message = await self._receive()
        else:
            message = {"type": "http.request", "body": b"", "more_body": False}
        if message["type"] != "http.request" or not message.get("more_body", False):
            self._is_handed_on = True
            if self._handed_on is not None:
                self._handed_on.set()
        return message

    async def client_leaves(self) -> None:
        """Wait until the client has gone away; never ends before the body, if there is one, was handed on."""
        if self.has_body and not self._is_handed_on:
            self._handed_on = asyncio.Event()
            await self._handed_on.wait()
        await client_leaves(self._receive)

    def _uses(self, use: _Use, name: bytes, value: bytes) -> bool:
        """Take note of a field; whether it is kept from the application."""
        if use is _Use.CREDENTIAL:
            if is_payment(value):
                self.credentials.append(value)
                return True
        elif use is _Use.CREDENTIAL_BESIDE:
            if is_payment(value):
                self.credentials.append(value)
            return True
        elif use is _Use.IDEMPOTENCY_KEY:
            self.idempotency_keys.append(value.decode("latin-1"))
        elif use is _Use.BODY:
            self.has_body = self.has_body or name != b"content-length" or value != b"0"
        elif use is _Use.CONNECTION:
            return _takes_ours_away(value)
        elif use is _Use.ACCEPT:
            self.wants_events = self.wants_events or _EVENT_STREAM in value.lower()
        elif use is _Use.RANGE:
            self.ranges += (value.decode("latin-1"),)
        else:
            return True
        return False
