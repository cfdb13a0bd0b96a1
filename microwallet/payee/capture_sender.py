"""Sending captures: many in one transaction where all go through, else those that do."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from microwallet.domain.identifiers import Address, keccak, word
from microwallet.domain.ports import Reporter
from microwallet.errors import (
    MicrowalletError,
    NetworkError,
    OutcomeUnknown,
    TransactionReplaced,
    TransactionReverted,
)
from microwallet.escrow import calls
from microwallet.escrow.events import EscrowEvents
from microwallet.escrow.quotes import with_margin
from microwallet.escrow.receipt import Receipt
from microwallet.escrow.reverts import ContractReverted, revert_of
from microwallet.escrow.rpc import Rpc, RpcError
from microwallet.escrow.transactions import TransactionSender
from microwallet.payee.captures import Action, PlannedCapture
from microwallet.payee.outcome import Outcome, read_receipt
from microwallet.payee.relayer import AUTHORIZATION_GAS, Relayer

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
        "AuthorizationExpired",
        "CaptureAmountInvalid",
        "ChannelFinalized",
        "ChannelNotFound",
        "InvalidSignature",
        "NonceAlreadyUsed",
        "NotPayee",
    }
)


class CaptureSender:
    """Settles or closes channels of one payee in one escrow; what became of each is in `outcome`."""

    def __init__(
        self,
        payee: Address,
        *,
        rpc: Rpc,
        events: EscrowEvents,
        sender_of: Callable[[Address], TransactionSender],
        reporter: Reporter,
        outcome: Outcome,
        relayer: Relayer | None = None,
    ) -> None:
        self._payee = payee
        self._rpc = rpc
        self._events = events
        self._sender_of = sender_of
        self._reporter = reporter
        self._outcome = outcome
        self._relayer = relayer
        self._undeliverable: list[PlannedCapture] = []
        """Closes that only their refund keeps from going through: they are settled instead."""

    def send(self, action: Action, planned: Sequence[PlannedCapture]) -> None:
        """Do what is planned, as far as it goes. Never raises for what a channel or the chain refuses."""
        chunks = by_transaction(planned, is_relayed=self._relayer is not None)
        for number, chunk in enumerate(chunks):
            try:
                self._send(action, chunk)
            except OutcomeUnknown as error:
                self._outcome.fail(chunk, error)
            except MicrowalletError as error:
                # Of the payee or the chain, not of a channel: the rest would meet it too.
                rest = [item for later in chunks[number:] for item in later]
                self._outcome.fail([*rest, *self._undeliverable], error)
                return
        undeliverable, self._undeliverable = self._undeliverable, []
        if undeliverable:
            self.send(Action.SETTLE, [item for item in undeliverable if item.captured])
            for item in undeliverable:
                self._outcome.refund_undeliverable(item)

    def _send(self, action: Action, planned: Sequence[PlannedCapture]) -> None:
        """One transaction for all that can go through."""
        good = self._sound(action, planned)
        if not good:
            return
        doing = f"to {action} {len(good)} channels" if len(good) > 1 else f"to {action} a channel"
        self._reporter.say(f"sending a transaction {doing}")
        try:
            receipt = self._deliver(action, good)
        except TransactionReplaced:
            raise
        except TransactionReverted as error:
            self._reverted(action, good, error)
            return
        before = {item.channel.channel_id: item.channel for item in good}
        read_receipt(receipt, self._events, before.get, self._outcome)
        nothing = TransactionReverted(f"{receipt.hash} was mined and did nothing for this channel")
        self._outcome.fail(good, nothing)

    def _deliver(self, action: Action, good: Sequence[PlannedCapture]) -> Receipt:
        operation = _operation(action, good)
        if self._relayer is not None:
            return self._relayer.send(action, _capture(good[0]), operation=operation)
        return self._sender_of(self._payee).send(
            _call(action, good),
            operation=operation,
            purpose=str(action),
            channel_id=good[0].channel.channel_id if len(good) == 1 else None,
        )

    def _reverted(
        self, action: Action, planned: Sequence[PlannedCapture], error: TransactionReverted
    ) -> None:
        """It passed alone and in simulation, and yet: each half for itself, down to the one."""
        if len(planned) > 1:
            middle = len(planned) // 2
            for half in (planned[:middle], planned[middle:]):
                self._send(action, half)
        elif action is Action.CLOSE and not _is_refusal(error) and self._settles(planned[0]):
            self._undeliverable.append(planned[0])
        else:
            self._outcome.fail(planned, error)

    def _sound(self, action: Action, planned: Sequence[PlannedCapture]) -> Sequence[PlannedCapture]:
        """Those that go through, simulated as they will be sent."""
        if len(planned) > 1:
            (whole,) = _estimates(self._rpc, self._payee, [(_call(action, planned), f"this {action}")])
            if isinstance(whole, int) and whole <= _BASE_GAS + _USUAL_GAS * len(planned):
                return planned
        alone = [(_call(action, [item]), f"{action} of {item.channel.channel_id}") for item in planned]
        found = _estimates(self._rpc, self._payee, alone)
        good = []
        for item, estimate in zip(planned, found, strict=True):
            if isinstance(estimate, int) and estimate <= GAS_LIMIT:
                good.append(item)
            elif action is Action.CLOSE and not _is_refusal(estimate) and self._settles(item):
                self._undeliverable.append(item)
            else:
                self._outcome.fail([item], _error(estimate, item))
        return good

    def _settles(self, item: PlannedCapture) -> bool:
        """Whether a settle goes through where a close does not: then it is the refund that fails."""
        if not item.captured:
            return True
        call = _call(Action.SETTLE, [item])
        (found,) = _estimates(self._rpc, self._payee, [(call, f"settle of {item.channel.channel_id}")])
        return isinstance(found, int) and found <= GAS_LIMIT


def most_gas(rpc: Rpc, action: Action, planned: Sequence[PlannedCapture], *, is_relayed: bool) -> int:
    """Gas that the transactions of CaptureSender.send are sent with; `planned` is of one payee and escrow.

    As they would go through now: one that would not is taken for a usual one.
    """
    chunks = by_transaction(planned, is_relayed=is_relayed)
    wanted = [(_call(action, chunk), f"this {action}") for chunk in chunks]
    found = _estimates(rpc, planned[0].channel.descriptor.payee, wanted)
    return sum(
        with_margin(gas if isinstance(gas, int) else _BASE_GAS + _USUAL_GAS * len(chunk), call)
        + (AUTHORIZATION_GAS if is_relayed else 0)
        for gas, chunk, (call, _) in zip(found, chunks, wanted, strict=True)
    )


def by_transaction(planned: Sequence[PlannedCapture], *, is_relayed: bool) -> list[Sequence[PlannedCapture]]:
    """What goes into one transaction each: a payee's authorization is for one channel."""
    limit = 1 if is_relayed else BATCH_LIMIT
    return [planned[start : start + limit] for start in range(0, len(planned), limit)]


def _estimates(
    rpc: Rpc, payee: Address, wanted: Sequence[tuple[calls.Call, str]]
) -> list[int | MicrowalletError]:
    """Gas of each call, or the error it reverts with."""
    answers = rpc.try_batch([("eth_estimateGas", [call.request(payee)]) for call, _ in wanted])
    return [_estimate(answer, doing) for answer, (_, doing) in zip(answers, wanted, strict=True)]


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
