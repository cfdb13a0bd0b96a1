"""ASGI middleware: an application behind it is paid for.

Whoever pays is told to the application in fields that a client cannot forge; payment fields themselves
never reach it, nor do its own reach the client.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import unquote

from microwallet.http402.charging.answers import KEPT_LIMIT, Answer, pack, receipt_headers
from microwallet.http402.charging.checks import Asked
from microwallet.http402.charging.gateway import Free, Gateway, Grant
from microwallet.http402.charging.routes import Unit
from microwallet.http402.wire.credential import is_payment

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

BODY_SECONDS = 30.0
"""For how long a client may take to send the body that is read before anything is decided."""
PAYER_FIELDS = "x-payment-"
"""What fields that say who paid begin with: payer, channel, amount, asset and decimals."""


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
        body = _Body(scope, receive)
        outcome = await self._gateway.admit(
            Asked(
                method=scope["method"],
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
            await self._serve(forwarded, body.receive, send, outcome)
        else:
            await self._app(forwarded, body.receive, send)

    async def _serve(self, scope: Scope, receive: Receive, send: Send, grant: Grant) -> None:
        sender = _Sender(self._gateway, grant, send)
        try:
            await self._app(scope, receive, sender.send)
        except BaseException:
            if not sender.started:
                await self._gateway.undo(grant)
            raise
        if not sender.started:
            await self._gateway.undo(grant)


class _Body:
    """A request's body: read ahead where a decision needs it, and handed on all the same."""

    def __init__(self, scope: Scope, receive: Receive) -> None:
        names = dict(scope["headers"])
        self.is_announced = b"transfer-encoding" in names or names.get(b"content-length", b"0") != b"0"
        self._receive = receive
        self._read: list[Message] = []
        self._whole: bytes | None = None

    async def read(self, limit: int) -> bytes | None:
        """The whole body, or None if it has more than `limit` bytes, or does not come in time."""
        if self._whole is not None:
            return self._whole
        size = 0
        try:
            async with asyncio.timeout(BODY_SECONDS):
                while size <= limit:
                    message = await self._receive()
                    self._read.append(message)
                    if message["type"] != "http.request":
                        return None
                    size += len(message.get("body", b""))
                    if not message.get("more_body", False):
                        self._whole = b"".join(one.get("body", b"") for one in self._read)
                        return self._whole if size <= limit else None
        except TimeoutError:
            return None
        return None

    async def receive(self) -> Message:
        """The next message: what was read ahead first."""
        return self._read.pop(0) if self._read else await self._receive()


class _Sender:
    """Sends the application's answer on, once what it costs is settled."""

    def __init__(self, gateway: Gateway, grant: Grant, send: Send) -> None:
        self.started = False
        self._gateway = gateway
        self._grant = grant
        self._send = send
        self._price = grant.offer.price
        self._sold = grant.sold
        self._kept: list[bytes] | None = [] if grant.sold.sale.idempotency_key else None
        self._kept_size = 0
        self._head = Answer(status=500, headers=[])

    async def send(self, message: Message) -> None:
        """One message of the application."""
        if message["type"] == "http.response.start":
            await self._start(message)
        elif message["type"] == "http.response.body":
            await self._send(message)
            if self._kept is not None:
                await self._keep(message, self._kept)
        else:
            await self._send(message)

    async def _start(self, message: Message) -> None:
        status: int = message["status"]
        headers = [
            (name, value)
            for name, value in message.get("headers", [])
            if name.lower() not in (b"payment-receipt", self._units_field)
        ]
        units = self._units(message.get("headers", []))
        if status >= 500:
            await self._gateway.undo(self._grant)
            self._kept = None
        elif units is not None and not self._sold.is_replay:
            self._sold = await self._gateway.settle_cost(self._grant, units)
        if status < 400:
            headers = [(name, value) for name, value in headers if name.lower() != b"cache-control"]
        self._head = Answer(status=status, headers=headers)
        if status < 400:
            receipt = self._gateway.receipt(self._sold.account, self._grant.challenge_id, units=units)
            headers = [*headers, *receipt_headers(receipt)]
        self.started = True
        await self._send({**message, "headers": headers})

    @property
    def _units_field(self) -> bytes | None:
        return None if self._price.header is None else self._price.header.encode()

    def _units(self, headers: Any) -> int | None:
        """What the application says was used; nothing, if it does not say it. None for a fixed price."""
        if self._price.unit is not Unit.HEADER:
            return None
        told = [value for name, value in headers if name.lower() == self._units_field]
        return int(told[0]) if len(told) == 1 and told[0].isdigit() and len(told[0]) < 20 else 0

    async def _keep(self, message: Message, kept: list[bytes]) -> None:
        kept.append(message.get("body", b""))
        self._kept_size += len(kept[-1])
        if self._kept_size > KEPT_LIMIT:
            self._kept = None
        elif not message.get("more_body", False):
            whole = Answer(status=self._head.status, headers=self._head.headers, body=b"".join(kept))
            self._kept = None
            await self._gateway.keep_answer(self._grant, pack(whole))


async def send_answer(answer: Answer, send: Send, *, with_body: bool = True) -> None:
    """Send a whole answer; one to a HEAD without its body."""
    headers = list(answer.headers)
    if not any(name == b"content-length" for name, _ in headers):
        headers.append((b"content-length", str(len(answer.body)).encode()))
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": answer.body if with_body else b""})


def _forwarded(scope: Scope, grant: Free | Grant) -> Scope:
    """The scope for the application: the path as it was matched, the fields without those of paying."""
    headers = [(name, value) for name, value in scope["headers"] if not _is_about_paying(name, value)]
    if isinstance(grant, Grant):
        asset = grant.channel.asset
        told = {
            "payer": grant.channel.descriptor.payer,
            "channel": grant.channel.channel_id,
            "amount": str(grant.sold.sale.cost),
            "asset": asset.symbol,
            "decimals": str(asset.decimals),
        }
        headers += [((PAYER_FIELDS + name).encode(), value.encode()) for name, value in told.items()]
    path = grant.path.encode()
    return {**scope, "headers": headers, "raw_path": path, "path": unquote(grant.path)}


def _is_about_paying(name: bytes, value: bytes) -> bool:
    """Whether a field of the client is kept from the application; `_` reads like `-` to many of them."""
    plain = name.decode("latin-1").lower().replace("_", "-")
    if plain == "authorization":
        return is_payment(value.decode("latin-1"))
    return plain.startswith((PAYER_FIELDS, "payment-")) or plain == "accept-payment"
