"""Settling and closing: the payee's captures on chain, in as few transactions as they need."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path

from microwallet.domain.identifiers import Address, ChainId, ChannelId, keccak, word
from microwallet.domain.ports import Reporter, TransactionJournal
from microwallet.errors import (
    MicrowalletError,
    NetworkError,
    OutcomeUnknown,
    TransactionReplaced,
    TransactionReverted,
)
from microwallet.escrow import calls
from microwallet.escrow.events import EscrowEvents
from microwallet.escrow.reverts import ContractReverted, revert_of
from microwallet.escrow.rpc import Rpc, RpcError
from microwallet.escrow.transactions import Receipt, TransactionSender
from microwallet.ledger.vouchers import Vouchers
from microwallet.payee.captures import Action, PlannedCapture, Selection
from microwallet.payee.exclusive import claims_lock, exclusive
from microwallet.payee.outcome import RUN_AGAIN, Outcome, read_receipt
from microwallet.payee.refresh import ReaderOf, Refreshed, refresh

BATCH_LIMIT = 100
"""Channels a transaction settles or closes at most: about 5 million gas, below every chain's limit."""
GAS_LIMIT = 300_000
"""Gas one channel may take. A payer's contract that burns more to take its refund gets none."""
_USUAL_GAS = 80_000
_BASE_GAS = 100_000

_NOT_THE_REFUND = frozenset(
    {
        "AmountExceedsDeposit",
        "AmountNotIncreasing",
        "CaptureAmountInvalid",
        "ChannelFinalized",
        "ChannelNotFound",
        "InvalidSignature",
        "NotPayee",
    }
)


class Settlement:
    """Settles and closes the channels of one home on one chain. One process at a time does."""

    def __init__(
        self,
        *,
        home: Path,
        chain_id: ChainId,
        vouchers: Vouchers,
        rpc: Rpc,
        reader_of: ReaderOf,
        journal: TransactionJournal,
        sender_of: Callable[[Address], TransactionSender],
        wait_seconds: float,
        now: Callable[[], int],
        reporter: Reporter,
    ) -> None:
        self._home = home
        self._chain_id = chain_id
        self._vouchers = vouchers
        self._rpc = rpc
        self._reader_of = reader_of
        self._sender_of = sender_of
        self._journal = journal
        self._wait_seconds = wait_seconds
        self._now = now
        self._reporter = reporter
        self._unknown: dict[Address, OutcomeUnknown] = {}

    def resume(self, payees: Iterable[Address]) -> Outcome:
        """Finish the transactions a crash or a lost answer left open, before anything is planned.

        Returns what they did to channels. While the fate of a settle or close cannot be known, its payee's
        channels fail in `execute`; nothing else is held back.
        """
        outcome = Outcome()
        self._unknown.clear()
        unfinished = [
            payee for payee in sorted(set(payees)) if self._journal.unfinished(self._chain_id, sender=payee)
        ]
        if not unfinished:
            return outcome
        with self._alone():
            for payee in unfinished:
                self._reporter.say(f"finishing what {payee} has sent before")
                for resumed in self._sender_of(payee).resume_all(wait_seconds=self._wait_seconds):
                    if isinstance(resumed.error, OutcomeUnknown) and resumed.purpose in list(Action):
                        self._unknown[payee] = resumed.error
                    if resumed.receipt is not None and resumed.purpose in list(Action):
                        self._read_earlier(resumed.receipt, outcome)
        return outcome

    def plan(self, selection: Selection) -> list[PlannedCapture]:
        """What there is to do for `selection`, by the chain's newest states. Sends nothing."""
        return selection.plan(self.refresh().channels)

    def refresh(self) -> Refreshed:
        """The channels that can still change, as the chain has them now."""
        return refresh(self._vouchers, self._chain_id, self._reader_of, now=self._now())

    def execute(self, action: Action, planned: Sequence[PlannedCapture]) -> Outcome:
        """Settle or close what is planned, each payee with its own key, one process at a time.

        What another process did meanwhile is left out, and what it accepted is taken too. Never
        raises what concerns single channels or transactions: that is in the outcome.
        """
        outcome = Outcome()
        with self._alone(), self._closing(action, planned):
            current = {channel.channel_id: channel for channel in self.refresh().channels}
            still = [
                item.renewed(current[item.channel.channel_id])
                for item in planned
                if item.channel.channel_id in current
            ]
            ordered = sorted((item for item in still if item.is_due(action)), key=_place)
            outrun = TransactionReverted("more was settled meanwhile than was to be captured", hint=RUN_AGAIN)
            outcome.fail([item for item in still if item.is_outrun(action)], outrun)
            for (payee, _), group in groupby(ordered, key=lambda item: _place(item)[:2]):
                if payee in self._unknown:
                    outcome.fail(group, self._unknown[payee])
                else:
                    self._group(action, payee, list(group), outcome)
            if outcome.channels:
                self._record()
        return outcome

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Hold the home's right to settle and close; waits for another process that has it."""
        path = claims_lock(self._home, self._chain_id)
        with exclusive(path, wait=False) as free:
            if free:
                yield
                return
        self._reporter.say("waiting for another process that settles or closes channels")
        with exclusive(path, wait=True):
            yield

    @contextmanager
    def _closing(self, action: Action, planned: Sequence[PlannedCapture]) -> Iterator[None]:
        """Accept nothing through channels from before their capture is chosen until their fate is known."""
        self._end_closes()  # of a process that was killed
        if action is Action.CLOSE:
            self._vouchers.begin_closes(item.channel.channel_id for item in planned)
        try:
            yield
        finally:
            self._end_closes()

    def _end_closes(self) -> None:
        unfinished = self._journal.unfinished(self._chain_id)
        if not any(entry.transaction.purpose == Action.CLOSE for entry in unfinished):
            self._vouchers.end_closes(self._chain_id)

    def _read_earlier(self, receipt: Receipt, outcome: Outcome) -> None:
        """What a transaction of an earlier run did, to the channels its events name."""
        live = self._vouchers.live(self._chain_id)
        for escrow_contract in {channel.descriptor.escrow_contract for channel in live}:
            events = EscrowEvents(self._reader_of(escrow_contract), self._chain_id)
            read_receipt(receipt, events, self._vouchers.get, outcome)

    def _group(self, action: Action, payee: Address, planned: list[PlannedCapture], outcome: Outcome) -> None:
        undeliverable: list[PlannedCapture] = []
        for start in range(0, len(planned), BATCH_LIMIT):
            chunk = planned[start : start + BATCH_LIMIT]
            try:
                self._send(action, payee, chunk, outcome, undeliverable)
            except OutcomeUnknown as error:
                outcome.fail(chunk, error)
            except MicrowalletError as error:
                # Of the payee or the chain, not of a channel: the rest would meet it too.
                outcome.fail([*planned[start:], *undeliverable], error)
                return
        if undeliverable:
            self._group(Action.SETTLE, payee, [item for item in undeliverable if item.captured], outcome)
            for item in undeliverable:
                outcome.refund_undeliverable(item)

    def _send(
        self,
        action: Action,
        payee: Address,
        planned: list[PlannedCapture],
        outcome: Outcome,
        undeliverable: list[PlannedCapture],
    ) -> None:
        """One transaction for all that can go through; the others into `undeliverable` or `failed`."""
        good = self._sound(action, payee, planned, outcome, undeliverable)
        if not good:
            return
        doing = f"to {action} {len(good)} channels" if len(good) > 1 else f"to {action} a channel"
        self._reporter.say(f"sending a transaction {doing}, waiting for it to be mined")
        single = good[0].channel.channel_id if len(good) == 1 else None
        try:
            receipt = self._sender_of(payee).send(
                _call(action, good),
                operation=_operation(action, good),
                purpose=str(action),
                channel_id=single,
            )
        except TransactionReplaced:
            raise
        except TransactionReverted as error:
            self._reverted(action, payee, good, error, outcome, undeliverable)
            return
        before = {item.channel.channel_id: item.channel for item in good}
        reader = self._reader_of(good[0].channel.descriptor.escrow_contract)
        read_receipt(receipt, EscrowEvents(reader, self._chain_id), before.get, outcome)
        nothing = TransactionReverted(f"{receipt.hash} was mined and did nothing for this channel")
        outcome.fail(good, nothing)

    def _reverted(
        self,
        action: Action,
        payee: Address,
        planned: list[PlannedCapture],
        error: TransactionReverted,
        outcome: Outcome,
        undeliverable: list[PlannedCapture],
    ) -> None:
        """It passed alone and in simulation, and yet: each half for itself, down to the one."""
        if len(planned) > 1:
            middle = len(planned) // 2
            for half in (planned[:middle], planned[middle:]):
                self._send(action, payee, half, outcome, undeliverable)
        elif action is Action.CLOSE and self._settles(payee, planned[0]):
            undeliverable.append(planned[0])
        else:
            outcome.fail(planned, error)

    def _sound(
        self,
        action: Action,
        payee: Address,
        planned: list[PlannedCapture],
        outcome: Outcome,
        undeliverable: list[PlannedCapture],
    ) -> list[PlannedCapture]:
        """Those that go through, simulated as they will be sent."""
        if len(planned) > 1:
            (whole,) = self._estimates(payee, [(_call(action, planned), f"this {action}")])
            if isinstance(whole, int) and whole <= _BASE_GAS + _USUAL_GAS * len(planned):
                return planned
        found = self._estimates(
            payee, [(_call(action, [item]), f"{action} of {item.channel.channel_id}") for item in planned]
        )
        good = []
        for item, estimate in zip(planned, found, strict=True):
            if isinstance(estimate, int) and estimate <= GAS_LIMIT:
                good.append(item)
            elif action is Action.CLOSE and not _is_refusal(estimate) and self._settles(payee, item):
                undeliverable.append(item)
            else:
                outcome.fail([item], _error(estimate, item))
        return good

    def _settles(self, payee: Address, item: PlannedCapture) -> bool:
        """Whether a settle goes through where a close does not: then it is the refund that fails."""
        if not item.captured:
            return True
        call = _call(Action.SETTLE, [item])
        (found,) = self._estimates(payee, [(call, f"settle of {item.channel.channel_id}")])
        return isinstance(found, int) and found <= GAS_LIMIT

    def _estimates(
        self, payee: Address, wanted: Sequence[tuple[calls.Call, str]]
    ) -> list[int | MicrowalletError]:
        """Gas of each call, or the error it reverts with."""
        answers = self._rpc.try_batch([("eth_estimateGas", [call.request(payee)]) for call, _ in wanted])
        return [_estimate(answer, doing) for answer, (_, doing) in zip(answers, wanted, strict=True)]

    def _record(self) -> None:
        """What the chain says afterwards; the transaction counts whether or not it can be asked."""
        try:
            self.refresh()
        except NetworkError:
            self._reporter.say("the new state of the channels will be read the next time")


def _place(item: PlannedCapture) -> tuple[Address, Address, Address, ChannelId]:
    """One key and one contract a transaction; the same tokens side by side are paid by one transfer."""
    descriptor = item.channel.descriptor
    return (
        descriptor.payee,
        descriptor.escrow_contract,
        descriptor.token,
        item.channel.channel_id,
    )


def _operation(action: Action, planned: Sequence[PlannedCapture]) -> str:
    """The same captures are the same operation: tried again, they are one transaction still."""
    content = b"".join(word(item.channel.channel_id) + word(item.capture_amount) for item in planned)
    return f"{action}-{keccak(content)[:12].hex()}"


def _call(action: Action, planned: Sequence[PlannedCapture]) -> calls.Call:
    captures = [_capture(item) for item in planned]
    if action is Action.SETTLE:
        return calls.settle(captures[0]) if len(captures) == 1 else calls.settle_batch(captures)
    return calls.close(captures[0]) if len(captures) == 1 else calls.close_batch(captures)


def _capture(item: PlannedCapture) -> calls.Capture:
    channel = item.channel
    if not item.captured:
        # Nothing is taken, so no voucher is needed: one below the settled total would be refused.
        return calls.Capture(
            descriptor=channel.descriptor,
            cumulative_amount=item.capture_amount,
            capture_amount=item.capture_amount,
            signature=b"",
        )
    return calls.Capture(
        descriptor=channel.descriptor,
        cumulative_amount=channel.authorized,
        capture_amount=item.capture_amount,
        signature=channel.signature,
    )


def _estimate(answer: object, doing: str) -> int | MicrowalletError:
    if isinstance(answer, RpcError):
        if answer.is_revert:
            return revert_of(answer, doing)
        if "gas" in answer.rpc_message.lower():
            # The node gave up at its own limit: the call takes more gas than any sane one.
            return ContractReverted(f"{doing} takes too much gas", name=None, arguments={})
        raise answer
    try:
        return int(str(answer), 16)
    except ValueError:
        raise NetworkError("the chain answered an estimate of gas that is not a number") from None


def _is_refusal(estimate: int | MicrowalletError) -> bool:
    """Whether the escrow itself refused the capture, so that settling would fare no better."""
    return isinstance(estimate, ContractReverted) and estimate.name in _NOT_THE_REFUND


def _error(estimate: int | MicrowalletError, item: PlannedCapture) -> MicrowalletError:
    if isinstance(estimate, int):
        return TransactionReverted(f"channel {item.channel.channel_id} would take {estimate} gas")
    return estimate
