"""Why a payment did not go through, as RFC 9457 documents.

draft-httpauth-payment-00, section "Error Codes"; draft-evm-session-00, section "Error Responses".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Self

import orjson

from microwallet.domain.one_line import one_line
from microwallet.errors import PROBLEM_BASE, MalformedMessage
from microwallet.http402.wire.encoding import json_object
from microwallet.http402.wire.wire_object import WireObject

MEDIA_TYPE = "application/problem+json"
PROBLEM_LIMIT = 64 * 1024
"""Bytes of a document."""
OWN_PROBLEM_BASE = "urn:microwallet:problem:"
"""Of problems for which the drafts have no type."""
_OWN = frozenset({"idempotency-mismatch", "outcome-unknown", "try-again"})


class ProblemType(Enum):
    """The problem types of both drafts: name, title, HTTP status. A client knows those by which nothing was
    served; the gateway tells all but METHOD_UNSUPPORTED, since it issues no challenge of another method."""

    PAYMENT_REQUIRED = ("payment-required", "Payment Required", 402)
    PAYMENT_INSUFFICIENT = ("payment-insufficient", "Payment Insufficient", 402)
    PAYMENT_EXPIRED = ("payment-expired", "Payment Expired", 402)
    VERIFICATION_FAILED = ("verification-failed", "Verification Failed", 402)
    METHOD_UNSUPPORTED = ("method-unsupported", "Method Unsupported", 400)
    MALFORMED_CREDENTIAL = ("malformed-credential", "Malformed Credential", 402)
    INVALID_CHALLENGE = ("invalid-challenge", "Invalid Challenge", 402)
    INVALID_SIGNATURE = ("session/invalid-signature", "Invalid Signature", 402)
    SIGNER_MISMATCH = ("session/signer-mismatch", "Signer Mismatch", 402)
    AMOUNT_EXCEEDS_DEPOSIT = ("session/amount-exceeds-deposit", "Amount Exceeds Deposit", 402)
    DELTA_TOO_SMALL = ("session/delta-too-small", "Delta Too Small", 402)
    CHANNEL_NOT_FOUND = ("session/channel-not-found", "Channel Not Found", 410)
    CHANNEL_FINALIZED = ("session/channel-finalized", "Channel Finalized", 410)
    CHALLENGE_NOT_FOUND = ("session/challenge-not-found", "Challenge Not Found", 402)
    INSUFFICIENT_BALANCE = ("session/insufficient-balance", "Insufficient Balance", 402)
    TRANSACTION_REVERTED = ("session/transaction-reverted", "Transaction Reverted", 409)
    IDEMPOTENCY_MISMATCH = ("idempotency-mismatch", "Idempotency Mismatch", 409)
    OUTCOME_UNKNOWN = ("outcome-unknown", "Outcome Unknown", 409)
    TRY_AGAIN = ("try-again", "Try Again", 503)

    def __init__(self, slug: str, title: str, status: int) -> None:
        base = OWN_PROBLEM_BASE if slug in _OWN else PROBLEM_BASE
        self.uri = base + slug
        self.title = title
        self.status = status

    @classmethod
    def of(cls, uri: str) -> Self | None:
        """The type of a URI, if it is one of these."""
        return next((one for one in cls if one.uri == uri), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One problem. `extensions` are further members, such as `channelId`."""

    type: ProblemType
    detail: str
    extensions: Mapping[str, Any] = field(default_factory=dict)
    other_status: int | None = None
    """Where a draft wants another status than the type's."""

    @property
    def status(self) -> int:
        """Of the HTTP answer."""
        return self.other_status or self.type.status

    def to_body(self) -> bytes:
        """The document, as JSON."""
        document = {
            "type": self.type.uri,
            "title": self.type.title,
            "status": self.status,
            "detail": self.detail,
            **self.extensions,
        }
        return orjson.dumps(document)


@dataclass(frozen=True, slots=True, kw_only=True)
class ToldProblem:
    """A problem that a server told. `uri` may be of any type, or absent; one without anything is none."""

    uri: str | None = None
    title: str | None = None
    detail: str | None = None
    required_cumulative: int | None = None
    """What the channel's voucher would have to authorize, by the server's word; None if it told nothing
    that can be read."""

    @property
    def type(self) -> ProblemType | None:
        """Which of the drafts' problems it is."""
        return None if self.uri is None else ProblemType.of(self.uri)

    def __str__(self) -> str:
        """What it says to a person."""
        return self.detail or self.title or self.uri or "no reason"

    @classmethod
    def parse(cls, body: bytes) -> Self:
        """The problem in the body of a response; MalformedMessage if it is no JSON object."""
        if len(body) > PROBLEM_LIMIT:
            raise MalformedMessage(f"the problem document has more than {PROBLEM_LIMIT} bytes")
        document = json_object(body, what="problem document")
        texts = {
            name: one_line(value) if isinstance(value := document.get(name), str) else None
            for name in ("type", "title", "detail")
        }
        try:
            required = WireObject(document, "problem").optional_amount("requiredCumulative")
        except MalformedMessage:
            required = None
        return cls(
            uri=texts["type"], title=texts["title"], detail=texts["detail"], required_cumulative=required
        )


def read_problem(body: bytes) -> ToldProblem:
    """What the body of a response says of a problem: nothing, if it is no problem document."""
    try:
        return ToldProblem.parse(body)
    except MalformedMessage:
        return ToldProblem()
