"""ASGI middleware: an application behind it is paid for.

Whoever pays is told to the application in fields that a client cannot forge; payment fields themselves
never reach it, nor do its own reach the client.
"""

from __future__ import annotations

from functools import lru_cache
from urllib.parse import unquote

from microwallet.http402.charging.answers import Answer
from microwallet.http402.charging.asgi import Application, Receive, Scope, Send, plain_name, send_answer
from microwallet.http402.charging.checks import Asked
from microwallet.http402.charging.delivery import Delivery
from microwallet.http402.charging.gateway import Free, Gateway, Grant
from microwallet.http402.charging.metering import ClientGone
from microwallet.http402.charging.request_body import RequestBody
from microwallet.http402.charging.routes import Unit
from microwallet.http402.wire.credential import is_payment

PAYER_FIELDS = b"x-payment-"
"""What fields that say who paid begin with: payer, channel, amount, asset and decimals."""
_TELLING = 15
"""Bytes of a field's name that say whether it is about paying; what is longer is not kept in memory."""
DELIVERY = "microwallet.delivery"
"""Where the scope of a paid request holds its Delivery, for whoever stands before the middleware."""


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
        body = RequestBody(scope, receive)
        outcome = await self._gateway.admit(
            Asked(
                method=scope["method"],
                url_head=_url_head(scope),
                raw_path=scope["raw_path"].decode("latin-1"),
                query=scope["query_string"],
                headers=scope["headers"],
                has_body=body.is_announced,
                read_body=body.read,
            )
        )
        if isinstance(outcome, Answer):
            await send_answer(outcome, send, with_body=scope["method"] != "HEAD")
            return
        forwarded = _forwarded(scope, outcome)
        if isinstance(outcome, Grant):
            delivery = scope[DELIVERY] = Delivery(self._gateway, outcome, send, body)
            await self._serve(forwarded, body, delivery)
        else:
            await self._app(forwarded, body.receive, send)

    async def _serve(self, scope: Scope, body: RequestBody, delivery: Delivery) -> None:
        try:
            await self._app(scope, body.receive, delivery.send)
        except ClientGone:
            pass
        finally:
            await delivery.end()


def _forwarded(scope: Scope, grant: Free | Grant) -> Scope:
    """The scope for the application: the path as it was matched, the fields without those of paying."""
    headers = [(name, value) for name, value in scope["headers"] if not _is_about_paying(name, value)]
    if isinstance(grant, Grant):
        if grant.offer.price.unit is Unit.EVENT:  # events are counted, so they must be readable
            headers = [(name, value) for name, value in headers if name != b"accept-encoding"]
        headers += _payer_fields(grant)
    path = grant.path.encode()
    return {**scope, "headers": headers, "raw_path": path, "path": unquote(grant.path)}


def _payer_fields(grant: Grant) -> list[tuple[bytes, bytes]]:
    """Who paid, through which channel, how much of what."""
    asset = grant.channel.asset
    return [
        (b"x-payment-payer", grant.channel.descriptor.payer.encode()),
        (b"x-payment-channel", grant.channel.channel_id.encode()),
        (b"x-payment-amount", b"%d" % grant.sold.sale.cost),
        (b"x-payment-asset", asset.symbol.encode()),
        (b"x-payment-decimals", b"%d" % asset.decimals),
    ]


def _is_about_paying(name: bytes, value: bytes) -> bool:
    """Whether a field of the client is kept from the application.

    A Connection that names our fields too: it would take them away from whoever stands behind it.
    """
    if name == b"authorization":
        return is_payment(value.decode("latin-1"))
    if name == b"connection":
        return any(_is_payment_field(one.strip()[:_TELLING]) for one in value.split(b","))
    return _is_payment_field(name[:_TELLING])


@lru_cache(maxsize=1024)
def _is_payment_field(name: bytes) -> bool:
    """Whether only the gateway may set a field."""
    plain = plain_name(name)
    return plain.startswith((PAYER_FIELDS, b"payment-")) or plain == b"accept-payment"


def _url_head(scope: Scope) -> str:
    """Scheme and authority of the URL, as the client names them."""
    hosts = [value for name, value in scope["headers"] if name == b"host"]
    return f"{scope.get('scheme', 'http')}://{hosts[0].decode('latin-1') if hosts else ''}"
