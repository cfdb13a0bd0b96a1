"""Payment challenges: what a server asks for, bound to an id.

draft-httpauth-payment-00, section "Challenge (WWW-Authenticate)".
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from microwallet.errors import MalformedMessage
from microwallet.http402.wire.auth_fields import check_size, parse_auth_fields, quoted
from microwallet.http402.wire.body_digest import parse_digest
from microwallet.http402.wire.encoding import base64url, decode_object, encode_object
from microwallet.http402.wire.timestamps import parse_rfc3339, rfc3339

REQUEST_LIMIT = 16 * 1024
"""Characters of an encoded `request` or `opaque`."""
SECRET_LENGTH = 32
AUTHORIZATION = "Authorization"
PAYMENT_AUTHORIZATION = "Payment-Authorization"
"""Where a server that uses `Authorization` itself wants the credential."""

_METHOD = re.compile(r"[a-z]+")
_INTENT = re.compile(r"[A-Za-z0-9-]+")
_PARAMETERS = (
    "id",
    "realm",
    "method",
    "intent",
    "request",
    "expires",
    "digest",
    "description",
    "header",
    "opaque",
)
_REQUIRED = ("id", "realm", "method", "intent", "request")
_FIELDS = {one.lower(): one for one in (AUTHORIZATION, PAYMENT_AUTHORIZATION)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Challenge:
    """One challenge, well-formed. Its texts are as they were on the wire, so that an echo is exact."""

    id: str
    realm: str
    method: str
    intent: str
    request: str
    """JSON in base64url; `request_object` decodes it."""
    expires: str | None = None
    digest: str | None = None
    description: str | None = None
    header: str | None = None
    """The field that is to carry the credential, if it is told; `credential_field` is what it means."""
    opaque: str | None = None

    @classmethod
    def parse(cls, parameters: Mapping[str, Any]) -> Self:
        """A challenge from auth-params, or from its echo in a credential; what is unknown is ignored.

        MalformedMessage if a parameter is missing or is not what the draft says.
        """
        known = {name: parameters[name] for name in _PARAMETERS if name in parameters}
        for name in _REQUIRED:
            if name not in known:
                raise MalformedMessage(f"the challenge has no {name}")
        for name, value in known.items():
            if not isinstance(value, str):
                raise MalformedMessage(f"the challenge's {name} is no text")
        challenge = cls(**known)
        challenge._check()
        return challenge

    def _check(self) -> None:
        if not self.id:
            raise MalformedMessage("the challenge's id is empty")
        if _METHOD.fullmatch(self.method) is None:
            raise MalformedMessage(
                f"{self.method[:40]!r} is no payment method: lowercase letters are expected"
            )
        if _INTENT.fullmatch(self.intent) is None:
            raise MalformedMessage(f"{self.intent[:40]!r} is no payment intent")
        self.request_object()
        if self.expires is not None:
            parse_rfc3339(self.expires)
        if self.digest is not None:
            parse_digest(self.digest)
        if self.header is not None and self.header.lower() not in _FIELDS:
            raise MalformedMessage(f"{self.header[:40]!r} is no field for a credential")
        if self.opaque is not None:
            opaque = decode_object(self.opaque, what="challenge's opaque", limit=REQUEST_LIMIT)
            if not all(isinstance(value, str) for value in opaque.values()):
                raise MalformedMessage("the challenge's opaque is no map from text to text")

    def request_object(self) -> dict[str, Any]:
        """The decoded `request`."""
        return decode_object(self.request, what="challenge's request", limit=REQUEST_LIMIT)

    @property
    def credential_field(self) -> str:
        """The name of the field that carries the credential."""
        return AUTHORIZATION if self.header is None else _FIELDS[self.header.lower()]

    def has_expired(self, now: int) -> bool:
        """Whether credentials for it must not be sent, or accepted, any more at Unix second `now`."""
        return self.expires is not None and parse_rfc3339(self.expires) <= now

    def parameters(self) -> dict[str, str]:
        """All that is set, by name: what a credential echoes."""
        return {name: value for name in _PARAMETERS if (value := getattr(self, name)) is not None}

    def to_field(self) -> str:
        """The value of a `WWW-Authenticate` field."""
        return "Payment " + ", ".join(f"{name}={quoted(value)}" for name, value in self.parameters().items())


@dataclass(frozen=True, slots=True, kw_only=True)
class Offered:
    """The Payment challenges of a response: those that can be read, and why others cannot."""

    challenges: Sequence[Challenge]
    rejected: Sequence[MalformedMessage]


def offered_challenges(values: Iterable[str]) -> Offered:
    """What the `WWW-Authenticate` fields of a response offer; other schemes are passed over, and so is a
    field that breaks the grammar, if another one offers something. Else MalformedMessage says why."""
    fields = list(values)
    check_size(fields)
    challenges: list[Challenge] = []
    rejected: list[MalformedMessage] = []
    broken: MalformedMessage | None = None
    for value in fields:
        try:
            found = parse_auth_fields([value])
        except MalformedMessage as error:
            broken = broken or error
            continue
        for one in found:
            if one.scheme != "payment":
                continue
            try:
                challenges.append(Challenge.parse(one.parameters))
            except MalformedMessage as error:
                rejected.append(error)
    if broken is not None and not challenges:
        raise broken
    return Offered(challenges=challenges, rejected=rejected)


@dataclass(frozen=True, slots=True)
class ChallengeSecrets:
    """The server's secrets: the first binds new challenges, the others were in use before it."""

    secrets: Sequence[bytes] = field(repr=False)

    def __post_init__(self) -> None:
        if not self.secrets or any(len(secret) < SECRET_LENGTH for secret in self.secrets):
            raise ValueError(f"a challenge secret has at least {SECRET_LENGTH} bytes")

    def issued(self, challenge: Challenge) -> bool:
        """Whether the id of an echoed challenge is bound to its parameters by one of these secrets."""
        expected = [_bound_id(challenge, secret) for secret in self.secrets]
        return any(hmac.compare_digest(challenge.id.encode(), one.encode()) for one in expected)


class ChallengeForm:
    """What the challenges of one offer have in common, written out once: the field that everybody is
    answered with who does not pay is filled in. The id is bound to all but the description."""

    def __init__(
        self,
        *,
        realm: str,
        method: str,
        intent: str,
        request: str,
        description: str | None = None,
        header: str | None = None,
    ) -> None:
        """`request` has been encoded already. MalformedMessage for what no field could carry."""
        common = {"realm": realm, "method": method, "intent": intent, "request": request}
        told = {"description": description, "header": header}
        self._bound = "|".join([*common.values(), ""])
        self._bound_header = "" if header is None else f"{header}|"
        self._common = _parameters(common)
        self._told = _parameters({name: value for name, value in told.items() if value is not None})

    def field(
        self,
        secrets: ChallengeSecrets,
        *,
        expires_at: int,
        opaque: Mapping[str, str],
        digest: str | None = None,
    ) -> str:
        """The value of a `WWW-Authenticate` field with a new challenge until Unix second `expires_at`."""
        expires, encoded = rfc3339(expires_at), encode_object(opaque)
        bound = f"{self._bound}{expires}|{digest or ''}|{self._bound_header}{encoded}"
        digested = "" if digest is None else _parameters({"digest": digest})
        return (
            f'Payment id="{_hmac_id(bound, secrets.secrets[0])}"{self._common}, expires="{expires}"'
            f'{digested}{self._told}, opaque="{encoded}"'
        )


def _parameters(named: Mapping[str, str]) -> str:
    """More auth-params of a field."""
    return "".join([f", {name}={quoted(value)}" for name, value in named.items()])


def _bound_id(challenge: Challenge, secret: bytes) -> str:
    """By the draft's "HMAC-SHA256 Binding". Only the realm, which is first, may hold a bar, and a header is
    no digest: no two challenges read the same."""
    slots = (
        challenge.realm,
        challenge.method,
        challenge.intent,
        challenge.request,
        challenge.expires,
        challenge.digest,
        *(() if challenge.header is None else (challenge.header,)),
        challenge.opaque,
    )
    return _hmac_id("|".join([slot or "" for slot in slots]), secret)


def _hmac_id(bound: str, secret: bytes) -> str:
    return base64url(hmac.digest(secret, bound.encode(), hashlib.sha256))
