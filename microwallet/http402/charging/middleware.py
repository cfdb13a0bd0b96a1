"""ASGI middleware: an application behind it is paid for.

Whoever pays is told to the application in fields that a client cannot forge; payment fields themselves
never reach it, nor do its own reach the client.
"""

from __future__ import annotations

import asyncio

from microwallet.http402.charging.answers import Answer
from microwallet.http402.charging.asgi import Application, Message, Receive, Scope, Send, send_answer
from microwallet.http402.charging.checkout import Grant
from microwallet.http402.charging.delivery import ENDS, Delivery
from microwallet.http402.charging.gateway import Gateway
from microwallet.http402.charging.metering import ClientGone
from microwallet.http402.charging.request import Request

BILL = "microwallet.bill"
"""Where the scope of a paid request holds its Bill, for whoever stands before the middleware."""


class PaymentMiddleware:
    """Serves what the gateway grants, and answers everything else itself."""

    def __init__(self, app: Application, gateway: Gateway, *, is_dated: bool = True) -> None:
        """`is_dated`: its own answers have a Date, as the server adds none."""
        self._app = app
        self._gateway = gateway
        self._is_dated = is_dated

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One connection's request, as ASGI 3 has it."""
        if scope["type"] != "http":
            await self._other(scope, receive, send)
            return
        request = Request(scope, receive)
        try:
            outcome = await self._gateway.admit(request)
        except asyncio.CancelledError:
            await self._tell_end(request, send)
            raise
        if isinstance(outcome, Grant):
            delivery = Delivery(self._gateway, outcome, send, request, is_dated=self._is_dated)
            scope[BILL] = outcome.bill
            try:
                await self._app(outcome.scope, request.receive, delivery.send)
            except ClientGone:
                pass
            except asyncio.CancelledError:
                await delivery.give_up()
                raise
            finally:
                await delivery.end()
        elif isinstance(outcome, Answer):
            if outcome.bill is not None:
                scope[BILL] = outcome.bill
            await send_answer(outcome, send, with_body=request.method != "HEAD", is_dated=self._is_dated)
        else:
            await self._free(outcome.scope(request, request.fields), request, send)

    async def _free(self, scope: Scope, request: Request, send: Send) -> None:
        """Serve what costs nothing; if the server ends before there is an answer, say so."""
        has_begun = False

        async def sending(message: Message) -> None:
            nonlocal has_begun
            has_begun = True
            await send(message)

        try:
            await self._app(scope, request.receive, sending)
        except asyncio.CancelledError:
            if not has_begun:
                await self._tell_end(request, send)
            raise

    async def _tell_end(self, request: Request, send: Send) -> None:
        await send_answer(ENDS, send, with_body=request.method != "HEAD", is_dated=self._is_dated)

    async def _other(self, scope: Scope, receive: Receive, send: Send) -> None:
        """What is no request: the application's own, but for a connection that would be free."""
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008, "reason": "not sold here"})
        else:
            await self._app(scope, receive, send)
