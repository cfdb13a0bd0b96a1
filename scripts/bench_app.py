"""The application that scripts/bench puts our middleware in front of; served by uvicorn.

The home is the environment's, as for the command. Beside the application runs what runs beside `serve`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from microwallet.assortment import Assortment
from microwallet.http402.charging.middleware import PaymentMiddleware
from microwallet.http402.charging.settings import Settings
from microwallet.selling import Shop
from microwallet.wallet import Wallet


async def answer(_: Request) -> JSONResponse:
    """What everybody answers."""
    return JSONResponse({"answer": 42})


def unprotected() -> Starlette:
    """The application itself."""
    return Starlette(routes=[Route("/", answer)])


def protected() -> PaymentMiddleware:
    """The application behind the middleware."""
    wallet = Wallet.open()
    wallet.accounts.secret(wallet.account.name)
    assortment = Assortment.of(wallet, Settings(routes=[{"path": "/**", "price": "0.001 USDC"}]))
    shop = Shop(wallet, assortment, realm="bench")

    @asynccontextmanager
    async def beside(_: Starlette) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(shop.look()), asyncio.create_task(shop.tidy())]
        yield
        for task in tasks:
            task.cancel()

    return PaymentMiddleware(Starlette(routes=[Route("/", answer)], lifespan=beside), shop.gateway)
