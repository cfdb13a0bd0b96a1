"""ASGI middleware: an application behind it is paid for.

Whoever pays is told to the application in fields that a client cannot forge; payment fields themselves
never reach it, nor do its own reach the client.
"""

from __future__ import annotations

from urllib.parse import unquote

from microwallet.http402.charging.answers import Answer
from microwallet.http402.charging.asgi import Application, Receive, Scope, Send, plain_name, send_answer
from microwallet.http402.charging.delivery import Delivery
from microwallet.http402.charging.gateway import Gateway, Grant
from microwallet.http402.charging.metering import ClientGone
from microwallet.http402.charging.request import Request
from microwallet.http402.charging.routes import Unit

BILL = "microwallet.bill"
"""Where the scope of a paid request holds its Bill, for whoever stands before the middleware."""


class PaymentMiddleware:
    """Serves what the gateway grants, and answers everything else itself."""

    def __init__(self, app: Application, gateway: Gateway) -> None:
        self._app = app
        self._gateway = gateway

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One connection's request, as ASGI 3 has it."""
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008, "reason": "not sold here"})
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = Request(scope, receive)
        outcome = await self._gateway.admit(request)
        if isinstance(outcome, Answer):
            if outcome.bill is not None:
                scope[BILL] = outcome.bill
            await send_answer(outcome, send, with_body=request.method != "HEAD")
        elif isinstance(outcome, Grant):
            delivery = Delivery(self._gateway, outcome, send, request)
            scope[BILL] = delivery.bill
            try:
                await self._app(_paid_scope(request, outcome), request.receive, delivery.send)
            except ClientGone:
                pass
            finally:
                await delivery.end()
        else:
            await self._app(_scope(request, outcome.path, request.fields), request.receive, send)


def _paid_scope(request: Request, grant: Grant) -> Scope:
    """The scope for the application, which is told who paid, through which channel, how much of what."""
    fields = request.fields
    if grant.offer.price.unit is Unit.EVENT:  # events are counted, so they must be readable
        fields = [field for field in fields if plain_name(field[0]) != b"accept-encoding"]
    amount = (b"x-payment-amount", b"%d" % grant.sold.sale.cost)
    return _scope(request, grant.path, [*fields, *grant.channel.payer_fields, amount])


def _scope(request: Request, path: str, fields: list[tuple[bytes, bytes]]) -> Scope:
    """The scope for the application, with the path as it was matched."""
    text = unquote(path) if "%" in path else path
    return {**request.scope, "headers": fields, "raw_path": path.encode(), "path": text}
