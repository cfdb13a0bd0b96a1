"""What is tried after a server refused a payment, each thing a bounded number of times.

draft-evm-session-00, section "Error Responses".
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace

from microwallet.domain.channel import PayerChannel
from microwallet.domain.deposit import DepositKind
from microwallet.domain.money import Amount
from microwallet.errors import (
    AboveLimit,
    IdempotencyMismatch,
    MicrowalletError,
    NetworkError,
    OutcomeUnknown,
    PaymentRefused,
)
from microwallet.http402.paying.asking import Asking
from microwallet.http402.paying.choice import Choice, agreed_terms
from microwallet.http402.paying.exchange import Pause, ServerAnswer, Steps
from microwallet.http402.paying.funding import Funded, ToldTopUp
from microwallet.http402.paying.handing_over import tell, tell_again
from microwallet.http402.paying.spending import Held, Spending
from microwallet.http402.wire.problems import ProblemType, ToldProblem

_NOTHING_BOUGHT = frozenset(
    {ProblemType.CHALLENGE_NOT_FOUND, ProblemType.INVALID_CHALLENGE, ProblemType.PAYMENT_EXPIRED}
)
_WANTS_MORE = frozenset({ProblemType.INSUFFICIENT_BALANCE, ProblemType.DELTA_TOO_SMALL})
_GONE = frozenset({ProblemType.CHANNEL_NOT_FOUND, ProblemType.CHANNEL_FINALIZED})
_PATIENCE = 20
"""Seconds to wait in all for a payee that asks to try again: a close or a deposit may take so long."""
_PAUSE = 1
"""Seconds between two tries at least."""
_TRIES = {"outrun": 8}
"""Remedies that are tried more than once: a stream may use up what is signed for others again and again."""


class Remedies:
    """Finds what may help one refused request. It signs through the request's Spending, within its limits."""

    def __init__(self, asking: Asking, spending: Spending) -> None:
        self._asking = asking
        self._spending = spending
        self._tried: Counter[str] = Counter()
        """How often each was used."""
        self._waited = 0
        """Seconds."""

    def in_time(self, held: Held) -> Steps[Held]:
        """The purchase with a challenge that can still be answered: a deposit may outlast the first."""
        if not held.choice.challenge.has_expired(self._asking.client.clock()):
            return held
        with self._returned_unless_done(held):
            return replace(held, choice=(yield from self._offered_again(held, None)))

    def waited(self, held: Held, answer: ServerAnswer) -> Steps[bool]:
        """Wait if the payee asks to try again, as it does while a close of its own is being sent. False if it
        does not, or if it was waited for long enough."""
        seconds = max(_PAUSE, answer.retry_after or 0, self._waited // 2)  # longer and longer
        if answer.problem.type is not ProblemType.TRY_AGAIN or self._waited + seconds > _PATIENCE:
            return False
        if not self._waited:
            self._asking.client.reporter.say(f"{self._asking.origin} asks to try again: {answer.problem}")
        self._waited += seconds
        with self._returned_unless_done(held):
            yield Pause(seconds)
        return True

    def mended(self, held: Held, answer: ServerAnswer) -> Steps[Held]:
        """What to try next after a refusal, each thing so often; PaymentRefused when nothing is left."""
        kind = answer.problem.type
        if kind is ProblemType.OUTCOME_UNKNOWN:
            raise OutcomeUnknown(
                f"{self._asking.origin} took this payment before, and does not give its answer again",
                hint=f"microwallet channel show {held.channel.name}",
            )
        if kind is ProblemType.IDEMPOTENCY_MISMATCH:
            self._spending.give_back(held)
            key = self._spending.request.idempotency_key
            raise IdempotencyMismatch(
                f"{self._asking.origin} knows the idempotency key {key!r} from another request;"
                " nothing was bought",
            )
        with self._returned_unless_done(held):
            if kind in _NOTHING_BOUGHT and self._may_try("renew"):
                return replace(held, choice=(yield from self._offered_again(held, answer)))
            if (informed := (yield from self._informed(held, answer.problem))) is not None:
                return replace(informed, choice=(yield from self._offered_again(held, answer)))
        self._spending.give_back(held)
        if held.is_resumed and not (kind in _GONE and self._is_untaken(held)):
            raise self._refusal(held, answer)
        is_outrun = kind in _WANTS_MORE and self._spending.has_stream(held.channel)
        if kind in _WANTS_MORE and self._may_try("outrun" if is_outrun else "raise"):
            return (yield from self._raised(held, answer))
        if kind in _GONE and self._may_try("reopen"):
            return (yield from self._reopened(held))
        if kind is ProblemType.AMOUNT_EXCEEDS_DEPOSIT and self._may_try("shrink"):
            return (yield from self._shrunk(held, answer))
        raise self._refusal(held, answer)

    @contextmanager
    def _returned_unless_done(self, held: Held) -> Iterator[None]:
        """Give a purchase back that was not sent or not taken, where what is done for it fails, or the
        request is given up meanwhile."""
        try:
            yield
        except (MicrowalletError, GeneratorExit):
            self._spending.give_back(held)
            raise

    def _informed(self, held: Held, problem: ToldProblem) -> Steps[Held | None]:
        """Tell the payee what it seems to have missed: an open, a top-up or a higher voucher.

        None if it has missed nothing, or was told before.
        """
        kind = problem.type
        if kind is ProblemType.CHANNEL_NOT_FOUND and held.open_hash is None and self._may_try("open"):
            return (yield from self._told_of_open(held))
        if kind is ProblemType.AMOUNT_EXCEEDS_DEPOSIT and self._may_try(f"top-up for {held.purchase.id}"):
            yield from self.told_of_top_up(held)
            return held
        if kind in _WANTS_MORE:
            return (yield from self._told_of_highest(held, problem))
        return None

    def _told_of_open(self, held: Held) -> Steps[Held | None]:
        """Tell the payee of the open: by its transaction's hash in the next credential, or by handing over
        again what was signed for the payee to send. None if there is neither; ChannelNotOpen if the chain
        says that it has no such channel, for which the payee would wait again and again."""
        from microwallet.payer.close import require_on_chain

        with suppress(NetworkError):  # the payee can be told all the same
            require_on_chain(self._refreshed(held.channel))
        journal = self._asking.client.ledger.journal
        if (sent := journal.mined(held.channel.channel_id, DepositKind.OPEN)) is not None:
            return replace(held, open_hash=sent.hash)
        return held if (yield from self._tell_again(held, DepositKind.OPEN)) else None

    def _told_of_highest(self, held: Held, problem: ToldProblem) -> Steps[Held | None]:
        """Tell the payee of the highest voucher; None if that would not be enough, or was done before."""
        highest = self._unseen(held, problem)
        if (highest is None and not held.is_resumed) or not self._may_try("highest"):
            return None
        if highest is None:
            signed = yield from self._spending.signed_beside(held, problem.required_cumulative or 0)
            if signed is None:
                return None
            held, highest = signed, self._spending.newest(signed.channel).authorized
        signer = self._spending.signer(held.channel)
        yield from tell(
            self._spending.client, held.choice, lambda challenge: signer.voucher(challenge, highest)
        )
        return held

    def told_of_top_up(self, held: Held) -> Steps[bool]:
        """Tell the payee of the channel's last top-up: it may not know of one by another command. False if
        there was none."""
        if (yield from self._tell_again(held, DepositKind.TOP_UP)):
            return True
        channel, ledger = held.channel, self._asking.client.ledger
        sent = ledger.journal.mined(channel.channel_id, DepositKind.TOP_UP)
        if sent is None or (deposit := ledger.deposits.find(sent.operation)) is None:
            return False
        told = ToldTopUp(amount=deposit.amount, transaction_hash=sent.hash)
        yield from self._spending.tell_deposit(held.choice, Funded(channel=channel, top_up=told))
        return True

    def _tell_again(self, held: Held, kind: DepositKind) -> Steps[bool]:
        """Hand over once more what was signed for the channel's deposit, if anything was."""
        spending = self._spending
        signer = spending.signer(held.channel)
        return tell_again(spending.client, signer, held.choice, held.channel, kind)

    def _may_try(self, remedy: str) -> bool:
        """Whether a remedy may be tried; it is now."""
        self._tried[remedy] += 1
        return self._tried[remedy] <= _TRIES.get(remedy, 1)

    def _unseen(self, held: Held, problem: ToldProblem) -> int | None:
        """The highest amount that is authorized, if it is above this purchase and enough: requests beside
        this one signed it, and the payee has not seen it yet. Else None."""
        channel = self._spending.newest(held.channel)
        enough = max(problem.required_cumulative or 0, held.purchase.cumulative_amount + 1)
        return channel.authorized if enough <= channel.authorized else None

    def _offered_again(self, held: Held, answer: ServerAnswer | None) -> Steps[Choice]:
        """A fresh challenge, after a refusal or before anything was sent."""
        try:
            return (yield from self.renewed(held, answer, signed=counts(held)))
        except AboveLimit as error:
            wanted = error.message.removesuffix("; nothing was signed")
            raise AboveLimit(f"{wanted}; what was signed before {counts(held)}", hint=error.hint) from error

    def renewed(
        self,
        held: Held,
        answer: ServerAnswer | None,
        *,
        signed: str = "counts as spent",
        is_head: bool = False,
    ) -> Steps[Choice]:
        """A fresh challenge for the same purchase; PaymentRefused if the offer has changed.

        `signed` is what the message then says of what was signed. `is_head`: the answer is to a HEAD, so its
        challenge is for a request without a body.
        """
        if answer is None or not answer.challenges:
            answer, is_head = (yield from self._asking.exchange()), False
        choice = self._asking.choose(answer, is_head=is_head)
        before, now = held.choice.request, choice.request
        if agreed_terms(before) != agreed_terms(now):
            raise PaymentRefused(
                f"the server changed its offer in the middle of the payment: {_told(choice)}, and"
                f" {_told(held.choice)} before; what was signed {signed}"
            )
        return choice

    def _raised(self, held: Held, answer: ServerAnswer) -> Steps[Held]:
        """Sign more, within the limit: the payee wants more, or has not seen the highest voucher."""
        choice = yield from self._offered_again(held, answer)
        channel = self._spending.newest(held.channel)
        required = answer.problem.required_cumulative
        cost = held.purchase.cost
        if required is None:
            required = channel.authorized + 1  # the terms make it the payee's smallest step
        elif self._spending.has_stream(channel):
            required = max(required, channel.authorized + cost)  # it has taken what this request was to cost
        else:
            cost = max(cost, required - channel.spent)
        asset = choice.price.asset
        limit = Amount(self._spending.limit(choice), asset)
        if limit < Amount(cost, asset):
            raise AboveLimit(
                f"the server wants {Amount(cost, asset)} for this request, and at most {limit} may be paid;"
                " nothing more was signed",
                hint=f'--max-amount "{Amount(cost, asset)}"',
            )
        terms = replace(self._spending.terms(choice), cost=cost, at_least=required)
        return (yield from self._spending.buy_more(replace(held, choice=choice, open_hash=None), terms))

    def _reopened(self, held: Held) -> Steps[Held]:
        """Pay from another channel, as the payee says that this one is gone; the chain is asked if so."""
        channel, state = held.channel, self._refreshed(held.channel).state
        self._asking.client.reporter.say(
            f"the payee no longer takes channel {channel.name}, which is"
            f" {'finalized' if state.finalized else 'open still'}"
        )
        if state.finalized:
            self._spending.forget_risen(channel, held.purchase.cumulative_amount - state.settled)
        choice = self._asking.choose((yield from self._asking.exchange()))
        return (yield from self._spending.buy(choice, without=[channel.channel_id]))

    def _is_untaken(self, held: Held) -> bool:
        """Give back what an earlier run bought if the chain proves it was not charged; whether it was."""
        state = self._refreshed(held.channel).state
        return state.finalized and self._spending.give_back_untaken(held, state.settled)

    def _shrunk(self, held: Held, answer: ServerAnswer) -> Steps[Held]:
        """Pay from what the chain has, or from another deposit: the payee knows all deposits and sees less,
        so a reorganisation may have undone one."""
        before = self._spending.newest(held.channel)
        now = self._refreshed(before)
        if now.state.deposit >= before.state.deposit:
            raise self._refusal(held, answer)
        asset = before.asset
        self._asking.client.reporter.say(
            f"the chain has {Amount(now.state.deposit, asset)} on channel {before.name},"
            f" not {Amount(before.state.deposit, asset)}"
        )
        choice = self._asking.choose((yield from self._asking.exchange()))
        return (yield from self._spending.buy(choice))

    def _refreshed(self, channel: PayerChannel) -> PayerChannel:
        """A channel as the chain has it now."""
        from microwallet.payer.refresh import refreshed

        return refreshed(self._asking.client.account(channel.descriptor.escrow_contract), channel)

    def _refusal(self, held: Held, answer: ServerAnswer) -> PaymentRefused:
        return PaymentRefused(
            f"{self._asking.origin} refuses the payment of {Amount(held.purchase.cost, held.channel.asset)}"
            f" with {answer.status}: {answer.problem}; it {counts(held)}",
            hint=f"microwallet channel show {held.channel.name}",
        )


def _told(choice: Choice) -> str:
    return f"{choice.price} for each {choice.request.unit} to {choice.request.recipient}"


def counts(held: Held) -> str:
    """How a message tells whether the purchase still counts as spent."""
    if held.is_resumed:
        return "stays counted as spent, since an earlier run sent it"
    return "does not count as spent"
