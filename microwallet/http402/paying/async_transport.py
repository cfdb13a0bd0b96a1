"""The paying transport for asyncio: HTTP on the event loop, the books on a thread of their own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractContextManager, AsyncExitStack
from functools import partial
from typing import Any

import httpx

from microwallet.errors import MicrowalletError
from microwallet.http402.paying.async_patience import patient
from microwallet.http402.paying.books_thread import BooksThread
from microwallet.http402.paying.client import PayingClient
from microwallet.http402.paying.exchange import (
    NO_WORD,
    Asked,
    NoAnswer,
    NotSent,
    Pause,
    Sending,
    ServerAnswer,
    Steps,
)
from microwallet.http402.paying.handshake import Handshake, Streaming
from microwallet.http402.paying.leaving import reset_async
from microwallet.http402.paying.messages import (
    PaidAnswer,
    answer_of,
    broken_off,
    cut_off,
    may_be_problem,
    no_answer,
    not_ended,
    outgoing,
    reading,
    reading_seconds,
    told_by,
    with_body,
)
from microwallet.http402.paying.metering import MeteredStream
from microwallet.http402.paying.receipts import BookedPayment
from microwallet.http402.paying.redirects import Hop
from microwallet.http402.wire.problems import PROBLEM_LIMIT


class AsyncPayingTransport(httpx.AsyncBaseTransport):
    """As PayingTransport, for httpx.AsyncClient. Requests side by side share channels correctly.

    Ledger, keys and chain are used on one thread of its own, where `open_client` is entered for the first
    request that is to be paid for, and left by `aclose`.
    """

    def __init__(
        self,
        open_client: Callable[[], AbstractContextManager[PayingClient]],
        inner: httpx.AsyncBaseTransport,
        *,
        beside: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._open_client = open_client
        self._inner = inner
        self._beside = beside or inner
        self._books = BooksThread()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send, pay, send again."""
        await request.aread()
        exchange = AsyncExchange(self._inner, request, self._books)
        hop = Hop.of(request)
        handshake = Handshake(lambda: hop.within(self._opened()), hop.asked)
        self._books.begin(handshake)
        try:
            with hop.counted():
                outcome = await exchange.drive(handshake.run())
            if not isinstance(outcome, Streaming):
                await self._books.end(handshake)
        except BaseException:
            async with AsyncExitStack() as leaving:  # all of it, even where it is cancelled again
                leaving.push_async_callback(self._books.end, handshake)
                leaving.push_async_callback(exchange.close)
            raise
        response = exchange.newest()
        if isinstance(outcome, Streaming):
            outcome = MeteredStream(handshake, outcome)
            beside = AsyncExchange(self._beside, request, self._books)
            ended = partial(self._books.end, handshake)
            response.stream = _PaidStream(outcome, response, beside, self._books, ended)
        elif isinstance(outcome, BookedPayment):
            response = PaidAnswer.of(response, hop.asked, _PaidBody(response, hop.asked))
        hop.outcome = outcome
        return told_by(response, outcome)

    async def aclose(self) -> None:
        """Close the transports inside, and as soon as no request is in hand the client and the thread."""
        await self._inner.aclose()
        await self._beside.aclose()
        await self._books.close()

    def _opened(self) -> PayingClient:
        if self._books.client is None:
            self._books.client = self._books.opened.enter_context(self._open_client())
        return self._books.client


class AsyncExchange:
    """Carries out the steps of a handshake for one request; holds the newest response."""

    def __init__(self, inner: httpx.AsyncBaseTransport, request: httpx.Request, books: BooksThread) -> None:
        self._inner = inner
        self._request = request
        self._books = books
        self._response: httpx.Response | None = None

    async def drive(self, steps: Steps[Any]) -> Any:
        """Send what the steps ask for until they end; what they return."""
        try:
            sending, result = await self._step(partial(next, steps))
            while sending is not None:
                try:
                    answer = await self._send(sending)
                except (NotSent, NoAnswer) as error:
                    sending, result = await self._step(partial(steps.throw, error))
                else:
                    sending, result = await self._step(partial(steps.send, answer))
            return result
        finally:
            await self._books.do(steps.close)

    def newest(self) -> httpx.Response:
        """The last response, still open."""
        if self._response is None:
            raise MicrowalletError("the handshake ended without an answer")
        return self._response

    async def close(self) -> None:
        """Let go of the last response."""
        if self._response is not None:
            await self._response.aclose()
            self._response = None

    async def _step(self, advance: Callable[[], Sending | Pause]) -> tuple[Sending | Pause | None, Any]:
        """What is to be sent next, or None and the result. StopIteration cannot pass through a future."""

        def step() -> tuple[Sending | Pause | None, Any]:
            try:
                return advance(), None
            except StopIteration as ended:
                return None, ended.value

        return await self._books.do(step)

    async def _send(self, sending: Sending | Pause) -> ServerAnswer:
        await self.close()
        if isinstance(sending, Pause):
            await asyncio.sleep(sending.seconds)
            return NO_WORD
        try:
            request = outgoing(self._request, sending)
            async with patient(request):
                response = self._response = await self._inner.handle_async_request(request)
            if not (sending.is_head or may_be_problem(response, sending)):
                return answer_of(response)
            if response.is_stream_consumed:  # the transport inside has read it
                return answer_of(response, response.content)
            body, seconds = bytearray(), reading_seconds(self._request)
            chunks = response.aiter_raw()
            try:
                with reading():
                    async with asyncio.timeout(seconds):
                        async for chunk in chunks:
                            body += chunk
                            if len(body) > PROBLEM_LIMIT:  # then it is none, and comes whole
                                break
            except TimeoutError:
                raise not_ended(seconds or 0) from None
        except httpx.RequestError as error:
            raise no_answer(self._request, error) from error
        self._response = with_body(response, _Begun(response, bytes(body), chunks))
        return answer_of(response, bytes(body))


class _Begun(httpx.AsyncByteStream):
    """An answer of which something was read, and what comes after that."""

    def __init__(self, response: httpx.Response, read: bytes, chunks: AsyncIterator[bytes]) -> None:
        self._response = response
        self._read = read
        self._chunks = chunks

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self._read
        async for chunk in self._chunks:
            yield chunk

    async def aclose(self) -> None:
        """Close the answer itself."""
        await self._response.aclose()


class _PaidBody(httpx.AsyncByteStream):
    """An answer that was paid for: where it breaks off, the error tells how it is had again."""

    def __init__(self, response: httpx.Response, asked: Asked) -> None:
        self._inner = response.stream
        self._asked = asked

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            with reading():
                async for chunk in self._inner:  # type: ignore[union-attr]
                    yield chunk
        except httpx.TransportError as error:
            raise broken_off(error, self._asked) from error

    async def aclose(self) -> None:
        """Close the answer inside."""
        await self._inner.aclose()  # type: ignore[union-attr]


class _PaidStream(httpx.AsyncByteStream):
    """The server's own events, byte for byte; what has been passed on pays for what comes next."""

    def __init__(
        self,
        stream: MeteredStream,
        response: httpx.Response,
        exchange: AsyncExchange,
        books: BooksThread,
        ended: Callable[[], Awaitable[None]],
    ) -> None:
        self._stream = stream
        self._inner = response.stream
        self._exchange = exchange
        self._books = books
        self._ended = ended
        self._is_over = False

    def __del__(self) -> None:
        self._stream.drop()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            with reading():
                async for chunk in self._inner:  # type: ignore[union-attr]
                    if own := self._stream.own(chunk):
                        yield own
                    await self._exchange.drive(self._stream.feed(chunk))
                    await self._exchange.close()
            self._is_over = True
            if left := self._stream.left():
                yield left
        except httpx.TransportError as error:
            raise cut_off(error, self._stream) from error
        finally:
            await self.aclose()

    async def aclose(self) -> None:
        """Close the connections, and record what the stream cost: all of it, even where it is cancelled."""
        async with AsyncExitStack() as leaving:
            leaving.push_async_callback(self._ended)
            if self._stream.payment is None and not self._books.has_ended:  # else it has failed, and was told
                settle = partial(self._stream.settle, was_left=not self._is_over)
                leaving.push_async_callback(self._books.do, settle)
            leaving.push_async_callback(self._inner.aclose)  # type: ignore[union-attr]
            if not self._is_over:
                self._is_over = True
                leaving.push_async_callback(reset_async, self._inner)
            leaving.push_async_callback(self._exchange.close)
