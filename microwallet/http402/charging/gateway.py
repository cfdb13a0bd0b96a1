"""The gateway's decisions: which requests are served, and what they cost whom.

draft-httpauth-payment-00; draft-evm-session-00, section "Verification Procedure". Cheap checks come first,
then the signature, then the chain, and the commit before anything is served.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import lru_cache, partial
from typing import NamedTuple

from microwallet.domain.identifiers import ChannelId, TxHash
from microwallet.domain.session import SessionAccount
from microwallet.errors import LedgerError, MalformedMessage, NetworkError
from microwallet.http402.charging import sales
from microwallet.http402.charging.answers import (
    Answer,
    page_answer,
    plain_answer,
    problem_answer,
    receipt_answer,
    receipt_headers,
    unpack,
    unpaid_answer,
)
from microwallet.http402.charging.bill import Bill
from microwallet.http402.charging.chain import PayeeChain
from microwallet.http402.charging.challenge_book import AnsweredChallenge, ChallengeBook
from microwallet.http402.charging.channel_book import ChannelBook, KnownChannel
from microwallet.http402.charging.checks import (
    BODY_LIMIT,
    action_of,
    check_digest,
    check_signature,
    check_takes,
    fingerprint_of,
    only_credential,
)
from microwallet.http402.charging.deposit_relay import DepositRelay
from microwallet.http402.charging.desk import Desk
from microwallet.http402.charging.group_commit import Check
from microwallet.http402.charging.in_hand import InHand
from microwallet.http402.charging.offers import Offer, Terms, offer_of
from microwallet.http402.charging.once import Once
from microwallet.http402.charging.opening import Opening
from microwallet.http402.charging.page import payment_page, wants_page
from microwallet.http402.charging.paths import canonical_path
from microwallet.http402.charging.refusal import Refused, refused
from microwallet.http402.charging.request import Request
from microwallet.http402.charging.routes import Price, Routes, Unit
from microwallet.http402.charging.sales import Handover, Order, Sold
from microwallet.http402.charging.store import SessionStore
from microwallet.http402.charging.till import Till
from microwallet.http402.wire.body_digest import body_digest
from microwallet.http402.wire.credential import Credential
from microwallet.http402.wire.problems import Problem, ProblemType
from microwallet.http402.wire.session_payload import (
    CloseAction,
    OpenAction,
    SignedVoucher,
    TopUpAction,
    VoucherAction,
    separate_deposit,
)

KEY_LIMIT = 255
IN_HAND_SECONDS = 10.0
"""For how long a close waits for requests in hand."""
PLACES_KEPT = 4096
"""Requests of which it is remembered where they go."""
LONGEST_KEPT = 512
"""Bytes of method and path together; of longer ones it is found out each time."""

_HANDS_OVER = {"POST": ("GET",), "HEAD": ("POST", "PUT", "PATCH", "DELETE")}
"""With which method something is handed over for what others buy."""
_BAD_REQUEST = plain_answer(400, "Bad Request")
_NOT_FOUND = plain_answer(404, "Not Found")
_VARY = (b"vary", b"accept")
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})


class Place(NamedTuple):
    """Where a request goes."""

    path: str
    """In the one spelling that is forwarded."""
    offer: Offer | None
    """None where it costs nothing."""
    hands_over: bool
    """Whether it is no request for what is sold, but brings something for it, such as a voucher."""
    is_other: bool
    """Whether only other methods are sold: without a credential there is nothing here."""


class Free(NamedTuple):
    """A request that is served for nothing."""

    path: str
    """In the one spelling that is forwarded."""


class Grant(NamedTuple):
    """A request that is served because it was paid."""

    path: str
    """In the one spelling that is forwarded."""
    offer: Offer
    sold: Sold
    channel: KnownChannel
    challenge_id: str


class Presented(NamedTuple):
    """A voucher that came with a challenge of ours. Its signature is still to be checked."""

    known: KnownChannel
    issued: AnsweredChallenge
    voucher: SignedVoucher
    check: Check

    def handover(self, offer: Offer) -> Handover:
        """What the till is told."""
        known, issued, voucher = self.known, self.issued, self.voucher
        return Handover(
            channel_id=known.channel_id,
            cumulative_amount=voucher.cumulative_amount,
            signature=voucher.signature,
            deposit=known.state.deposit,
            min_voucher_delta=offer.price.min_voucher_delta,
            challenge_id=issued.challenge.id,
            challenge_expires_at=None if issued.channel_id is not None else issued.expires_at,
        )


class Gateway:
    """Decides about requests. One event loop uses it; `store` may be shared by many processes.

    Whoever has a channel waits for no stranger's `openings`.
    """

    def __init__(
        self,
        terms: Terms,
        routes: Routes,
        store: SessionStore,
        chain: Desk[PayeeChain],
        *,
        openings: Desk[PayeeChain] | None = None,
        relay: Desk[DepositRelay] | None = None,
        close_channel: Callable[[ChannelId], Awaitable[TxHash | None]] | None = None,
        in_hand: InHand | None = None,
        clock: Callable[[], int] = lambda: int(time.time()),
    ) -> None:
        self.terms = terms
        self.till = Till(store, terms.chain_id, clock=clock)
        self._routes = routes
        self._place = lru_cache(PLACES_KEPT)(self._find_place)
        self._clock = clock
        self._channels = ChannelBook(store, chain, clock=clock)
        self._opening = Opening(terms, self._channels, openings or chain, relay)
        self._close_channel = close_channel
        self._closing = Once[TxHash | None]()
        self.in_hand = in_hand or InHand()
        self._challenges = ChallengeBook(terms.secrets, clock)
        self._offers = {
            id(route): offer_of(terms, route, route.price)
            for route in routes.routes
            if route.price is not None
        }

    async def admit(self, request: Request) -> Free | Grant | Answer:
        """What becomes of a request: a grant to serve it, or the answer to it."""
        method, raw_path = request.method, request.raw_path
        is_kept = len(method) + len(raw_path) <= LONGEST_KEPT
        place = (self._place if is_kept else self._find_place)(method, raw_path)
        if isinstance(place, Answer):
            return place
        offer = place.offer
        if offer is None:
            return Free(place.path)
        if not request.credentials:
            return _NOT_FOUND if place.is_other else await self._unpaid(request, offer)
        try:
            return await self._paid(request, place, offer)
        except Refused as refusal:
            return problem_answer(refusal.problem, _VARY, self.challenge_field(offer))
        except (NetworkError, LedgerError) as error:
            detail = "it could not be checked or recorded just now; nothing was charged"
            return problem_answer(Problem(type=ProblemType.TRY_AGAIN, detail=f"{detail} ({error.code})"))

    def challenge_field(self, offer: Offer, *, digest: str | None = None) -> tuple[bytes, bytes]:
        """A fresh challenge."""
        return b"www-authenticate", offer.challenge(self._clock(), digest=digest).to_field().encode()

    async def _paid(self, request: Request, place: Place, offer: Offer) -> Grant | Answer:
        """What becomes of a request that has a credential."""
        try:
            credential = Credential.parse(only_credential(request.credentials), known=self._challenges.find)
        except MalformedMessage as error:
            raise refused(ProblemType.MALFORMED_CREDENTIAL, error.message) from error
        issued = self._challenges.check(credential.challenge, offer)
        action = action_of(credential)
        if credential.challenge.digest is not None:
            await check_digest(request, credential.challenge.digest)
        if isinstance(action, TopUpAction):
            known = self._known(action.channel_id, offer)
            account = await self._top_up(known, action, offer)
            return receipt_answer(self.till.receipt(account, issued.challenge.id))
        voucher = action.voucher
        issued.check_serves(voucher.channel_id)
        if isinstance(action, VoucherAction) and action.merged is None:
            known = self._known(voucher.channel_id, offer)
        else:
            known = await self._channel(credential, action, offer)
        check = partial(check_signature, known.digest, known.is_by_signer, voucher)
        is_close = isinstance(action, CloseAction)
        if is_close or not self._channels.is_fresh(known):
            check()  # before the chain is asked; else with those of others, which is faster
            await self._channels.freshen(known)
        if is_close:
            return await self._close(known, issued)
        issued.check_serves(known.channel_id)  # still: another channel may have come meanwhile
        presented = Presented(known, issued, voucher, check)
        if place.hands_over:
            return await self._take(presented, offer)
        return await self._sell(request, place, offer, presented)

    async def _take(self, presented: Presented, offer: Offer) -> Answer:
        """Accept a voucher that buys nothing by itself."""
        known, issued = presented.known, presented.issued
        account = await self.till.take(presented.handover(offer), check=presented.check)
        issued.channel_id = known.channel_id
        return receipt_answer(self.till.receipt(account, issued.challenge.id))

    async def _sell(
        self, request: Request, place: Place, offer: Offer, presented: Presented
    ) -> Grant | Answer:
        """Let a voucher buy the request, which is in hand until its delivery ends, or this grants none."""
        known, issued = presented.known, presented.issued
        handover = presented.handover(offer)
        if request.idempotency_keys:
            order = await _keyed_order(request, place.path, handover, offer.price)
        else:
            order = Order(handover, cost=offer.price.reserved, is_stream=offer.price.unit is Unit.EVENT)
        self.in_hand.begin(known.channel_id)
        outcome: Grant | Answer | None = None
        try:
            is_closing = known.channel_id in self._closing
            sold = await self.till.sell(order, check=presented.check, is_closing=is_closing)
            issued.channel_id = known.channel_id
            grant = Grant(place.path, offer, sold, known, issued.challenge.id)
            outcome = self._replayed(grant) if sold.is_replay else grant
            return outcome
        finally:
            if not isinstance(outcome, Grant):
                self.in_hand.end(known.channel_id)

    async def _channel(
        self, credential: Credential, action: OpenAction | VoucherAction | CloseAction, offer: Offer
    ) -> KnownChannel:
        """The channel of an action, with the deposit that comes with it."""
        channel_id = action.voucher.channel_id
        if isinstance(action, OpenAction) and self._channels.get(channel_id) is None:
            return await self._opening.open(credential, action, offer)
        if not isinstance(action, VoucherAction) or action.merged is None:
            return self._known(channel_id, offer)
        deposit = separate_deposit(action.voucher, action.merged)
        if isinstance(deposit, OpenAction):
            return await self._channel(credential, deposit, offer)
        known = self._known(channel_id, offer)
        check_signature(known.digest, known.is_by_signer, action.voucher)
        await self._channels.freshen(known)
        check_takes(known, action.voucher, deposit)
        await self._top_up(known, deposit, offer)
        return known

    def _known(self, channel_id: ChannelId, offer: Offer) -> KnownChannel:
        """The channel, if it pays this payee, in this escrow and with this token."""
        known = self._channels.get(channel_id)
        if known is None:
            raise sales.channel_not_found(channel_id)
        if known.fitted is not offer:
            if not offer.request.fits(known.descriptor):
                detail = "the channel is of another payee, escrow, chain or token"
                raise refused(ProblemType.VERIFICATION_FAILED, detail, channel_id)
            known.fitted = offer
        return known

    def _replayed(self, grant: Grant) -> Grant | Answer:
        """The same request again: answered as before, or served again where that harms nobody."""
        sold = grant.sold
        if sold.sale.answer is not None:
            answer = replace(unpack(sold.sale.answer), bill=Bill(grant.channel, sold))
            if answer.status >= 400:
                return answer
            units = grant.offer.price.units_used(sold.sale.cost)
            receipt = self.till.receipt(sold.account, grant.challenge_id, units=units)
            return replace(answer, headers=[*answer.headers, *receipt_headers(receipt)])
        if sold.is_repeat:
            return grant
        raise refused(
            ProblemType.OUTCOME_UNKNOWN,
            "this request was paid and begun before; what was answered is not kept, and it is not done again",
        )

    async def _top_up(self, known: KnownChannel, action: TopUpAction, offer: Offer) -> SessionAccount:
        self._channels.record(known, await self._opening.topped_up(known, action, offer))
        return await self.till.account(known.channel_id)

    async def _close(self, known: KnownChannel, issued: AnsweredChallenge) -> Answer:
        """Close with what was charged: any voucher rightly signed asks for it, the best one pays for it.

        What requests in hand will cost is waited for, as it cannot be given back later, and nothing is
        sold here meanwhile; nor is it by others once the close is being sent.
        """
        close = self._close_channel
        if close is None:
            raise refused(ProblemType.VERIFICATION_FAILED, "channels are not closed on demand here")
        transaction_hash = None
        if not known.state.finalized:

            async def close_when_idle() -> TxHash | None:
                await self.in_hand.until_none(known.channel_id, within=IN_HAND_SECONDS)
                return await close(known.channel_id)

            transaction_hash = await self._closing.run(known.channel_id, close_when_idle)
            self._channels.doubt(known)
        receipt = self.till.receipt(await self.till.account(known.channel_id), issued.challenge.id)
        return receipt_answer(receipt.with_transaction(transaction_hash))

    async def _unpaid(self, request: Request, offer: Offer) -> Answer:
        """What is asked for a request without a credential."""
        digest = None
        if request.has_body:
            body = await request.body(BODY_LIMIT)
            digest = None if body is None else body_digest(body)
        challenge = self.challenge_field(offer, digest=digest)
        if request.method in ("GET", "HEAD") and wants_page(", ".join(request.values(b"accept"))):
            page = payment_page(
                url=request.url, price=offer.price, payee=self.terms.payee, network=self.terms.network
            )
            return page_answer(page, challenge)
        return unpaid_answer(offer.unpaid, _VARY, challenge)

    def _find_place(self, method: str, raw_path: bytes) -> Place | Answer:
        """Where a request goes, by its path as it stood in the request line; the answer if nowhere."""
        try:
            path = canonical_path(raw_path.decode("latin-1"))
        except MalformedMessage:
            return _BAD_REQUEST
        route = self._routes.find(method, path)
        if route is not None:
            if route.price is None:
                return Place(path, None, hands_over=False, is_other=False)
            return Place(path, self._offers[id(route)], hands_over=method == "HEAD", is_other=False)
        for other in _HANDS_OVER.get(method, ()):
            route = self._routes.find(other, path)
            if route is not None and route.price is not None:
                return Place(path, self._offers[id(route)], hands_over=True, is_other=True)
        return _NOT_FOUND


async def _keyed_order(request: Request, path: str, handover: Handover, price: Price) -> Order:
    """The order of a request that is to be served once, however often it comes."""
    keys = request.idempotency_keys
    if len(keys) > 1 or not 0 < len(keys[0]) <= KEY_LIMIT or not keys[0].isprintable():
        detail = f"one Idempotency-Key of 1 to {KEY_LIMIT} characters is expected"
        raise refused(ProblemType.MALFORMED_CREDENTIAL, detail, status=400)
    is_stream = price.unit is Unit.EVENT
    return Order(
        handover,
        cost=price.reserved,
        idempotency_key=keys[0],
        fingerprint=await fingerprint_of(request, path),
        is_stream=is_stream,
        may_repeat=request.method in _SAFE and not request.has_body and not is_stream,
    )
