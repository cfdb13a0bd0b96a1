"""A load generator for scripts/bench: sends requests that were built in advance over kept connections.

Runs in the bench's own process, on a processor of its own where there are two, and does next to nothing
for a request: it sends bytes, and looks at the status and the length of the answer.
"""

from __future__ import annotations

import gc
import os
import re
import selectors
import socket
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Self

STUCK_SECONDS = 30.0
WINDOW_SECONDS = 0.01
_CONTENT_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


class Unexpected(Exception):
    """A server answered something else, or not at all: nothing was measured."""


class Connection:
    """One connection and the requests it has yet to send, each after the answer to the one before."""

    def __init__(self, port: int, requests: Iterator[bytes], status: int = 200) -> None:
        self.port = port
        self.requests = requests
        self.status = b"HTTP/1.1 %d " % status
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=STUCK_SECONDS)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.received = b""
        self.due = 0.0
        """When what is awaited was sent, or should have been."""

    def send(self, due: float) -> bool:
        """Send the next request; False if there is none left."""
        request = next(self.requests, None)
        if request is None:
            return False
        self.due = due
        self.socket.send(request)
        return True

    def receive(self) -> bool:
        """Whether the answer is there in full."""
        data = self.received + self.socket.recv(65536)
        head = data.find(b"\r\n\r\n")
        if head < 0:
            if not data:
                raise Unexpected(f"port {self.port} closed the connection")
            self.received = data
            return False
        if not data.startswith(self.status):
            raise Unexpected(f"port {self.port} answered {data[:2000].decode('latin-1')}")
        if len(data) < head + 4 + _length(data[:head]):
            self.received = data
            return False
        self.received = b""
        return True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()


def _length(head: bytes) -> int:
    found = _CONTENT_LENGTH.search(head)
    if found is None:
        raise Unexpected(f"an answer without its length: {head.decode('latin-1')}")
    return int(found[1])


@dataclass(frozen=True, slots=True)
class Load:
    """What came of a run."""

    latencies: Sequence[float]
    """Seconds of each request, sorted."""
    seconds: float

    @property
    def rate(self) -> float:
        """Requests a second."""
        return len(self.latencies) / self.seconds

    def percentile(self, share: float) -> float:
        """Seconds within which this share of the requests was answered."""
        return self.latencies[min(len(self.latencies) - 1, int(len(self.latencies) * share))]


def flood(connections: Sequence[Connection], seconds: float) -> Load:
    """Every connection sends its next request as soon as it has its answer."""
    latencies: list[float] = []
    selector = selectors.DefaultSelector()
    with _quiet(connections, selector):
        begun = time.perf_counter()
        end, awaited, now = begun + seconds, 0, begun
        for connection in connections:
            awaited += connection.send(begun)
        while awaited:
            ready = selector.select(STUCK_SECONDS)
            if not ready:
                raise Unexpected(f"no answer within {STUCK_SECONDS:.0f} s")
            for key, _ in ready:
                connection = key.data
                if connection.receive():
                    now = time.perf_counter()
                    latencies.append(now - connection.due)
                    if now >= end or not connection.send(now):
                        awaited -= 1
                        end = min(end, now)  # one that has no more to send ends the run for all
    return _load(latencies, now - begun)


def pace(connections: Sequence[Connection], seconds: float, rate: float) -> Load:
    """Requests are due at a steady rate, whether or not the server keeps up; waiting counts."""
    latencies: list[float] = []
    idle = deque(connections)
    total, started, answered = int(seconds * rate), 0, 0
    selector = selectors.SelectSelector()  # others wait for whole milliseconds
    with _quiet(connections, selector):
        begun = now = time.perf_counter()
        while answered < total:
            while idle and started < total and begun + started / rate <= now:
                if not idle[0].send(begun + started / rate):
                    raise Unexpected("there are too few requests for this rate")
                idle.popleft()
                started += 1
            wait = STUCK_SECONDS
            if idle and started < total:
                wait = max(0.0, begun + started / rate - now)
            for key, _ in selector.select(wait):
                if key.data.receive():
                    latencies.append(time.perf_counter() - key.data.due)
                    idle.append(key.data)
                    answered += 1
            now = time.perf_counter()
            if now > begun + seconds + STUCK_SECONDS:
                raise Unexpected("the server does not keep up with this rate")
    return _load(latencies, now - begun)


def _load(latencies: list[float], seconds: float) -> Load:
    return Load(sorted(latencies), seconds)


@contextmanager
def _quiet(connections: Sequence[Connection], selector: selectors.BaseSelector) -> Iterator[None]:
    """Let a selector wait for connections, while garbage is left where it is."""
    with selector:
        for connection in connections:
            selector.register(connection.socket, selectors.EVENT_READ, connection)
        gc.collect()
        gc.disable()
        try:
            yield
        finally:
            gc.enable()


def slow_share(processor: int, seconds: float) -> float:
    """The share of windows of 10 ms in which a processor computes at a third of its usual speed or less: what
    is served meanwhile is late, whoever serves it."""
    windows: list[float] = []
    with pinned(processor):
        end = begun = now = time.perf_counter()
        end += seconds
        count = 0
        while now < end:
            sum(range(1_000))
            count += 1
            now = time.perf_counter()
            if now > begun + WINDOW_SECONDS:
                windows.append((now - begun) / count)
                begun, count = now, 0
    usual = sorted(windows)[len(windows) // 2]
    return sum(window > 3 * usual for window in windows) / len(windows)


def request(path: str = "/", **fields: str) -> bytes:
    """A GET, with header fields by their names in snake case."""
    lines = [f"GET {path} HTTP/1.1", "Host: 127.0.0.1"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in fields.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


@contextmanager
def pinned(processor: int) -> Iterator[None]:
    """Keep this process on one processor for a while, where the system can."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {processor % (os.cpu_count() or 1)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
