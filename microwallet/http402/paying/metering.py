"""A stream that is paid for while it runs: vouchers as the server needs them, within the limit.

draft-evm-session-00, sections "Insufficient Balance During Streaming" and "Receipt Generation".
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import Any

from microwallet.domain.channel import PayerChannel
from microwallet.domain.money import Amount
from microwallet.domain.purchase import Purchase
from microwallet.errors import (
    AboveLimit,
    ConfirmationRequired,
    MalformedMessage,
    OutcomeUnknown,
    PaymentRefused,
)
from microwallet.http402.paying.booking import book
from microwallet.http402.paying.exchange import NoAnswer, NotSent, Pause, Sending, ServerAnswer, Steps
from microwallet.http402.paying.handshake import Handshake, Streaming
from microwallet.http402.paying.receipts import BookedPayment
from microwallet.http402.paying.spending import Held
from microwallet.http402.wire.events import (
    NEED_VOUCHER,
    RECEIPT,
    EventReader,
    EventSplitter,
    NeedVoucher,
    without_payment,
)

_MOST_REPEATS = 3
"""How often the server may ask for a voucher that it was given, while it accepts no better one."""
_MOST_ASKED_AGAIN = 100
"""How often it may ask for it in all: what it says it accepted is only its word."""
_SENT_AGAIN_AFTER = (0.2, 1.0)
"""Seconds after which a request without an answer, or with a failure of the server's, is sent again: a
voucher, or one for a challenge."""


class MeteredStream:
    """Reads a stream of server-sent events as it passes, and pays for it. Its cost is settled once."""

    def __init__(self, handshake: Handshake, streaming: Streaming) -> None:
        self._handshake = handshake
        self._held: Held = streaming.held
        self._purchases: list[Purchase] = [streaming.held.purchase]
        self._receipt: dict[str, Any] | None = None
        self._reader = EventReader()
        self._splitter = EventSplitter()
        self._repeats = 0
        self._asked_again = 0
        """How often the newest voucher was asked for again."""
        self._accepted = 0
        self._events = 0
        self.has_ended = False
        """Whether the server said by a receipt that this is all."""
        self.payment: BookedPayment | None = None
        """Once it is settled."""

    @property
    def channel(self) -> PayerChannel:
        """What it is paid from."""
        return self._held.channel

    @property
    def reserved(self) -> int:
        """Base units reserved for the stream so far, in earlier runs under its key too."""
        beside = self._held.beside
        besides = self._held.earlier + (0 if beside is None else beside.cost)
        return besides + sum(purchase.cost for purchase in self._purchases)

    @property
    def _bought(self) -> list[Purchase]:
        """The purchases that its receipt tells of. Not the first if an earlier run made it and it bought
        something then: it was settled, or more was bought after it."""
        first, *more = self._purchases
        return more if more and (first.is_paid or self._held.earlier) else self._purchases

    def feed(self, chunk: bytes) -> Steps[None]:
        """Take in what was received, and hand over the vouchers it asks for.

        Raises AboveLimit where the server wants more than was agreed to, PaymentRefused where it does
        not take a voucher, and what a top-up raises: the stream is to be closed then.
        """
        for event in self._reader.feed(chunk):
            if event.type == RECEIPT:
                self._receipt, self.has_ended = event.json(), True
                continue
            self._receipt, self.has_ended = None, False  # an earlier receipt does not tell of this event
            if event.type == NEED_VOUCHER:
                yield from self._pay(NeedVoucher.parse(event))
            else:
                self._events += 1
                self._check_limit()

    def own(self, chunk: bytes) -> bytes:
        """The server's own events that a chunk completes, byte for byte; those about payment are left out.

        Raises MalformedMessage as `feed`.
        """
        return b"".join(map(without_payment, self._splitter.feed(chunk)))

    def left(self) -> bytes:
        """The beginning of an event whose end did not come."""
        return without_payment(self._splitter.rest)

    def settle(self, *, was_left: bool = False) -> BookedPayment:
        """Record what the stream cost: by its last receipt, else all that was reserved.

        A stream that `was_left` before its end need not have a receipt. Then its payment is the most that the
        payee could take for it, including what is counted with other requests.
        """
        if self.payment is None:
            spending, held = self._handshake.spending, self._held
            chargeable = spending.chargeable(held.channel)
            payment = book(
                spending,
                self._bought,
                held,
                self._receipt,
                owes_receipt=not was_left,
                delivered=min(self._delivered, chargeable),  # what came beyond that was for nothing
                is_left=not self.has_ended,
            )
            if payment.is_most and held.choice.is_open_ended:
                before = max(0, chargeable - payment.amount)
                payment = replace(payment, amount=payment.amount + before, signed_before=before)
            self.payment = payment
            self._handshake.close()
        return self.payment

    def drop(self) -> None:
        """Free the channel of a stream that was dropped without being closed. What was reserved for it stays
        counted as spent."""
        self._handshake.close()

    def _check_limit(self) -> None:
        """AboveLimit once more was delivered than the limit pays for: the payee may charge it without asking,
        to what was signed for other requests."""
        limit = self._handshake.spending.limit(self._held.choice)
        if self._delivered > limit:
            price = self._held.choice.price
            raise AboveLimit(
                f"the stream has gone on beyond {Amount(limit, price.asset)}: it was stopped",
                hint=f'--max-amount "{Amount(2 * limit, price.asset)}"',
            )

    @property
    def _delivered(self) -> int:
        """What the received events cost; 0 where the price is not by event."""
        choice = self._held.choice
        return self._events * choice.price.base_units if choice.is_by_event else 0

    def _pay(self, needed: NeedVoucher) -> Steps[None]:
        held, price = self._held, self._held.choice.price
        if self.payment is not None:
            raise PaymentRefused("the stream was closed meanwhile: nothing more is signed for it")
        if needed.channel_id != held.channel.channel_id:
            raise MalformedMessage(f"the stream asks for a voucher of channel {needed.channel_id}, not ours")
        newest = self._purchases[-1]
        if needed.required_cumulative <= newest.cumulative_amount:
            # It has not arrived yet, or it was lost. Those of requests beside the stream may arrive first.
            if needed.accepted_cumulative > self._accepted:
                self._accepted, self._repeats = needed.accepted_cumulative, 0
            self._repeats += 1
            self._asked_again += 1
            if self._repeats > _MOST_REPEATS or self._asked_again > _MOST_ASKED_AGAIN:
                raise PaymentRefused("the stream asks again and again for a voucher that it was given")
            yield from self._hand_over(newest)
            return
        handshake = self._handshake
        channel = handshake.spending.newest(held.channel)
        cost = max(price.base_units, needed.required_cumulative - channel.spent)
        limit = handshake.spending.limit(held.choice)
        if self.reserved + cost > limit:
            wanted = Amount(self.reserved + cost, price.asset)
            raise AboveLimit(
                f"the stream goes on for {wanted}, and at most {Amount(limit, price.asset)} may be paid for"
                f" it: it was stopped after {Amount(self.reserved, price.asset)}",
                hint=f'--max-amount "{Amount(max(self.reserved + cost, 2 * limit), price.asset)}"',
            )
        terms = handshake.spending.terms(held.choice, reserved=self.reserved)
        terms = replace(terms, cost=cost, at_least=needed.required_cumulative)
        try:
            more = yield from self._sent(handshake.spending.buy_more(held, terms, continues=True))
        except ConfirmationRequired as error:
            paid = Amount(self.reserved, price.asset)
            raise AboveLimit(
                f"the stream was stopped after {paid}, as the deposit is used up and nobody agreed to more:"
                f" {error.message}",
                hint=error.hint,
            ) from error
        self._held = replace(held, channel=more.channel, deposited=more.deposited)
        self._purchases.append(more.purchase)
        self._asked_again = 0
        yield from self._hand_over(more.purchase)

    def _hand_over(self, purchase: Purchase) -> Steps[None]:
        """Send a voucher beside the stream, and again with a fresh challenge or after telling of the last
        top-up.

        Both are tried in turn, since the answer to a HEAD does not say what is missing.
        """
        handshake = self._handshake
        held = self._held
        if held.choice.challenge.has_expired(handshake.client.clock()):
            answer = yield from self._sent(_sent_again(Sending()))
            self._held = held = yield from self._renewed(held, answer, is_head=False)
        answer = yield from self._sent(self._voucher(held, purchase))
        if answer.status == 402 and answer.challenges:
            self._held = held = yield from self._renewed(held, answer, is_head=True)
            answer = yield from self._sent(self._voucher(held, purchase))
        if answer.status == 402 and (yield from handshake.remedies.told_of_top_up(held)):
            answer = yield from self._sent(self._voucher(held, purchase))
        if not 200 <= answer.status < 300:
            raise PaymentRefused(f"the server refuses a voucher of its own stream with {answer.status}")

    def _renewed(self, held: Held, answer: ServerAnswer, *, is_head: bool) -> Steps[Held]:
        choice = yield from self._handshake.remedies.renewed(held, answer, is_head=is_head)
        return replace(held, choice=choice)

    def _voucher(self, held: Held, purchase: Purchase) -> Steps[ServerAnswer]:
        challenge = held.choice.challenge
        field = self._handshake.spending.signer(held.channel).voucher(challenge, purchase.cumulative_amount)
        return (yield from _sent_again(Sending.answering(challenge, field, is_head=True)))

    def _sent(self, steps: Steps[Any]) -> Steps[Any]:
        """Do steps whose requests must be answered."""
        try:
            return (yield from steps)
        except (NotSent, NoAnswer) as error:
            raise OutcomeUnknown(
                f"the stream was stopped, as it could not be paid on: {error}; all that was authorized for it"
                " counts as spent",
                hint=f"microwallet channel show {self.channel.name}",
            ) from error


def _sent_again(sending: Sending) -> Steps[ServerAnswer]:
    """Send a request that buys nothing by itself, and again while no answer comes, or the server fails."""
    for seconds in _SENT_AGAIN_AFTER:
        with suppress(NotSent, NoAnswer):
            answer = yield sending
            if answer.status < 500:
                return answer
        yield Pause(seconds)
    return (yield sending)
