"""What a gateway asks for: one session request a price, and a fresh challenge for everybody.

draft-httpauth-payment-00, section "Challenge (WWW-Authenticate)"; draft-evm-session-00, section "Request
Schema".
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field

from microwallet.domain.identifiers import Address, ChainId
from microwallet.errors import MalformedMessage, UsageError
from microwallet.http402.charging.rotating_secrets import RotatingSecrets
from microwallet.http402.charging.routes import Price, Route
from microwallet.http402.charging.signed_deposit import RelayedToken
from microwallet.http402.wire.body_digest import body_digest
from microwallet.http402.wire.challenge import REQUEST_LIMIT, Challenge, ChallengeForm
from microwallet.http402.wire.encoding import decode_object, encode_object
from microwallet.http402.wire.problems import Problem, ProblemType
from microwallet.http402.wire.session_request import INTENT, METHOD, CredentialType, SessionRequest

CHALLENGE_SECONDS = 300
"""How long a challenge may be answered."""
CHALLENGE_LIMIT = 8 * 1024
"""Bytes that a challenge should stay below."""
_NONCE_BYTES = 12
_PRICE_DIGEST_BYTES = 8
_SIGNED_OR_SENT = (CredentialType.AUTHORIZATION, CredentialType.HASH)


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What all offers of a gateway have in common."""

    realm: str
    payee: Address
    network: str
    """What a person calls the chain."""
    chain_id: ChainId
    escrow_contract: Address
    secrets: RotatingSecrets
    header: str | None = None
    """The field that credentials are to come in, if not in Authorization."""
    relayed_tokens: Mapping[Address, RelayedToken] = field(default_factory=dict)
    """Tokens of which payers' deposits are brought onto the chain here, at the gateway's cost."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """What one route costs, ready to be asked for."""

    terms: Terms
    price: Price
    name: str
    """Of the route; a challenge for one is none for another."""
    request: SessionRequest
    encoded_request: str
    form: ChallengeForm
    price_digest: bytes
    """Tells what one request is sold for."""
    unpaid: bytes
    """The problem document that is sent with a challenge: the price in words."""
    units_field: bytes | None
    """Where the upstream says how many units were used."""

    def challenge_field(self, now: int, *, digest: str | None = None) -> bytes:
        """A challenge nobody had before, until CHALLENGE_SECONDS from Unix second `now`."""
        field = self.form.field(
            self.terms.secrets.current,
            expires_at=now + CHALLENGE_SECONDS,
            digest=digest,
            opaque={"nonce": secrets.token_hex(_NONCE_BYTES), "route": self.name},
        )
        return field.encode()

    def asked_by(self, challenge: Challenge) -> bool:
        """Whether a challenge that was issued here is one for this offer, as it is now."""
        return (
            challenge.request == self.encoded_request
            and challenge.realm == self.terms.realm
            and (challenge.method, challenge.intent) == (METHOD, INTENT)
            and challenge.description in (self.price.description, _as_latin_1(self.price.description))
            and challenge.header == self.terms.header
            and challenge.opaque is not None
            and decode_object(challenge.opaque, what="opaque", limit=REQUEST_LIMIT).get("route") == self.name
        )

    @property
    def relayed_token(self) -> RelayedToken | None:
        """The token, if deposits of it are brought onto the chain here; None where payers send them."""
        return self.terms.relayed_tokens.get(self.price.amount.asset.token)


def _as_latin_1(description: str | None) -> str | None:
    """A description as browsers and Node read it in a field, whatever it was written in."""
    return None if description is None else description.encode().decode("latin-1")


def offer_of(terms: Terms, route: Route, price: Price) -> Offer:
    """The offer of a priced route. UsageError if no field could carry it, or a client might not take it."""
    request = _session_request(terms, price)
    encoded_request = encode_object(request.to_object())
    try:
        form = ChallengeForm(
            realm=terms.realm,
            method=METHOD,
            intent=INTENT,
            request=encoded_request,
            description=price.description,
            header=terms.header,
        )
    except MalformedMessage as error:
        raise UsageError(f"route {route.words}: {error.message}") from error
    offer = Offer(
        terms=terms,
        price=price,
        name=route.words,
        request=request,
        encoded_request=encoded_request,
        form=form,
        price_digest=_price_digest(price),
        unpaid=Problem(
            type=ProblemType.PAYMENT_REQUIRED, detail=f"this costs {price}: see WWW-Authenticate"
        ).to_body(),
        units_field=None if price.header is None else price.header.encode(),
    )
    size = len(offer.challenge_field(0, digest=body_digest(b"")))
    if size >= CHALLENGE_LIMIT:
        raise UsageError(
            f"route {offer.name}: its challenge has {size} bytes, {CHALLENGE_LIMIT - 1} are the most;"
            " shorten the description"
        )
    return offer


def _price_digest(price: Price) -> bytes:
    amount = price.amount
    text = f"{amount.base_units} {amount.asset.token} {price.unit} {price.max_units}"
    return hashlib.sha256(text.encode()).digest()[:_PRICE_DIGEST_BYTES]


def _session_request(terms: Terms, price: Price) -> SessionRequest:
    token = price.amount.asset.token
    relayed, suggested = terms.relayed_tokens.get(token), price.suggested_deposit
    return SessionRequest(
        amount=price.amount.base_units,
        currency=token,
        recipient=terms.payee,
        chain_id=terms.chain_id,
        escrow_contract=terms.escrow_contract,
        unit_type=price.unit_type,
        suggested_deposit=suggested if relayed is None else max(suggested or 0, relayed.min_deposit),
        description=price.description,
        min_voucher_delta=price.min_voucher_delta,
        max_units=price.max_units,
        fee_payer=relayed is not None,
        minimum_deposit=0 if relayed is None else relayed.min_deposit,
        credential_types=(CredentialType.HASH,) if relayed is None else _SIGNED_OR_SENT,
    )
