"""Streams of events that are paid one by one: counted, held, gone on with, ended."""

from __future__ import annotations

import asyncio
import gzip
import sqlite3
from contextlib import closing, nullcontext
from dataclasses import replace

import pytest
from counter import PAYER, Application, amounts, credential, only_challenge, problem
from hypothesis import given
from hypothesis import strategies as st
from starlette.responses import FileResponse

from microwallet.http402.charging import metering, till
from microwallet.http402.charging.metering import is_charged
from microwallet.http402.charging.middleware import PaymentMiddleware
from microwallet.http402.serving.request_log import RequestLog
from microwallet.http402.wire.events import EventReader, EventSplitter, NeedVoucher
from microwallet.http402.wire.receipt import SessionReceipt


@pytest.fixture
def counter(sold_by):
    """A counter that sells events for 100 base units each."""
    counter = sold_by({"path": "/**", "price": "100", "per": "event"})
    counter.app.headers = [(b"content-type", b"text/event-stream")]
    return counter


class Listener:
    """A client that reads a stream as it comes, over ASGI, and may leave."""

    def __init__(self, counter):
        self.counter = counter
        self.status = None
        self.fields, self.headers = [], {}
        self.events = []
        self.left = asyncio.Event()
        self._reader = EventReader()
        self._coming = asyncio.Condition()
        self.ended = False
        self.is_whole = False

    async def listen(self, amount, *, path="/"):
        challenge = only_challenge(await self.counter.asked(path=path))
        headers = [(b"authorization", credential(PAYER, PAYER.pay(amount), challenge).encode())]
        scope = {
            "type": "http", "method": "GET", "raw_path": path.encode(), "path": path, "query_string": b"",
            "headers": headers, "scheme": "http",
        }  # fmt: skip

        async def receive():
            await self.left.wait()
            return {"type": "http.disconnect"}

        async def send(message):
            if message["type"] == "http.response.start":
                self.status = message["status"]
                self.fields = message["headers"]
                self.headers = dict(self.fields)
                return
            self.is_whole = not message.get("more_body", False)
            async with self._coming:
                self.events += self._reader.feed(message.get("body", b""))
                self._coming.notify_all()

        await self.counter.application(scope, receive, send)
        async with self._coming:
            self.ended = True
            self._coming.notify_all()

    async def until(self, kind, *, number=1):
        """The event of a kind that is the first, or another `number`, once it has come."""
        async with self._coming, asyncio.timeout(5):
            while len(found := [one for one in self.events if one.type == kind]) < number:
                await self._coming.wait()
            return found[number - 1]

    async def until_held(self):
        """The event that asks for a voucher, once nothing but that is waited for."""
        need = await self.until("payment-need-voucher")
        for _ in range(2):  # the second time behind the stream's own look for one
            await self.counter.gateway.till.account(PAYER.channel_id)
        return need

    async def listen_until(self, kind, amount):
        """Listen, and leave at the first event of a kind: the stream ends then."""
        stream = asyncio.create_task(self.listen(amount))
        await self.until(kind)
        self.left.set()
        async with asyncio.timeout(5):
            await stream

    def data(self):
        """The data of the events that were sold."""
        return [one.data for one in self.events if one.type == "message"]

    def receipt(self):
        """What the last event says, and no other."""
        told = [one for one in self.events if one.type == "payment-receipt"]
        assert told == self.events[-1:]
        return SessionReceipt.from_object(told[0].json())


def sells(counter, count, *, at_once=1):
    """Make the application stream so many events."""

    async def chunks():
        for start in range(0, count, at_once):
            yield b"".join(b"data: %d\n\n" % number for number in range(start, min(count, start + at_once)))
            await asyncio.sleep(0)

    counter.app.chunks = chunks


async def endless():
    """Events without end."""
    while True:
        yield b"data: x\n\n"
        await asyncio.sleep(0.001)


def test_a_stream_is_not_made_again(counter):
    """Under its key it is known that it was paid and begun: nobody is charged twice for it."""
    sells(counter, 3)
    key = {"idempotency-key": "k"}
    assert counter.pay(PAYER, PAYER.pay(5000), headers=key).status_code == 200
    again = counter.pay(PAYER, PAYER.pay(5000), headers=key)
    assert (again.status_code, problem(again)) == (409, "urn:microwallet:problem:outcome-unknown")
    assert (len(counter.app.requests), amounts(counter)) == (1, (5000, 300))


@pytest.mark.parametrize("at_once", [1, 3, 10])
def test_each_event_is_charged(counter, at_once):
    """However they come; the receipt at the end says how many, the one before it that none has come yet."""
    sells(counter, 10, at_once=at_once)
    listener = Listener(counter)
    asyncio.run(listener.listen(5000))
    assert listener.data() == [str(number) for number in range(10)]
    assert (listener.receipt().units, listener.receipt().spent) == (10, 1000)
    assert amounts(counter) == (5000, 1000)
    assert SessionReceipt.parse(listener.headers[b"payment-receipt"].decode()).units == 0


@pytest.mark.parametrize("name", ["Accept-Encoding", "accept_encoding", "Accept.Encoding"])
def test_no_client_has_events_made_unreadable(counter, name):
    """What is compressed is not counted: an application does not hear that a client would take it."""
    sells(counter, 1)
    counter.pay(PAYER, PAYER.pay(1000), headers={name: "gzip"})
    assert not any(b"encoding" in name for name in counter.app.requests[0][2])


@pytest.mark.parametrize(
    ("accept", "is_told"),
    [("text/event-stream", False), ("application/json, Text/Event-Stream;q=0.5", False), ("text/html", True)],
)
def test_no_client_has_the_receipt_of_a_stream_left_out(sold_by, accept, is_told):
    """At a fixed price too: what is compressed has none at its end, so where events are asked for none is."""
    counter = sold_by({"path": "/**", "price": "1000"})
    counter.pay(PAYER, PAYER.pay(1000), headers={"Accept": accept, "Accept-Encoding": "gzip"})
    assert (b"accept-encoding" in counter.app.requests[0][2]) is is_told


def test_no_events_go_around_the_meter(counter, tmp_path):
    """A server that sends files by itself, by their path, is not asked to: nobody would count what is in
    them."""
    (tmp_path / "events").write_bytes(b"".join(b"data: %d\n\n" % number for number in range(3)))
    sends = FileResponse(tmp_path / "events", media_type="text/event-stream")
    metered = PaymentMiddleware(sends, counter.gateway)
    asked = {"http.response.pathsend": {}, "http.response.zerocopysend": {}}

    async def by_a_server_that_sends_files(scope, receive, send):
        await metered({**scope, "extensions": asked}, receive, send)

    counter.application = by_a_server_that_sends_files
    listener = Listener(counter)
    asyncio.run(listener.listen(5000))
    assert listener.data() == ["0", "1", "2"]
    assert (listener.receipt().units, amounts(counter)) == (3, (5000, 300))


def test_what_is_delivered_is_what_is_paid(counter, monkeypatch):
    """With three events' worth, three come; then it asks for the voucher that would buy the next, and goes on
    as soon as that comes."""
    monkeypatch.setattr(till, "_POLL_SECONDS", 60)
    sells(counter, 10, at_once=4)
    listener = Listener(counter)

    async def scene():
        stream = asyncio.create_task(listener.listen(300))
        need = NeedVoucher.parse(await listener.until_held())
        assert listener.data() == ["0", "1", "2"]
        assert (need.required_cumulative, need.accepted_cumulative, need.deposit) == (400, 300, 1_000_000)
        assert (await counter.paid(PAYER, PAYER.pay(1000), "HEAD")).status_code == 200
        async with asyncio.timeout(5):
            await stream

    asyncio.run(scene())
    assert listener.data() == [str(number) for number in range(10)]
    assert (listener.receipt().units, amounts(counter)) == (10, (1000, 1000))


def test_a_stream_asks_for_no_smaller_step_than_it_takes(sold_by):
    """What a voucher must add at least may be more than the next event costs."""
    counter = sold_by({"path": "/**", "price": "100", "per": "event", "min-voucher-delta": "250"})
    counter.app.headers = [(b"content-type", b"text/event-stream")]
    sells(counter, 4)
    listener = Listener(counter)

    async def scene():
        stream = asyncio.create_task(listener.listen(350))
        need = NeedVoucher.parse(await listener.until("payment-need-voucher"))
        assert (need.required_cumulative, need.accepted_cumulative) == (600, 350)
        assert (await counter.paid(PAYER, PAYER.pay(600), "HEAD")).status_code == 200
        async with asyncio.timeout(5):
            await stream

    asyncio.run(scene())
    assert (listener.receipt().units, amounts(counter)) == (4, (600, 400))


def test_a_stream_tells_of_a_top_up_that_another_process_was_told_of(counter, sold_by):
    """A payer that keeps to the draft would deposit again where less was told than it needs."""
    other = sold_by({"path": "/**", "price": "100", "per": "event"})
    sells(counter, 4)
    listener = Listener(counter)

    async def scene():
        stream = asyncio.create_task(listener.listen(200))
        assert NeedVoucher.parse(await listener.until("payment-need-voucher")).deposit == 1_000_000
        other.chain.channels[PAYER.channel_id] = replace(PAYER.state, deposit=2_000_000)
        assert (await other.paid(PAYER, PAYER.top_up(1_000_000), "HEAD")).status_code == 200
        assert (await other.paid(PAYER, PAYER.pay(300), "HEAD")).status_code == 200
        assert NeedVoucher.parse(await listener.until("payment-need-voucher", number=2)).deposit == 2_000_000
        listener.left.set()
        async with asyncio.timeout(5):
            await stream

    asyncio.run(scene())


def test_no_voucher_ends_it(counter, monkeypatch):
    """With the receipt for what was delivered."""
    monkeypatch.setattr(metering, "VOUCHER_SECONDS", 0.05)
    sells(counter, 10)
    listener = Listener(counter)
    asyncio.run(listener.listen(200))
    assert (listener.data(), listener.receipt().units) == (["0", "1"], 2)
    assert amounts(counter) == (200, 200)


def test_no_stream_at_a_fixed_price_goes_around_its_receipt(sold_by, tmp_path):
    """Nor is a server asked to send one itself that was asked for: the receipt comes after the last event."""
    (tmp_path / "events").write_bytes(b"data: 1\n\n")
    counter = sold_by({"path": "/**", "price": "1000"})
    sends = FileResponse(tmp_path / "events", media_type="text/event-stream")
    paid = PaymentMiddleware(sends, counter.gateway)

    async def by_a_server_that_sends_files(scope, receive, send):
        await paid({**scope, "extensions": {"http.response.pathsend": {}}}, receive, send)

    counter.application = by_a_server_that_sends_files
    answer = counter.pay(PAYER, PAYER.pay(1000), headers={"Accept": "text/event-stream"})
    assert answer.text.startswith("data: 1\n\nevent: payment-receipt")


@pytest.mark.parametrize("is_waiting", [True, False])
def test_it_breaks_off_where_no_voucher_can_come(counter, monkeypatch, is_waiting):
    """As soon as the server ends: with the receipt for what was delivered, and without asking for another
    voucher."""
    monkeypatch.setattr(till, "_POLL_SECONDS", 60)
    sells(counter, 10)
    listener = Listener(counter)

    async def scene():
        stream = asyncio.create_task(listener.listen(200))
        if is_waiting:
            await listener.until_held()
        counter.gateway.till.hear_no_more()
        async with asyncio.timeout(5):
            await stream

    asyncio.run(scene())
    assert (listener.data(), listener.receipt().units) == (["0", "1"], 2)
    assert is_waiting == any(one.type == "payment-need-voucher" for one in listener.events)
    assert not listener.is_whole
    assert amounts(counter) == (200, 200)


@pytest.mark.parametrize("reads", [True, False])
def test_whoever_leaves_pays_for_no_more(counter, reads):
    """The application is not asked for more than was delivered, whether it has read the request or not."""
    counter.app.reads = reads
    counter.app.chunks = endless
    listener = Listener(counter)
    asyncio.run(listener.listen_until("message", 100_000))
    accepted, spent = amounts(counter)
    assert accepted == 100_000
    assert spent == 100 * len(listener.data()) < 10_000


@pytest.mark.parametrize("reads", [True, False])
def test_whoever_leaves_is_not_waited_for(counter, reads):
    """A voucher does not come any more then: the stream ends at once."""
    counter.app.reads = reads
    sells(counter, 10)
    asyncio.run(Listener(counter).listen_until("payment-need-voucher", 300))
    assert amounts(counter) == (300, 300)


def test_a_later_stream_takes_over(counter):
    """A channel has one session: the earlier one ends with its receipt."""
    counter.app.chunks = endless
    first, second = Listener(counter), Listener(counter)

    async def scene():
        one = asyncio.create_task(first.listen(50_000))
        await first.until("message")
        two = asyncio.create_task(second.listen(100_000))
        async with asyncio.timeout(5):
            await one
        await second.until("message")
        second.left.set()
        async with asyncio.timeout(5):
            await two

    asyncio.run(scene())
    assert first.receipt().units == len(first.data())
    assert amounts(counter)[1] == 100 * (len(first.data()) + len(second.data()))


def test_a_request_beside_a_stream_leaves_it_going(sold_by):
    """Both are paid from one channel; only another stream takes over."""
    counter = sold_by({"path": "/events", "price": "100", "per": "event"}, {"path": "/**", "price": "10"})
    stream, page, bought = counter.app, Application(), asyncio.Event()
    stream.headers = [(b"content-type", b"text/event-stream")]

    async def chunks():
        yield b"data: 0\n\n"
        await bought.wait()
        yield b"data: 1\n\ndata: 2\n\n"

    async def app(scope, receive, send):
        await (stream if scope["path"] == "/events" else page)(scope, receive, send)

    stream.chunks = chunks
    counter.application._app = app
    listener = Listener(counter)

    async def scene():
        listening = asyncio.create_task(listener.listen(5000, path="/events"))
        await listener.until("message")
        assert (await counter.paid(PAYER, PAYER.pay(5001), path="/page")).status_code == 200
        bought.set()
        async with asyncio.timeout(5):
            await listening

    asyncio.run(scene())
    assert (listener.data(), listener.receipt().units) == (["0", "1", "2"], 3)
    assert amounts(counter) == (5001, 310)


@pytest.mark.parametrize("how", ["by the payee", "on chain", "finalized"])
def test_a_stream_ends_when_its_channel_does(counter, how):
    """What was authorized before can no longer be taken then, so nothing is delivered for it."""
    closed = asyncio.Event()

    async def chunks():
        yield b"data: 0\n\ndata: 1\n\n"
        await closed.wait()
        for number in range(2, 50):
            yield b"data: %d\n\n" % number

    counter.app.chunks = chunks
    listener = Listener(counter)

    def close():
        vouchers = counter.ledger.vouchers
        if how == "by the payee":
            vouchers.begin_closes([PAYER.channel_id])
            return
        changes = {"close_requested_at": 5} if how == "on chain" else {"finalized": True}
        vouchers.record_states({PAYER.channel_id: replace(PAYER.state, **changes)}, as_of=counter.now)

    async def scene():
        stream = asyncio.create_task(listener.listen(100_000))
        await listener.until("message")
        close()
        closed.set()
        async with asyncio.timeout(5):
            await stream

    asyncio.run(scene())
    assert listener.data() == ["0", "1"]
    assert (listener.receipt().units, amounts(counter)) == (2, (100_000, 200))


@pytest.mark.parametrize("amount", [300, 2000])
def test_a_stream_that_several_tasks_send(counter, amount):
    """Each event is charged once, and the sale has all that was charged, while it waits for a voucher too."""
    listener = Listener(counter)

    async def by_tasks(_scope, _receive, send):
        async def sends(name):
            for number in range(5):
                body = b"data: %s %d\n\n" % (name, number)
                await send({"type": "http.response.body", "body": body, "more_body": True})

        await send({"type": "http.response.start", "status": 200, "headers": counter.app.headers})
        await asyncio.gather(sends(b"one"), sends(b"two"), sends(b"three"))
        await send({"type": "http.response.body", "body": b""})

    async def scene():
        listening = asyncio.create_task(listener.listen(amount))
        if amount < 1500:
            await listener.until_held()
            assert (await counter.paid(PAYER, PAYER.pay(2000), "HEAD")).status_code == 200
        async with asyncio.timeout(5):
            await listening

    counter.application._app = by_tasks
    asyncio.run(scene())
    with counter.ledger.database.read() as connection:
        [(cost,)] = connection.execute("SELECT cost FROM sales").fetchall()
    assert len(listener.data()) == 15
    assert (listener.receipt().units, int(cost), amounts(counter)) == (15, 1500, (2000, 1500))


def test_a_stream_that_is_over_charges_nothing(counter, monkeypatch):
    """An application may go on as if nothing had happened: a voucher that is late buys none of that."""
    monkeypatch.setattr(metering, "VOUCHER_SECONDS", 0.05)
    listener, refused = Listener(counter), []

    async def obstinate(_scope, _receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": counter.app.headers})
        for number in range(4):
            body = b"data: %d\n\n" % number
            try:
                await send({"type": "http.response.body", "body": body, "more_body": True})
            except metering.ClientGone:
                refused.append(number)
                assert (await counter.paid(PAYER, PAYER.pay(5000), "HEAD")).status_code == 200

    counter.application._app = obstinate
    asyncio.run(listener.listen(200))
    assert (listener.data(), refused) == (["0", "1"], [2, 3])
    assert (listener.receipt().units, amounts(counter)) == (2, (5000, 200))


def test_a_stream_that_waits_for_a_voucher_ends_when_its_channel_does(counter):
    """Another process has closed it: what comes now buys nothing any more."""
    sells(counter, 10)
    listener = Listener(counter)

    async def scene():
        stream = asyncio.create_task(listener.listen(200))
        await listener.until_held()
        counter.ledger.vouchers.begin_closes([PAYER.channel_id])
        async with asyncio.timeout(5):
            await stream

    asyncio.run(scene())
    assert (listener.data(), listener.receipt().units) == (["0", "1"], 2)
    assert amounts(counter) == (200, 200)


def test_a_stream_is_not_served_again(counter):
    """Nobody would count it the second time: the same key learns that its answer is not kept."""
    sells(counter, 2)
    for told in (200, 409):
        assert counter.pay(PAYER, PAYER.pay(1000), headers={"idempotency-key": "k"}).status_code == told
    assert (amounts(counter), len(counter.app.requests)) == ((1000, 200), 1)


@pytest.mark.parametrize(
    ("status", "content_type", "units"),
    [
        (200, b"application/json", 1),
        (200, None, 1),
        (400, b"application/json", 0),
        (400, b"text/event-stream", 0),
    ],
)
def test_an_answer_without_events_costs_as_one(counter, status, content_type, units):
    """Where events are sold, nobody gets all at once for nothing by asking for no stream; errors are free.
    The same key is told the same."""
    counter.app.status = status
    counter.app.headers = [] if content_type is None else [(b"content-type", content_type)]
    for _ in range(2):
        answer = counter.pay(PAYER, PAYER.pay(1000), headers={"idempotency-key": "k"})
        assert (answer.status_code, answer.content) == (status, b"served")
        assert amounts(counter) == (1000, 100 * units)
        if units:
            assert SessionReceipt.parse(answer.headers["payment-receipt"]).units == 1


@pytest.mark.parametrize("status", [204, 304])
def test_an_answer_that_has_no_body_is_no_stream(counter, status):
    """Whatever type it tells: nothing can be sent behind it, and its receipt is a field."""
    counter.app.status, counter.app.body = status, b""
    answer = counter.pay(PAYER, PAYER.pay(1000))
    assert (answer.status_code, answer.content) == (status, b"")
    assert SessionReceipt.parse(answer.headers["payment-receipt"]).units == 1
    assert amounts(counter) == (1000, 100)


@pytest.mark.parametrize("events", [0, 1, 2])
def test_a_stream_that_has_begun_costs_nothing_for_certain(counter, events):
    """A close takes its first unit once that is delivered: without an event it is given back."""
    begun, goes_on, ends = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def chunks():
        begun.set()
        await goes_on.wait()
        yield b"data: x\n\n" * events
        await ends.wait()

    def certain():
        return counter.ledger.vouchers.charged([PAYER.channel_id], counter.in_hand.reserved)[PAYER.channel_id]

    async def scene():
        listener = Listener(counter)
        listening = asyncio.create_task(listener.listen(1000))
        await begun.wait()
        assert (amounts(counter), certain(), counter.in_hand.has(PAYER.channel_id)) == ((1000, 100), 0, True)
        goes_on.set()
        if events:
            await listener.until("message")
            assert (certain(), counter.in_hand.has(PAYER.channel_id)) == (100 * events, False)
        ends.set()
        await listening

    counter.app.chunks = chunks
    asyncio.run(scene())
    assert (certain(), counter.in_hand.has(PAYER.channel_id)) == (100 * events, False)


def test_a_stream_without_an_event_costs_nothing(counter):
    """Comments that keep the line open are no events."""

    async def chunks():
        yield b": still here\n\n"
        yield b"data: cut o"

    counter.app.chunks = chunks
    listener = Listener(counter)
    asyncio.run(listener.listen(1000))
    assert (listener.receipt().units, amounts(counter)) == (0, (1000, 0))


@pytest.mark.parametrize("breaks_off", [False, True])
def test_a_stream_without_an_event_costs_nothing_though_the_ledger_is_locked(
    counter, monkeypatch, breaks_off
):
    """It is given back once the lock is gone; a stream that ended as it should has its receipt then."""
    monkeypatch.setattr(counter.ledger.database, "_busy_seconds", 0.05)
    locks = sqlite3.connect(counter.ledger.database.path, isolation_level=None)

    async def chunks():
        yield b": still here\n\n"
        locks.execute("BEGIN IMMEDIATE")
        asyncio.get_running_loop().call_later(1.5, locks.execute, "ROLLBACK")
        if breaks_off:
            raise RuntimeError("the application fell over")

    counter.app.chunks = chunks
    listener = Listener(counter)
    with closing(locks), pytest.raises(RuntimeError) if breaks_off else nullcontext():
        asyncio.run(listener.listen(1000))
    assert (listener.receipt().units, listener.receipt().spent) == (0, 0)
    assert amounts(counter) == (1000, 0)


def test_an_application_that_breaks_off_keeps_what_it_delivered(counter):
    """The client has had those events, and is told what they cost before the connection breaks off."""

    async def chunks():
        yield b"data: 0\n\ndata: 1\n\n"
        raise RuntimeError("the application fell over")

    counter.app.chunks = chunks
    listener = Listener(counter)
    with pytest.raises(RuntimeError):
        asyncio.run(listener.listen(1000))
    assert (listener.data(), amounts(counter)) == (["0", "1"], (1000, 200))
    assert (listener.receipt().units, listener.receipt().spent) == (2, 200)


@pytest.mark.parametrize(("first", "units"), [(b"data: 0\n\n", 1), (b"", 0)])
def test_a_stream_that_is_cancelled_costs_what_it_delivered(counter, first, units):
    """However far it is with what comes next: what the receipt tells is what the books say."""
    listening = []

    async def chunks():
        yield first
        asyncio.get_running_loop().call_soon(listening[0].cancel)
        yield b"data: 1\n\ndata: 2\n\n"

    async def listen():
        listening.append(asyncio.current_task())
        await listener.listen(1000)

    counter.app.chunks = chunks
    listener = Listener(counter)
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(listen())
    assert len(listener.data()) == units
    assert (listener.receipt().units, listener.receipt().spent) == (units, 100 * units)
    assert amounts(counter) == (1000, 100 * units)


def test_a_stream_at_a_fixed_price(sold_by):
    """Passes as it is, with its receipt at the end, which no length that was told leaves out."""
    counter = sold_by({"path": "/**", "price": "1000"})
    counter.app.headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"Content-Length", b"27")]
    sells(counter, 3)
    listener = Listener(counter)
    asyncio.run(listener.listen(1000))
    assert listener.data() == ["0", "1", "2"]
    assert (listener.receipt().units, listener.receipt().spent) == (None, 1000)
    assert b"content-length" not in listener.headers


def test_a_stream_that_tells_its_units(sold_by):
    """It costs what it tells in a field, not the most that was reserved for it; its events cost nothing. The
    receipt after the last of them, which a payer goes by, tells those units too."""
    units = {"per": "header", "units-header": "x-units", "max-units": 9}
    counter = sold_by({"path": "/**", "price": "100", **units})
    counter.app.headers = [(b"content-type", b"text/event-stream"), (b"x-units", b"2")]
    sells(counter, 3)
    listener = Listener(counter)
    asyncio.run(listener.listen(900))
    assert listener.data() == ["0", "1", "2"]
    assert (listener.receipt().units, listener.receipt().spent, amounts(counter)) == (2, 200, (900, 200))


def test_a_proxy_in_front_is_told_to_hold_nothing_back(counter):
    """nginx would keep the event that asks for a voucher, whatever the application says of it; and so would
    one that compresses."""
    counter.app.headers += [(b"X-Accel-Buffering", b"yes"), (b"cache-control", b"max-age=5")]
    sells(counter, 1)
    listener = Listener(counter)
    asyncio.run(listener.listen(100))
    assert listener.headers[b"x-accel-buffering"] == b"no"
    assert {value for name, value in listener.fields if name == b"cache-control"} >= {
        b"no-transform",
        b"max-age=5",
    }


@pytest.mark.parametrize(
    ("cut", "data"),
    [(b"data: 1", "1"), (b"data: 1\n", "1"), (b"data: 1\r\n\r\n", "1"), (b": still here", "0")],
)
def test_the_receipt_of_a_stream_is_an_event_of_its_own(sold_by, cut, data):
    """Even where the application leaves out the blank line after its last event."""
    counter = sold_by({"path": "/**", "price": "1000"})
    counter.app.headers = [(b"content-type", b"text/event-stream")]

    async def chunks():
        yield b"data: 0\n\n" + cut[:-1]
        yield cut[-1:]

    counter.app.chunks = chunks
    listener = Listener(counter)
    asyncio.run(listener.listen(1000))
    assert listener.data()[-1] == data
    assert listener.receipt().spent == 1000


@pytest.mark.parametrize("per", ["request", "event"])
def test_a_stream_that_is_encoded_passes_as_it_is(sold_by, per):
    """Nothing is put between bytes that a client is to decode: its receipt is a field, it costs as one."""
    counter = sold_by({"path": "/**", "price": "100", "per": per})
    counter.app.headers = [(b"content-type", b"text/event-stream"), (b"Content-Encoding", b"gzip")]
    counter.app.body = gzip.compress(b"data: 0\n\ndata: 1\n\n")
    answer = counter.pay(PAYER, PAYER.pay(1000))
    assert answer.content == b"data: 0\n\ndata: 1\n\n"
    assert SessionReceipt.parse(answer.headers["payment-receipt"]).spent == 100
    assert amounts(counter) == (1000, 100)


@pytest.mark.parametrize(
    ("per", "content_type", "encoding", "is_told"),
    [
        ("event", b"text/event-stream", b"gzip", True),
        ("event", b"text/event-stream", b"identity", False),
        ("event", b"application/json", b"gzip", False),
        ("request", b"text/event-stream", b"gzip", False),
    ],
)
def test_a_seller_is_told_of_events_that_are_not_counted(sold_by, per, content_type, encoding, is_told):
    """In the log: one that is encoded costs less than was meant."""
    counter, logged = sold_by({"path": "/**", "price": "100", "per": per}), []
    counter.application = RequestLog(counter.application, lambda *line: logged.append(line))
    counter.app.headers = [(b"content-type", content_type), (b"content-encoding", encoding)]
    counter.app.body = b"data: 0\n\n" if encoding == b"identity" else gzip.compress(b"data: 0\n\n")
    assert counter.pay(PAYER, PAYER.pay(1000)).content.startswith(b"data: 0\n\n")
    assert ("its events are not counted" in logged[-1][1].get("warning", "")) is is_told


LINES = ["data: x", "data", "data:", ": comment", "event: y", "id: 1", "retry: 2", "database: z"]
EVENTS = st.lists(st.lists(st.sampled_from(LINES), min_size=1, max_size=4), max_size=6)


@given(
    st.sampled_from(["", "\ufeff"]),
    EVENTS,
    st.sampled_from(["\n", "\r\n", "\r"]),
    st.lists(st.integers(1, 9), max_size=30),
)
def test_events_are_cut_as_a_client_reads_them(mark, events, line_end, cuts):
    """No byte is lost, however the stream is cut; what is charged is what a client is given."""
    text = (mark + "".join(line_end.join(lines) + line_end * 2 for lines in events)).encode()
    splitter, got, rest = EventSplitter(), [], text
    for size in [*cuts, len(text) or 1]:
        got += splitter.feed(rest[:size])
        rest = rest[size:]
    cut = b"".join(got)
    assert text.startswith(cut)
    assert text.removeprefix(cut) in (b"", b"\n", mark.encode())  # a line end may be cut in half at the end
    reader = EventReader()
    for block in got:
        assert len(list(reader.feed(block))) == int(is_charged(block))
