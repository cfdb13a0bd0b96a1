"""One worker of the gateway: uvicorn on a socket, with what runs beside it, until it is told to stop."""

from __future__ import annotations

import asyncio
import gc
import logging
import resource
import signal
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

import uvicorn
import uvloop

from microwallet.errors import Interrupted
from microwallet.http402.charging.asgi import Application
from microwallet.http402.serving.bounded_protocol import BoundedProtocol
from microwallet.http402.serving.ending_signals import ending_signals

GRACE_SECONDS = 10
"""What requests in hand may still take when the gateway stops."""
_FILES = 65_536
_COLLECTED_EVERY = (10_000, 20, 20)
"""Containers made and kept, then collections of younger ones, before a collection."""

Background = Callable[[], Awaitable[None]]


class _Server(uvicorn.Server):
    """Is stopped by signals, and by the end of a parent; a second SIGINT sets `forced`."""

    def __init__(self, config: uvicorn.Config, parent: int | None, ending: Callable[[], None]) -> None:
        super().__init__(config)
        self._parent = parent
        self._ending = ending
        self.forced = asyncio.Event()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGINT, self._interrupt)
        for number in ending_signals() - {signal.SIGINT}:
            loop.add_signal_handler(number, self.stop)
        if self._parent is not None:
            loop.add_reader(self._parent, self._lose_parent, self._parent)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ending_signals())  # a worker is born with them blocked
        yield

    def stop(self) -> None:
        """Take no more requests, and end when those in hand are done."""
        self.should_exit = True
        self._ending()

    def _interrupt(self) -> None:
        if self.should_exit:
            self.forced.set()
        self.stop()

    def _lose_parent(self, parent: int) -> None:
        asyncio.get_running_loop().remove_reader(parent)
        self.stop()


def serve(
    app: Application,
    listening: socket.socket,
    *,
    tls: ssl.SSLContext | None = None,
    ready: Callable[[], None] = lambda: None,
    ending: Callable[[], None] = lambda: None,
    background: Sequence[Background] = (),
    until_closed: int | None = None,
    tracebacks: bool = False,
) -> None:
    """Serve until one of the ending signals: then no request is taken any more, those in hand are finished.

    `ending` is called then. Another SIGINT raises Interrupted at once. What a `background` raises ends the
    serving too, and is raised. `until_closed` is the end of a pipe: closing the other one is as good as
    SIGTERM.
    """
    config = uvicorn.Config(
        app,
        http=BoundedProtocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,  # the upstream's own is forwarded, and ours has one
        proxy_headers=False,
        timeout_graceful_shutdown=GRACE_SECONDS,
        ssl_context_factory=None if tls is None else lambda _config, _default: tls,
    )
    if not tracebacks:  # the requests' own log tells, and nothing that a client could fill a disk with
        logger = logging.getLogger("uvicorn.error")
        logger.propagate = False
        logger.addHandler(logging.NullHandler())
    _raise_file_limit()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_run(_Server(config, until_closed, ending), listening, ready, background))


async def _run(
    server: _Server, listening: socket.socket, ready: Callable[[], None], background: Sequence[Background]
) -> None:
    serving = asyncio.create_task(server.serve(sockets=[listening]))
    while not server.started and not serving.done():  # noqa: ASYNC110  # uvicorn has no event for it
        await asyncio.sleep(0.01)
    beside = [asyncio.ensure_future(one()) for one in background]
    forced = asyncio.create_task(server.forced.wait())
    if server.started:
        _spare_collector()
        ready()
    try:
        await asyncio.wait({serving, forced, *beside}, return_when=asyncio.FIRST_COMPLETED)
        server.stop()
        await asyncio.wait({serving, forced}, return_when=asyncio.FIRST_COMPLETED)
        if server.forced.is_set():
            raise Interrupted("stopped before the requests in hand were answered")
        await serving
    finally:
        for task in beside:
            task.cancel()
        for task in beside:
            with suppress(asyncio.CancelledError):
                await task


def _spare_collector() -> None:
    """Keep Python from looking for garbage in all that is loaded, and in requests that wait for a commit."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_COLLECTED_EVERY)


def _raise_file_limit() -> None:
    """Every connection is an open file, and the usual limit of 1,024 is for other programs."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _FILES if hard == resource.RLIM_INFINITY else min(_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
