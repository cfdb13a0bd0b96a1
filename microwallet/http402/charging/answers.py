"""What a gateway answers itself, and what it keeps of an upstream's answers for replays."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

from microwallet.errors import MicrowalletError
from microwallet.http402.charging.bill import Bill
from microwallet.http402.charging.caching import NO_STORE, PRIVATE
from microwallet.http402.charging.page import PAGE_HEADERS
from microwallet.http402.wire.problems import MEDIA_TYPE, Problem, ProblemType
from microwallet.http402.wire.receipt import SessionReceipt

Headers = Sequence[tuple[bytes, bytes]]
"""Names in lowercase, as ASGI has them."""

KEPT_LIMIT = 64 * 1024
"""Bytes of an answer's body that is kept for replays."""

_PROBLEM_HEADERS = ((b"content-type", MEDIA_TYPE.encode()), NO_STORE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A whole response."""

    status: int
    headers: Headers
    body: bytes = b""
    bill: Bill | None = None
    """Of the request, if it was paid before."""
    warning: str | None = None
    """What the seller should know of it, for the log alone."""


def problem_answer(problem: Problem, *more: tuple[bytes, bytes]) -> Answer:
    """A problem as a response that no cache keeps."""
    later = [(b"retry-after", b"1")] if problem.status == 503 else []
    return Answer(status=problem.status, headers=[*_PROBLEM_HEADERS, *later, *more], body=problem.to_body())


def unchecked_answer(error: MicrowalletError) -> Answer:
    """Nothing was sold."""
    detail = f"it could not be checked or recorded just now; nothing was charged ({error.code})"
    return _failed(Problem(type=ProblemType.TRY_AGAIN, detail=detail), error)


def unrecorded_answer(error: MicrowalletError) -> Answer:
    """The disk failed under what was sold: it may be there when the gateway starts again. As where no answer
    comes, it is asked for again under its key."""
    detail = f"it was not served, and whether it was charged is not known ({error.code})"
    return _failed(_unknown(detail), error)


def _failed(problem: Problem, error: MicrowalletError) -> Answer:
    return replace(problem_answer(problem), warning=error.message)


def _unknown(detail: str) -> Problem:
    return Problem(type=ProblemType.OUTCOME_UNKNOWN, detail=detail, other_status=503)


SOLD_ANOTHER_TIME = problem_answer(
    _unknown("it was not served; under its key it was or is served another time, which is charged")
)
"""To a request that failed, where the same one was made again meanwhile: it is not told that it was free."""


def unpaid_answer(body: bytes, *more: tuple[bytes, bytes]) -> Answer:
    """As `problem_answer`, with the document of an offer, which is always the same."""
    return Answer(status=402, headers=[*_PROBLEM_HEADERS, *more], body=body)


def page_answer(page: bytes, *more: tuple[bytes, bytes]) -> Answer:
    """The page for a person, as a response that no cache keeps."""
    headers = [(name.encode(), value.encode()) for name, value in PAGE_HEADERS.items()]
    return Answer(status=402, headers=[*headers, NO_STORE, *more], body=page)


def plain_answer(status: int, title: str, detail: str) -> Answer:
    """A refusal that has nothing to do with paying."""
    document = {"type": "about:blank", "title": title, "status": status, "detail": detail}
    return Answer(
        status=status, headers=[(b"content-type", MEDIA_TYPE.encode())], body=json.dumps(document).encode()
    )


def receipt_headers(receipt: SessionReceipt) -> list[tuple[bytes, bytes]]:
    """The fields that a successful answer carries."""
    return [(b"payment-receipt", receipt.to_field().encode()), PRIVATE]


def receipt_answer(receipt: SessionReceipt) -> Answer:
    """What is said to a credential that asks for nothing beside: it did what it was for."""
    return Answer(status=200, headers=receipt_headers(receipt))


def pack(answer: Answer) -> bytes:
    """An answer as the store keeps it: a line of JSON, and the body."""
    head = {
        "status": answer.status,
        "headers": [[k.decode("latin-1"), v.decode("latin-1")] for k, v in answer.headers],
    }
    return json.dumps(head, separators=(",", ":")).encode() + b"\n" + answer.body


def unpack(kept: bytes) -> Answer:
    """The answer that was packed."""
    head, _, body = kept.partition(b"\n")
    document = json.loads(head)
    headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in document["headers"]]
    return Answer(status=document["status"], headers=headers, body=body)
