"""The applications that scripts/bench puts our middleware in front of; served by uvicorn.

The home is the environment's, as for the command. Beside the application runs what runs beside `serve`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from microwallet.assortment import Assortment
from microwallet.http402.charging.middleware import PaymentMiddleware
from microwallet.http402.serving.settings import Settings
from microwallet.selling import Shop
from microwallet.wallet import Wallet

Lifespan = Callable[[Any], AbstractAsyncContextManager[None]]


async def answer(_: Request) -> JSONResponse:
    """What everybody answers."""
    return JSONResponse({"answer": 42})


def starlette(lifespan: Lifespan | None = None) -> Starlette:
    """The application that the others are put in front of too."""
    return Starlette(routes=[Route("/", answer)], lifespan=lifespan)


def fastapi(lifespan: Lifespan | None = None) -> FastAPI:
    """The same with FastAPI, as its users write it."""
    application = FastAPI(lifespan=lifespan)

    @application.get("/")
    async def answer() -> dict[str, int]:
        return {"answer": 42}

    return application


def protected_starlette() -> PaymentMiddleware:
    """The application behind the middleware."""
    return _protected(starlette)


def protected_fastapi() -> PaymentMiddleware:
    """FastAPI's behind the middleware."""
    return _protected(fastapi)


def _protected(application: Callable[[Lifespan], Starlette]) -> PaymentMiddleware:
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

    return PaymentMiddleware(application(beside), shop.gateway)
