"""How long the header of an answer is waited for: the read timeout, as a whole, what answers 100 to 199 say
before it included. httpcore has that patience for each read, so that a server could keep a client for ever.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import httpcore
import httpx

from microwallet.http402.paying.messages import reading_seconds

TRACE = "trace"
"""Extension of a request: what httpcore calls as it goes on."""
BEGINS = "receive_response_headers.started"
ENDS = ("receive_response_headers.complete", "receive_response_headers.failed")
TIMED_OUT = "timed out"


class PatientTransport(httpx.HTTPTransport):
    """An HTTPTransport as httpx makes it, but for that."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._waiting = _Waiting()
        self._wrap_connections(partial(_PatientStream, self._waiting))

    def _wrap_connections(self, wrap: Callable[[httpcore.NetworkStream], httpcore.NetworkStream]) -> None:
        """Let each connection that is made from now on be what `wrap` makes of it."""
        pool: Any = self._pool
        pool._network_backend = _Backend(pool._network_backend, wrap)  # noqa: SLF001  # httpx takes none

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send; ReadTimeout where the header takes too long."""
        extensions, waiting, seconds = request.extensions, self._waiting, reading_seconds(request)
        told = extensions.get(TRACE)

        def trace(event: str, info: dict[str, Any]) -> None:
            if event.endswith(BEGINS):
                waiting.until = None if seconds is None else time.monotonic() + seconds
            elif event.endswith(ENDS):
                waiting.until = None
            if told is not None:
                told(event, info)

        request.extensions = {**extensions, TRACE: trace}
        try:
            return super().handle_request(request)
        finally:
            request.extensions = extensions


class _Waiting(threading.local):
    """Until when this thread waits for a header; None while it waits for something else."""

    until: float | None = None


class _Backend(httpcore.NetworkBackend):
    def __init__(
        self,
        inner: httpcore.NetworkBackend,
        wrap: Callable[[httpcore.NetworkStream], httpcore.NetworkStream],
    ) -> None:
        self._inner = inner
        self._wrap = wrap

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        return self._wrap(self._inner.connect_tcp(host, port, timeout, local_address, socket_options))


class WrappedStream(httpcore.NetworkStream):
    """A connection that hands everything on to another one."""

    def __init__(self, inner: httpcore.NetworkStream) -> None:
        self._inner = inner

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """At most so many bytes, the first that come within so many seconds."""
        return self._inner.read(max_bytes, timeout)

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """All of them, each part within so many seconds."""
        self._inner.write(buffer, timeout)

    def close(self) -> None:
        """Close the connection inside."""
        self._inner.close()

    def start_tls(self, *arguments: Any, **named: Any) -> httpcore.NetworkStream:
        """What goes on over TLS is not wrapped."""
        return self._inner.start_tls(*arguments, **named)

    def get_extra_info(self, info: str) -> Any:
        """Such as its socket."""
        return self._inner.get_extra_info(info)


class _PatientStream(WrappedStream):
    def __init__(self, waiting: _Waiting, inner: httpcore.NetworkStream) -> None:
        super().__init__(inner)
        self._waiting = waiting

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        if (until := self._waiting.until) is not None:
            left = until - time.monotonic()
            if left <= 0:
                raise httpcore.ReadTimeout(TIMED_OUT)
            timeout = left if timeout is None else min(left, timeout)
        return super().read(max_bytes, timeout)

    def start_tls(self, *arguments: Any, **named: Any) -> httpcore.NetworkStream:
        return _PatientStream(self._waiting, super().start_tls(*arguments, **named))
