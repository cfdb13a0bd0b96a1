"""Payment credentials: the answer to a challenge.

draft-httpauth-payment-00, section "Credentials (Authorization)".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from microwallet.domain.identifiers import ChainId
from microwallet.errors import MalformedMessage
from microwallet.http402.wire.challenge import Challenge
from microwallet.http402.wire.encoding import decode_object, encode_object

CREDENTIAL_LIMIT = 64 * 1024
"""Characters; servers must take 4 KB; the largest `request` and `opaque` are echoed in it."""

_SCHEME = "payment"
_SCHEMES = (b"payment ", b"payment")


@dataclass(frozen=True, slots=True, kw_only=True)
class Credential:
    """The echo of a challenge, and the proof of payment. Kept like a password, so its repr is silent."""

    challenge: Challenge
    payload: Mapping[str, Any] = field(repr=False)
    """The method's own object."""
    source: str | None = None
    """Who pays, as a DID."""

    @classmethod
    def parse(cls, value: str) -> Self:
        """The credential that a field carries; MalformedMessage if it is none."""
        scheme, _, token = value.partition(" ")
        token = token.strip(" ")
        if len(value) > CREDENTIAL_LIMIT or scheme.lower() != _SCHEME or not token:
            raise MalformedMessage(f"the field is no Payment credential of {CREDENTIAL_LIMIT} characters")
        document = decode_object(token, what="credential", limit=CREDENTIAL_LIMIT)
        challenge, payload, source = (
            document.get("challenge"),
            document.get("payload"),
            document.get("source"),
        )
        if not isinstance(challenge, dict):
            raise MalformedMessage("the credential has no challenge")
        if not isinstance(payload, dict):
            raise MalformedMessage("the credential has no payload")
        if source is not None and not isinstance(source, str):
            raise MalformedMessage("the credential's source is no text")
        return cls(challenge=Challenge.parse(challenge), payload=payload, source=source)

    def to_field(self) -> str:
        """The value of the challenge's `credential_field`."""
        document: dict[str, Any] = {"challenge": self.challenge.parameters(), "payload": dict(self.payload)}
        if self.source is not None:
            document["source"] = self.source
        return "Payment " + encode_object(document)


def payer_source(chain_id: ChainId, address: str) -> str:
    """A payer as `source` names it: a did:pkh of an account on an EVM chain."""
    return f"did:pkh:eip155:{chain_id}:{address}"


def is_payment(value: bytes) -> bool:
    """Whether what a field carries is of this scheme."""
    return value[:8].lower() in _SCHEMES
