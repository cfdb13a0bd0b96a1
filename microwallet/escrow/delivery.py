"""One nonce on its way to the chain: broadcast, rebroadcast, fee bumps, and waiting for the receipt."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial

from microwallet.domain.identifiers import hexed
from microwallet.domain.ports import (
    GasBudget,
    Reporter,
    SignedTransaction,
    TransactionJournal,
    TransactionStatus,
)
from microwallet.errors import (
    InsufficientFunds,
    KeyUnavailable,
    LedgerError,
    MicrowalletError,
    NetworkError,
    OutcomeUnknown,
    PaymentRefused,
    TransactionReplaced,
)
from microwallet.escrow.calls import Call
from microwallet.escrow.network import Network
from microwallet.escrow.node_answer import NodeAnswer, answer_of
from microwallet.escrow.reader import (
    Mined,
    find_mined,
    of_this_chain,
    read_count,
    read_head,
    read_mined,
    read_quantity,
)
from microwallet.escrow.receipt import Receipt, why_reverted
from microwallet.escrow.rpc import LAG_SECONDS, Rpc, RpcError
from microwallet.escrow.signing import signed_call

CANCEL = "cancel"
"""The purpose of a transaction that only uses up the nonce of another."""

_FIRST_PAUSE = 0.01
_LONGEST_PAUSE = 1.0
_REBROADCAST_SECONDS = 4.0
_BLOCKED_SECONDS = 0.5
"""Where a lower nonce is missing: whoever signed it may have crashed before sending it."""
_BUMPS = 5

_REFUSALS = (NodeAnswer.INSUFFICIENT_FUNDS, NodeAnswer.INVALID, NodeAnswer.UNDERPRICED)

Resign = Callable[[SignedTransaction, Call, int], SignedTransaction]
Cancel = Callable[[Sequence[SignedTransaction], str], Sequence[SignedTransaction]]
"""The attempts at a nonce, and a journaled cancellation of what they are said to be."""


class OutOfBudget(PaymentRefused):
    """A higher fee that the gas budget has no room for."""


class Delivery:
    """The attempts at one nonce, of which at most one is ever mined."""

    def __init__(
        self,
        rpc: Rpc,
        network: Network,
        journal: TransactionJournal,
        attempts: Sequence[SignedTransaction],
        *,
        resign: Resign,
        cancel: Cancel,
        reporter: Reporter,
        gas_budget: GasBudget | None,
        deadline: float,
        stuck_seconds: float,
    ) -> None:
        self._rpc = rpc
        self._network = network
        self._journal = journal
        self._attempts = list(attempts)
        self._resign = resign
        self._cancel = cancel
        self._reporter = reporter
        self._gas_budget = gas_budget
        self._deadline = deadline
        self._stuck_seconds = stuck_seconds
        self._bumps = 0
        self._sent_at = self._bumped_at = 0.0
        """When the last attempt was last sent, and when it got its fee, by the monotonic clock."""
        self._stuck_at: int | None = None
        """The newest block when the last attempt was found stuck."""
        self.not_raised: PaymentRefused | KeyUnavailable | None = None
        """Why the fee was not raised."""

    def prefer(self, transaction: SignedTransaction) -> None:
        """Make one attempt the one that is broadcast."""
        self._attempts.remove(transaction)
        self._attempts.append(transaction)

    def receipt_of(self, transaction: SignedTransaction) -> Receipt | None:
        """The receipt of an attempt that was mined with success; None if it is in no block."""
        mined = find_mined(self._rpc, transaction.hash)
        return self._finished(transaction, mined) if mined else None

    def deliver(self, *, fresh: bool = False) -> Receipt | None:
        """Broadcast the last attempt and wait; None when a cancellation was mined instead.

        `fresh` says that it was signed just now, so a refusal by name is final. OutcomeUnknown where what
        becomes of it cannot be recorded.
        """
        try:
            return self._delivered(fresh=fresh)
        except LedgerError as error:
            last = self._attempts[-1]
            raise OutcomeUnknown(
                f"{last.purpose} was signed as {last.hash}, and what becomes of it cannot be recorded:"
                f" {error.message}",
                hint=error.hint,
                data={"transactionHash": last.hash},
            ) from error

    def _delivered(self, *, fresh: bool) -> Receipt | None:
        answer, refusal = self._broadcast(self._attempts[-1])
        last = self._attempts[-1]
        while answer is NodeAnswer.UNDERPRICED and self._bump(is_stuck=False):
            answer, refusal = self._broadcast(self._attempts[-1])
        trouble: MicrowalletError | None = None
        if refusal is not None and answer in _REFUSALS:
            trouble = self._refused(answer, refusal)
            if answer is NodeAnswer.UNDERPRICED and self.not_raised is not None:
                trouble = self.not_raised
            # Where an answer was lost, the node that gave it may have taken what this one refuses.
            is_open = refusal.was_asked_before
            if answer is NodeAnswer.INVALID or (fresh and not is_open):
                # No node has it, so its nonce is free for the next one, which takes its place.
                for attempt in self._attempts:
                    self._journal.record(attempt.hash, TransactionStatus.REPLACED)
                raise trouble
            if answer is NodeAnswer.INSUFFICIENT_FUNDS and not (is_open or self._earlier_one_lives()):
                raise trouble
        self._reporter.say(f"{last.purpose}: sent {self._attempts[-1].hash}, waiting for it to be mined")
        return self._wait(trouble)

    def _wait(self, trouble: MicrowalletError | None) -> Receipt | None:
        pause = _FIRST_PAUSE
        self._sent_at = self._bumped_at = time.monotonic()
        seen_gone = 0
        while True:
            is_gone = False
            try:
                found, mined_nonces = look(self._rpc, self._attempts)
                for attempt, mined in zip(self._attempts, found, strict=True):
                    if mined:
                        outcome = self._finished(attempt, mined)
                        return None if attempt.purpose == CANCEL else outcome
                is_gone = mined_nonces > self._attempts[0].nonce
                if is_gone:
                    seen_gone += 1
                    pause = _LONGEST_PAUSE if seen_gone > 1 else pause
                    if seen_gone > LAG_SECONDS / _LONGEST_PAUSE:
                        raise self._replaced()  # no node can have a receipt of ours
                else:
                    self._push(mined_nonces)
            except NetworkError as error:
                trouble = error
            left = self._deadline - time.monotonic()
            if left <= 0 and not is_gone:  # else it is known soon
                trouble = trouble or self.not_raised
                raise self._unknown(trouble) from trouble
            time.sleep(pause if is_gone else min(pause, left))
            pause = min(pause * 1.4, _LONGEST_PAUSE)

    def _push(self, mined_nonces: int) -> None:
        """Send again what has waited long enough; with a higher fee where it could be mined, and is not."""
        now, is_next = time.monotonic(), mined_nonces == self._attempts[0].nonce
        if now - self._sent_at > (_REBROADCAST_SECONDS if is_next else _BLOCKED_SECONDS):
            self._send_again(mined_nonces)
            self._sent_at = now
        is_stuck = is_next and now - self._bumped_at > self._stuck_seconds
        if is_stuck and self._is_passed_over() and self._bump(is_stuck=True):
            self._broadcast(self._attempts[-1])
            self._bumped_at = now

    def _broadcast(self, transaction: SignedTransaction) -> tuple[NodeAnswer, RpcError | None]:
        self._journal.begin_sending(transaction.hash)
        try:
            self._rpc.call("eth_sendRawTransaction", [hexed(transaction.raw)])
        except RpcError as error:
            answer = answer_of(error)
            if answer is not NodeAnswer.ACCEPTED:
                return answer, error
        except NetworkError:
            return NodeAnswer.UNKNOWN, None
        self._journal.record_sent(transaction.hash)
        return NodeAnswer.ACCEPTED, None

    def _send_again(self, mined_nonces: int) -> None:
        """Rebroadcast, with what other processes signed before it and may not have sent, and what was mined
        before it and is not any more: a reorganisation took that, and a node may have dropped it."""
        first = self._attempts[0]
        self._take_over_new_attempts()
        earlier = self._journal.at_nonces(
            first.chain_id, first.sender, first=mined_nonces, before=first.nonce
        )
        ended = [entry for entry in earlier if not entry.status.is_live]
        of_this = of_this_chain(partial(read_head, self._rpc), ended)
        for entry in earlier:
            if entry.status.is_live or entry in of_this:
                self._broadcast(entry.transaction)
        self._broadcast(self._attempts[-1])

    def _take_over_new_attempts(self) -> None:
        """Attempts that another process journaled at this nonce meanwhile."""
        first = self._attempts[0]
        known = {attempt.hash for attempt in self._attempts}
        for entry in self._journal.unfinished(first.chain_id, sender=first.sender):
            if entry.transaction.nonce == first.nonce and entry.transaction.hash not in known:
                self._attempts.append(entry.transaction)

    def _is_passed_over(self) -> bool:
        """Whether a block came without the stuck attempt, or it offers too little for the next one: while no
        blocks come, a higher fee changes nothing, and would be paid once they do."""
        block = self._rpc.call("eth_getBlockByNumber", ["latest", False])
        if not isinstance(block, dict):
            raise NetworkError(f"{self._rpc.shown} answered no newest block")
        number = read_count(block.get("number"), self._rpc.shown)
        base_fee = read_quantity(block.get("baseFeePerGas"), self._rpc.shown)
        if self._stuck_at is None:
            self._stuck_at = number
        # From one block to the next the base fee rises by an eighth at most.
        return number > self._stuck_at or 9 * base_fee > 8 * self._attempts[-1].max_fee_per_gas

    def _bump(self, *, is_stuck: bool) -> bool:
        """Sign and journal an attempt with higher fees; False when there may be no more.

        Where a budget has no room for what `is_stuck`, it is a cancellation: what this account sends after
        it, as closes, is not to wait.
        """
        if self._bumps >= _BUMPS:
            return False
        self._take_over_new_attempts()
        try:
            self._offer_more(is_stuck=is_stuck)
        except PaymentRefused as refusal:
            self._tell_not_raised(refusal)
            return False
        except KeyUnavailable as error:
            self._bumps = _BUMPS  # whoever has the password is asked for it once
            self._tell_not_raised(error)
            return False
        self._bumps += 1
        self._stuck_at = None
        return True

    def _offer_more(self, *, is_stuck: bool) -> None:
        last = self._attempts[-1]
        call, gas = signed_call(last)
        try:
            raised = self._resign(last, call, gas)
        except OutOfBudget as refusal:
            if not is_stuck:
                raise
            self._tell_not_raised(refusal)
            self._attempts = list(self._cancel(self._attempts, f"{last.purpose} {last.hash}"))
            return
        self._journal.replace(raised)
        self._attempts.append(raised)
        self._reporter.say(f"raising the fee of nonce {last.nonce}: {raised.hash}")

    def _tell_not_raised(self, refusal: PaymentRefused | KeyUnavailable) -> None:
        if self.not_raised is None:
            self._reporter.say(f"not raising the fee of {self._attempts[-1].hash}: {refusal.message}")
        self.not_raised = refusal

    def _earlier_one_lives(self) -> bool:
        """Whether the nonce is used up, or another attempt at it is still in a pool."""
        found, mined_nonces = look(self._rpc, self._attempts)
        return (
            mined_nonces > self._attempts[0].nonce
            or any(found)
            or any(self._broadcast(attempt)[0] is NodeAnswer.ACCEPTED for attempt in self._attempts[:-1])
        )

    def _finished(self, transaction: SignedTransaction, mined: Mined) -> Receipt:
        receipt = Receipt.of(transaction.hash, mined, self._rpc.shown)
        # First: once the journal has it, what was set aside long ago counts no more.
        if self._gas_budget is not None and receipt.cost is not None:
            self._gas_budget.record(transaction.operation, receipt.cost)
        self._journal.record(
            transaction.hash,
            TransactionStatus.MINED if mined.succeeded else TransactionStatus.REVERTED,
            block_number=receipt.block_number,
            gas_used=receipt.gas_used,
        )
        if not mined.succeeded:
            raise why_reverted(self._rpc, transaction, receipt)
        return receipt

    def _replaced(self) -> TransactionReplaced:
        for attempt in self._attempts:
            self._journal.record(attempt.hash, TransactionStatus.REPLACED)
        first = self._attempts[0]
        return TransactionReplaced(
            f"another transaction of {first.sender} took nonce {first.nonce}; {first.purpose} did not happen",
            hint="run the command again",
            data={"transactionHash": first.hash},
        )

    def _refused(self, answer: NodeAnswer, refusal: RpcError) -> MicrowalletError:
        last = self._attempts[-1]
        if answer is NodeAnswer.INSUFFICIENT_FUNDS:
            return InsufficientFunds(
                f"{last.sender} cannot pay for {last.purpose}: {refusal.rpc_message}",
                hint=self._network.faucet_hint(last.sender),
            )
        if answer is NodeAnswer.UNDERPRICED:
            return PaymentRefused(
                f"the chain wants a higher fee for {last.purpose} than the setting max-fee-gwei allows:"
                f" {refusal.rpc_message}",
                hint="wait, or raise it: microwallet config set max-fee-gwei GWEI",
            )
        return PaymentRefused(f"the chain refused {last.purpose}: {refusal.rpc_message}")

    def _unknown(self, trouble: MicrowalletError | None) -> OutcomeUnknown:
        last = self._attempts[-1]
        why = f": {trouble.message}" if trouble else ""
        return OutcomeUnknown(
            f"{last.purpose} was sent as {last.hash} and is not mined yet{why}",
            data={"transactionHash": last.hash},
        )


def look(rpc: Rpc, attempts: Sequence[SignedTransaction]) -> tuple[list[Mined | None], int]:
    """Which attempts at one nonce are mined, and how many nonces of their sender are used up in blocks."""
    *receipts, count = rpc.batch(
        [("eth_getTransactionReceipt", [attempt.hash]) for attempt in attempts]
        + [("eth_getTransactionCount", [attempts[0].sender, "latest"])]
    )
    return [read_mined(receipt, rpc.shown) for receipt in receipts], read_count(count, rpc.shown)
