"""An httpx transport that pays: each request that goes through it, each hop of a redirect by itself."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from typing import Any

import httpx

from microwallet.errors import MicrowalletError
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
from microwallet.http402.paying.leaving import reset
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


class PayingTransport(httpx.BaseTransport):
    """Sends requests through another transport, and pays where the server wants to be paid.

    The response is the last one the server gave; its extensions tell of the payment, see `messages`. A
    request's body is read into memory. Raises the wallet's own errors where it does not pay, or does not
    know whether it did. For one thread: the one that opened the client's ledger.
    """

    def __init__(
        self,
        open_client: Callable[[], PayingClient],
        inner: httpx.BaseTransport,
        *,
        beside: httpx.BaseTransport | None = None,
    ) -> None:
        """`open_client` is called for the first request that is to be paid for, and whenever one is.

        `beside` sends what a metered stream needs while it runs, else `inner` does. Over HTTP/2 it has to be
        another one: a connection may take one request at a time, and httpcore would wait for ever.
        """
        self._open_client = open_client
        self._inner = inner
        self._beside = beside or inner

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send, pay, send again."""
        request.read()
        exchange = Exchange(self._inner, request)
        hop = Hop.of(request)
        handshake = Handshake(lambda: hop.within(self._open_client()), hop.asked)
        try:
            with hop.counted():
                outcome = exchange.drive(handshake.run())
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                hop.unanswered = handshake.unanswered
            with closing(handshake):
                exchange.close()
            raise
        response = exchange.newest()
        if isinstance(outcome, Streaming):
            outcome = MeteredStream(handshake, outcome)
            response.stream = _PaidStream(outcome, response, Exchange(self._beside, request))
        else:
            handshake.close()
            if isinstance(outcome, BookedPayment):
                response = PaidAnswer.of(response, hop.asked, _PaidBody(response, hop.asked))
        hop.outcome = outcome
        return told_by(response, outcome)

    def close(self) -> None:
        """Close the transports inside."""
        self._inner.close()
        self._beside.close()


class Exchange:
    """Carries out the steps of a handshake for one request; holds the newest response."""

    def __init__(self, inner: httpx.BaseTransport, request: httpx.Request) -> None:
        self._inner = inner
        self._request = request
        self._response: httpx.Response | None = None

    def drive(self, steps: Steps[Any]) -> Any:
        """Send what the steps ask for until they end; what they return."""
        with closing(steps):
            try:
                sending = next(steps)
                while True:
                    try:
                        answer = self._send(sending)
                    except (NotSent, NoAnswer) as error:
                        sending = steps.throw(error)
                    else:
                        sending = steps.send(answer)
            except StopIteration as ended:
                return ended.value

    def newest(self) -> httpx.Response:
        """The last response, still open."""
        if self._response is None:
            raise MicrowalletError("the handshake ended without an answer")
        return self._response

    def close(self) -> None:
        """Let go of the last response."""
        if self._response is not None:
            self._response.close()
            self._response = None

    def _send(self, sending: Sending | Pause) -> ServerAnswer:
        self.close()
        if isinstance(sending, Pause):
            time.sleep(sending.seconds)
            return NO_WORD
        try:
            response = self._response = self._inner.handle_request(outgoing(self._request, sending))
            if not (sending.is_head or may_be_problem(response, sending)):
                return answer_of(response)
            if response.is_stream_consumed:  # the transport inside has read it
                return answer_of(response, response.content)
            body, seconds, begun = bytearray(), reading_seconds(self._request), time.monotonic()
            chunks = response.iter_raw()
            with reading():
                for chunk in chunks:
                    if seconds is not None and time.monotonic() - begun > seconds:
                        raise not_ended(seconds)
                    body += chunk
                    if len(body) > PROBLEM_LIMIT:  # then it is none, and comes whole
                        break
        except httpx.RequestError as error:
            raise no_answer(self._request, error) from error
        self._response = with_body(response, _Begun(response, bytes(body), chunks))
        return answer_of(response, bytes(body))


class _Begun(httpx.SyncByteStream):
    """An answer of which something was read, and what comes after that."""

    def __init__(self, response: httpx.Response, read: bytes, chunks: Iterator[bytes]) -> None:
        self._response = response
        self._read = read
        self._chunks = chunks

    def __iter__(self) -> Iterator[bytes]:
        yield self._read
        yield from self._chunks

    def close(self) -> None:
        """Close the answer itself."""
        self._response.close()


class _PaidBody(httpx.SyncByteStream):
    """An answer that was paid for: where it breaks off, the error tells how it is had again."""

    def __init__(self, response: httpx.Response, asked: Asked) -> None:
        self._inner = response.stream
        self._asked = asked

    def __iter__(self) -> Iterator[bytes]:
        try:
            with reading():
                yield from self._inner  # type: ignore[misc]
        except httpx.TransportError as error:
            raise broken_off(error, self._asked) from error

    def close(self) -> None:
        """Close the answer inside."""
        self._inner.close()  # type: ignore[union-attr]


class _PaidStream(httpx.SyncByteStream):
    """The server's own events, byte for byte; what has been passed on pays for what comes next."""

    def __init__(self, stream: MeteredStream, response: httpx.Response, exchange: Exchange) -> None:
        self._stream = stream
        self._inner = response.stream
        self._exchange = exchange
        self._is_over = False
        self._in_turn = threading.RLock()
        """Another thread may close it: not while something is paid, on the same ledger."""

    def __del__(self) -> None:
        self._stream.drop()

    def __iter__(self) -> Iterator[bytes]:
        try:
            with reading():
                for chunk in self._inner:  # type: ignore[union-attr]
                    if own := self._stream.own(chunk):
                        yield own
                    with self._in_turn:
                        self._exchange.drive(self._stream.feed(chunk))
                        self._exchange.close()
            self._is_over = True
            if left := self._stream.left():
                yield left
        except httpx.TransportError as error:
            raise cut_off(error, self._stream) from error
        finally:
            self.close()

    def close(self) -> None:
        """Close the connections, and record what the stream cost: all of it, even where it is interrupted."""
        with self._in_turn, ExitStack() as leaving:
            leaving.callback(self._stream.settle, was_left=not self._is_over)
            leaving.callback(self._inner.close)  # type: ignore[union-attr]
            if not self._is_over:
                self._is_over = True
                leaving.callback(reset, self._inner)
            leaving.callback(self._exchange.close)
