"""The gateway's decisions: which requests are served, and what they cost whom.

draft-httpauth-payment-00; draft-evm-session-00, section "Verification Procedure". Cheap checks come first,
then the signature, then the chain, and the commit before anything is served.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache

from microwallet.domain.identifiers import ChannelId, TxHash
from microwallet.domain.session import SessionAccount
from microwallet.errors import LedgerError, MalformedMessage, NetworkError
from microwallet.http402.charging import sales
from microwallet.http402.charging.answers import (
    Answer,
    page_answer,
    plain_answer,
    problem_answer,
    receipt_headers,
    unpack,
)
from microwallet.http402.charging.chain import PayeeChain
from microwallet.http402.charging.challenge_book import AnsweredChallenge, ChallengeBook
from microwallet.http402.charging.channel_book import ChannelBook, KnownChannel
from microwallet.http402.charging.checks import (
    BODY_LIMIT,
    Asked,
    action_of,
    check_digest,
    check_signature,
    check_takes,
    fingerprint_of,
    only_credential,
)
from microwallet.http402.charging.deposit_relay import DepositRelay
from microwallet.http402.charging.desk import Desk
from microwallet.http402.charging.group_commit import GroupCommit
from microwallet.http402.charging.offers import Offer, Terms, offer_of
from microwallet.http402.charging.once import Once
from microwallet.http402.charging.opening import Opening
from microwallet.http402.charging.page import payment_page, wants_page
from microwallet.http402.charging.paths import canonical_path
from microwallet.http402.charging.refusal import Refused, refused
from microwallet.http402.charging.routes import Route, Routes, Unit
from microwallet.http402.charging.sales import Handover, Order, Sold
from microwallet.http402.charging.store import SessionStore
from microwallet.http402.wire.body_digest import body_digest
from microwallet.http402.wire.credential import Credential, is_payment
from microwallet.http402.wire.problems import Problem, ProblemType
from microwallet.http402.wire.receipt import SessionReceipt
from microwallet.http402.wire.session_payload import (
    CloseAction,
    OpenAction,
    SignedVoucher,
    TopUpAction,
    VoucherAction,
    separate_deposit,
)

KEY_LIMIT = 255
ROUTES_KEPT = 4096
"""Requests whose route is remembered."""

_POLL_SECONDS = 0.25
"""Between two looks for a voucher that another process accepted."""
_HANDS_OVER = {"POST": ("GET",), "HEAD": ("POST", "PUT", "PATCH", "DELETE")}
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Free:
    """A request that is served for nothing."""

    path: str
    """In the one spelling that is forwarded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """A request that is served because it was paid."""

    path: str
    """In the one spelling that is forwarded."""
    offer: Offer
    sold: Sold
    channel: KnownChannel
    challenge_id: str


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
        clock: Callable[[], int] = lambda: int(time.time()),
    ) -> None:
        self.terms = terms
        self._find_route = lru_cache(ROUTES_KEPT)(routes.find)
        self._clock = clock
        self._commit = GroupCommit(store)
        self._channels = ChannelBook(store, chain, clock=clock)
        self._opening = Opening(terms, self._channels, openings or chain, relay)
        self._close_channel = close_channel
        self._closing = Once[TxHash | None]()
        self._challenges = ChallengeBook(terms.secrets, clock)
        self._news: dict[ChannelId, asyncio.Event] = {}
        self._offers = {
            id(route): offer_of(terms, route, route.price)
            for route in routes.routes
            if route.price is not None
        }

    async def admit(self, asked: Asked) -> Free | Grant | Answer:
        """What becomes of a request: a grant to serve it, or the answer to it."""
        try:
            path = canonical_path(asked.raw_path)
        except MalformedMessage:
            return plain_answer(400, "Bad Request")
        route = self._find_route(asked.method, path)
        if route is not None and route.price is None:
            return Free(path=path)
        credentials = [value for value in asked.values(b"authorization") if is_payment(value)]
        if route is None:
            route = self._sold_otherwise(asked.method, path)
            if route is None or not credentials:
                return plain_answer(404, "Not Found")
            is_service = False
        else:
            is_service = asked.method != "HEAD"
        offer = self._offers[id(route)]
        try:
            credential = only_credential(credentials, offer.cost)
            return await self._paid(asked, path, offer, credential, is_service=is_service)
        except Refused as refusal:
            return await self._refusal(asked, offer, refusal.problem)
        except (NetworkError, LedgerError) as error:
            detail = "it could not be checked or recorded just now; nothing was charged"
            return problem_answer(Problem(type=ProblemType.TRY_AGAIN, detail=f"{detail} ({error.code})"))

    async def undo(self, grant: Grant) -> None:
        """Nothing was served: the cost is given back. What was served another time stays sold."""
        await self._commit.run(lambda rows: sales.undo(rows, grant.sold.sale))

    async def settle_cost(self, grant: Grant, units: int) -> Sold:
        """Charge a grant's sale for what was used, no more than was reserved."""
        sale = grant.sold.sale
        cost = min(sale.cost, units * grant.offer.price.amount.base_units)
        return await self._commit.run(lambda rows: sales.settle_cost(rows, sale, cost))

    async def charge_units(self, grant: Grant, sold: Sold, wanted: int) -> tuple[int, Sold]:
        """Charge a stream for its next units, as many as there is something for; may raise StreamEnded."""
        amount, stream = grant.offer.price.amount.base_units, grant.sold.account.stream
        return await self._commit.run(
            lambda rows: sales.charge_units(rows, sold.sale, amount, wanted=wanted, stream=stream)
        )

    async def voucher_above(self, channel_id: ChannelId, accepted: int) -> None:
        """Wait until a better voucher than one over `accepted` has come, here or to another process."""
        while True:
            news = self._news.setdefault(channel_id, asyncio.Event())
            account = await self._commit.run(lambda rows: rows.account(channel_id))
            if account is None or account.accepted > accepted or account.is_closing:
                self._news.pop(channel_id, None)
                return
            with suppress(TimeoutError):
                async with asyncio.timeout(_POLL_SECONDS):
                    await news.wait()

    async def keep_answer(self, grant: Grant, packed: bytes) -> None:
        """Keep what was answered for the same request again."""
        await self._commit.run(lambda rows: rows.keep_answer(grant.sold.sale, packed))

    def receipt(
        self, account: SessionAccount, challenge_id: str, *, units: int | None = None
    ) -> SessionReceipt:
        """The receipt of a session as it stands."""
        return SessionReceipt(
            timestamp=self._clock(),
            challenge_id=challenge_id,
            channel_id=account.channel_id,
            chain_id=self.terms.chain_id,
            accepted_cumulative=account.accepted,
            spent=account.spent,
            units=units,
        )

    def challenge_field(self, offer: Offer, *, digest: str | None = None) -> tuple[bytes, bytes]:
        """A fresh challenge."""
        return b"www-authenticate", offer.challenge(self._clock(), digest=digest).to_field().encode()

    async def _paid(
        self, asked: Asked, path: str, offer: Offer, authorization: str, *, is_service: bool
    ) -> Grant | Answer:
        try:
            credential = Credential.parse(authorization, known=self._challenges.find)
        except MalformedMessage as error:
            raise refused(ProblemType.MALFORMED_CREDENTIAL, error.message) from error
        issued = self._challenges.check(credential.challenge, offer)
        action = action_of(credential)
        if credential.challenge.digest is not None:
            await check_digest(asked, credential.challenge.digest)
        if isinstance(action, TopUpAction):
            known = self._known(action.channel_id, offer)
            account = await self._top_up(known, action, offer)
            return self._done(self.receipt(account, issued.challenge.id))
        voucher = action.voucher
        _check_serves(issued, voucher.channel_id)
        known = await self._channel(credential, action, offer)
        check_signature(known, voucher)
        await self._channels.freshen(known)
        if isinstance(action, CloseAction):
            return await self._close(known, issued)
        handover = self._handover(known, voucher, issued, offer)
        if not is_service:
            account = await self._commit.run(lambda rows: sales.take(rows, handover, self._clock()))
            issued.channel_id = known.channel_id
            if (news := self._news.pop(known.channel_id, None)) is not None:
                news.set()
            return self._done(self.receipt(account, issued.challenge.id))
        order = await self._order(asked, path, handover, offer)
        sold = await self._commit.run(lambda rows: sales.sell(rows, order, self._clock()))
        issued.channel_id = known.channel_id
        if sold.is_replay:
            return self._replayed(path, offer, sold, known, issued.challenge.id)
        return Grant(path=path, offer=offer, sold=sold, channel=known, challenge_id=issued.challenge.id)

    async def _channel(
        self, credential: Credential, action: OpenAction | VoucherAction | CloseAction, offer: Offer
    ) -> KnownChannel:
        channel_id = action.voucher.channel_id
        if isinstance(action, OpenAction) and self._channels.get(channel_id) is None:
            return await self._opening.open(credential, action, offer)
        if not isinstance(action, VoucherAction) or action.merged is None:
            return self._known(channel_id, offer)
        deposit = separate_deposit(action.voucher, action.merged)
        if isinstance(deposit, OpenAction):
            return await self._channel(credential, deposit, offer)
        known = self._known(channel_id, offer)
        check_signature(known, action.voucher)
        await self._channels.freshen(known)
        check_takes(known, action.voucher, deposit)
        await self._top_up(known, deposit, offer)
        return known

    def _known(self, channel_id: ChannelId, offer: Offer) -> KnownChannel:
        """The channel, if it pays this payee, in this escrow and with this token."""
        known = self._channels.get(channel_id)
        if known is None:
            raise sales.channel_not_found(channel_id)
        if not offer.fits(known.descriptor):
            detail = "the channel is of another payee, escrow, chain or token"
            raise refused(ProblemType.VERIFICATION_FAILED, detail, channel_id)
        return known

    def _handover(
        self, known: KnownChannel, voucher: SignedVoucher, issued: AnsweredChallenge, offer: Offer
    ) -> Handover:
        _check_serves(issued, known.channel_id)
        return Handover(
            channel_id=known.channel_id,
            cumulative_amount=voucher.cumulative_amount,
            signature=voucher.signature,
            deposit=known.state.deposit,
            min_voucher_delta=offer.price.min_voucher_delta,
            challenge_id=issued.challenge.id,
            challenge_expires_at=None if issued.channel_id is not None else issued.expires_at,
        )

    async def _order(self, asked: Asked, path: str, handover: Handover, offer: Offer) -> Order:
        price, keys = offer.price, asked.values(b"idempotency-key")
        if len(keys) > 1 or any(not 0 < len(one) <= KEY_LIMIT or not one.isprintable() for one in keys):
            detail = f"one Idempotency-Key of 1 to {KEY_LIMIT} characters is expected"
            raise refused(ProblemType.MALFORMED_CREDENTIAL, detail, status=400)
        return Order(
            handover=handover,
            cost=price.reserved,
            idempotency_key=keys[0] if keys else None,
            fingerprint=await fingerprint_of(asked, path) if keys else None,
            is_stream=price.unit is Unit.EVENT,
            may_repeat=asked.method in _SAFE and not asked.has_body and price.unit is not Unit.EVENT,
        )

    def _replayed(
        self, path: str, offer: Offer, sold: Sold, known: KnownChannel, challenge_id: str
    ) -> Grant | Answer:
        """The same request again: answered as before, or served again where that harms nobody."""
        if sold.sale.answer is not None:
            answer = unpack(sold.sale.answer)
            if answer.status >= 400:
                return answer
            units = offer.price.units_used(sold.sale.cost)
            receipt = self.receipt(sold.account, challenge_id, units=units)
            return Answer(
                status=answer.status, headers=[*answer.headers, *receipt_headers(receipt)], body=answer.body
            )
        if sold.is_repeat:
            return Grant(path=path, offer=offer, sold=sold, channel=known, challenge_id=challenge_id)
        raise refused(
            ProblemType.OUTCOME_UNKNOWN,
            "this request was paid and begun before; what was answered is not kept, and it is not done again",
        )

    async def _top_up(self, known: KnownChannel, action: TopUpAction, offer: Offer) -> SessionAccount:
        self._channels.record(known, await self._opening.topped_up(known, action, offer))
        return await self._account(known)

    async def _account(self, known: KnownChannel) -> SessionAccount:
        account = await self._commit.run(lambda rows: rows.account(known.channel_id))
        if account is None:
            raise sales.channel_not_found(known.channel_id)
        return account

    async def _close(self, known: KnownChannel, issued: AnsweredChallenge) -> Answer:
        """Close with what was charged: any voucher rightly signed asks for it, the best one pays for it."""
        close = self._close_channel
        if close is None:
            raise refused(ProblemType.VERIFICATION_FAILED, "channels are not closed on demand here")
        transaction_hash = None
        if not known.state.finalized:
            transaction_hash = await self._closing.run(known.channel_id, lambda: close(known.channel_id))
            known.state_at = None
        receipt = self.receipt(await self._account(known), issued.challenge.id)
        return self._done(receipt.with_transaction(transaction_hash))

    def _done(self, receipt: SessionReceipt) -> Answer:
        return Answer(status=200, headers=[*receipt_headers(receipt), (b"content-length", b"0")])

    async def _refusal(self, asked: Asked, offer: Offer, problem: Problem) -> Answer:
        digest = None
        if asked.has_body and problem.type is ProblemType.PAYMENT_REQUIRED:
            body = await asked.read_body(BODY_LIMIT)
            digest = None if body is None else body_digest(body)
        challenge = self.challenge_field(offer, digest=digest)
        is_for_reading = asked.method in ("GET", "HEAD") and problem.type is ProblemType.PAYMENT_REQUIRED
        if is_for_reading and wants_page(", ".join(asked.values(b"accept"))):
            page = payment_page(
                url=asked.url, price=offer.price, payee=self.terms.payee, network=self.terms.network
            )
            return page_answer(page, challenge)
        return problem_answer(problem, (b"vary", b"accept"), challenge)

    def _sold_otherwise(self, method: str, path: str) -> Route | None:
        """The priced route of a resource that a request names without asking for it: it hands something over.

        A POST to what is sold by GET, a HEAD to what is sold by other methods.
        """
        for other in _HANDS_OVER.get(method, ()):
            route = self._find_route(other, path)
            if route is not None and route.price is not None:
                return route
        return None


def _check_serves(issued: AnsweredChallenge, channel_id: ChannelId) -> None:
    if issued.channel_id not in (None, channel_id):
        raise sales.served_another()
