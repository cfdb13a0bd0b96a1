"""The upstream as an ASGI application: a reverse proxy. RFC 9110, section "Message Forwarding"."""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import AsyncIterator, Iterable
from dataclasses import replace
from urllib.parse import urlsplit

import httpcore

from microwallet.domain.one_line import one_line
from microwallet.domain.whole_url import whole_url
from microwallet.errors import UsageError
from microwallet.http402.charging.answers import KEPT_LIMIT, plain_answer
from microwallet.http402.charging.asgi import Receive, Scope, Send, client_leaves, plain_name, send_answer
from microwallet.http402.loopback import is_loopback, parse_ip
from microwallet.http402.wire.events import BODILESS

CONNECT_SECONDS = 5.0
ANSWER_SECONDS = 60.0
"""How long the upstream may be silent."""
CONNECTIONS = 200

_HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
_HIGHEST_STATUS = 599
_LATE = plain_answer(
    504, "Gateway Timeout", "what is sold here takes too long to answer; nothing was charged"
)
_AWAY = plain_answer(502, "Bad Gateway", "what is sold here does not answer; nothing was charged")
_OURS = frozenset({b"host", b"forwarded", b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-proto"})


class ReverseProxy:
    """Forwards every request to one upstream, and its answers back, chunk by chunk. One that nobody reads any
    more is broken off, unless it may be small enough to be kept."""

    def __init__(self, upstream: str) -> None:
        """`upstream` is an http or https URL without a path; UsageError for anything else."""
        parts = urlsplit(upstream)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None:
            meant = urlsplit(whole_url(upstream, otherwise="http://127.0.0.1:9000"))
            raise UsageError(
                f"{upstream[:200]!r} is no upstream: http or https, a host and no user are expected",
                hint="--upstream " + shlex.quote(f"{meant.scheme}://{meant.netloc}"),
            )
        if parts.path.rstrip("/") or parts.query or parts.fragment:
            raise UsageError(
                f"{upstream[:200]!r} has a path: what is asked for is forwarded as it is",
                hint="--upstream " + shlex.quote(f"{parts.scheme}://{parts.netloc}"),
            )
        try:
            port = parts.port
        except ValueError as error:
            raise UsageError(f"{upstream[:200]!r} has no port that could be one") from error
        self._address = (parts.hostname, port or (443 if parts.scheme == "https" else 80))
        self._url = (parts.scheme.encode(), parts.hostname.encode("idna"), port)
        self._host = parts.netloc.encode()
        self._timeout = {
            "connect": CONNECT_SECONDS,
            "read": ANSWER_SECONDS,
            "write": ANSWER_SECONDS,
            "pool": CONNECT_SECONDS,
        }
        self._pool = httpcore.AsyncConnectionPool(max_connections=CONNECTIONS, keepalive_expiry=15)

    def leads_to(self, host: str, port: int) -> bool:
        """Whether the upstream is what listens on a host and port of this machine itself."""
        upstream, its_port = self._address
        if its_port != port:
            return False
        its_ip, ip = parse_ip(upstream), parse_ip(host)
        if ip is not None and ip.is_unspecified:
            return is_loopback(upstream)
        if ip is not None and its_ip is not None:
            return ip == its_ip
        return upstream == host or (is_loopback(upstream) and is_loopback(host))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, as ASGI 3 has it."""
        if scope["type"] != "http":
            return
        scheme, host, port = self._url
        target = scope["raw_path"] + (b"?" + scope["query_string"] if scope["query_string"] else b"")
        started, passed = False, 0
        leaving: asyncio.Future[None] | None = None
        try:
            async with self._pool.stream(
                scope["method"],
                httpcore.URL(scheme=scheme, host=host, port=port, target=target),
                headers=self._request_headers(scope),
                content=_body(receive) if _has_body(scope) else None,
                extensions={"timeout": self._timeout},
            ) as response:
                if response.status > _HIGHEST_STATUS:
                    raise httpcore.RemoteProtocolError(f"its status {response.status} is none")
                started = True
                await send(
                    {
                        "type": "http.response.start",
                        "status": response.status,
                        "headers": _answer_headers(response),
                    }
                )
                async for chunk in response.aiter_stream():
                    passed += len(chunk)
                    if passed > KEPT_LIMIT:
                        leaving = leaving or asyncio.ensure_future(client_leaves(receive))
                        if leaving.done():
                            return
                    await send({"type": "http.response.body", "body": chunk, "more_body": True})
                await send({"type": "http.response.body", "body": b""})
        except (httpcore.TimeoutException, httpcore.NetworkError, httpcore.ProtocolError) as error:
            if started:
                raise
            answer = _LATE if isinstance(error, httpcore.TimeoutException) else _AWAY
            await send_answer(replace(answer, warning=_why(error)), send)
        finally:
            if leaving is not None:
                leaving.cancel()

    def _request_headers(self, scope: Scope) -> list[tuple[bytes, bytes]]:
        headers = [one for one in _end_to_end(scope["headers"]) if plain_name(one[0]) not in _OURS]
        asked_host = [value for name, value in scope["headers"] if name == b"host"][:1]
        client = scope.get("client")
        told = [
            (b"host", self._host),
            *((b"x-forwarded-host", value) for value in asked_host),
            (b"x-forwarded-proto", scope.get("scheme", "http").encode()),
            *([(b"x-forwarded-for", client[0].encode())] if client else []),
        ]
        if _has_body(scope) and not any(name == b"content-length" for name, _ in headers):
            told.append((b"transfer-encoding", b"chunked"))
        return told + headers


def _why(error: Exception) -> str:
    """What the upstream has failed at, for the seller."""
    if isinstance(error, httpcore.ConnectError | httpcore.ConnectTimeout):
        return "the upstream cannot be reached"
    return f"the upstream does not answer: {one_line(str(error)) or type(error).__name__}"


def _has_body(scope: Scope) -> bool:
    return any(name in (b"content-length", b"transfer-encoding") for name, _ in scope["headers"])


async def _body(receive: Receive) -> AsyncIterator[bytes]:
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise httpcore.WriteError("the client went away while it sent the body")
        if message.get("body"):
            yield message["body"]
        if not message.get("more_body", False):
            return


def _answer_headers(response: httpcore.Response) -> list[tuple[bytes, bytes]]:
    """Of an answer that has no body whatever it says, without the length of one: no server could send that.
    RFC 9110, section 8.6."""
    headers = _end_to_end(response.headers)
    if response.status not in BODILESS:
        return headers
    return [(name, value) for name, value in headers if name != b"content-length"]


def _end_to_end(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Fields that concern more than one connection; names in lowercase."""
    lower = [(name.lower(), value) for name, value in headers]
    named = {
        part.strip().lower() for name, value in lower if name == b"connection" for part in value.split(b",")
    }
    return [(name, value) for name, value in lower if name not in _HOP_BY_HOP and name not in named]
