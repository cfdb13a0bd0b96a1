"""HTTP POST within a deadline: the one place that opens a connection to an RPC server."""

from __future__ import annotations

import base64
import os
import re
import socket
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, unquote, urlsplit

from microwallet.domain.whole_url import whole_url
from microwallet.errors import UsageError

if TYPE_CHECKING:
    from http.client import HTTPConnection

BODY_LIMIT = 20 * 1024 * 1024
"""Bytes an answer may have."""

_EXAMPLE = "http://127.0.0.1:8545"
_LAST_WORD_SECONDS = 0.1
_PLAIN_URL = re.compile(r"[!-~]+")
_SECRET_SEGMENT = re.compile(r"[A-Za-z0-9_\-]{16,}")
_HOST_ALONE = re.compile(r"([^@:/?#\[\]]*|\[[^@\]]*\])(:[0-9]*)?([/?#]|$)")
_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})


class NoRpcAddress(UsageError):
    """What was given for an RPC address is none; `meant` is one that can be typed instead."""

    def __init__(self, url: str, why: str) -> None:
        shown = redacted(url)
        self.meant = whole_url(url, otherwise=_EXAMPLE) if shown == url else _EXAMPLE
        super().__init__(f"{shown!r} is no RPC address: {why}", hint=f"write it like {self.meant}")


class TransportError(Exception):
    """No answer came. `sent` says whether the request may have reached the server."""

    def __init__(self, message: str, *, sent: bool) -> None:
        super().__init__(message)
        self.sent = sent


class Deadline:
    """A moment that every wait of one request shares."""

    __slots__ = ("_at",)

    def __init__(self, seconds: float) -> None:
        self._at = time.monotonic() + seconds

    def remaining(self) -> float:
        """Seconds left; TimeoutError when there are none."""
        left = self._at - time.monotonic()
        if left <= 0:
            raise TimeoutError("timed out")
        return left

    def share(self, parts: int) -> Deadline:
        """A deadline after one of `parts` equal parts of what is left."""
        return Deadline(self.remaining() / parts)


class Endpoint:
    """One RPC address: one connection that is kept, a proxy where the environment names one, TLS for https.

    `shown` is the address without credentials, API keys and query values: the only form that may
    be printed.
    """

    def __init__(self, url: str) -> None:
        self.shown = redacted(url)
        if _PLAIN_URL.fullmatch(url) is None:
            raise NoRpcAddress(url, "it has spaces or odd characters")
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise NoRpcAddress(url, "its host or port cannot be") from error
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise NoRpcAddress(url, "http:// or https:// and a host are expected")
        self._tls = parts.scheme == "https"
        self._host = parts.hostname
        self.port = port or (443 if self._tls else 80)
        self._proxy = None if self.is_local else _proxy(parts.scheme, self._host)
        path = f"{parts.path or '/'}{'?' if parts.query else ''}{parts.query}"
        host = f"[{self._host}]" if ":" in self._host else self._host
        authority = f"{host}:{port}" if port else host
        self._target = path
        self._headers = {
            "Host": authority,
            "User-Agent": "microwallet",
            "Content-Type": "application/json",
            "Accept": "application/json",
            **_authorization("Authorization", parts),
        }
        if self._proxy and not self._tls:
            self._target = f"http://{authority}{path}"
            self._headers |= _authorization("Proxy-Authorization", self._proxy)
        self._idle: list[HTTPConnection] = []

    @property
    def is_local(self) -> bool:
        """Whether the host is this machine."""
        return self._host in _LOOPBACK

    def post(self, body: bytes, deadline: Deadline, *, reuse: bool) -> tuple[int, str | None, bytes]:
        """Status, Retry-After and body of the answer; TransportError when none comes in time.

        `reuse` allows the connection that was kept, on which a request may have to be sent twice.
        """
        if reuse and self._idle:
            try:
                return self._exchange(self._idle.pop(), body, deadline)
            except TransportError:
                _require_time(deadline)
        return self._exchange(self._connection(deadline), body, deadline)

    def close(self) -> None:
        """Close the connection that was kept."""
        while self._idle:
            self._idle.pop().close()

    def _exchange(
        self, connection: HTTPConnection, body: bytes, deadline: Deadline
    ) -> tuple[int, str | None, bytes]:
        """Talk in a thread of its own: whatever it waits for, a name server, a handshake or a server
        that sends a byte a second, the deadline holds."""
        exchange = _Exchange()
        worker = threading.Thread(
            target=exchange.run, args=(connection, self._target, body, self._headers), daemon=True
        )
        try:
            worker.start()
        except RuntimeError as error:  # there are too many
            connection.close()
            raise TransportError(str(error), sent=False) from error
        worker.join(deadline.remaining())
        if worker.is_alive():
            _cut(connection)
            worker.join(_LAST_WORD_SECONDS)
            connection.close()
            raise TransportError("timed out", sent=exchange.sent)
        if exchange.error is not None:
            connection.close()
            raise TransportError(self._said(exchange.error), sent=exchange.sent) from exchange.error
        if exchange.keep and not self._idle:
            self._idle.append(connection)
        else:
            connection.close()
        if len(exchange.content) > BODY_LIMIT:
            raise TransportError(f"answered more than {BODY_LIMIT} bytes", sent=True)
        return exchange.status, exchange.retry_after, exchange.content

    def _said(self, error: Exception) -> str:
        proxy = f" (through the proxy {redacted(self._proxy.geturl())})" if self._proxy else ""
        return _said(error) + proxy

    def _connection(self, deadline: Deadline) -> HTTPConnection:
        proxy = self._proxy
        host, port = (proxy.hostname or "", proxy.port or 80) if proxy else (self._host, self.port)
        from http.client import HTTPConnection, HTTPSConnection

        if not self._tls:
            return HTTPConnection(host, port, timeout=deadline.remaining())
        import ssl

        context = ssl.create_default_context()
        connection = HTTPSConnection(host, port, timeout=deadline.remaining(), context=context)
        if proxy:
            connection.set_tunnel(self._host, self.port, _authorization("Proxy-Authorization", proxy))
        return connection


@dataclass(slots=True)
class _Exchange:
    """One request and its answer, filled in by the thread that does it."""

    sent: bool = False
    """Whether the server may have got the request."""
    status: int = 0
    retry_after: str | None = None
    content: bytes = b""
    keep: bool = False
    error: Exception | None = None

    def run(self, connection: HTTPConnection, target: str, body: bytes, headers: dict[str, str]) -> None:
        from http.client import HTTPException

        try:
            if connection.sock is None:
                connection.connect()
            self.sent = True
            connection.request("POST", target, body, headers)
            response = connection.getresponse()
            self.content = response.read(BODY_LIMIT + 1)
            self.status, self.retry_after = response.status, response.getheader("Retry-After")
            self.keep = not response.will_close and response.isclosed()
        except (OSError, HTTPException, ValueError) as error:
            self.error = error


def redacted(url: str) -> str:
    """`url` without user, password, query values and path segments that look like API keys."""
    scheme, separator, rest = url.partition("://")
    if not separator:
        scheme, rest = "", url
    if not separator or _HOST_ALONE.match(rest) is None:
        rest = rest.rpartition("@")[2]  # a password may hold, unquoted, what ends a host
    bare, _, query = rest.partition("?")
    authority, slash, path = bare.partition("/")
    segments = ("…" if _SECRET_SEGMENT.fullmatch(part) else part for part in path.split("/"))
    shown = f"{scheme}{separator}{authority}{slash}{'/'.join(segments)}{'?…' if query else ''}"
    return shown[:200]


def _require_time(deadline: Deadline) -> None:
    """TransportError when the deadline has passed."""
    try:
        deadline.remaining()
    except TimeoutError as error:
        raise TransportError("timed out", sent=True) from error


def _cut(connection: HTTPConnection) -> None:
    """End a connection that another thread is waiting on."""
    if connection.sock is not None:
        try:
            connection.sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            return


def _proxy(scheme: str, host: str) -> SplitResult | None:
    if not any(name.lower() in ("http_proxy", "https_proxy", "all_proxy") for name in os.environ):
        return None
    from urllib.request import getproxies_environment, proxy_bypass

    if proxy_bypass(host):
        return None
    proxies: dict[str, Any] = getproxies_environment()
    named = proxies.get(scheme) or proxies.get("all")
    if not named:
        return None
    try:
        proxy = urlsplit(named if "://" in named else f"http://{named}")
        usable = proxy.scheme == "http" and proxy.hostname and proxy.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise UsageError(
            f"{redacted(named)!r} is no proxy this can use: http:// and a host are expected",
            hint=f"correct {scheme}_proxy, or: export no_proxy={host}",
        )
    return proxy


def _authorization(header: str, parts: SplitResult) -> dict[str, str]:
    """The header that carries a URL's user and password, if it has any."""
    if parts.username is None:
        return {}
    credentials = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return {header: "Basic " + base64.b64encode(credentials.encode()).decode()}


def _said(error: Exception) -> str:
    if isinstance(error, ConnectionRefusedError):
        return "refused the connection"
    if isinstance(error, socket.gaierror):
        return f"has no known address ({error.strerror})"
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return f"failed: {text or type(error).__name__}"[:200]
