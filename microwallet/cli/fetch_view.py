"""What `microwallet fetch` says of requests, answers and payments."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

from microwallet.cli.context import Stderr
from microwallet.cli.fetch_secrets import is_secret
from microwallet.domain.money import Amount
from microwallet.domain.one_line import printable
from microwallet.domain.secret_fields import without_secrets

if TYPE_CHECKING:
    import httpx

    from microwallet.http402.paying.receipts import BookedPayment


def head(response: httpx.Response) -> bytes:
    """The status line and the headers, as `-i` prints them."""
    lines = [_status_line(response), *(f"{name}: {value}" for name, value in _header_pairs(response))]
    return ("\r\n".join(lines) + "\r\n\r\n").encode(errors="replace")


def say_request(request: httpx.Request) -> None:
    """A request on stderr, as `-v` prints it; what is secret is left out."""
    say = Stderr().say
    say(f"> {request.method} {without_secrets(str(request.url))}")
    for name, value in request.headers.multi_items():
        say(f"> {name}: {_without_secret(name.lower(), value)}")
    say(">")


def say_response(response: httpx.Response) -> None:
    """The head of an answer on stderr, as `-v` prints it; as `say_request`, and for a terminal."""
    say = Stderr().say
    say(f"< {printable(_status_line(response))}")
    for name, value in _header_pairs(response):
        say(f"< {printable(f'{name}: {without_secrets(_without_secret(name.lower(), value))}')}".rstrip())
    say("<")


def _status_line(response: httpx.Response) -> str:
    return f"{response.http_version} {response.status_code} {response.reason_phrase}".rstrip()


def _without_secret(name: str, value: str) -> str:
    if not is_secret(name):
        return value
    scheme, space, _ = value.partition(" ")
    return f"{scheme} ..." if space and name.endswith("authorization") else "..."


def answer_document(response: httpx.Response, body: bytes) -> dict[str, Any]:
    """Status, headers and body as JSON. A field that came more than once is a list of its values."""
    headers: dict[str, Any] = {}
    for name, value in _header_pairs(response):
        before = headers.get(name)
        headers[name] = (
            value if before is None else [*([before] if isinstance(before, str) else before), value]
        )
    try:
        text, encoding = body.decode(), None
    except UnicodeDecodeError:
        text, encoding = base64.b64encode(body).decode(), "base64"
    return {"status": response.status_code, "headers": headers, "body": text, "bodyEncoding": encoding}


def payments_of(response: httpx.Response) -> list[BookedPayment]:
    """What was paid for a response and for those that led to it, hop by hop."""
    from microwallet.http402.paying.messages import PAYMENT, booked

    found = (booked(one.extensions.get(PAYMENT)) for one in (*response.history, response))
    return [one for one in found if one is not None]


def is_metered(response: httpx.Response) -> bool:
    """Whether it was paid for while it ran: it is not had again."""
    from microwallet.http402.paying.messages import PAYMENT
    from microwallet.http402.paying.metering import MeteredStream

    return isinstance(response.extensions.get(PAYMENT), MeteredStream)


def say_payment(payment: BookedPayment) -> None:
    """What was paid, what is left, and what is wrong with the receipt."""
    channel = payment.channel
    paid = f"{'up to ' if payment.is_most else ''}{Amount(payment.amount, channel.asset)}"
    if payment.signed_before:
        paid += f", {Amount(payment.signed_before, channel.asset)} of it signed before,"
    said = [f"paid {paid} to {channel.descriptor.payee}"]
    if payment.paid_before:
        said = [f"{said[0]} before, under this idempotency key", "nothing new was paid"]
    if not channel.state.finalized:
        left = Amount(max(0, channel.state.deposit - channel.spent), channel.asset)
        said.append(f"{left} left on {channel.name}")
    Stderr().say("; ".join(said))
    for problem in payment.receipt_problems:
        Stderr().say(f"warning: {problem}")


def _header_pairs(response: httpx.Response) -> list[tuple[str, str]]:
    return [(name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in response.headers.raw]
