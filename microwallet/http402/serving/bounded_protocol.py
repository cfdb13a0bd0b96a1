"""HTTP/1.1 connections that cannot be held or filled for ever: what uvicorn leaves to others."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, ClassVar

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What one connection may take."""

    connections: int = 5_000
    """Of one process; whoever comes then is turned away."""
    head_bytes: int = 128 * 1024
    """Of a request line and its fields; a credential may have 64 KiB. As much again for trailers."""
    head_seconds: float = 20.0
    """For how long a client may take to send them."""
    body_seconds: float = 20.0
    body_bytes: int = 10_000
    """Bytes of a body that must come in each `body_seconds`, while somebody reads it."""
    stalled_seconds: float = 60.0
    """For how long a client may take nothing of what is sent to it."""


_FRAMING = 16
"""Bytes of chunk framing that each byte of a body may bring along."""


class BoundedProtocol(HttpToolsProtocol):
    """One connection."""

    bounds: ClassVar[Bounds] = Bounds()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._spare = self.bounds.head_bytes
        """Bytes that may still come without being of a body."""
        self._body_size = 0
        self._head_timer: asyncio.TimerHandle | None = None
        self._body_timer: asyncio.TimerHandle | None = None
        self._stall_timer: asyncio.TimerHandle | None = None
        self._in_head = self._in_body = False

    def connection_made(self, transport: Any) -> None:
        """A client came."""
        super().connection_made(transport)
        if len(self.connections) > self.bounds.connections:
            transport.abort()
        else:
            self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """A client went."""
        for timer in (self._head_timer, self._body_timer, self._stall_timer):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Some bytes came. Timers run only for what did not come in one piece."""
        self._spare -= len(data)
        super().data_received(data)
        if self._spare < 0:
            self.transport.abort()
        elif self._in_body:
            if self._body_timer is None:
                self._await_body()
        elif self._head_timer is None and (self._in_head or self._is_idle()):
            self._await_head()

    def on_message_begin(self) -> None:
        """A request begins."""
        self._in_head = True
        self._spare = self.bounds.head_bytes
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        """A field came whole. Trailers, which come after the body, concern nobody behind us."""
        if not self._in_body:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """All fields of a request came: of HTTP/1.1 with a Host, never with two (RFC 9112, section 3.2)."""
        hosts = [name for name, _ in self.headers].count(b"host")
        if hosts > 1 or (not hosts and self.parser.get_http_version() == "1.1"):
            raise ValueError("Host")  # the parser makes it an answer of 400
        self._in_head, self._in_body = False, True
        self._spare = self.bounds.head_bytes
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Some of a body came."""
        self._spare += len(body) * (1 + _FRAMING)
        self._body_size += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """All of a request came: the next bytes are another's."""
        super().on_message_complete()
        self._in_body = False
        self._spare = self.bounds.head_bytes
        if self._body_timer is not None:
            self._body_timer.cancel()
            self._body_timer = None

    def pause_writing(self) -> None:
        """The client is slow to read."""
        super().pause_writing()
        self._stall_timer = self.loop.call_later(self.bounds.stalled_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        """It has read."""
        if self._stall_timer is not None:
            self._stall_timer.cancel()
            self._stall_timer = None
        super().resume_writing()

    def _is_idle(self) -> bool:
        """Whether nothing is asked for: what came then is empty lines, which begin no request."""
        cycle: Any = self.cycle
        return cycle is None or bool(cycle.response_complete)

    def _await_head(self) -> None:
        self._head_timer = self.loop.call_later(self.bounds.head_seconds, self.transport.abort)

    def _await_body(self) -> None:
        self._body_size = 0
        self._body_timer = self.loop.call_later(self.bounds.body_seconds, self._check_body)

    def _check_body(self) -> None:
        """Enough has come, unless it is we who do not read."""
        if self._body_size < self.bounds.body_bytes and not self.flow.read_paused:
            self.transport.abort()
        else:
            self._await_body()
