"""The gateway's decisions: which requests are served, and what they cost whom.

draft-httpauth-payment-00; draft-evm-session-00, section "Verification Procedure". Cheap checks come first,
then the signature, then the chain, and the commit before anything is served.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from typing import Any

from microwallet.domain.channel import ChannelState
from microwallet.domain.identifiers import ChannelId, TxHash
from microwallet.domain.session import SessionAccount
from microwallet.errors import MalformedMessage, MicrowalletError
from microwallet.http402.charging.answers import (
    Answer,
    page_answer,
    plain_answer,
    problem_answer,
    receipt_answer,
    unchecked_answer,
    unpaid_answer,
    unrecorded_answer,
)
from microwallet.http402.charging.chain import PayeeChain
from microwallet.http402.charging.challenge_book import AnsweredChallenge, ChallengeBook
from microwallet.http402.charging.channel_book import ChannelBook, KnownChannel
from microwallet.http402.charging.checkout import Buying, Checkout, Grant, Handing, Place, Presented
from microwallet.http402.charging.checks import (
    BODY_LIMIT,
    check_digest,
    check_signature,
    check_takes,
    only_credential,
    only_key,
    read_credential,
)
from microwallet.http402.charging.deposit_relay import DepositRelay
from microwallet.http402.charging.desk import Desk
from microwallet.http402.charging.group_commit import NotReady
from microwallet.http402.charging.offers import Offer, Terms, offer_of
from microwallet.http402.charging.once import Once
from microwallet.http402.charging.opening import Opening
from microwallet.http402.charging.page import payment_page, wants_page
from microwallet.http402.charging.paths import canonical_path, path_below, without_parameters
from microwallet.http402.charging.refusal import Refused
from microwallet.http402.charging.request import Request
from microwallet.http402.charging.routes import Routes
from microwallet.http402.charging.store import SessionStore
from microwallet.http402.charging.till import Till
from microwallet.http402.wire.body_digest import body_digest
from microwallet.http402.wire.session_credential import SeenCredentials
from microwallet.http402.wire.session_payload import (
    CloseAction,
    OpenAction,
    TopUpAction,
    VoucherAction,
    separate_deposit,
)
from microwallet.payee.in_hand import InHandHere

IN_HAND_SECONDS = 10.0
"""For how long a close waits for requests in hand."""
PLACES_KEPT = 4096
"""Requests of which it is remembered where they go."""
LONGEST_KEPT = 512
"""Bytes of method, path and its root together; of longer ones it is found out each time."""

_HANDS_OVER = {"POST": ("GET",), "HEAD": ("POST", "PUT", "PATCH", "DELETE")}
"""With which method something is handed over for what others buy."""
_BAD_REQUEST = plain_answer(400, "Bad Request", "the path may be read as another one by what stands behind")
_NOT_FOUND = plain_answer(404, "Not Found", "no route of this gateway sells it, or makes it free")
_IN_THE_CLEAR = plain_answer(
    403,
    "Forbidden",
    "payments do not go in the clear: as far as the server knows, this did not come over https",
)
_VARY = (b"vary", b"accept")


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
        in_hand: InHandHere,
        *,
        openings: Desk[PayeeChain],
        relay: Desk[DepositRelay],
        close_channel: Callable[[ChannelId], Awaitable[TxHash | None]],
        clock: Callable[[], int],
    ) -> None:
        self.terms = terms
        self.till = Till(store, terms.chain_id, clock=clock)
        self._routes = routes
        self._place = lru_cache(PLACES_KEPT)(self._find_place)
        self._clock = clock
        self._close_channel = close_channel
        self.in_hand = in_hand
        channels = ChannelBook(store, chain, clock=clock)
        self._opening = Opening(terms, channels, openings, relay)
        self._checkout = Checkout(
            challenges=ChallengeBook(terms.secrets, clock),
            channels=channels,
            seen=SeenCredentials(),
            till=self.till,
            in_hand=self.in_hand,
            closing=Once(),
            clock=clock,
        )
        self._offers = {
            id(route): offer_of(terms, route, route.price)
            for route in routes.routes
            if route.price is not None
        }

    def admit(self, request: Request) -> Coroutine[Any, Any, Place | Grant | Answer]:
        """What becomes of a request: a grant to serve it, the place that is free, or the answer to it."""
        method, raw_path, root = request.method, request.raw_path, request.root
        is_kept = len(method) + len(raw_path) + len(root) <= LONGEST_KEPT
        place = (self._place if is_kept else self._find_place)(method, raw_path, root)
        if isinstance(place, Answer):
            return _at_once(place)
        hands_over = place.hands_over if request.credentials else ()
        if (hands_over or place.offer) and request.is_in_the_clear:
            return _at_once(_IN_THE_CLEAR)
        if hands_over:
            return self._paid(request, place, _asked_for(request, hands_over))
        if place.offer is None:
            return _at_once(_NOT_FOUND if place.is_other else place)
        if request.credentials:
            return self._paid(request, place, place.offer)
        return self._unpaid(request, place.offer)

    def hear(self, states: Mapping[ChannelId, ChannelState], *, at: int) -> None:
        """What whoever settles was told of channels by the chain `at`, Unix seconds."""
        self._checkout.channels.hear(states, at=at)

    def challenge_field(self, offer: Offer, *, body: bytes | None) -> tuple[bytes, bytes]:
        """A fresh challenge, for a request with this body; for any if it is None."""
        digest = None if body is None else body_digest(body)
        return b"www-authenticate", offer.challenge_field(self._clock(), digest=digest)

    async def _paid(self, request: Request, place: Place, offer: Offer) -> Grant | Answer:
        """What becomes of a request with a credential: mostly it is like one before but for its voucher."""
        checkout = self._checkout
        presented: Handing | Buying | None = None
        outcome: Grant | Answer | None = None
        try:
            presented = (Handing if place.hands_over else Buying)(checkout, request, place, offer)
            try:
                if not presented.is_like_another:
                    raise NotReady
                outcome = await self.till.do(presented)
                return outcome
            except NotReady:
                presented.leave()
                outcome = await self._prepared(request, presented)
                if outcome is None:
                    outcome = await self.till.do(presented)
                return outcome
        except Refused as refusal:
            if presented is not None:
                presented.leave()  # no close waits for a body
            body = None if place.hands_over else await request.own_body(BODY_LIMIT)
            return problem_answer(refusal.problem, _VARY, self.challenge_field(offer, body=body))
        except MicrowalletError as error:
            is_sold = presented is not None and presented.granted is not None
            return unrecorded_answer(error) if is_sold else unchecked_answer(error)
        finally:
            if presented is not None and not isinstance(outcome, Grant):
                self._leave(presented)

    def _leave(self, presented: Presented) -> None:
        """It is not served; what it bought is given back, if it was cancelled since."""
        if (granted := presented.granted) is None:
            presented.leave()
            return

        def left(undone: asyncio.Future[bool]) -> None:
            presented.leave()
            undone.exception()  # of a disk that has failed, as is told elsewhere

        self.till.undo(granted.sold.sale).add_done_callback(left)

    async def _prepared(self, request: Request, presented: Presented) -> Answer | None:
        """Do all that takes more than a look into memory, so that the till can do the rest; the answer, if a
        credential asks for nothing of the till."""
        checkout, offer = self._checkout, presented.offer
        challenge, action, source = read_credential(presented.field)
        issued = checkout.challenges.check(challenge, offer)
        if challenge.digest is not None:
            await check_digest(request, challenge.digest)
        if isinstance(action, TopUpAction):
            known = checkout.known(action.channel_id, offer)
            account = await self._top_up(known, action, offer)
            return receipt_answer(self.till.receipt(account, challenge.id))
        voucher = action.voucher
        issued.check_serves(voucher.channel_id)
        known = await self._channel(action, source, offer)
        channels = checkout.channels
        is_short = channels.falls_short(known, voucher.cumulative_amount)
        if isinstance(action, CloseAction) or is_short or not channels.is_fresh(known):
            check_signature(known.digest, known.is_by_signer, voucher)  # before the chain is asked
            if is_short:
                channels.doubt(known)
            await channels.freshen(known)
        if isinstance(action, CloseAction):
            return await self._close(known, issued)
        if request.idempotency_keys and request.has_body and isinstance(presented, Buying):
            only_key(request)
            await request.body(BODY_LIMIT)
        presented.holds(issued, action)
        return None

    async def _channel(
        self, action: OpenAction | VoucherAction | CloseAction, source: str | None, offer: Offer
    ) -> KnownChannel:
        """The channel of an action, with the deposit that comes with it."""
        channel_id = action.voucher.channel_id
        checkout = self._checkout
        if isinstance(action, OpenAction) and checkout.channels.get(channel_id) is None:
            return await self._opening.open(action, source, offer)
        if not isinstance(action, VoucherAction) or action.merged is None:
            return checkout.known(channel_id, offer)
        deposit = separate_deposit(action.voucher, action.merged)
        if isinstance(deposit, OpenAction):
            return await self._channel(deposit, source, offer)
        known = checkout.known(channel_id, offer)
        check_signature(known.digest, known.is_by_signer, action.voucher)
        await checkout.channels.freshen(known)
        check_takes(known, action.voucher, deposit)
        await self._top_up(known, deposit, offer)
        return known

    async def _top_up(self, known: KnownChannel, action: TopUpAction, offer: Offer) -> SessionAccount:
        self._checkout.channels.record(known, await self._opening.topped_up(known, action, offer))
        return await self.till.account(known.channel_id)

    async def _close(self, known: KnownChannel, issued: AnsweredChallenge) -> Answer:
        """Close with what was charged: any voucher rightly signed asks for it, the best one pays for it.

        What requests in hand will cost is waited for, as it cannot be given back later, and nothing is
        sold here meanwhile; nor is it by others once the close is being sent.
        """
        transaction_hash = None
        if not known.state.finalized:

            async def close_when_idle() -> TxHash | None:
                await self.in_hand.until_none(known.channel_id, within=IN_HAND_SECONDS)
                return await self._close_channel(known.channel_id)

            transaction_hash = await self._checkout.closing.run(known.channel_id, close_when_idle)
            self._checkout.channels.doubt(known)
        receipt = self.till.receipt(await self.till.account(known.channel_id), issued.challenge.id)
        return receipt_answer(receipt.with_transaction(transaction_hash))

    async def _unpaid(self, request: Request, offer: Offer) -> Answer:
        """What is asked for a request without a credential."""
        challenge = self.challenge_field(offer, body=await request.own_body(BODY_LIMIT))
        if request.method in ("GET", "HEAD") and wants_page(", ".join(request.values(b"accept"))):
            page = payment_page(
                url=request.url, price=offer.price, payee=self.terms.payee, network=self.terms.network
            )
            return page_answer(page, _VARY, challenge)
        return unpaid_answer(offer.unpaid, _VARY, challenge)

    def _find_place(self, method: str, raw_path: bytes, root: str) -> Place | Answer:
        """Where a request goes, by its path as it stood in the request line; the answer if nowhere."""
        try:
            path = canonical_path(raw_path.decode("latin-1"))
        except MalformedMessage:
            return _BAD_REQUEST
        below = path_below(root, path)
        route = self._routes.find(method, below)
        if ";" in below and self._routes.find(method, without_parameters(below)) is not route:
            return _BAD_REQUEST
        if route is not None and self._routes.may_cost(method, below, route):
            return _BAD_REQUEST
        offer = None if route is None else self._offers.get(id(route))
        hands_over: Sequence[Offer] = ()
        if method == "HEAD" or offer is None:
            routes = [route, *(self._routes.find(other, below) for other in _HANDS_OVER.get(method, ()))]
            once = dict.fromkeys(map(id, routes))
            hands_over = [self._offers[one] for one in once if one in self._offers]
        if route is None and not hands_over:
            return _NOT_FOUND
        return Place.of(path, offer, hands_over=hands_over, is_other=route is None)


def _asked_for(request: Request, offers: Sequence[Offer]) -> Offer:
    """The offer whose challenge a credential answers; the first where it answers none of them."""
    if len(offers) == 1:
        return offers[0]
    with suppress(Refused, MalformedMessage):
        challenge = read_credential(only_credential(request.credentials)).challenge
        return next((one for one in offers if one.asked_by(challenge)), offers[0])
    return offers[0]


async def _at_once(outcome: Place | Answer) -> Place | Answer:
    """What needs no waiting."""
    return outcome
