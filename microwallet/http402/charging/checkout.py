"""Vouchers that come with requests, from what is known of them in memory to what they buy.

draft-evm-session-00, sections "Voucher Verification" and "Per-Request Processing". Every purchase goes this
way; what takes longer than a look into memory was done before.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple, Self
from urllib.parse import unquote
from weakref import WeakValueDictionary

from microwallet.domain.identifiers import ChannelId, TxHash
from microwallet.http402.charging import sales
from microwallet.http402.charging.answers import Answer, Headers, receipt_answer, receipt_headers, unpack
from microwallet.http402.charging.asgi import Scope
from microwallet.http402.charging.bill import Bill
from microwallet.http402.charging.challenge_book import AnsweredChallenge, ChallengeBook
from microwallet.http402.charging.channel_book import ChannelBook, KnownChannel
from microwallet.http402.charging.checks import check_signature, fingerprint_of, only_credential, only_key
from microwallet.http402.charging.group_commit import NotReady
from microwallet.http402.charging.offers import Offer
from microwallet.http402.charging.once import Once
from microwallet.http402.charging.refusal import refused
from microwallet.http402.charging.request import Request
from microwallet.http402.charging.routes import Unit
from microwallet.http402.charging.sales import Handover, Order, Sold
from microwallet.http402.charging.store import SessionRows
from microwallet.http402.charging.till import Till
from microwallet.http402.wire.problems import ProblemType
from microwallet.http402.wire.session_credential import Seen, SeenCredentials
from microwallet.http402.wire.session_payload import OpenAction, VoucherAction
from microwallet.payee.in_hand import InHandHere, Reservation

_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
BY_SERVER = frozenset({"http.response.pathsend", "http.response.zerocopysend"})
"""Extensions of ASGI by which a server sends a file itself: what is in it is not seen here."""


class Place(NamedTuple):
    """Where a request goes."""

    path: str
    """In the one spelling that is forwarded; then as ASGI has it, as it is and without escapes."""
    raw_path: bytes
    text: str
    offer: Offer | None
    """What the request costs; None where it costs nothing."""
    hands_over: Sequence[Offer]
    """What is sold here, if a credential is no request for that, but brings something for it, such as a
    voucher."""
    is_other: bool
    """Whether only other methods are sold: without a credential there is nothing here."""

    @classmethod
    def of(
        cls, path: str, offer: Offer | None, *, hands_over: Sequence[Offer] = (), is_other: bool = False
    ) -> Self:
        """The place of a path in the one spelling."""
        return cls(path, path.encode(), unquote(path), offer, hands_over, is_other)

    def scope(self, request: Request, fields: Headers) -> Scope:
        """The scope for the application, with the path as it was matched."""
        return {**request.scope, "headers": fields, "raw_path": self.raw_path, "path": self.text}


class Grant(NamedTuple):
    """A request that is served because it was paid."""

    offer: Offer
    sold: Sold
    channel: KnownChannel
    challenge_id: str
    receipt: Headers | None
    """The fields of its receipt, where nothing can change it any more."""
    scope: Scope
    """For the application, which is told who paid, through which channel, how much of what."""
    bill: Bill
    reservation: Reservation | None
    """What it shares with others under its key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkout:
    """What a gateway knows, and where it sells."""

    challenges: ChallengeBook
    channels: ChannelBook
    seen: SeenCredentials
    till: Till
    in_hand: InHandHere
    closing: Once[TxHash | None]
    """Of channels that are being closed: nothing is sold on them."""
    clock: Callable[[], int]
    shared: WeakValueDictionary[tuple[ChannelId, int], Reservation] = field(
        default_factory=WeakValueDictionary
    )
    """By channel and voucher: what was reserved here for requests with a key that are in hand."""

    def known(self, channel_id: ChannelId, offer: Offer) -> KnownChannel:
        """The channel, if it pays this payee, in this escrow and with this token; else Refused."""
        known = self.channels.get(channel_id)
        if known is None:
            raise sales.channel_not_found(channel_id)
        if known.fitted is not offer:
            if not offer.request.fits(known.descriptor):
                detail = "the channel is of another payee, escrow, chain or token"
                raise refused(ProblemType.VERIFICATION_FAILED, detail, channel_id)
            known.fitted = offer
        return known


class Presented:
    """A voucher that came with a request: a job for the till, once what it needs is in memory."""

    granted: Grant | None = None
    """What it bought, as soon as that is committed: to be given back if it is not served then."""
    _in_hand: ChannelId | None = None
    _reserved = 0
    """Base units, as soon as it is sold."""
    _reservation: Reservation | None = None
    _seen: Seen | None = None
    """The credential that its own begins like."""
    _action: OpenAction | VoucherAction | None = None
    """Once it was read whole."""

    def __init__(self, checkout: Checkout, request: Request, place: Place, offer: Offer) -> None:
        self._checkout = checkout
        self._request = request
        self._place = place
        self.offer = offer
        self.field = field = only_credential(request.credentials)
        if not request.has_body and (seen := checkout.seen.like(field)) is not None:
            self._seen = seen
            self._begin(seen.channel_id)

    @property
    def is_like_another(self) -> bool:
        """Whether it seems to be like one that came before but for its voucher: `prepare` finds out."""
        return self._seen is not None

    def holds(self, issued: AnsweredChallenge, action: OpenAction | VoucherAction) -> None:
        """What its credential holds: the challenge was in time, for this body, and the chain was asked."""
        self._issued, self._action = issued, action
        self._begin(action.voucher.channel_id)

    def prepare(self) -> None:
        """Check challenge, channel and signature: Refused if the voucher may not be accepted for the offer.

        NotReady where that takes more than memory, unless somebody has seen to it, and said what it `holds`.
        """
        checkout, offer, seen, action = self._checkout, self.offer, self._seen, self._action
        if action is not None:
            issued, voucher = self._issued, action.voucher
        elif seen is not None and (found := seen.voucher(self.field)) is not None:
            self._issued = issued = checkout.challenges.check(seen.challenge, offer)
            voucher = found
        else:
            raise NotReady
        channel_id, cumulative_amount, signature = voucher
        issued.check_serves(channel_id)
        self._known = known = checkout.known(channel_id, offer)
        channels = checkout.channels
        if action is None and (
            not channels.is_fresh(known) or channels.falls_short(known, cumulative_amount)
        ):
            raise NotReady
        check_signature(known.digest, known.is_by_signer, voucher)
        self._handover = Handover(
            channel_id,
            cumulative_amount,
            signature,
            known.state.deposit,
            offer.price.min_voucher_delta,
            issued.challenge.id,
            issued.expires_at if issued.channel_id is None else None,
        )

    def _remember(self) -> None:
        """Remember what its challenge serves, and the credential: more like it are to be expected."""
        issued = self._issued
        issued.channel_id = self._known.channel_id
        if self._action is not None:
            self._checkout.seen.keep(self.field, issued.challenge, self._action)

    def leave(self) -> None:
        """It is in hand no more, if it was."""
        if self._in_hand is not None:
            shared = self._reservation
            freed = self._reserved if shared is None else shared.leave(is_answered=False)
            self._checkout.in_hand.end(self._in_hand, freed)
            self._in_hand = None

    def _begin(self, channel_id: ChannelId) -> None:
        """A close that comes later waits for it; one that came before leaves it nothing."""
        self._in_hand = channel_id
        self._checkout.in_hand.begin(channel_id)
        self._is_closing = channel_id in self._checkout.closing


class Handing(Presented):
    """A voucher that buys nothing by itself."""

    def work(self, rows: SessionRows) -> None:
        """Accept it; Refused if that cannot be."""
        self._account = sales.take(rows, self._handover, self._checkout.clock())

    def finish(self) -> Answer:
        """The answer to it; a stream may be waiting for it."""
        handover, till = self._handover, self._checkout.till
        self._remember()
        till.tell_of_voucher(handover.channel_id)
        return receipt_answer(till.receipt(self._account, handover.challenge_id))


class Buying(Presented):
    """A voucher that is to buy its request; if it does, that is in hand until it is delivered."""

    def work(self, rows: SessionRows) -> None:
        """Sell; Refused if that cannot be."""
        request, price, handover = self._request, self.offer.price, self._handover
        is_stream = price.unit is Unit.EVENT
        if request.idempotency_keys:
            may_repeat = request.method in _SAFE and not request.has_body and not is_stream
            key = only_key(request)
            fingerprint = fingerprint_of(request, self._place.path) + self.offer.price_digest
            order = Order(handover, price.reserved, key, fingerprint, is_stream, may_repeat)
        else:
            order = Order(handover, price.reserved, None, None, is_stream)
        self._sold = sold = sales.sell(rows, order, self._checkout.clock(), is_closing=self._is_closing)
        self._reserved = sold.reserved
        self._checkout.in_hand.reserve(handover.channel_id, self._reserved)
        if order.idempotency_key is not None:
            self._reservation = self._joined(sold)

    def _joined(self, sold: Sold) -> Reservation | None:
        """What it has reserved, or what those before it under its key have, if one is in hand here. A close
        that has begun waits for those before it alone."""
        shared, bought = self._checkout.shared, (sold.sale.channel_id, sold.sale.cumulative_amount)
        if not sold.is_replay:
            reservation = shared[bought] = Reservation(sold.reserved)
        elif (earlier := shared.get(bought)) is not None and sold.account.goes_on:
            reservation = earlier
        else:
            return None
        reservation.join()
        return reservation

    def finish(self) -> Grant | Answer:
        """The grant, or the answer of the time before; Refused where what that was is unknown."""
        sold, known, unit = self._sold, self._known, self.offer.price.unit
        self._remember()
        if sold.is_replay and not sold.is_repeat:
            return self._replayed()
        challenge_id, receipt = self._handover.challenge_id, None
        if unit is Unit.REQUEST:
            receipt = receipt_headers(self._checkout.till.receipt(sold.account, challenge_id))
        amount = (b"x-payment-amount", b"%d" % sold.sale.cost)
        # Events are counted, and a receipt comes after the last one, so they must be readable.
        request, is_stream = self._request, unit is Unit.EVENT or self._request.wants_events
        fields = request.fields_but(b"accept-encoding") if is_stream else request.fields
        scope = self._place.scope(self._request, [*fields, *known.payer_fields, amount])
        if is_stream and (extensions := scope.get("extensions")):
            scope["extensions"] = {name: extensions[name] for name in extensions if name not in BY_SERVER}
        self.granted = Grant(
            self.offer, sold, known, challenge_id, receipt, scope, Bill(known, sold), self._reservation
        )
        return self.granted

    def _replayed(self) -> Answer:
        """What was answered to the same request before."""
        sale, account, *_ = self._sold
        if sale.answer is None:
            raise refused(
                ProblemType.OUTCOME_UNKNOWN,
                "this request was paid and begun before; what was answered is not kept, and it is not done"
                " again",
            )
        answer = replace(unpack(sale.answer), bill=Bill(self._known, self._sold))
        if answer.status >= 400:
            return answer
        is_of_price = (sale.fingerprint or b"").endswith(self.offer.price_digest)
        units = self.offer.price.units_used(sale.cost) if is_of_price else None
        receipt = self._checkout.till.receipt(account, self._handover.challenge_id, units=units)
        return replace(answer, headers=[*answer.headers, *receipt_headers(receipt)])
