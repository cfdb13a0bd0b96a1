"""What the application answers to a paid request, on its way to the client: charged, and receipted."""

from __future__ import annotations

from microwallet.domain.identifiers import ChannelId
from microwallet.domain.money import Asset
from microwallet.http402.charging.answers import KEPT_LIMIT, Answer, pack, receipt_headers
from microwallet.http402.charging.asgi import Message, Send
from microwallet.http402.charging.gateway import Gateway, Grant
from microwallet.http402.charging.metering import EventMeter
from microwallet.http402.charging.request_body import RequestBody
from microwallet.http402.charging.routes import Unit
from microwallet.http402.charging.sales import Sold
from microwallet.http402.wire.events import EVENT_STREAM


class Delivery:
    """Sends one answer on, once what it costs is settled.

    Below 500 a request is charged: its price, the units that the application tells in a field, or the
    events that are delivered. From 500 on, and where there is no answer, all is given back; a fresh
    challenge says so, as an error that an intermediary makes up has none.
    """

    def __init__(self, gateway: Gateway, grant: Grant, send: Send, body: RequestBody) -> None:
        self._gateway = gateway
        self._grant = grant
        self._send = send
        self._body = body
        self._price = grant.offer.price
        self._head: Answer | None = None
        self._events: EventMeter | None = None
        self._kept: list[bytes] | None = [] if grant.sold.sale.idempotency_key else None
        self._kept_size = 0
        self._sold: Sold | None = grant.sold

    @property
    def channel_id(self) -> ChannelId:
        """The channel that pays."""
        return self._grant.channel.channel_id

    @property
    def asset(self) -> Asset:
        """What it is paid in."""
        return self._grant.channel.asset

    @property
    def sold(self) -> Sold | None:
        """What was sold, as it stands; None once it was given back."""
        return self._sold if self._events is None else self._events.sold

    async def send(self, message: Message) -> None:
        """One message of the application. ClientGone once nobody listens to a stream any more."""
        if message["type"] == "http.response.start":
            await self._start(message)
        elif message["type"] != "http.response.body":
            await self._send(message)
        elif self._events is not None:
            await self._events.take(message.get("body", b""), is_last=not message.get("more_body", False))
        else:
            await self._send(message)
            if self._kept is not None:
                await self._keep(message, self._kept)

    async def end(self) -> None:
        """The application has ended, or failed: what was not answered costs nothing."""
        if self._head is None:
            self._sold = None
            await self._gateway.undo(self._grant)
        elif self._events is not None:
            await self._events.end()

    async def _start(self, message: Message) -> None:
        status: int = message["status"]
        fields = [(name.lower(), value) for name, value in message.get("headers", [])]
        is_stream = any(name == b"content-type" and _is_event_stream(value) for name, value in fields)
        sold, units = self._grant.sold, self._units(fields)
        headers = [one for one in fields if one[0] not in (b"payment-receipt", self._units_field)]
        if status >= 500:
            self._sold = None
            await self._gateway.undo(self._grant)
            self._kept = None
            if not sold.is_replay:
                headers.append(self._gateway.challenge_field(self._grant.offer))
        elif units is not None and (self._price.unit is Unit.HEADER or not is_stream):
            self._sold = sold = await self._gateway.settle_cost(self._grant, units)
        if status < 400:
            headers = [one for one in headers if one[0] != b"cache-control"]
        if status < 400 and is_stream:
            headers = [one for one in headers if one[0] != b"content-length"]
            self._kept = None
            self._events = EventMeter(self._gateway, self._grant, sold, self._send, self._body)
        self._head = Answer(status=status, headers=headers)
        if status < 400:
            if sold.is_replay:
                units = self._price.units_used(sold.sale.cost)
            receipt = self._gateway.receipt(sold.account, self._grant.challenge_id, units=units)
            headers = [*headers, *receipt_headers(receipt)]
        await self._send({**message, "headers": headers})

    @property
    def _units_field(self) -> bytes | None:
        return None if self._price.header is None else self._price.header.encode()

    def _units(self, fields: list[tuple[bytes, bytes]]) -> int | None:
        """What the application says was used: nothing, if it does not say it, or if the events that are
        charged are not there. None for a fixed price, and for what was sold before."""
        if self._price.unit is Unit.REQUEST or self._grant.sold.is_replay:
            return None
        told = [value for name, value in fields if name == self._units_field]
        return int(told[0]) if len(told) == 1 and told[0].isdigit() and len(told[0]) < 20 else 0

    async def _keep(self, message: Message, kept: list[bytes]) -> None:
        kept.append(message.get("body", b""))
        self._kept_size += len(kept[-1])
        if self._kept_size > KEPT_LIMIT or self._head is None:
            self._kept = None
        elif not message.get("more_body", False):
            whole = Answer(status=self._head.status, headers=self._head.headers, body=b"".join(kept))
            self._kept = None
            await self._gateway.keep_answer(self._grant, pack(whole))


def _is_event_stream(content_type: bytes) -> bool:
    return content_type.partition(b";")[0].strip().lower() == EVENT_STREAM.encode()
