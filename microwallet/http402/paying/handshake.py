"""Paying for one request: challenge, credential, receipt, as a generator that does no HTTP itself.

draft-httpauth-payment-00, section "Request Flow"; draft-evm-session-00, section "Session Flow". The
ledger, keys and the chain are used in between, on the thread that drives the generator.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from microwallet.domain.money import Amount
from microwallet.errors import LedgerError, NetworkError, OutcomeUnknown
from microwallet.http402.paying.asking import Asking, looking_at
from microwallet.http402.paying.booking import book
from microwallet.http402.paying.choice import Choice
from microwallet.http402.paying.client import PayingClient
from microwallet.http402.paying.exchange import Asked, NoAnswer, NotSent, Sending, ServerAnswer, Steps
from microwallet.http402.paying.funding import Funding, Preview
from microwallet.http402.paying.receipts import BookedPayment
from microwallet.http402.paying.remedies import Remedies, counts
from microwallet.http402.paying.spending import Held, Spending
from microwallet.http402.wire.challenge import AUTHORIZATION
from microwallet.http402.wire.events import may_bring_events
from microwallet.http402.wire.problems import ProblemType, ToldProblem

_BY_INTERMEDIARIES = frozenset({502, 503, 504, *range(520, 528)})
"""What stands in for an answer that did not come: caches say 503, and Cloudflare has numbers of its own. An
error of the payee's own has a challenge, or a problem document where it cannot sell any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WouldPay:
    """Where a dry run stopped: nothing was signed."""

    choice: Choice
    preview: Preview
    most: Amount
    """What the request costs at most, whatever the payee asks for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Streaming:
    """A paid stream has begun: what it costs is known at its end."""

    held: Held


class Handshake:
    """Asks, pays and checks. What a server refuses is mended, a bounded number of times."""

    def __init__(self, open_client: Callable[[], PayingClient], asked: Asked) -> None:
        """Nothing is opened for a request that turns out to be free."""
        self.asked = asked
        self._asking = Asking(open_client, asked)
        self._said: set[str] = set()
        self._spending: Spending | None = None
        self.unanswered: OutcomeUnknown | None = None
        """What is to be said of a payment that was sent, where nobody waits any more for its answer to come
        and be recorded."""

    @property
    def client(self) -> PayingClient:
        """What pays."""
        return self._asking.client

    @property
    def spending(self) -> Spending:
        """What is bought, and what that may cost."""
        if self._spending is None:
            self._spending = Spending(self.client, self.asked)
        return self._spending

    @cached_property
    def remedies(self) -> Remedies:
        """What is tried after a refusal."""
        return Remedies(self._asking, self.spending)

    def close(self) -> None:
        """Let go of what a stream holds."""
        if self._spending is not None:
            self._spending.close()

    def run(self) -> Steps[BookedPayment | Streaming | WouldPay | None]:
        """Ask, pay if the server wants to be paid, and check what it says then.

        None where nothing was paid: the last answer is the server's own. A HEAD is not paid for; see
        draft-evm-session-00, section "Voucher Submission Transport". Raises PaymentRefused and its
        kind, OutcomeUnknown when the credential left and no answer came.
        """
        begun = None if self.asked.idempotency_key is None else self.spending.begun()
        answer = yield from self._asking.exchange()
        if answer.status != ProblemType.PAYMENT_REQUIRED.status:
            return None
        if self.asked.method == "HEAD":
            return None  # a voucher with it would be handed over, and buy nothing
        choice = self._asking.choose(answer)
        if self.client.limits.dry_run:
            preview = Funding(self.client, choice).preview(self.spending.terms(choice))
            most = Amount(self.spending.limit(choice), choice.price.asset)
            return WouldPay(choice=choice, preview=preview, most=most)
        if begun is None:
            held = yield from self.spending.buy(choice)
        else:
            held = self.spending.resumed(choice, begun)
        while True:
            held = yield from self.remedies.in_time(held)
            answer = yield from self._submit(held)
            if (yield from self.remedies.waited(held, answer)):
                continue
            if answer.status >= 500:
                self.spending.give_back(held)
                self.client.reporter.say(_after_an_error(held, answer.status))
                return None
            is_refusal = answer.receipt is None and answer.problem.type is not None
            if not is_refusal and answer.status != ProblemType.PAYMENT_REQUIRED.status:
                return self._served(held, answer)
            held = yield from self.remedies.mended(held, answer)

    def _submit(self, held: Held) -> Steps[ServerAnswer]:
        signer, amount = self.spending.signer(held.channel), held.purchase.cumulative_amount
        challenge = held.choice.challenge
        if held.open_hash is None:
            field = signer.voucher(challenge, amount)
        else:
            field = signer.open(challenge, amount, held.open_hash)
        if self.asked.idempotency_key is None:
            self._say_once(f"idempotency key: {self.asked.key}")
        if self.asked.has_authorization and challenge.credential_field == AUTHORIZATION:
            self._say_once("the payment takes the place of the request's own Authorization")
        self.unanswered = self._unknown(held, "no answer came")
        try:
            key = self.spending.request.idempotency_key
            answer = yield Sending.answering(
                challenge, field, idempotency_key=key, may_be_stream=held.choice.is_by_event
            )
        except NotSent as error:
            self.spending.give_back(held)
            raise NetworkError(
                f"{self._asking.origin} cannot be reached any more: {error}; nothing was paid",
                hint=looking_at(self._asking.origin, error),
            ) from error
        except NoAnswer as error:
            raise self._unknown(held, f"no answer came: {error}") from error
        self.unanswered = None
        if (why := _why_unknown(answer)) is not None:
            raise self._unknown(held, why)
        return answer

    def _say_once(self, note: str) -> None:
        if note not in self._said:
            self._said.add(note)
            self.client.reporter.say(note)

    def _unknown(self, held: Held, why: str) -> OutcomeUnknown:
        """The purchase stays counted as spent, and its voucher goes out again under the same key alone."""
        price = Amount(held.purchase.cost, held.channel.asset)
        return OutcomeUnknown(
            f"{price} may have been paid to {held.channel.descriptor.payee}, but {why}",
            hint=self.asked.again,
            data={"idempotencyKey": self.asked.key},
        )

    def _served(self, held: Held, answer: ServerAnswer) -> BookedPayment | Streaming:
        """What the server answers below 500 without a refusal it has charged, an error of its own too."""
        if answer.is_stream and may_bring_events(answer.status):
            return Streaming(held=held)
        owes_receipt = answer.status < 400
        self.unanswered = self._unknown(held, "the answer was not recorded")
        try:
            payment = book(self.spending, [held.purchase], held, answer.receipt, owes_receipt=owes_receipt)
        except LedgerError as error:
            raise self._unknown(held, f"the answer could not be recorded: {error.message}") from error
        self.unanswered = None
        return payment


def _why_unknown(answer: ServerAnswer) -> str | None:
    """What came instead of the answer to a payment: an intermediary's word, or that of a payee whose disk
    failed."""
    is_told = answer.challenges or answer.problem != ToldProblem()
    if answer.status in _BY_INTERMEDIARIES and not is_told:
        return f"the answer is {answer.status}"
    if answer.status >= 500 and answer.problem.type is ProblemType.OUTCOME_UNKNOWN:
        return f"the answer is {answer.status}: {answer.problem}"
    return None


def _after_an_error(held: Held, status: int) -> str:
    """What became of what was signed for a request that the payee says it did not serve."""
    signed = Amount(held.purchase.cost, held.channel.asset)
    said = f"{status} after {signed} was signed for {held.channel.descriptor.payee}"
    if not held.is_resumed:
        return f"{said}: it {counts(held)}, and the next request to this payee uses it first"
    if held.purchase.is_paid:
        return f"{said} and paid in an earlier run: nothing new was paid"
    return f"{said}; it {counts(held)}, and may have been charged"
