"""Paying for one request: challenge, credential, receipt, as a generator that does no HTTP itself.

draft-httpauth-payment-00, section "Request Flow"; draft-evm-session-00, section "Session Flow". The
ledger, keys and the chain are used in between, on the thread that drives the generator.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

from microwallet.domain.money import Amount
from microwallet.domain.secret_fields import without_secrets
from microwallet.errors import (
    AboveLimit,
    IdempotencyMismatch,
    MalformedMessage,
    NetworkError,
    NoPayableChallenge,
    OutcomeUnknown,
    PaymentRefused,
)
from microwallet.http402.paying.choice import Choice, PayerRules, UntrustedEscrow, choose
from microwallet.http402.paying.client import PayingClient
from microwallet.http402.paying.exchange import Asked, NoAnswer, NotSent, Sending, ServerAnswer, Steps
from microwallet.http402.paying.foreign_escrow import foreign_escrow
from microwallet.http402.paying.funding import Funding, Preview
from microwallet.http402.paying.handing_over import tell, tell_again
from microwallet.http402.paying.origins import Origin
from microwallet.http402.paying.receipts import BookedPayment
from microwallet.http402.paying.spending import Held, Spending
from microwallet.http402.wire.body_digest import matches
from microwallet.http402.wire.challenge import offered_challenges
from microwallet.http402.wire.problems import ProblemType, ToldProblem
from microwallet.ledger.deposits import DepositKind

_NOTHING_BOUGHT = frozenset(
    {ProblemType.CHALLENGE_NOT_FOUND, ProblemType.INVALID_CHALLENGE, ProblemType.PAYMENT_EXPIRED}
)
_WANTS_MORE = frozenset({ProblemType.INSUFFICIENT_BALANCE, ProblemType.DELTA_TOO_SMALL})
_LOOK = "look whether the address is right and the server runs; --proxy URL where one is needed"
_PROXY = "look whether it runs, or take another: --proxy URL"
_SHOWN = 80
"""Characters that are shown of what cannot be read."""
_TRUST = "SSL_CERT_FILE=FILE microwallet fetch ...  (if you trust it: FILE is its certificate in PEM)"
_BY_INTERMEDIARIES = frozenset({502, 504})
"""What stands in for an answer that did not come. An error of the payee's own has a challenge."""
_TRIES = {"outrun": 8}
"""How often a remedy is tried, if not once: a stream may take what is signed for others again and again."""
_GONE = frozenset({ProblemType.CHANNEL_NOT_FOUND, ProblemType.CHANNEL_FINALIZED})


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
        self._open_client = open_client
        self.asked = asked
        self.origin = Origin.of(asked.url)
        self._tried: Counter[str] = Counter()
        """How often each remedy was used."""
        self._has_told_key = False
        self._spending: Spending | None = None
        self.unanswered: OutcomeUnknown | None = None
        """What is to be said of a payment that was sent, where nobody waits for its answer any more."""

    @cached_property
    def client(self) -> PayingClient:
        """What pays."""
        return self._open_client()

    @property
    def spending(self) -> Spending:
        """What is bought, and what that may cost."""
        if self._spending is None:
            self._spending = Spending(self.client, self.asked)
        return self._spending

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
        answer = yield from self._exchange(Sending())
        if answer.status != ProblemType.PAYMENT_REQUIRED.status:
            return None
        if self.asked.method == "HEAD":
            return None  # a voucher with it would be handed over, and buy nothing
        choice = self._choose(answer)
        if self.client.limits.dry_run:
            preview = Funding(self.client, choice).preview(choice.reserved)
            most = Amount(self.spending.limit(choice), choice.price.asset)
            return WouldPay(choice=choice, preview=preview, most=most)
        if begun is None:
            held = yield from self.spending.buy(choice, self.spending.terms(choice))
        else:
            held = self.spending.resumed(choice, begun)
        while True:
            answer = yield from self._submit(held)
            if answer.status in _BY_INTERMEDIARIES and not answer.challenges:
                raise self._unknown(held, f"the answer is {answer.status}")
            if answer.status >= 500:
                self.spending.give_back(held)
                self.client.reporter.say(_after_an_error(held, answer.status))
                return None
            is_refusal = answer.receipt is None and answer.problem.type is not None
            if not is_refusal and answer.status != ProblemType.PAYMENT_REQUIRED.status:
                return self._served(held, answer)
            held = yield from self._mended(held, answer)

    def _exchange(self, sending: Sending) -> Steps[ServerAnswer]:
        """Send something that pays nothing."""
        try:
            return (yield sending)
        except (NotSent, NoAnswer) as error:
            raise unreachable(self.origin, error) from error

    def _choose(self, answer: ServerAnswer) -> Choice:
        if not self.client.is_private(self.origin):
            raise NoPayableChallenge(
                f"{self.origin} wants to be paid over plain http, where others could read along",
                hint="use an https URL",
            )
        try:
            offered = offered_challenges(answer.challenges)
        except MalformedMessage as error:
            raise self._unreadable(answer, error) from error
        try:
            choice = choose(offered, self._rules(), now=self.client.clock())
        except UntrustedEscrow as error:
            raise self._refused_escrow(error) from error
        digest = choice.challenge.digest
        if digest is not None and not matches(digest, self.asked.body):
            raise NoPayableChallenge("the server's offer is for another request body than the one sent")
        return choice

    def _unreadable(self, answer: ServerAnswer, error: MalformedMessage) -> MalformedMessage:
        """What the server sent instead of challenges, without what a terminal would obey."""
        sent = ", ".join(answer.challenges)
        shown = repr(sent[:_SHOWN]) + ("..." if len(sent) > _SHOWN else "")
        asked = replace(self.asked, url=without_secrets(self.asked.url))
        return MalformedMessage(
            f"{self.origin} wants to be paid, but not in a way that can be read: {error.message};"
            f" it sent {shown}",
            hint=f"microwallet fetch -i --no-pay {asked.words}  (shows all of it)",
        )

    def _refused_escrow(self, error: UntrustedEscrow) -> NoPayableChallenge:
        """Why an escrow is not used, by its code where the chain can be asked."""
        try:
            code = self.client.account(error.escrow_contract).reader.code(error.escrow_contract)
        except NetworkError:
            return error
        return foreign_escrow(error.escrow_contract, code)

    def _rules(self) -> PayerRules:
        client, limits = self.client, self.client.limits
        known = client.ledger.known_payees.get(str(self.origin), client.chain_id)
        return PayerRules(
            chain_id=client.chain_id,
            escrow_contracts=client.escrow_contracts,
            assets=client.assets,
            max_amounts=limits.max_amounts,
            payer=client.payer,
            known_payee=limits.payee or known,
            networks=client.networks,
        )

    def _submit(self, held: Held) -> Steps[ServerAnswer]:
        signer, amount = self.spending.signer(held.channel), held.purchase.cumulative_amount
        challenge = held.choice.challenge
        if held.open_hash is None:
            field = signer.voucher(challenge, amount)
        else:
            field = signer.open(challenge, amount, held.open_hash)
        if self.spending.is_new_key and not self._has_told_key:
            self.client.reporter.say(f"idempotency key: {self.asked.key}")
            self._has_told_key = True
        self.unanswered = self._unknown(held, "no answer came")
        try:
            answer = yield Sending(authorization=field, idempotency_key=self.spending.request.idempotency_key)
        except NotSent as error:
            self.spending.give_back(held)
            raise NetworkError(
                f"{self.origin} cannot be reached any more: {error}; nothing was paid",
                hint=looking_at(error),
            ) from error
        except NoAnswer as error:
            raise self._unknown(held, f"no answer came: {error}") from error
        self.unanswered = None
        return answer

    def _unknown(self, held: Held, why: str) -> OutcomeUnknown:
        """The purchase stays counted as spent, and its voucher goes out again under the same key alone."""
        price = Amount(held.purchase.cost, held.channel.asset)
        return OutcomeUnknown(
            f"{price} may have been paid to {held.channel.descriptor.payee}, but {why}",
            hint=self.spending.again(),
        )

    def _served(self, held: Held, answer: ServerAnswer) -> BookedPayment | Streaming:
        """What the server answers below 500 without a refusal it has charged, an error of its own too."""
        if answer.is_stream:
            return Streaming(held=held)
        return self.spending.settled([held.purchase], held, answer.receipt, owes_receipt=answer.status < 400)

    def _mended(self, held: Held, answer: ServerAnswer) -> Steps[Held]:
        """What to try next after a refusal, each thing so often; PaymentRefused when nothing is left."""
        kind = answer.problem.type
        if kind is ProblemType.OUTCOME_UNKNOWN:
            raise OutcomeUnknown(
                f"{self.origin} took this payment before, and does not give its answer again",
                hint=f"microwallet channel show {held.channel.name}",
            )
        if kind is ProblemType.IDEMPOTENCY_MISMATCH:
            self.spending.give_back(held)
            key = self.spending.request.idempotency_key
            raise IdempotencyMismatch(
                f"{self.origin} knows the idempotency key {key!r} from another request; nothing was bought",
            )
        if kind in _NOTHING_BOUGHT and self._may_try("renew"):
            return replace(held, choice=(yield from self.renewed(held, answer)))
        if (informed := (yield from self._informed(held, answer.problem))) is not None:
            return replace(informed, choice=(yield from self.renewed(held, answer)))
        self.spending.give_back(held)
        if held.is_resumed:
            raise self._refusal(held, answer)
        is_outrun = kind in _WANTS_MORE and self.spending.has_stream(held.channel)
        if kind in _WANTS_MORE and self._may_try("outrun" if is_outrun else "raise"):
            return (yield from self._raised(held, answer))
        if kind in _GONE and self._may_try("reopen"):
            return (yield from self._reopened(held))
        raise self._refusal(held, answer)

    def _informed(self, held: Held, problem: ToldProblem) -> Steps[Held | None]:
        """The payee misses what has happened already, an open, a top-up, a higher voucher: it is told.

        None if that is not it, or was told before.
        """
        kind, spending = problem.type, self.spending
        if kind is ProblemType.CHANNEL_NOT_FOUND and held.open_hash is None and self._may_try("open"):
            if (told := spending.open_hash(held.channel)) is not None:
                return replace(held, open_hash=told)
            is_told = yield from tell_again(spending, held.choice, held.channel, DepositKind.OPEN)
            return held if is_told else None
        if kind is ProblemType.AMOUNT_EXCEEDS_DEPOSIT and self._may_try(f"top-up for {held.purchase.id}"):
            if not (yield from tell_again(spending, held.choice, held.channel, DepositKind.TOP_UP)):
                yield from spending.tell_deposit(held.choice, spending.topped_up(held.channel))
            return held
        highest = self._unseen(held, problem) if kind in _WANTS_MORE else None
        if highest is not None and self._may_try("highest"):
            signer = spending.signer(held.channel)
            yield from tell(held.choice, lambda challenge: signer.voucher(challenge, highest))
            return held
        return None

    def _may_try(self, remedy: str) -> bool:
        """Whether a remedy may be tried; it is now."""
        self._tried[remedy] += 1
        return self._tried[remedy] <= _TRIES.get(remedy, 1)

    def _unseen(self, held: Held, problem: ToldProblem) -> int | None:
        """What is authorized already beyond this purchase, and would be enough: others that run beside
        this one have signed it, and the payee has not got it yet."""
        channel = self.spending.newest(held.channel)
        enough = max(problem.required_cumulative or 0, held.purchase.cumulative_amount + 1)
        return channel.authorized if enough <= channel.authorized else None

    def renewed(self, held: Held, answer: ServerAnswer | None) -> Steps[Choice]:
        """A fresh challenge for the same purchase. PaymentRefused if the offer is another one now."""
        if answer is None or not answer.challenges:
            answer = yield from self._exchange(Sending())
        choice = self._choose(answer)
        before, now = held.choice.request, choice.request
        if (before.recipient, before.currency, before.escrow_contract, before.amount, before.max_units) != (
            now.recipient,
            now.currency,
            now.escrow_contract,
            now.amount,
            now.max_units,
        ):
            self.spending.give_back(held)
            raise PaymentRefused(
                f"the server changed its offer in the middle of the payment: {choice.price} to"
                f" {now.recipient}, and {held.choice.price} to {before.recipient} before; what was signed"
                f" {_counts(held)}"
            )
        return choice

    def _raised(self, held: Held, answer: ServerAnswer) -> Steps[Held]:
        """The payee wants more for this request, or has not seen the highest voucher: within the limit."""
        choice = yield from self.renewed(held, answer)
        channel = self.spending.newest(held.channel)
        required = answer.problem.required_cumulative
        cost = held.purchase.cost
        if required is None:
            required = channel.authorized + max(1, choice.request.min_voucher_delta)
        elif self.spending.has_stream(channel):
            required = max(required, channel.authorized + cost)  # it has taken what this request was to cost
        else:
            cost = max(cost, required - channel.spent)
        asset = choice.price.asset
        limit = Amount(self.spending.limit(choice), asset)
        if limit < Amount(cost, asset):
            raise AboveLimit(
                f"the server wants {Amount(cost, asset)} for this request, and at most {limit} may be paid;"
                " nothing more was signed",
                hint=f'--max-amount "{Amount(cost, asset)}"',
            )
        terms = replace(self.spending.terms(choice), cost=cost, at_least=required)
        return (yield from self.spending.buy_more(replace(held, choice=choice, open_hash=None), terms))

    def _reopened(self, held: Held) -> Steps[Held]:
        """The payee says that the channel is gone: the chain is asked, and another channel is used."""
        from microwallet.payer.refresh import refresh

        channel, client = held.channel, self.client
        account = client.account(channel.descriptor.escrow_contract)
        refreshed = refresh(client.ledger, lambda _: account.reader, [channel], now=client.clock())
        for note in refreshed.notes:
            client.reporter.say(note)
        state = refreshed.channels[0].state
        client.reporter.say(
            f"the payee no longer takes channel {channel.name}, which is"
            f" {'finalized' if state.finalized else 'open still'}"
        )
        if state.finalized and state.settled < held.purchase.cumulative_amount:
            # What was signed there can no longer be taken.
            self.spending.forget_risen(channel)
        choice = self._choose((yield from self._exchange(Sending())))
        return (
            yield from self.spending.buy(choice, self.spending.terms(choice), without=[channel.channel_id])
        )

    def _refusal(self, held: Held, answer: ServerAnswer) -> PaymentRefused:
        return PaymentRefused(
            f"{self.origin} refuses the payment of {Amount(held.purchase.cost, held.channel.asset)}"
            f" with {answer.status}: {answer.problem}; it {_counts(held)}",
            hint=f"microwallet channel show {held.channel.name}",
        )


def _counts(held: Held) -> str:
    """Whether what was not served is spent."""
    if held.is_resumed:
        return "stays counted as spent, since an earlier run sent it"
    return "does not count as spent"


def _after_an_error(held: Held, status: int) -> str:
    """What became of what was signed for a request that the payee says it did not serve."""
    signed = Amount(held.purchase.cost, held.channel.asset)
    said = f"{status} after {signed} was signed for {held.channel.descriptor.payee}"
    if not held.is_resumed:
        return f"{said}: it {_counts(held)}, and the next request to this payee uses it first"
    if held.purchase.is_paid:
        return f"{said} and paid in an earlier run: nothing new was paid"
    return f"{said}; it {_counts(held)}, and may have been charged"


def unreachable(origin: Origin, error: NotSent | NoAnswer) -> NetworkError:
    """Nothing came back from a server, or the proxy before it cannot be reached."""
    is_told = isinstance(error, NotSent) and error.at_proxy
    said = str(error) if is_told else f"{origin} cannot be reached: {error}"
    return NetworkError(said, hint=looking_at(error))


def looking_at(error: Exception) -> str:
    """What to do about a server that cannot be reached."""
    if isinstance(error, NotSent) and error.at_proxy:
        return _PROXY
    return _TRUST if "certificate verify failed" in str(error) else _LOOK
