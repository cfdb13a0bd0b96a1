"""The transports in a program of its own: httpx pays by being given one."""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import threading
import time
from contextlib import contextmanager

import httpx
import pytest
from http402.payee_double import HEADERS_WITHOUT_END, PAID_BODY, STREAM, break_off, drip, drip_header

from microwallet.domain.purchase import VoucherTerms
from microwallet.errors import (
    AboveLimit,
    ConfirmationRequired,
    LedgerBusy,
    NetworkError,
    OutcomeUnknown,
    UsageError,
)
from microwallet.http402.paying.async_transport import AsyncPayingTransport
from microwallet.http402.paying.funding import Funding
from microwallet.http402.paying.messages import as_httpx
from microwallet.http402.paying.metering import MeteredStream
from microwallet.http402.paying.transport import PayingTransport
from microwallet.http402.wire.credential import Credential
from microwallet.ledger.purchases import HttpRequest
from microwallet.paying import limits_of, paying_client
from microwallet.wallet import Wallet


@pytest.fixture
def open_client(alice):
    """Opens a client of alice's that makes deposits without asking."""

    @contextmanager
    def opened(**limits):
        with Wallet.open(environment=alice.environment) as wallet:
            yield paying_client(wallet, limits_of(wallet, **limits), confirm=lambda *_: None)

    return opened


def test_an_existing_program_pays(open_client, payee):
    """A client with the transport pays, and the response tells what; what is free stays free."""
    with (
        open_client() as paying,
        httpx.Client(transport=PayingTransport(lambda: paying, httpx.HTTPTransport())) as client,
    ):
        answer = client.post(payee.url, content=b"question")
        assert answer.content == PAID_BODY
        assert answer.extensions["payment"].amount == 1_000
        payee.before = lambda handler, _: bool(handler.answer(200, {}, b"free")) or True
        assert client.get(payee.url).extensions["payment"] is None


def test_a_challenge_that_expires_meanwhile_is_not_answered(open_client, payee):
    """While somebody is asked, or a deposit is mined: a fresh one is asked for, in the same payment."""
    late, answered = 0, []

    def think(_account, _plan, _choice):
        nonlocal late
        late += 1_000
        payee.lifetime += 1_000

    def note(handler, action):
        if action is not None:
            challenge = Credential.parse(handler.headers["Authorization"]).challenge
            answered.append((type(action).__name__, challenge.has_expired(now())))

    def now():
        return int(time.time()) + late

    payee.before = note
    with open_client() as paying:
        slow = dataclasses.replace(paying, clock=now, confirm=think)
        with httpx.Client(transport=PayingTransport(lambda: slow, httpx.HTTPTransport())) as client:
            assert client.get(payee.url).content == PAID_BODY
            payee.price, payee.suggested_deposit = 10_000, 200_000
            for _ in range(10):
                assert client.get(payee.url).content == PAID_BODY
    assert late == 2_000
    assert {kind for kind, _ in answered} == {"OpenAction", "VoucherAction", "TopUpAction"}
    assert [kind for kind, is_expired in answered if is_expired] == []


def test_a_paid_answer_that_breaks_off_is_no_mere_failure(open_client, payee):
    """A program that tries again after an error of httpx would pay again: it is told of the key instead."""
    payee.before = break_off

    async def program():
        transport = AsyncPayingTransport(open_client, httpx.AsyncHTTPTransport())
        async with httpx.AsyncClient(transport=transport) as client:
            await client.get(payee.url)

    with pytest.raises(OutcomeUnknown, match="broke off") as unknown:
        asyncio.run(program())
    assert unknown.value.data["idempotencyKey"] in unknown.value.hint
    with (
        open_client() as paying,
        httpx.Client(transport=PayingTransport(lambda: paying, httpx.HTTPTransport())) as client,
        pytest.raises(OutcomeUnknown, match="broke off"),
    ):
        client.get(payee.url)


@pytest.mark.parametrize("deposit", ["0.001 USDC", "0.0015 USDC"])
def test_a_channel_that_is_closed_while_its_top_up_is_agreed_to(open_client, payee, deposit):
    """What is simulated then reverts: the request goes on with another channel, that is agreed to as well."""
    agreed = []

    def agree(_account, plan, _choice):
        agreed.append(str(plan.kind))
        if plan.channel is not None:
            payee.capture(payee.channels[plan.channel.channel_id])

    with open_client(deposit=deposit) as client:
        paying = dataclasses.replace(client, confirm=agree)
        with httpx.Client(transport=PayingTransport(lambda: paying, httpx.HTTPTransport())) as http:
            for _ in range(2):
                assert http.get(payee.url).content == PAID_BODY
        assert agreed == ["open", "topUp", "open"]
        first, second = client.ledger.channels.list(finalized=True)
        assert (first.state.finalized, first.state.deposit) == (True, client.limits.deposit.base_units)
        assert (second.state.finalized, second.spent) == (False, 1_000)


@pytest.mark.parametrize("reads_inside", [False, True])
def test_a_paid_answer_that_cannot_be_decoded_is_no_mere_failure(open_client, payee, reads_inside):
    """Its encoding is not what it says: the program is told of the key, under which it can be had again. One
    that was not paid for is httpx's own failure."""

    def encoded(handler, action):
        answer = handler.answer
        if action is not None:
            handler.answer = lambda status, headers, body: answer(
                status, {**headers, "Content-Encoding": "gzip"}, body
            )
        return False

    class Reading(httpx.HTTPTransport):
        def handle_request(self, request):
            answer = super().handle_request(request)
            if reads_inside:
                answer.read()
            return answer

    async def program():
        transport = AsyncPayingTransport(open_client, httpx.AsyncHTTPTransport())
        async with httpx.AsyncClient(transport=transport) as client:
            await client.get(payee.url)

    payee.before = encoded
    with pytest.raises(OutcomeUnknown, match="cannot be decoded") as unknown:
        asyncio.run(program())
    assert unknown.value.data["idempotencyKey"] in unknown.value.hint
    with (
        open_client() as paying,
        httpx.Client(transport=PayingTransport(lambda: paying, Reading())) as client,
    ):
        with pytest.raises(OutcomeUnknown) as unknown:
            client.get(payee.url)
        assert unknown.value.data["idempotencyKey"] in unknown.value.hint
        with pytest.raises(OutcomeUnknown), client.stream("GET", payee.url) as answer:
            list(answer.iter_lines())
        payee.before = lambda handler, _: handler.answer(200, {"Content-Encoding": "gzip"}, b"free") is None
        with pytest.raises(httpx.DecodingError), as_httpx():
            client.get(payee.url)


@pytest.mark.parametrize("is_free", [False, True])
def test_a_deposit_whose_offer_changes_meanwhile_is_not_handed_over(open_client, payee, is_free):
    """While somebody is asked: what was signed stays here, and is not said to be out."""
    late = 0

    def think(_account, _plan, _choice):
        nonlocal late
        late, payee.lifetime, payee.price = late + 1_000, 1_300, 2_000
        if is_free:
            payee.before = lambda handler, _: handler.answer(200, {}, b"free") is None

    payee.twist_request = lambda request: (
        request
        | {
            "methodDetails": request["methodDetails"]
            | {"feePayer": True, "credentialTypes": ["authorization"]}
        }
    )
    with open_client() as paying:
        slow = dataclasses.replace(paying, clock=lambda: int(time.time()) + late, confirm=think)
        with (
            httpx.Client(transport=PayingTransport(lambda: slow, httpx.HTTPTransport())) as client,
            pytest.raises(NetworkError, match="the deposit was not handed over"),
        ):
            client.get(payee.url)
    assert [action for _, _, action in payee.seen if action is not None] == []


@pytest.mark.parametrize("lost", [2, 100])
def test_a_stream_that_asks_for_a_fresh_challenge_in_vain(open_client, payee, lost):
    """It is asked for again as a voucher is sent again; then the stream is stopped, and counts as spent."""
    late, missing = 0, [None] * lost
    payee.unit_type = "event"

    def before(handler, action):
        nonlocal late
        if action is not None and handler.command == "HEAD":
            late, payee.lifetime = 1_000, 1_300
        handler.close_connection = is_lost = bool(action is None and late and missing)
        if is_lost:
            missing.pop()
        return is_lost

    payee.before = before
    with open_client() as paying:
        slow = dataclasses.replace(paying, clock=lambda: int(time.time()) + late)
        with httpx.Client(transport=PayingTransport(lambda: slow, httpx.HTTPTransport())) as client:
            if lost == 2:
                assert client.get(payee.url + STREAM).extensions["payment"].payment.amount == 5_000
            else:
                with pytest.raises(OutcomeUnknown, match="could not be paid on"):
                    client.get(payee.url + STREAM)


def test_a_transport_inside_that_reads_answers_is_paid_through(open_client, payee):
    """As one that keeps a log does, or httpx's own MockTransport: the refusal it has read is understood."""

    class Reading(httpx.HTTPTransport):
        def handle_request(self, request):
            answer = super().handle_request(request)
            answer.read()
            return answer

    class AsyncReading(httpx.AsyncHTTPTransport):
        async def handle_async_request(self, request):
            answer = await super().handle_async_request(request)
            await answer.aread()
            return answer

    async def program():
        transport = AsyncPayingTransport(open_client, AsyncReading())
        async with httpx.AsyncClient(transport=transport) as client:
            return await client.get(payee.url)

    with (
        open_client() as paying,
        httpx.Client(transport=PayingTransport(lambda: paying, Reading())) as client,
    ):
        assert client.get(payee.url).content == PAID_BODY
    assert asyncio.run(program()).content == PAID_BODY


@pytest.mark.parametrize("is_free", [True, False])
def test_a_large_problem_comes_whole(open_client, payee, is_free):
    """However much it says, be it paid for: it is the program's, and not for the handshake."""
    body = b'{"detail": "%s"}' % (b"x" * 300_000)
    headers = {"Content-Type": "application/problem+json"}
    payee.before = lambda handler, action: (
        (is_free or action is not None) and handler.answer(404, headers, body) is None
    )

    async def program():
        transport = AsyncPayingTransport(open_client, httpx.AsyncHTTPTransport())
        async with httpx.AsyncClient(transport=transport) as client:
            return await client.get(payee.url)

    with (
        open_client() as paying,
        httpx.Client(transport=PayingTransport(lambda: paying, httpx.HTTPTransport())) as client,
    ):
        assert client.get(payee.url).content == body
    assert asyncio.run(program()).content == body


def test_an_async_transport_is_closed_as_often_as_one_likes(open_client, payee):
    """A client closes its transport, and a program may; a request after that is told why it is not paid."""

    async def program():
        transport = AsyncPayingTransport(open_client, httpx.AsyncHTTPTransport())
        async with httpx.AsyncClient(transport=transport) as client:
            assert (await client.get(payee.url)).content == PAID_BODY
        await transport.aclose()
        with pytest.raises(UsageError, match="closed"):
            await httpx.AsyncClient(transport=transport).get(payee.url)

    asyncio.run(program())


def test_an_async_transport_that_is_closed_finishes_what_is_in_hand(open_client, payee):
    """A request whose answer is lost by that names its key; a stream is settled when it is left."""
    paying, go_on = asyncio.Event(), threading.Event()

    async def program():
        def wait(handler, action):
            if action is not None and handler.path != STREAM and handler.command == "GET":
                loop.call_soon_threadsafe(paying.set)
                go_on.wait(10)

        loop = asyncio.get_running_loop()
        payee.unit_type, payee.before = "event", wait
        transport = AsyncPayingTransport(open_client, httpx.AsyncHTTPTransport())
        client = httpx.AsyncClient(transport=transport)
        stream = await client.send(client.build_request("GET", payee.url + STREAM), stream=True)
        request = asyncio.create_task(client.get(payee.url))
        await paying.wait()
        await client.aclose()
        go_on.set()
        with pytest.raises(OutcomeUnknown) as lost:
            await request
        await stream.aclose()
        assert lost.value.data["idempotencyKey"] in lost.value.hint
        return stream.extensions["payment"].payment

    assert asyncio.run(program()).amount >= 1_000


def test_what_fails_after_it_was_cancelled_is_not_told_to_the_loop(alice, payee):
    """Nobody waits for it any more: the event loop would print it with all its traceback."""
    asked, go_on, told = threading.Event(), threading.Event(), []

    def refuse(_account, _plan, _choice):
        asked.set()
        go_on.wait(10)
        raise ConfirmationRequired("nobody agreed")

    @contextmanager
    def opened():
        with Wallet.open(environment=alice.environment) as wallet:
            yield paying_client(wallet, limits_of(wallet), confirm=refuse)

    async def program():
        asyncio.get_running_loop().set_exception_handler(lambda _loop, context: told.append(context))
        transport = AsyncPayingTransport(opened, httpx.AsyncHTTPTransport())
        async with httpx.AsyncClient(transport=transport) as client:
            request = asyncio.create_task(client.get(payee.url))
            await asyncio.to_thread(asked.wait, 10)
            request.cancel()
            await asyncio.sleep(0)
            go_on.set()
            with pytest.raises(asyncio.CancelledError):
                await request
        gc.collect()

    asyncio.run(program())
    assert told == []


def test_a_stream_that_cannot_be_settled_after_its_transport_was_closed(open_client, payee, monkeypatch):
    """It is told why, once; closing it again, as httpx does, does nothing."""

    def fail(*_arguments, **_options):
        raise LedgerBusy("another process has it")

    async def program():
        payee.unit_type = "event"
        transport = AsyncPayingTransport(open_client, httpx.AsyncHTTPTransport())
        client = httpx.AsyncClient(transport=transport)
        stream = await client.send(client.build_request("GET", payee.url + STREAM), stream=True)
        monkeypatch.setattr(MeteredStream, "settle", fail)
        await client.aclose()
        with pytest.raises(LedgerBusy):
            await stream.aclose()
        await stream.stream.aclose()

    asyncio.run(program())


def test_async_streams_have_a_channel_each(open_client, payee, books):
    """Two streams at once never share a channel; each is settled by its own receipt."""
    payee.unit_type = "event"

    async def read(client):
        async with client.stream("GET", payee.url + STREAM) as answer:
            body = b"".join([chunk async for chunk in answer.aiter_raw()])
        return body, answer.extensions["payment"].payment

    async def program():
        transport = AsyncPayingTransport(open_client, httpx.AsyncHTTPTransport())
        async with httpx.AsyncClient(transport=transport) as client:
            return await asyncio.gather(read(client), read(client))

    for body, payment in asyncio.run(program()):
        assert body.count(b"data: event") == 5
        assert (payment.amount, payment.receipt_problems) == (5_000, [])
    assert sorted(channel.spent for channel in books()[0]) == [5_000, 5_000]


def test_a_stream_that_a_program_does_not_ask_for_by_name_can_be_read_along(open_client, payee):
    """A proxy that compresses is told to leave it: it would stand still, as nothing is paid for."""
    payee.unit_type, asked = "event", []
    payee.before = lambda handler, action: asked.append((bool(action), handler.headers["Accept-Encoding"]))
    with (
        open_client() as paying,
        httpx.Client(transport=PayingTransport(lambda: paying, httpx.HTTPTransport())) as client,
    ):
        client.headers["Accept-Encoding"] = "gzip"
        answer = client.get(payee.url + STREAM)
    assert answer.extensions["payment"].payment.amount == 5_000
    assert asked[:2] == [(False, "gzip"), (True, "identity")]


def test_async_stream_stops_at_the_limit(open_client, payee):
    """The limit ends a stream in a program by the wallet's own error; the next stream is free to begin."""
    payee.unit_type, payee.events = "event", 50

    async def program():
        transport = AsyncPayingTransport(
            lambda: open_client(max_amount="0.003 USDC"), httpx.AsyncHTTPTransport()
        )
        async with httpx.AsyncClient(transport=transport) as client:
            for _ in range(2):
                with pytest.raises(AboveLimit):
                    await client.get(payee.url + STREAM)

    asyncio.run(program())
    assert payee.highest() == 6_000
    assert len(payee.channels) == 1


def test_a_stream_tops_up_again_where_others_were_faster(open_client, payee, monkeypatch):
    """Another process pays from its top-up first: it goes on with one more, as a request does."""
    payee.unit_type, payee.events, payee.suggested_deposit = "event", 4, 2_000
    top_up, faster = Funding.top_up, []

    def taken(self, channel, terms):
        found = top_up(self, channel, terms)
        if found.top_up is not None and not faster:
            request = HttpRequest(idempotency_key="another", method="GET", url=payee.url, fingerprint=b"f")
            rest = VoucherTerms(cost=found.channel.state.deposit - found.channel.authorized, most=10_000)
            purchases = payer.ledger.purchases
            faster.append(purchases.reserve(found.channel.channel_id, request, rest, now=0))
        return found

    monkeypatch.setattr(Funding, "top_up", taken)
    with (
        open_client() as payer,
        httpx.Client(transport=PayingTransport(lambda: payer, httpx.HTTPTransport())) as client,
    ):
        answer = client.get(payee.url + STREAM)
    assert faster
    assert answer.text.count("data: event") == 4


def test_an_async_client_does_not_wait_for_a_refusal_without_end(open_client, payee):
    """What comes byte by byte has its timeout as a whole; an answer that was paid for has not."""

    async def program():
        transport = AsyncPayingTransport(open_client, httpx.AsyncHTTPTransport())
        async with httpx.AsyncClient(transport=transport, timeout=1) as client:
            payee.before = lambda handler, _action: drip(handler, 402, {}, most=200)
            before = time.monotonic()
            with pytest.raises(NetworkError, match="1 seconds"):
                await client.get(payee.url)
            assert time.monotonic() - before < 5
            payee.before = lambda handler, action: action is not None and drip(handler, 200, {}, most=20)
            assert (await client.get(payee.url)).text == "x" * 20

    asyncio.run(program())


@pytest.mark.parametrize("sent", HEADERS_WITHOUT_END, ids=["100", "103", "bytes"])
def test_an_async_client_does_not_wait_for_a_header_without_end(open_client, payee, sent):
    """As `fetch`: it has the timeout as a whole, and what was paid by then may have been served."""

    async def program():
        transport = AsyncPayingTransport(open_client, httpx.AsyncHTTPTransport())
        async with httpx.AsyncClient(transport=transport, timeout=1) as client:
            assert (await client.get(payee.url)).content == PAID_BODY
            payee.before = lambda handler, action: action is not None and drip_header(handler, sent)
            before = time.monotonic()
            with pytest.raises(OutcomeUnknown, match="timed out"):
                await client.get(payee.url)
            assert time.monotonic() - before < 5
            payee.before = lambda handler, _action: drip_header(handler, sent)
            with pytest.raises(NetworkError, match="timed out"):
                await client.get(payee.url)

    asyncio.run(program())
