"""How long the header of an answer is waited for: the read timeout, as a whole, what answers 100 to 199 say
before it included. httpcore has that patience for each read, so that a server could keep a client for ever.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
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
        pool: Any = self._pool
        pool._network_backend = _Backend(pool._network_backend, self._waiting)  # noqa: SLF001  # httpx takes none

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
    def __init__(self, inner: httpcore.NetworkBackend, waiting: _Waiting) -> None:
        self._inner = inner
        self._waiting = waiting

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        stream = self._inner.connect_tcp(host, port, timeout, local_address, socket_options)
        return _Stream(stream, self._waiting)


class _Stream(httpcore.NetworkStream):
    """A connection."""

    def __init__(self, inner: httpcore.NetworkStream, waiting: _Waiting) -> None:
        self._inner = inner
        self._waiting = waiting

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        if (until := self._waiting.until) is not None:
            left = until - time.monotonic()
            if left <= 0:
                raise httpcore.ReadTimeout(TIMED_OUT)
            timeout = left if timeout is None else min(left, timeout)
        return self._inner.read(max_bytes, timeout)

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._inner.write(buffer, timeout)

    def close(self) -> None:
        self._inner.close()

    def start_tls(self, *arguments: Any, **named: Any) -> httpcore.NetworkStream:
        return _Stream(self._inner.start_tls(*arguments, **named), self._waiting)

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)
