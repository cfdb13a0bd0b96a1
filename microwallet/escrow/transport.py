"""HTTP POST within a deadline: the one place that opens a connection to an RPC server."""

from __future__ import annotations

import base64
import io
import os
import re
import socket
import threading
import time
from http.client import HTTPException, HTTPResponse
from queue import Empty, SimpleQueue
from typing import Any
from urllib.parse import unquote, urlsplit

from microwallet.errors import UsageError

BODY_LIMIT = 20 * 1024 * 1024
"""Bytes an answer may have."""

_PLAIN_URL = re.compile(r"[!-~]+")
_SECRET_SEGMENT = re.compile(r"[A-Za-z0-9_\-]{16,}")
_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})


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
    """One RPC address: pooled connections, a proxy where the environment names one, TLS for https.

    `shown` is the address without credentials, API keys and query values: the only form that may
    be printed.
    """

    def __init__(self, url: str) -> None:
        self.shown = redacted(url)
        if _PLAIN_URL.fullmatch(url) is None:
            raise UsageError(f"{self.shown!r} is no RPC address: it has spaces or odd characters")
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise UsageError(f"{self.shown!r} is no RPC address: {error}") from error
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UsageError(f"{self.shown!r} is no RPC address: http:// or https:// and a host are expected")
        self._tls = parts.scheme == "https"
        self._host = parts.hostname
        self._port = port or (443 if self._tls else 80)
        path = parts.path or "/"
        self._path = f"{path}?{parts.query}" if parts.query else path
        host = f"[{self._host}]" if ":" in self._host else self._host
        self._authority = f"{host}:{port}" if port else host
        self._authorization = _basic(parts.username, parts.password)
        self._idle: list[_Connection] = []

    @property
    def is_local(self) -> bool:
        """Whether the host is this machine."""
        return self._host in _LOOPBACK

    def post(self, body: bytes, deadline: Deadline, *, reuse: bool) -> tuple[int, str | None, bytes]:
        """Status, Retry-After and body of the answer; TransportError when none comes in time.

        `reuse` allows a pooled connection, on which a request may have to be sent twice.
        """
        while reuse and self._idle:
            connection = self._idle.pop()
            try:
                return self._exchange(connection, body, deadline)
            except TransportError:
                deadline_left(deadline)
        return self._exchange(self._connect(deadline), body, deadline)

    def close(self) -> None:
        """Close the pooled connections."""
        while self._idle:
            self._idle.pop().close()

    def _exchange(
        self, connection: _Connection, body: bytes, deadline: Deadline
    ) -> tuple[int, str | None, bytes]:
        head = [
            f"POST {connection.target} HTTP/1.1",
            f"Host: {self._authority}",
            "User-Agent: microwallet",
            "Content-Type: application/json",
            "Accept: application/json",
            f"Content-Length: {len(body)}",
            *connection.headers,
        ]
        if self._authorization:
            head.append(f"Authorization: {self._authorization}")
        request = "\r\n".join(head).encode() + b"\r\n\r\n" + body
        keep = False
        try:
            connection.send(request, deadline)
            response = connection.response(deadline, "POST")
            content = response.read(BODY_LIMIT + 1)
            if len(content) > BODY_LIMIT:
                raise TransportError(f"answered more than {BODY_LIMIT} bytes", sent=True)
            keep = not response.will_close and response.isclosed()
            return response.status, response.getheader("Retry-After"), content
        except TimeoutError as error:
            raise TransportError("timed out", sent=True) from error
        except (OSError, HTTPException, ValueError) as error:
            raise TransportError(_said(error), sent=True) from error
        finally:
            if keep:
                self._idle.append(connection)
            else:
                connection.close()

    def _connect(self, deadline: Deadline) -> _Connection:
        proxy = None if self.is_local else _proxy(self._tls, self._host)
        try:
            if proxy is None:
                connection = _Connection(_open(self._host, self._port, deadline), self._path)
            else:
                connection = self._through(proxy, deadline)
            if self._tls:
                connection.start_tls(self._host, deadline)
        except TimeoutError as error:
            raise TransportError("timed out while connecting", sent=False) from error
        except (OSError, HTTPException, ValueError) as error:
            raise TransportError(_said(error), sent=False) from error
        return connection

    def _through(self, proxy: str, deadline: Deadline) -> _Connection:
        parts = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
        sock = _open(parts.hostname or "", parts.port or 80, deadline)
        authorization = _basic(parts.username, parts.password)
        headers = [f"Proxy-Authorization: {authorization}"] if authorization else []
        if not self._tls:
            return _Connection(sock, f"http://{self._authority}{self._path}", headers)
        connection = _Connection(sock, self._path)
        lines = [f"CONNECT {self._host}:{self._port} HTTP/1.1", f"Host: {self._authority}", *headers]
        connection.send("\r\n".join(lines).encode() + b"\r\n\r\n", deadline)
        response = connection.response(deadline, "CONNECT")
        if response.status != 200:
            connection.close()
            raise OSError(f"the proxy answered {response.status}")
        return connection


class _Connection:
    """A socket with a deadline on every read and write."""

    def __init__(self, sock: socket.socket, target: str, headers: list[str] | None = None) -> None:
        self._socket = sock
        self.target = target
        self.headers = headers or []

    def start_tls(self, host: str, deadline: Deadline) -> None:
        import ssl

        self._socket.settimeout(deadline.remaining())
        try:
            self._socket = ssl.create_default_context().wrap_socket(self._socket, server_hostname=host)
        except BaseException:
            self.close()
            raise

    def send(self, data: bytes, deadline: Deadline) -> None:
        self._socket.settimeout(deadline.remaining())
        self._socket.sendall(data)

    def response(self, deadline: Deadline, method: str) -> HTTPResponse:
        response = HTTPResponse(_Readable(self._socket, deadline), method=method)  # type: ignore[arg-type]
        response.begin()
        return response

    def close(self) -> None:
        self._socket.close()


class _Readable:
    """What HTTPResponse needs of a socket; a server that sends a byte a second meets the deadline."""

    def __init__(self, sock: socket.socket, deadline: Deadline) -> None:
        self._socket = sock
        self._deadline = deadline

    def makefile(self, _mode: str) -> io.BufferedReader:
        return io.BufferedReader(_Bytes(self._socket, self._deadline))


class _Bytes(io.RawIOBase):
    def __init__(self, sock: socket.socket, deadline: Deadline) -> None:
        super().__init__()
        self._socket = sock
        self._deadline = deadline

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        self._socket.settimeout(self._deadline.remaining())
        return self._socket.recv_into(buffer)


def redacted(url: str) -> str:
    """`url` without user, password, query values and path segments that look like API keys."""
    bare, _, query = url.partition("?")
    scheme, separator, rest = bare.partition("://")
    if not separator:
        scheme, rest = "", bare
    authority, slash, path = rest.partition("/")
    authority = authority.rpartition("@")[2]
    segments = ("…" if _SECRET_SEGMENT.fullmatch(part) else part for part in path.split("/"))
    shown = f"{scheme}{separator}{authority}{slash}{'/'.join(segments)}{'?…' if query else ''}"
    return shown[:200]


def deadline_left(deadline: Deadline) -> None:
    """TransportError when the deadline has passed."""
    try:
        deadline.remaining()
    except TimeoutError as error:
        raise TransportError("timed out", sent=True) from error


def _open(host: str, port: int, deadline: Deadline) -> socket.socket:
    failure: OSError | None = None
    for family, kind, protocol, _, address in _addresses(host, port, deadline):
        sock = socket.socket(family, kind, protocol)
        try:
            sock.settimeout(deadline.remaining())
            sock.connect(address)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError as error:
            sock.close()
            failure = error
        else:
            return sock
    raise failure or OSError(f"{host} has no address")


def _addresses(host: str, port: int, deadline: Deadline) -> list[Any]:
    """The addresses of a host. The system's resolver knows no deadline, so it is left behind at ours."""
    found: SimpleQueue[list[Any] | OSError] = SimpleQueue()

    def resolve() -> None:
        try:
            found.put(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except OSError as error:
            found.put(error)

    threading.Thread(target=resolve, daemon=True).start()
    try:
        answer = found.get(timeout=deadline.remaining())
    except Empty as error:
        raise TimeoutError("timed out") from error
    if isinstance(answer, OSError):
        raise answer
    return answer


def _proxy(tls: bool, host: str) -> str | None:
    if not any(name.lower() in ("http_proxy", "https_proxy", "all_proxy") for name in os.environ):
        return None
    from urllib.request import getproxies_environment, proxy_bypass

    if proxy_bypass(host):
        return None
    proxies: dict[str, Any] = getproxies_environment()
    return proxies.get("https" if tls else "http") or proxies.get("all")


def _basic(user: str | None, password: str | None) -> str | None:
    if user is None:
        return None
    return "Basic " + base64.b64encode(f"{unquote(user)}:{unquote(password or '')}".encode()).decode()


def _said(error: Exception) -> str:
    if isinstance(error, ConnectionRefusedError):
        return "refused the connection"
    if isinstance(error, socket.gaierror):
        return f"has no known address ({error.strerror})"
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return f"failed: {text or type(error).__name__}"[:200]
