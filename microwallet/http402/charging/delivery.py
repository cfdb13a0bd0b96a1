"""The application's answer to a paid request: it is charged, and gets a receipt, on its way to the client."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterator, Sequence
from contextlib import suppress
from functools import lru_cache

from microwallet.errors import LedgerError
from microwallet.http402.charging.answers import (
    KEPT_LIMIT,
    SOLD_ANOTHER_TIME,
    Answer,
    Headers,
    pack,
    plain_answer,
    receipt_headers,
    unrecorded_answer,
)
from microwallet.http402.charging.asgi import WARNING, Message, Send, send_answer
from microwallet.http402.charging.caching import NO_STORE, PRIVATE, is_for_shared_caches, kept_private
from microwallet.http402.charging.checkout import BY_SERVER, Grant
from microwallet.http402.charging.gateway import Gateway
from microwallet.http402.charging.metering import EventMeter
from microwallet.http402.charging.request import Request
from microwallet.http402.charging.routes import Unit
from microwallet.http402.wire.events import EVENT_STREAM, may_bring_events

Fields = list[tuple[bytes, bytes]]

_EVENT_STREAM = EVENT_STREAM.encode()
_LOOKED_AT = frozenset({b"payment-receipt", b"cache-control"})
"""Fields of an answer that are more than forwarded; the content type is looked at anyway, and for streams
their encoding."""
_NOT_OF_A_STREAM = frozenset({b"content-length", b"x-accel-buffering"})
_AT_ONCE = ((b"x-accel-buffering", b"no"), (b"cache-control", b"no-transform"))
"""Tells proxies not to buffer, as nginx does, nor to compress, as Apache, Caddy and HAProxy can: they would
hold back the event that asks for a voucher. RFC 9111, section 5.2.2.6."""
ENDS = plain_answer(503, "Service Unavailable", "the server ends; nothing was charged")
_UNDO_SECONDS = 5.0
"""Seconds that the client waits until what it paid is given back; that goes on afterwards."""


class Delivery:
    """Sends one answer on, once what it costs is settled.

    An answer with a status below 500 is charged: the price, the units that the application tells in a field,
    or the events that are delivered. With 402, from 500 on and without an answer, all is given back. A fresh
    challenge then tells the client so, as it has none on errors that an intermediary makes up. If the ledger
    can record neither, the client is told that the outcome is unknown.
    """

    _status: int | None = None
    """Of the answer; None before there is one."""
    _fields: Sequence[tuple[bytes, bytes]] = ()
    _events: EventMeter | None = None
    _kept_size = 0
    _is_in_hand = True
    _is_replaced = False
    """Whether the client was answered something else than the application says."""

    def __init__(
        self, gateway: Gateway, grant: Grant, send: Send, request: Request, *, is_dated: bool
    ) -> None:
        self._gateway = gateway
        self._grant = grant
        self._send = send
        self._request = request
        self._is_dated = is_dated
        self._kept: list[bytes] | None = None if grant.sold.sale.idempotency_key is None else []

    async def send(self, message: Message) -> None:
        """One message of the application. ClientGone once nobody listens to a stream any more."""
        if self._is_replaced:
            return
        if message["type"] == "http.response.start":
            if self._status is not None:
                raise RuntimeError("the application has begun an answer already")
            if self._grant.bill.sold is None:
                raise RuntimeError("an answer after one that costs nothing: what was paid is given back")
            try:
                await self._start(message)
            except LedgerError as error:
                with suppress(LedgerError):
                    await self._undo()
                await self._replace(unrecorded_answer(error))
        elif message["type"] != "http.response.body":
            if message["type"] in BY_SERVER:
                self._kept = None
            await self._send(message)
        elif self._events is not None:
            await self._events.take(message.get("body", b""), is_last=not message.get("more_body", False))
        elif self._kept is not None:
            await self._keep(message, self._kept)
        else:
            await self._send(message)

    async def give_up(self) -> None:
        """End it because the server ends before the application has: what is not answered costs nothing."""
        if await self._costs_nothing():
            await self._replace(ENDS)

    async def end(self) -> None:
        """The application has ended, or failed: what was not answered costs nothing."""
        if await self._costs_nothing() or self._is_replaced:
            return
        try:
            if self._events is not None:
                await self._events.end()
        finally:
            self._decided()
            self._events = None  # it knows this: no cycle keeps both in memory

    async def _costs_nothing(self) -> bool:
        """Give back what was not answered; whether it has no answer yet."""
        if self._status is not None:
            return False
        try:
            if not await self._undo():
                await self._replace(SOLD_ANOTHER_TIME)
        except LedgerError as error:
            await self._replace(unrecorded_answer(error))
        return self._status is None

    async def _replace(self, answer: Answer) -> None:
        """Answer in place of the application."""
        self._is_replaced, self._status = True, answer.status
        await send_answer(answer, self._send, is_dated=self._is_dated)

    def _start(self, message: Message) -> Awaitable[None]:
        status: int = message["status"]
        receipt = self._grant.receipt
        fields: Fields = list(message.get("headers", ()))  # which may be there to be read once
        if receipt is not None and status < 400:
            at = _only_type(tuple([field[0] for field in fields]))
            if at is not None and not (fields and _is_event_stream(fields[at][1])):
                return self._answer(message, status, fields, receipt)
        fields, told, is_stream = self._told(fields, status)
        if _is_unserved(status):
            return self._unserved(message, status, fields)
        if receipt is None or is_stream:
            return self._charge(message, status, fields, told, is_stream=is_stream)
        return self._answer(message, status, fields, receipt)

    async def _unserved(self, message: Message, status: int, fields: Fields) -> None:
        """Give back what was paid, and answer."""
        if not await self._undo():
            why, bill = message.get(WARNING), self._grant.bill
            bill.warning = bill.warning or why or f"{status}, while it was made again under its key"
            await self._replace(SOLD_ANOTHER_TIME)
            return
        if status == 402 or not self._grant.sold.is_replay:  # no cache keeps a challenge
            fields = [field for field in fields if field[0] != b"cache-control"]
            body = self._request.whole_body if self._request.has_body else None
            fields += (NO_STORE, self._gateway.challenge_field(self._grant.offer, body=body))
        self._status = status
        await self._send({**message, "headers": fields})

    async def _charge(
        self, message: Message, status: int, fields: Fields, told: list[bytes], *, is_stream: bool
    ) -> None:
        """Find out what is to be paid, and answer."""
        sold, till = self._grant.sold, self._gateway.till
        units = self._units(told, status, is_stream=is_stream)
        is_metered = is_stream and self._grant.offer.price.unit is Unit.EVENT
        if units is not None and not is_metered:
            price = self._grant.offer.price
            cost = min(units * price.amount.base_units, price.reserved)
            settled = await till.settle_cost(sold.sale, cost)
            if settled.sale.cost < cost:
                self._grant.bill.warning = f"{units} units told, more than was charged under its key"
                await self._undo()
                await self._replace(SOLD_ANOTHER_TIME)
                return
            self._grant.bill.sold = sold = sold._replace(sale=settled.sale, account=settled.account)
            units = price.units_used(sold.sale.cost)
        if is_stream:
            fields = [*(field for field in fields if field[0] not in _NOT_OF_A_STREAM), *_AT_ONCE]
            self._kept = None
            self._events = EventMeter(
                till, self._grant, sold, self._send, self._request, decided=self._decided
            )
        receipt = till.receipt(sold.account, self._grant.challenge_id, units=units)
        await self._answer(message, status, fields, receipt_headers(receipt))

    def _answer(self, message: Message, status: int, fields: Fields, receipt: Headers) -> Awaitable[None]:
        """Begin the answer. What it costs is certain now, unless events are counted."""
        if self._events is None:
            self._decided()
        if status >= 400:
            fields, receipt = [*fields, PRIVATE], ()
        self._status, self._fields = status, fields
        return self._send({**message, "headers": [*fields, *receipt]})

    def _told(self, answered: Fields, status: int) -> tuple[Fields, list[bytes], bool]:
        """The fields for the client, what the application told of units, and whether events follow."""
        bill, offer = self._grant.bill, self._grant.offer
        if status == 402:
            bill.warning = "what was paid for here asks to be paid itself"
        answered = [(field[0].lower(), field[1]) for field in answered]
        told = [value for name, value in answered if name == offer.units_field]
        fields = list(_shown(answered, units_field=offer.units_field))
        is_stream = may_bring_events(status) and any(
            name == b"content-type" and _is_event_stream(value) for name, value in fields
        )
        is_encoded = any(
            name == b"content-encoding" and value.strip().lower() != b"identity" for name, value in fields
        )
        if is_stream and is_encoded and offer.price.unit is Unit.EVENT:
            bill.warning = "a stream that is encoded: its events are not counted"
        return fields, told, is_stream and not is_encoded

    def _units(self, told: list[bytes], status: int, *, is_stream: bool) -> int | None:
        """The units used so far; None where the price is for the request, whatever it uses."""
        if self._grant.offer.price.unit is Unit.REQUEST:
            return None
        if self._grant.offer.price.unit is Unit.HEADER:
            units = _told_units(told)
            if status < 400:
                self._grant.bill.warning = self._warning(units)
            return units or 0
        return int(status < 400 and not is_stream)

    def _warning(self, units: int | None) -> str | None:
        """What is wrong with the number of units that the application told; None if nothing is."""
        if units is None:
            return f"no number of units told in {self._grant.offer.price.header}"
        most = self._grant.offer.price.max_units
        return f"{units} units told, {most} are the most" if units > most else None

    def _decided(self, *, is_answered: bool = True) -> None:
        """Take it out of the requests in hand: what was reserved is certain now, or given back."""
        if self._is_in_hand:
            self._is_in_hand = False
            shared = self._grant.reservation
            freed = self._grant.sold.reserved if shared is None else shared.leave(is_answered=is_answered)
            self._gateway.in_hand.end(self._grant.channel.channel_id, freed)

    async def _undo(self) -> bool:
        """Give all back, once, as the voucher may buy again after that. Cancelling does not stop it. False if
        it has bought what was or is served another time: that stays sold."""
        bill = self._grant.bill
        sold, bill.sold, self._kept = bill.sold, None, None
        if sold is None:
            return True

        def over(undone: asyncio.Future[bool]) -> None:
            self._decided(is_answered=False)
            if undone.exception() is not None:
                bill.sold = sold

        undone = self._gateway.till.undo(sold.sale)
        undone.add_done_callback(over)
        done, _ = await asyncio.wait([undone], timeout=_UNDO_SECONDS)
        are_given_back = [one.result() for one in done]
        return sold.is_replay or all(are_given_back)

    async def _keep(self, message: Message, kept: list[bytes]) -> None:
        """Send a part of an answer, and keep the whole for replays."""
        await self._send(message)
        kept.append(message.get("body", b""))
        self._kept_size += len(kept[-1])
        if self._kept_size > KEPT_LIMIT or self._status is None:
            self._kept = None
        elif not message.get("more_body", False):
            whole = Answer(status=self._status, headers=self._fields, body=b"".join(kept))
            self._kept = None
            try:
                await self._gateway.till.keep_answer(self._grant.sold.sale, pack(whole))
            except LedgerError as error:  # its client has it all the same
                self._grant.bill.warning = f"what was answered is not kept: {error.message}"


def _shown(answered: Fields, *, units_field: bytes | None) -> Iterator[tuple[bytes, bytes]]:
    """The fields for the client: without units, others' receipts, and what is for shared caches."""
    for name, value in answered:
        if name in (units_field, b"payment-receipt") or is_for_shared_caches(name):
            continue
        if name == b"cache-control" and not (value := kept_private(value)):
            continue
        yield name, value


def _is_unserved(status: int) -> bool:
    """Whether nothing was sold: a payer takes any 402 for a refusal, also the application's own."""
    return status >= 500 or status == 402


def _told_units(told: list[bytes]) -> int | None:
    """What the application says was used; None if it does not say it."""
    return int(told[0]) if len(told) == 1 and told[0].isdigit() and len(told[0]) < 20 else None


@lru_cache(maxsize=64)
def _only_type(names: tuple[bytes, ...]) -> int | None:
    """The index of the content type among these fields, or of any field if there is none; None if other
    fields must be looked at or left out too."""
    if any(name != name.lower() or name in _LOOKED_AT or is_for_shared_caches(name) for name in names):
        return None
    types = [at for at, name in enumerate(names) if name == b"content-type"]
    return None if len(types) > 1 else types[0] if types else 0


@lru_cache(maxsize=64)
def _is_event_stream(content_type: bytes) -> bool:
    return content_type.partition(b";")[0].strip().lower() == _EVENT_STREAM
