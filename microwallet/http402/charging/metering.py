"""Streams of server-sent events: counted, charged before they are delivered, and held while nothing is left.

draft-evm-session-00, sections "Insufficient Balance During Streaming" and "Receipt Generation".
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable

from microwallet.http402.charging.account import amount_above
from microwallet.http402.charging.asgi import Send
from microwallet.http402.charging.checkout import Grant
from microwallet.http402.charging.request import Request
from microwallet.http402.charging.routes import Unit
from microwallet.http402.charging.sales import Sold, StreamEnded
from microwallet.http402.charging.till import Till
from microwallet.http402.wire.events import BOM, RECEIPT, EventSplitter, NeedVoucher, encode_event

VOUCHER_SECONDS = 60.0
"""How long a stream waits for a voucher."""

_BLANK_LINE = re.compile(rb"(?>\r\n|\n|\r)(?>\r\n|\n|\r)\Z")
_LONGEST_BLANK = 4
_HAS_DATA = re.compile(rb"(?:^(?:%b)?|[\r\n])data(?:[:\r\n]|$)" % BOM)


class ClientGone(OSError):
    """Nobody listens to a stream any more, or nobody pays for it."""


def is_charged(event: bytes) -> bool:
    """Whether an event is worth something to a client: it has data, and is no mere comment."""
    return _HAS_DATA.search(event) is not None


class EventMeter:
    """Delivers one stream. If the price is not by event, it only adds the receipt at the end.

    `decided` is called once what was reserved is certain, which is before the first event that is charged.
    """

    def __init__(
        self,
        till: Till,
        grant: Grant,
        sold: Sold,
        send: Send,
        request: Request,
        *,
        decided: Callable[[], None],
    ) -> None:
        self._till = till
        self._grant = grant
        self._sold = sold
        self._send = send
        self._is_metered = grant.offer.price.unit is Unit.EVENT
        self._decided = decided
        if not self._is_metered:
            decided()
        self._prepaid = 1 if self._is_metered else 0
        self._units = 0
        self._is_charging = False
        self._splitter = EventSplitter()
        self._in_turn = asyncio.Lock()
        """An application may send from several tasks."""
        self._end = b""
        """The last bytes delivered, where the stream is passed on as it comes."""
        self._is_over = False
        self._leaving = asyncio.ensure_future(request.client_leaves())

    async def take(self, chunk: bytes, *, is_last: bool) -> None:
        """Deliver the events that a chunk completes. ClientGone ends the stream; charges stay."""
        async with self._in_turn:
            if self._is_over or self._leaving.done():
                raise ClientGone("the stream is over, or the client has left it")
            if not self._is_metered:
                if chunk:
                    self._end = (self._end + chunk)[-_LONGEST_BLANK:]
                    await self._write(chunk)
            else:
                await self._deliver(self._splitter.feed(chunk))
            if is_last:
                await self._close()

    async def end(self) -> None:
        """End with the application. A stream that was cut off is charged for what was delivered; a client
        that is still there gets a receipt for that, but not the end of the stream."""
        has_left = self._leaving.done()
        self._leaving.cancel()
        if self._is_over or not self._is_metered:
            return
        if self._units == 0 or self._is_charging:  # which was cancelled, and may be recorded all the same
            await self._give_back()
        if not has_left:
            await self._write(self._receipt())

    async def _deliver(self, events: list[bytes]) -> None:
        while events:
            wanted = sum(map(is_charged, events))
            paid = await self._pay(wanted) if wanted else 0
            ready, events = _first(events, paid)
            if paid:
                self._decided()
            self._units += paid
            if ready:
                await self._write(b"".join(ready))
            if events:
                await self._await_voucher()

    async def _pay(self, wanted: int) -> int:
        """Charge as many events as the account can pay for, at most `wanted`."""
        paid = min(self._prepaid, wanted)
        self._prepaid -= paid
        if paid < wanted:
            self._is_charging = True
            try:
                count, sold = await self._till.charge_units(
                    self._sold,
                    self._grant.offer.price.amount.base_units,
                    wanted=wanted - paid,
                    stream=self._grant.sold.account.stream,
                )
            except StreamEnded:
                await self._close()
                raise ClientGone("the channel pays for this stream no more") from None
            self._is_charging = False
            self._stands(sold)
            paid += count
        return paid

    async def _await_voucher(self) -> None:
        """Ask for a voucher and wait for it. ClientGone if none comes: the stream is over then, or it is
        broken off if the server ends."""
        if self._till.hears_no_more:
            raise ClientGone("no voucher can come any more")
        account, price = self._sold.account, self._grant.offer.price
        need = NeedVoucher(
            channel_id=account.channel_id,
            required_cumulative=amount_above(account, price.amount.base_units, price.min_voucher_delta),
            accepted_cumulative=account.accepted,
            deposit=account.deposit,
        )
        await self._write(need.to_event())
        coming = asyncio.ensure_future(self._till.voucher_above(account.channel_id, account.accepted))
        try:
            await asyncio.wait(
                {coming, self._leaving}, timeout=VOUCHER_SECONDS, return_when=asyncio.FIRST_COMPLETED
            )
            if not coming.done():
                if not self._leaving.done():
                    await self._close()
                raise ClientGone("no voucher came")
            coming.result()
        finally:
            coming.cancel()

    async def _close(self) -> None:
        """End the stream with its receipt."""
        self._is_over = True
        if self._is_metered and self._units == 0:
            await self._give_back()
        is_open = self._end and _BLANK_LINE.search(self._end) is None
        await self._write((b"\n\n" if is_open else b"") + self._receipt())
        await self._send({"type": "http.response.body", "body": b""})

    def _receipt(self) -> bytes:
        units = self._grant.offer.price.units_used(self._sold.sale.cost)
        receipt = self._till.receipt(self._sold.account, self._grant.challenge_id, units=units)
        return encode_event(RECEIPT, receipt.to_object())

    def _stands(self, sold: Sold) -> None:
        self._sold = self._grant.bill.sold = sold

    async def _give_back(self) -> None:
        """Charge no more than was delivered."""
        cost = self._units * self._grant.offer.price.amount.base_units
        self._stands(await self._till.charge_no_more(self._grant.sold.sale, cost))

    async def _write(self, content: bytes) -> None:
        await self._send({"type": "http.response.body", "body": content, "more_body": True})


def _first(events: list[bytes], charged: int) -> tuple[list[bytes], list[bytes]]:
    """Split events: the first part has at most `charged` of those that cost something; the rest."""
    for place, event in enumerate(events):
        if is_charged(event):
            if charged == 0:
                return events[:place], events[place:]
            charged -= 1
    return events, []
