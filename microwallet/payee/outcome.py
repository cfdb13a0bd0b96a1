"""What became of captures: read from receipts, failures beside what succeeded."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

from microwallet.domain.channel import PayeeChannel
from microwallet.domain.identifiers import ChannelId, TxHash
from microwallet.errors import MicrowalletError, OutcomeUnknown, RefundUndeliverable, TransactionReverted
from microwallet.escrow.events import ChannelClosed, EscrowEvents, Settled
from microwallet.escrow.receipt import Receipt
from microwallet.escrow.reverts import ContractReverted
from microwallet.payee.captures import PlannedCapture

RUN_AGAIN = "run the command again: it finishes what was sent, and sends nothing twice"


@dataclass(frozen=True, slots=True, kw_only=True)
class Captured:
    """A channel that was settled or closed, as the receipt's events tell it."""

    channel: PayeeChannel
    """With its state after the transaction."""
    captured: int
    refunded: int
    transaction_hash: TxHash
    gas_used: int
    """Of the whole transaction, which may be for other channels too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Transaction:
    """A transaction that was mined."""

    hash: TxHash
    gas_used: int
    channel_ids: Sequence[ChannelId]


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A channel that was neither settled nor closed, or not closed, and why."""

    channel: PayeeChannel
    error: MicrowalletError

    @property
    def code(self) -> str:
        """Kebab-case: the contract's own error where it named one."""
        if isinstance(self.error, ContractReverted) and self.error.name:
            return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", self.error.name).lower()
        return self.error.code


@dataclass(slots=True, kw_only=True)
class Outcome:
    """What was achieved and what was not."""

    channels: list[Captured] = field(default_factory=list)
    transactions: list[Transaction] = field(default_factory=list)
    failed: list[Failure] = field(default_factory=list)

    def add(self, other: Outcome) -> None:
        """Take in what another one holds."""
        self.channels += other.channels
        self.transactions += other.transactions
        self.failed += other.failed

    def fail(self, planned: Iterable[PlannedCapture], error: MicrowalletError) -> None:
        """Note the same failure for those channels whose outcome is not told yet."""
        told = {done.channel.channel_id for done in self.channels}
        told |= {failure.channel.channel_id for failure in self.failed}
        self.failed += [
            Failure(channel=item.channel, error=error)
            for item in planned
            if item.channel.channel_id not in told
        ]

    def refund_undeliverable(self, item: PlannedCapture) -> None:
        """Note that a channel stays open, beside what a settle got from it."""
        channel_id = item.channel.channel_id
        if any(failure.channel.channel_id == channel_id for failure in self.failed):
            return
        paid = any(done.channel.channel_id == channel_id for done in self.channels)
        what = "what it owed is settled" if paid else "nothing is owed"
        error = RefundUndeliverable(
            f"channel {channel_id} stays open: its refund cannot be delivered to"
            f" {item.channel.descriptor.payer}; {what}"
        )
        self.failed.append(Failure(channel=item.channel, error=error))

    def error(self) -> MicrowalletError | None:
        """The error of the whole: an unknown outcome before all, else the one reason, else a count."""
        if not self.failed:
            return None
        errors = list({id(failure.error): failure.error for failure in self.failed}.values())
        for error in errors:
            if isinstance(error, OutcomeUnknown):
                error.hint = RUN_AGAIN
                return error
        if len(self.failed) == 1:
            return errors[0]
        kinds = {type(error) for error in errors}
        if len(kinds) == 1 and not isinstance(errors[0], TransactionReverted):
            return errors[0]
        lines = [f"{failure.channel.channel_id}: {failure.error.message}" for failure in self.failed]
        return TransactionReverted(
            f"{len(self.failed)} of the channels failed:\n" + "\n".join(lines),
            hint="microwallet payee list",
        )


def read_receipt(
    receipt: Receipt,
    events: EscrowEvents,
    channel_before: Callable[[ChannelId], PayeeChannel | None],
    outcome: Outcome,
) -> None:
    """Add what a mined transaction did to channels of ours, told by its events alone."""
    done: list[ChannelId] = []
    for log in receipt.logs:
        event = events.decode(log)
        channel = channel_before(event.channel_id) if event else None
        if channel is None:
            continue
        if isinstance(event, ChannelClosed):
            captured, refunded = event.settled - channel.state.settled, event.refunded
            state = replace(channel.state, settled=event.settled, finalized=True)
        elif isinstance(event, Settled):
            captured, refunded = event.captured, 0
            state = replace(channel.state, settled=event.settled)
        else:
            continue
        done.append(channel.channel_id)
        outcome.channels.append(
            Captured(
                channel=replace(channel, state=state),
                captured=captured,
                refunded=refunded,
                transaction_hash=receipt.hash,
                gas_used=receipt.gas_used,
            )
        )
    if done:
        outcome.transactions.append(
            Transaction(hash=receipt.hash, gas_used=receipt.gas_used, channel_ids=done)
        )
