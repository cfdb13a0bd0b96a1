"""Which of a server's offers to take, by local rules alone, before any key is touched."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from microwallet.domain.identifiers import NATIVE_TOKEN, Address, ChainId
from microwallet.domain.money import Amount, Asset
from microwallet.errors import AboveLimit, MalformedMessage, NoPayableChallenge, PaymentRefused
from microwallet.http402.wire.challenge import Challenge, Offered, offered_challenges
from microwallet.http402.wire.session_request import (
    EVENT_UNIT,
    INTENT,
    METHOD,
    REQUEST_UNIT,
    CredentialType,
    SessionRequest,
)
from microwallet.http402.wire.timestamps import rfc3339

PAYABLE_TYPES = frozenset({CredentialType.HASH, CredentialType.AUTHORIZATION})


class UntrustedEscrow(NoPayableChallenge):
    """An offer whose escrow is none of those that are trusted: its code may tell more."""

    def __init__(self, escrow_contract: Address) -> None:
        super().__init__(
            f"its escrow {escrow_contract} is not trusted",
            hint=f"microwallet escrow trust {escrow_contract}  (if you know its code)",
        )
        self.escrow_contract = escrow_contract


@dataclass(frozen=True, slots=True, kw_only=True)
class PayerRules:
    """What the payer agreed to beforehand. The server's words change none of it."""

    chain_id: ChainId
    escrow_contracts: Collection[Address]
    """Those that are trusted with deposits."""
    assets: Mapping[Address, Asset]
    """The tokens the payer knows on that chain."""
    max_amounts: Mapping[Address, int]
    """The most a request may cost, base units by token; a token that is not there is not paid in."""
    payer: Address
    known_payee: Address | None = None
    """Whom this origin was paid to before, if the payer wants no other."""
    named_payee: Address | None = None
    """Whom alone the payer wants to pay, whoever was paid before."""
    networks: Mapping[ChainId, str] = field(default_factory=dict)
    """Names of other chains, to be told by."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """An offer that keeps to the rules."""

    challenge: Challenge
    request: SessionRequest
    price: Amount
    """Of one unit."""

    @property
    def terms(self) -> str:
        """The price, for a person."""
        units = f", up to {self.request.max_units}" if self.request.max_units > 1 else ""
        return f"{self.price} for each {self.request.unit}{units}"

    @property
    def reserved(self) -> int:
        """Base units that the request may cost before the server asks for more."""
        return self.price.base_units * self.request.max_units

    @property
    def is_by_event(self) -> bool:
        """Whether each server-sent event is paid for."""
        return self.request.unit_type == EVENT_UNIT

    @property
    def is_by_use(self) -> bool:
        """Whether the payee charges what is used, which is known afterwards."""
        return self.is_open_ended or self.request.max_units > 1

    @property
    def is_open_ended(self) -> bool:
        """Whether the payee counts units up to no number that it says: it charges them without asking while
        there is something for."""
        return self.request.unit_type not in (None, REQUEST_UNIT) and self.request.max_units == 1


def choose(offered: Offered, rules: PayerRules, *, now: int) -> Choice:
    """The first offer, in the server's order, that keeps to the rules at Unix second `now`.

    Raises NoPayableChallenge, which says of each offer why not; AboveLimit where the price alone is
    in the way; UntrustedEscrow where the escrow of the only offer is.
    """
    refusals: list[PaymentRefused] = list(offered.rejected)
    for challenge in offered.challenges:
        try:
            return _checked(challenge, rules, now)
        except PaymentRefused as refusal:
            refusals.append(refusal)
    if above := [refusal for refusal in refusals if isinstance(refusal, AboveLimit)]:
        raise above[0]
    if len(refusals) == 1 and isinstance(refusals[0], UntrustedEscrow):
        raise refusals[0]
    hint = next((refusal.hint for refusal in refusals if refusal.hint), None)
    raise NoPayableChallenge(_told(refusals), hint=hint or "--no-pay  (shows what the server says)")


def signs_deposits(request: SessionRequest, *, wanted: bool, has_coin: Callable[[], bool]) -> bool:
    """Whether deposits are signed for the payee to send, who pays the gas: else the payer sends them.

    So where the user wants it, the payer has no coin, or the payee takes nothing else. NoPayableChallenge
    where the payee does not do what is left. draft-evm-session-00, section "Server-Paid Fees".
    """
    types = request.credential_types
    can_sign = (
        request.fee_payer and CredentialType.AUTHORIZATION in types and request.currency != NATIVE_TOKEN
    )
    can_send = CredentialType.HASH in types
    if can_sign and (wanted or not can_send or not has_coin()):
        return True
    if wanted:
        raise NoPayableChallenge("the payee does not bring deposits onto the chain: without --gasless")
    if not can_send:
        raise NoPayableChallenge(f"it takes deposits by {', '.join(types)} only, which is not done here")
    return False


def session_offers(values: Sequence[str], now: int) -> Iterator[tuple[Challenge, SessionRequest]]:
    """The challenges of an answer that are for a session, can be read, and may be answered at Unix second
    `now`; MalformedMessage where nothing can be read."""
    for challenge in offered_challenges(values).challenges:
        if (challenge.method, challenge.intent) == (METHOD, INTENT) and not challenge.has_expired(now):
            with suppress(MalformedMessage):
                yield challenge, SessionRequest.parse(challenge.request_object())


def agreed_terms(request: SessionRequest) -> tuple[object, ...]:
    """What of an offer was agreed to: a fresh one for the same may have another reference, or deposit."""
    return (
        request.recipient,
        request.currency,
        request.chain_id,
        request.escrow_contract,
        request.amount,
        request.unit,
        request.max_units,
    )


def _checked(challenge: Challenge, rules: PayerRules, now: int) -> Choice:
    kind = f"{challenge.method}/{challenge.intent}"
    if (challenge.method, challenge.intent) != (METHOD, INTENT):
        raise NoPayableChallenge(f"{kind} is a way to pay that is not known here")
    if challenge.has_expired(now):
        raise NoPayableChallenge(
            f"the offer expired at {challenge.expires}, and it is {rfc3339(now)} here",
            hint="date -u  (this clock is wrong, or the server's)",
        )
    request = SessionRequest.parse(challenge.request_object())
    asset = rules.assets.get(request.currency)
    if request.chain_id != rules.chain_id:
        raise NoPayableChallenge(
            f"it is to be paid on chain {request.chain_id}, the network in use is {rules.chain_id}",
            hint=f"--network {rules.networks.get(request.chain_id, 'NAME')}",
        )
    if request.escrow_contract not in rules.escrow_contracts:
        raise UntrustedEscrow(request.escrow_contract)
    if asset is None:
        raise NoPayableChallenge(
            f"it is to be paid in {request.currency}, a token that is not known here",
            hint=f"microwallet network token add {request.currency}",
        )
    if request.recipient in (NATIVE_TOKEN, rules.payer, request.escrow_contract):
        raise NoPayableChallenge(f"its payee {request.recipient} cannot be one")
    if rules.named_payee not in (None, request.recipient):
        raise NoPayableChallenge(
            f"its payee is {request.recipient}, not {rules.named_payee}",
            hint=f"--payee {request.recipient}  (if that is who is meant)",
        )
    if rules.named_payee is None and rules.known_payee not in (None, request.recipient):
        raise NoPayableChallenge(
            f"its payee is {request.recipient}, and was {rules.known_payee} before",
            hint=f"--payee {request.recipient}  (if you know why it changed)",
        )
    if not PAYABLE_TYPES & set(request.credential_types):
        raise NoPayableChallenge(f"it takes deposits by {', '.join(request.credential_types)} only")
    return Choice(challenge=challenge, request=request, price=_price(request, asset, rules))


def _price(request: SessionRequest, asset: Asset, rules: PayerRules) -> Amount:
    price = Amount(request.amount, asset)
    most = Amount(request.amount * request.max_units, asset)
    limit = Amount(rules.max_amounts.get(asset.token, 0), asset)
    if limit < most:
        up_to = f", and up to {request.max_units} are sold at once" if request.max_units > 1 else ""
        allowed = (
            f"at most {limit} may be paid"
            if asset.token in rules.max_amounts
            else f"no maximum is set in {asset.symbol}"
        )
        raise AboveLimit(
            f"each {request.unit} costs {price}{up_to}, and {allowed}; nothing was signed",
            hint=f'--max-amount "{most}"',
        )
    return price


def _told(refusals: Sequence[PaymentRefused]) -> str:
    if not refusals:
        said = "the server wants to be paid, and has no challenge of the Payment scheme"
        return f"{said}; x402 and L402 are not spoken here"
    reasons = "; ".join(refusal.message for refusal in refusals[:5])
    more = f"; and {len(refusals) - 5} more" if len(refusals) > 5 else ""
    offers = "the server's offer cannot" if len(refusals) == 1 else f"none of {len(refusals)} offers can"
    return f"{offers} be paid: {reasons}{more}"
