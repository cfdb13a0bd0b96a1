"""What the application answers to a paid request, on its way to the client: charged, and receipted."""

from __future__ import annotations

from microwallet.http402.charging.answers import KEPT_LIMIT, Answer, pack, receipt_headers
from microwallet.http402.charging.asgi import Message, Send
from microwallet.http402.charging.bill import Bill
from microwallet.http402.charging.gateway import Gateway, Grant
from microwallet.http402.charging.metering import EventMeter
from microwallet.http402.charging.request import Request
from microwallet.http402.charging.routes import Unit
from microwallet.http402.wire.events import EVENT_STREAM

Fields = list[tuple[bytes, bytes]]

_EVENT_STREAM = EVENT_STREAM.encode()


class Delivery:
    """Sends one answer on, once what it costs is settled.

    Below 500 a request is charged: its price, the units that the application tells in a field, or the
    events that are delivered. From 500 on, and where there is no answer, all is given back; a fresh
    challenge says so, as an error that an intermediary makes up has none.
    """

    def __init__(self, gateway: Gateway, grant: Grant, send: Send, request: Request) -> None:
        self._gateway = gateway
        self._grant = grant
        self._send = send
        self._request = request
        self._price = grant.offer.price
        self._status: int | None = None
        """As soon as there is an answer."""
        self._fields: Fields = []
        self._events: EventMeter | None = None
        self._kept: list[bytes] | None = None if grant.sold.sale.idempotency_key is None else []
        self._kept_size = 0
        self.bill = Bill(grant.channel, grant.sold)
        self._is_in_hand = True

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
        try:
            if self._status is None:
                await self._undo()
            elif self._events is not None:
                await self._events.end()
        finally:
            self._decided()

    async def _start(self, message: Message) -> None:
        status: int = message["status"]
        fields, told, is_stream = self._told(message, status)
        sold, till = self._grant.sold, self._gateway.till
        if status >= 500:
            await self._undo()
            self._decided()
            if not sold.is_replay:
                fields.append(self._gateway.challenge_field(self._grant.offer))
            self._status = status
            await self._send({**message, "headers": fields})
            return
        units = self._units(told, status, is_stream=is_stream)
        is_metered = is_stream and self._price.unit is Unit.EVENT
        if units is not None and not is_metered:
            settled = await till.settle_cost(sold.sale, units * self._price.amount.base_units)
            self.bill.sold = sold = sold._replace(sale=settled.sale, account=settled.account)
        if sold.is_replay or self._price.unit is Unit.HEADER:
            units = self._price.units_used(sold.sale.cost)
        self._decided()
        if is_stream:
            fields = [field for field in fields if field[0] != b"content-length"]
            self._kept = None
            self._events = EventMeter(till, self._grant, sold, self.bill, self._send, self._request)
        self._status, self._fields = status, fields
        if status < 400:
            receipt = till.receipt(sold.account, self._grant.challenge_id, units=units)
            fields = [*fields, *receipt_headers(receipt)]
        await self._send({**message, "headers": fields})

    def _told(self, message: Message, status: int) -> tuple[Fields, list[bytes], bool]:
        """The fields that the client sees, what is told of units, and whether events follow, to be read."""
        fields: Fields = []
        told: list[bytes] = []
        units_field, is_stream, is_encoded = self._grant.offer.units_field, False, False
        for field in message.get("headers", ()):
            name = field[0].lower()
            if name == units_field:
                told.append(field[1])
            elif name != b"payment-receipt" and (name != b"cache-control" or status >= 400):
                is_stream |= status < 400 and name == b"content-type" and _is_event_stream(field[1])
                is_encoded |= name == b"content-encoding" and field[1].strip().lower() != b"identity"
                fields.append((name, field[1]))
        if is_stream and is_encoded and self._price.unit is Unit.EVENT:
            self.bill.warning = "a stream that is encoded: its events are not counted"
        return fields, told, is_stream and not is_encoded

    def _units(self, told: list[bytes], status: int, *, is_stream: bool) -> int | None:
        """The units used so far; None where the price is for the request, whatever it uses."""
        if self._price.unit is Unit.REQUEST:
            return None
        if self._price.unit is Unit.HEADER:
            units = _told_units(told)
            if status < 400:
                self.bill.warning = self._warning(units)
            return units or 0
        return int(status < 400 and not is_stream)

    def _warning(self, units: int | None) -> str | None:
        """What is wrong with how many units the application told."""
        if units is None:
            return f"no number of units told in {self._price.header}"
        most = self._price.max_units
        return f"{units} units told, {most} are the most" if units > most else None

    def _decided(self) -> None:
        """What the request costs is certain, or each event is charged by itself."""
        if self._is_in_hand:
            self._is_in_hand = False
            self._gateway.in_hand.end(self._grant.channel.channel_id)

    async def _undo(self) -> None:
        """Give it back, once: the voucher may have bought again by then. What is cancelled here goes on."""
        sold, self.bill.sold, self._kept = self.bill.sold, None, None
        if sold is None:
            return
        try:
            await self._gateway.till.undo(sold.sale)
        except Exception:
            self.bill.sold = sold
            raise

    async def _keep(self, message: Message, kept: list[bytes]) -> None:
        kept.append(message.get("body", b""))
        self._kept_size += len(kept[-1])
        if self._kept_size > KEPT_LIMIT or self._status is None:
            self._kept = None
        elif not message.get("more_body", False):
            whole = Answer(status=self._status, headers=self._fields, body=b"".join(kept))
            self._kept = None
            await self._gateway.till.keep_answer(self._grant.sold.sale, pack(whole))


def _told_units(told: list[bytes]) -> int | None:
    """What the application says was used; None if it does not say it."""
    return int(told[0]) if len(told) == 1 and told[0].isdigit() and len(told[0]) < 20 else None


def _is_event_stream(content_type: bytes) -> bool:
    return content_type.partition(b";")[0].strip().lower() == _EVENT_STREAM
