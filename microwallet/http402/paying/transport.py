"""httpx transports that pay: each request that goes through them, each hop of a redirect by itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import httpx

from microwallet.errors import MicrowalletError, OutcomeUnknown
from microwallet.http402.paying.client import PayingClient
from microwallet.http402.paying.exchange import Answer, Asked, NoAnswer, NotSent, Sending, Steps
from microwallet.http402.paying.handshake import EVENT_STREAM, Handshake, Streaming, WouldPay
from microwallet.http402.paying.metering import MeteredStream
from microwallet.http402.paying.order import Order
from microwallet.http402.paying.receipts import HttpPayment
from microwallet.http402.wire.problems import PROBLEM_LIMIT
from microwallet.http402.wire.session_request import INTENT, METHOD

PAYMENT = "payment"
"""Extension of a response: a HttpPayment, a MeteredStream whose payment is known at its end, or None."""
WOULD_PAY = "would_pay"
"""Extension of a response in a dry run: a WouldPay."""
IDEMPOTENCY_KEY = "idempotency_key"
"""Extension of a request: the key under which it is paid at most once."""

_NEVER_LEFT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.UnsupportedProtocol)
_OF_ONE_BODY = ("content-length", "content-type", "transfer-encoding", "content-encoding", "expect")


class PayingTransport(httpx.BaseTransport):
    """Sends requests through another transport, and pays where the server wants to be paid.

    The response is the last one the server gave; its extensions tell of the payment (PAYMENT). Raises
    the wallet's own errors where it does not pay, or does not know whether it did.
    """

    def __init__(self, client: PayingClient, inner: httpx.BaseTransport) -> None:
        self._client = client
        self._inner = inner

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send, pay, send again."""
        request.read()
        handshake = Handshake(Order(self._client, _asked(request)))
        exchange = _Exchange(self._inner, request)
        with closing(handshake.run()) as steps:
            try:
                outcome = exchange.drive(steps)
            except BaseException:
                exchange.close()
                raise
        response = exchange.response
        if response is None:
            raise MicrowalletError("the handshake ended without an answer")
        if isinstance(outcome, Streaming):
            stream = MeteredStream(handshake, outcome)
            response.stream = _PaidStream(stream, response, _Exchange(self._inner, request))
        return _told(response, outcome, stream if isinstance(outcome, Streaming) else None)

    def close(self) -> None:
        """Close the transport inside."""
        self._inner.close()


class _Exchange:
    """Carries out the steps of a handshake for one request; holds the newest response."""

    def __init__(self, inner: httpx.BaseTransport, request: httpx.Request) -> None:
        self._inner = inner
        self._request = request
        self.response: httpx.Response | None = None

    def drive(self, steps: Steps[Any]) -> Any:
        """Send what the steps ask for until they end; what they return."""
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

    def close(self) -> None:
        """Let go of the response."""
        if self.response is not None:
            self.response.close()
            self.response = None

    def _send(self, sending: Sending) -> Answer:
        self.close()
        try:
            response = self._inner.handle_request(_outgoing(self._request, sending))
            self.response = response
            if not _may_be_problem(response):
                return _answer(response, b"")
            body = _limited(response.iter_raw())
            response.close()
        except httpx.TransportError as error:
            raise _no_answer(error) from error
        self.response = _with_body(response, body)
        return _answer(response, body)


class _PaidStream(httpx.SyncByteStream):
    """A stream of events, byte for byte; what has been passed on pays for what comes next."""

    def __init__(self, stream: MeteredStream, response: httpx.Response, exchange: _Exchange) -> None:
        self._stream = stream
        self._inner = response.stream
        self._exchange = exchange

    def __iter__(self) -> Iterator[bytes]:
        try:
            for chunk in self._inner:  # type: ignore[union-attr]
                yield chunk
                with closing(self._stream.feed(chunk)) as steps:
                    self._exchange.drive(steps)
                    self._exchange.close()
        except httpx.TransportError as error:
            raise _cut_off(error) from error
        finally:
            self.close()

    def close(self) -> None:
        """Close the connection, and record what the stream cost."""
        self._exchange.close()
        self._inner.close()  # type: ignore[union-attr]
        self._stream.settle()


def _asked(request: httpx.Request) -> Asked:
    url = str(request.url.copy_with(fragment=None))
    return Asked(
        method=request.method,
        url=url,
        body=request.content,
        idempotency_key=request.extensions.get(IDEMPOTENCY_KEY),
        is_stream=EVENT_STREAM in request.headers.get("accept", ""),
    )


def _outgoing(request: httpx.Request, sending: Sending) -> httpx.Request:
    headers = request.headers.copy()
    headers["Accept-Payment"] = f"{METHOD}/{INTENT}"
    if sending.authorization is not None:
        headers["Authorization"] = sending.authorization
    if sending.idempotency_key is not None:
        headers["Idempotency-Key"] = sending.idempotency_key
    if sending.is_head:
        for name in _OF_ONE_BODY:
            headers.pop(name, None)
        return httpx.Request("HEAD", request.url, headers=headers, extensions=request.extensions)
    headers.pop("transfer-encoding", None)
    return httpx.Request(
        request.method, request.url, headers=headers, content=request.content, extensions=request.extensions
    )


def _may_be_problem(response: httpx.Response) -> bool:
    """Whether the body is for the handshake: a refusal, not an answer that was paid for."""
    if "payment-receipt" in response.headers:
        return False
    return response.status_code == 402 or (
        400 <= response.status_code < 500 and _media_type(response) == "application/problem+json"
    )


def _media_type(response: httpx.Response) -> str:
    field: str = response.headers.get("content-type", "")
    return field.partition(";")[0].strip().lower()


def _limited(chunks: Iterator[bytes]) -> bytes:
    body = bytearray()
    for chunk in chunks:
        body += chunk
        if len(body) > PROBLEM_LIMIT:
            break
    return bytes(body)


def _answer(response: httpx.Response, body: bytes) -> Answer:
    return Answer(
        status=response.status_code,
        challenges=response.headers.get_list("www-authenticate"),
        receipt=response.headers.get("payment-receipt"),
        media_type=_media_type(response),
        body=body,
    )


def _with_body(response: httpx.Response, body: bytes) -> httpx.Response:
    return httpx.Response(
        response.status_code,
        headers=response.headers,
        stream=httpx.ByteStream(body),
        extensions=response.extensions,
    )


def _no_answer(error: httpx.TransportError) -> NotSent | NoAnswer:
    told = str(error) or type(error).__name__
    return NotSent(told) if isinstance(error, _NEVER_LEFT) else NoAnswer(told)


def _cut_off(error: httpx.TransportError) -> MicrowalletError:
    return OutcomeUnknown(
        f"the stream broke off without a receipt, so that what it cost is not known: {error}; all that was"
        " authorized for it counts as spent"
    )


def _told(response: httpx.Response, outcome: Any, stream: MeteredStream | None) -> httpx.Response:
    if isinstance(outcome, WouldPay):
        response.extensions[WOULD_PAY] = outcome
    response.extensions[PAYMENT] = stream or (outcome if isinstance(outcome, HttpPayment) else None)
    return response
