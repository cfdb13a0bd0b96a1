"""A program that sells: events, units and an article, through the middleware; prints where it listens."""

from __future__ import annotations

import asyncio
import socket
import sys

from starlette.applications import Starlette
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Route

from microwallet.assortment import Assortment
from microwallet.http402.charging.middleware import PaymentMiddleware
from microwallet.http402.serving.server import serve
from microwallet.http402.serving.settings import Settings
from microwallet.selling import Shop
from microwallet.wallet import Wallet

ROUTES = [
    {"path": "/events/*", "price": "0.001 USDC", "per": "event"},
    {
        "path": "/units/*",
        "price": "0.001 USDC",
        "per": "header",
        "units-header": "X-Units",
        "max-units": 8,
    },
    {"path": "/steps", "price": "0.001 USDC", "min-voucher-delta": "0.005 USDC"},
    {"path": "/**", "price": "0.001 USDC"},
]


async def events(request):
    """As many events as the path says, byte by byte what the test expects."""

    async def write():
        for number in range(int(request.path_params["count"])):
            yield f"id: {number}\ndata: event {number}\n\n"
            await asyncio.sleep(0)

    return StreamingResponse(write(), media_type="text/event-stream")


async def units(request):
    """Uses as many units as the path says."""
    return PlainTextResponse("used", headers={"X-Units": request.path_params["count"]})


async def article(_request):
    """An article."""
    return PlainTextResponse("an article")


def application() -> Starlette:
    """What is sold."""
    return Starlette(
        routes=[
            Route("/events/{count}", events, methods=["GET", "POST"]),
            Route("/units/{count}", units),
            Route("/{path:path}", article, methods=["GET", "POST"]),
        ]
    )


def main() -> None:
    """Serve until told to stop."""
    listening = socket.create_server(("127.0.0.1", 0))
    listening.setblocking(False)
    with Wallet.open() as wallet:
        shop = Shop(wallet, Assortment.of(wallet, Settings(routes=ROUTES)), realm="test")
        try:
            serve(
                PaymentMiddleware(application(), shop.gateway),
                listening,
                ready=lambda: print(f"http://127.0.0.1:{listening.getsockname()[1]}", flush=True),  # noqa: T201
            )
        finally:
            shop.close(within=5)


if __name__ == "__main__":
    sys.exit(main())
