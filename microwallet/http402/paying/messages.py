"""The requests and responses of httpx, as the handshake sees them."""

from __future__ import annotations

import re
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

import httpx

from microwallet.domain.retry_after import retry_after_seconds
from microwallet.errors import NetworkError, OutcomeUnknown
from microwallet.http402.paying.asking import looking_at, unreachable
from microwallet.http402.paying.exchange import Asked, NoAnswer, NotSent, Sending, ServerAnswer
from microwallet.http402.paying.handshake import WouldPay
from microwallet.http402.paying.metering import MeteredStream
from microwallet.http402.paying.origins import Origin
from microwallet.http402.paying.receipts import BookedPayment
from microwallet.http402.wire.events import EVENT_STREAM
from microwallet.http402.wire.problems import MEDIA_TYPE, ProblemType, read_problem
from microwallet.http402.wire.session_request import INTENT, METHOD

PAYMENT = "payment"
"""Extension of a response: a BookedPayment, a MeteredStream whose payment is known at its end, or None."""
WOULD_PAY = "would_pay"
"""Extension of a response in a dry run: a WouldPay."""
IDEMPOTENCY_KEY = "idempotency_key"
"""Extension of a request: the key under which it is paid at most once."""
PROXY = "proxy"
"""Extension of a request: the proxy that it goes through, as it may be shown."""
REPEATS = "repeats"
"""Extension of a request: what tells for a key the command that makes it again."""
_ASKED = "asked"
"""Extension of an answer that was paid for: what was asked."""

_NUMBERS = re.compile(r"^\[(?:Errno|SSL)[^\]]*\] | \(_ssl\.c:\d+\)$")
_EVENT = re.compile(r"<(\w+) ")
_EVENTS = {
    "StreamReset": "the server broke the answer off",
    "ConnectionTerminated": "the server closed the connection",
}
"""What events of h2 mean, which httpcore raises as they are."""
_NEVER_LEFT = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
    httpx.ProxyError,  # before anything goes through it
    httpx.UnsupportedProtocol,
)
_OF_ONE_REQUEST = (
    "idempotency-key",
    "content-length",
    "content-type",
    "transfer-encoding",
    "content-encoding",
    "expect",
)


def asked_by(request: httpx.Request) -> Asked:
    """What a request asks for; its body must have been read."""
    url = str(request.url.copy_with(fragment=None))
    return Asked(
        method=request.method,
        url=url,
        body=request.content,
        idempotency_key=request.extensions.get(IDEMPOTENCY_KEY),
        is_stream=_wants_events(request.headers),
        has_authorization="authorization" in request.headers,
        repeats=request.extensions.get(REPEATS),
    )


def outgoing(request: httpx.Request, sending: Sending) -> httpx.Request:
    """The request to send for a step: the program's own is not changed."""
    headers = request.headers.copy()
    headers["Accept-Payment"] = f"{METHOD}/{INTENT}"
    if sending.may_be_stream or _wants_events(headers):
        headers["Accept-Encoding"] = "identity"  # its events are read along
    if sending.authorization is not None:
        headers[sending.credential_field] = sending.authorization
    if sending.idempotency_key is not None:
        headers["Idempotency-Key"] = sending.idempotency_key
    if sending.is_head:
        for name in _OF_ONE_REQUEST:
            headers.pop(name, None)
        return httpx.Request("HEAD", request.url, headers=headers, extensions=request.extensions)
    headers.pop("transfer-encoding", None)
    return httpx.Request(
        request.method, request.url, headers=headers, content=request.content, extensions=request.extensions
    )


def _wants_events(headers: httpx.Headers) -> bool:
    accepted: str = headers.get("accept", "")
    return EVENT_STREAM in accepted.lower()


def may_be_problem(response: httpx.Response, sending: Sending) -> bool:
    """Whether the body is for the handshake: a refusal, not an answer that was paid for, or is free."""
    if response.status_code == 402:
        return True
    if sending.authorization is None:
        return False
    status = response.status_code
    is_refusal = 400 <= status < 500 or status == ProblemType.TRY_AGAIN.status
    is_unpaid = is_refusal and "payment-receipt" not in response.headers
    return is_unpaid and _is_a(response, MEDIA_TYPE)


def reading_seconds(request: httpx.Request) -> float | None:
    """How long a refusal may take to be read, as a whole: as long as each wait for an answer that is paid."""
    seconds: float | None = request.extensions.get("timeout", {}).get("read")
    return seconds


def not_ended(seconds: float) -> httpx.ReadTimeout:
    """A refusal that goes on for longer than that."""
    return httpx.ReadTimeout(f"what it answers did not end within {seconds:g} seconds")


def _is_a(response: httpx.Response, media_type: str) -> bool:
    """Whether a response says so, in one field of several too."""
    fields = response.headers.get_list("content-type")
    return any(field.partition(";")[0].strip().lower() == media_type for field in fields)


def _is_encoded(response: httpx.Response) -> bool:
    field: str = response.headers.get("content-encoding", "identity")
    return field.strip().lower() != "identity"


def answer_of(response: httpx.Response, body: bytes = b"") -> ServerAnswer:
    """What a response says of payment, with the body if it was read."""
    return ServerAnswer(
        status=response.status_code,
        challenges=response.headers.get_list("www-authenticate"),
        receipt=response.headers.get("payment-receipt"),
        is_stream=_is_a(response, EVENT_STREAM) and not _is_encoded(response),
        problem=read_problem(body),
        retry_after=retry_after_seconds(response.headers.get("retry-after")),
    )


def with_body(response: httpx.Response, body: httpx.SyncByteStream | httpx.AsyncByteStream) -> httpx.Response:
    """A response whose body has been read, or begun to be."""
    return httpx.Response(
        response.status_code,
        headers=response.headers,
        stream=body,
        extensions=response.extensions,
    )


def no_answer(request: httpx.Request, error: httpx.RequestError) -> NotSent | NoAnswer:
    """Why there is no answer: because nothing left, or else it is not known."""
    why, proxy = _reason(error), request.extensions.get(PROXY)
    if not isinstance(error, _NEVER_LEFT):
        return NoAnswer(why if proxy is None else f"{why}, by way of the proxy {proxy}")
    if proxy is None or "ssl" in str(error).lower():  # with the server, through the proxy
        return NotSent(why)
    if isinstance(error, httpx.ProxyError):
        return NotSent(f"the proxy {proxy} says {why}")
    return NotSent(f"the proxy {proxy} cannot be reached: {why}", at_proxy=True)


def unread(request: httpx.Request, error: httpx.HTTPError) -> NetworkError:
    """What became of a request that was not paid for, or of its answer."""
    origin = Origin.of(str(request.url))
    if isinstance(error, _NEVER_LEFT):
        return unreachable(origin, no_answer(request, error))
    return NetworkError(f"{origin} cannot be read: {_reason(error)}", hint=looking_at(origin, error))


@contextmanager
def as_httpx() -> Iterator[None]:
    """What httpx raised, in place of NetworkError, where a server could not be asked and nothing was paid."""
    try:
        yield
    except NetworkError as error:
        reason = error.__cause__
        cause = reason.__cause__ if isinstance(reason, NotSent | NoAnswer) else None
        if isinstance(cause, httpx.RequestError):
            raise cause from None
        raise


@contextmanager
def reading() -> Iterator[None]:
    """While an answer is read: RemoteProtocolError where that breaks HTTP/2, such as one that is shorter than
    its length. httpcore 1.0 lets through what h2 says of it, which is loaded only where it is used."""
    try:
        yield
    except Exception as error:
        h2: Any = sys.modules.get("h2.exceptions")
        if h2 is None or not isinstance(error, h2.H2Error):
            raise
        raise httpx.RemoteProtocolError(str(error).removeprefix(f"{type(error).__name__}: ")) from error


def _reason(error: httpx.HTTPError) -> str:
    """What went wrong with a connection, without the numbers of the libraries below."""
    if (event := _EVENT.match(str(error))) is not None and event[1] in _EVENTS:
        return _EVENTS[event[1]]
    return _NUMBERS.sub("", str(error)).strip(" .") or type(error).__name__


def cut_off(error: httpx.TransportError, stream: MeteredStream) -> NetworkError | OutcomeUnknown:
    """A stream that ended without its end; what it cost is known if a receipt came last."""
    if stream.has_ended:
        return NetworkError(
            f"the stream broke off before its end: {_reason(error)}; its receipt tells what it has cost",
            hint="asked for again, it is another stream, which is paid for as well",
        )
    return OutcomeUnknown(
        f"the stream broke off without a receipt, so that what it cost is not known: {_reason(error)}; all"
        " that was authorized for it counts as spent",
        hint=f"microwallet channel show {stream.channel.name}",
    )


def broken_off(error: httpx.RequestError, asked: Asked) -> OutcomeUnknown:
    """An answer that was paid for and has no end, or cannot be decoded: it is had again under its key, and
    not paid for again."""
    why = "cannot be decoded" if isinstance(error, httpx.DecodingError) else "broke off before its end"
    return OutcomeUnknown(
        f"what was paid for {why}: {_reason(error)}",
        hint=asked.again,
        data={"idempotencyKey": asked.key},
    )


class PaidAnswer(httpx.Response):
    """An answer that was paid for: where it cannot be decoded, the error tells how it is had again."""

    @classmethod
    def of(
        cls, response: httpx.Response, asked: Asked, stream: httpx.SyncByteStream | httpx.AsyncByteStream
    ) -> httpx.Response:
        """A response that comes by this stream; itself where it has been read."""
        if response.is_stream_consumed:
            return response
        told = {**response.extensions, _ASKED: asked}  # an attribute would be pickled
        return cls(response.status_code, headers=response.headers, stream=stream, extensions=told)

    def iter_bytes(self, chunk_size: int | None = None) -> Iterator[bytes]:
        """What is received, decoded."""
        try:
            yield from super().iter_bytes(chunk_size)
        except httpx.DecodingError as error:
            raise broken_off(error, self.extensions[_ASKED]) from error

    async def aiter_bytes(self, chunk_size: int | None = None) -> AsyncIterator[bytes]:
        """As `iter_bytes`."""
        try:
            async for chunk in super().aiter_bytes(chunk_size):
                yield chunk
        except httpx.DecodingError as error:
            raise broken_off(error, self.extensions[_ASKED]) from error


def booked(outcome: object) -> BookedPayment | None:
    """What was paid, by the outcome of a request, which its response has as PAYMENT; None where nothing was,
    or by a metered stream that has not been closed yet."""
    paid = outcome.payment if isinstance(outcome, MeteredStream) else outcome
    return paid if isinstance(paid, BookedPayment) else None


def told_by(response: httpx.Response, outcome: object) -> httpx.Response:
    """The response, which tells in its extensions what became of the payment."""
    if isinstance(outcome, WouldPay):
        response.extensions[WOULD_PAY] = outcome
    response.extensions[PAYMENT] = outcome if isinstance(outcome, BookedPayment | MeteredStream) else None
    return response
