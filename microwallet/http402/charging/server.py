"""One worker of the gateway: uvicorn on a socket, with what runs beside it, until it is told to stop."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import uvicorn
import uvloop

from microwallet.http402.charging.asgi import Application
from microwallet.http402.charging.bounded_protocol import BoundedProtocol

CONNECTIONS = 5_000
"""Connections, or requests, at once; more are answered 503."""
GRACE_SECONDS = 10
"""What requests in hand may still take when the gateway stops."""

Background = Callable[[], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """Files in PEM."""

    certificate_file: str
    key_file: str


class _Server(uvicorn.Server):
    """Leaves signals to `serve`."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def serve(
    app: Application,
    listening: socket.socket,
    *,
    certificate: Certificate | None = None,
    ready: Callable[[], None] = lambda: None,
    background: Sequence[Background] = (),
) -> None:
    """Serve until SIGTERM or SIGINT: then no request is taken any more, and those in hand are finished."""
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
        limit_concurrency=CONNECTIONS,
        timeout_graceful_shutdown=GRACE_SECONDS,
        ssl_certfile=None if certificate is None else certificate.certificate_file,
        ssl_keyfile=None if certificate is None else certificate.key_file,
    )
    server = _Server(config)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_run(server, listening, ready, background))


async def _run(
    server: _Server, listening: socket.socket, ready: Callable[[], None], background: Sequence[Background]
) -> None:
    loop = asyncio.get_running_loop()

    def stop() -> None:
        server.should_exit = True

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    serving = asyncio.create_task(server.serve(sockets=[listening]))
    while not server.started and not serving.done():  # noqa: ASYNC110  # uvicorn has no event for it
        await asyncio.sleep(0.01)
    beside = [asyncio.ensure_future(one()) for one in background]
    if server.started:
        ready()
    try:
        await serving
    finally:
        for task in beside:
            task.cancel()
        for task in beside:
            with suppress(asyncio.CancelledError):
                await task
