"""Which channels are settled or closed, and how much of each voucher is taken: the pure part."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from microwallet.domain.channel import PayeeChannel
from microwallet.domain.identifiers import Address, ChannelId
from microwallet.domain.money import Amount, names_asset, unit_of
from microwallet.errors import AmountExceedsDeposit, ChannelNotOpen, PaymentRefused


class Action(StrEnum):
    """What the payee does with a channel."""

    SETTLE = "settle"
    CLOSE = "close"


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedCapture:
    """A channel, and its settled total afterwards: `settled <= capture_amount <= deposit`."""

    channel: PayeeChannel
    capture_amount: int
    chosen: bool = False
    """Whether the payee named this amount; else it is all that the voucher is worth, whenever it is sent."""

    @property
    def captured(self) -> int:
        """Base units that go to the payee now."""
        return self.capture_amount - self.channel.state.settled

    @property
    def refunded(self) -> int:
        """Base units that go back to the payer, if the channel is closed."""
        return self.channel.state.deposit - self.capture_amount

    def renewed(self, channel: PayeeChannel) -> PlannedCapture:
        """The same plan for the channel as it is now: a better voucher may have come, or a top up."""
        return replace(self, channel=channel) if self.chosen else whole_capture(channel)

    def is_due(self, action: Action) -> bool:
        """Whether the chain would still take it, by the channel's state."""
        state = self.channel.state
        if state.finalized or self.capture_amount > state.deposit:
            return False
        return self.captured > 0 or (action is Action.CLOSE and self.captured == 0)

    def is_outrun(self, action: Action) -> bool:
        """Whether a close cannot take so little any more, as more was settled since it was planned."""
        return action is Action.CLOSE and not self.channel.state.finalized and self.captured < 0

    @property
    def is_beyond(self) -> bool:
        """Whether it would take more than was charged, as some of that was given back since it was chosen."""
        state, spent = self.channel.state, self.channel.spent
        return self.chosen and not state.finalized and self.capture_amount > max(spent, state.settled)


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which channels a payee means, and how much of them: `minimum` and `capture` are amounts as typed."""

    action: Action
    channel_ids: Sequence[ChannelId] = ()
    """Empty: every channel."""
    payee: Address | None = None
    """Only channels that pay this address."""
    minimum: str | None = None
    """Channels with less unsettled, or of another asset than its unit's, are left out."""
    capture: str | None = None
    """The settled total afterwards, for the one channel named; else all the voucher is worth."""

    def plan(self, channels: Iterable[PayeeChannel]) -> list[PlannedCapture]:
        """What there is to take from `channels`, whose states are the chain's newest.

        Finalized channels are left out; to settle, a channel needs something unsettled, to close it
        does not. Raises ChannelNotOpen for a named channel that is not on chain, and what
        chosen_capture raises.
        """
        chosen = [channel for channel in channels if self._means(channel)]
        missing = [channel for channel in chosen if not channel.state.exists]
        if self.channel_ids and missing:
            raise ChannelNotOpen(
                f"channel {missing[0].channel_id} is not on chain (any more); its voucher is kept",
                hint="microwallet payee list",
            )
        live = [channel for channel in chosen if channel.state.exists and not channel.state.finalized]
        if self.capture is not None:
            return [chosen_capture(channel, self.capture, self.action) for channel in live]
        planned = [whole_capture(channel) for channel in live if _reaches(channel, self.minimum)]
        return [item for item in planned if item.captured or self.action is Action.CLOSE]

    def _means(self, channel: PayeeChannel) -> bool:
        if self.channel_ids and channel.channel_id not in self.channel_ids:
            return False
        return self.payee in (None, channel.descriptor.payee)


def whole_capture(channel: PayeeChannel) -> PlannedCapture:
    """All that was charged: no more than the deposit, no less than is settled."""
    worth = min(channel.spent, channel.state.deposit)
    return PlannedCapture(channel=channel, capture_amount=max(worth, channel.state.settled))


def chosen_capture(channel: PayeeChannel, capture: str, action: Action) -> PlannedCapture:
    """As much as the payee chose: `capture`, an amount as typed, is the settled total afterwards.

    Raises InvalidAmount, AmountExceedsDeposit, or PaymentRefused outside what the voucher allows.
    """
    amount = Amount.parse(capture, channel.asset)
    deposit, authorized, settled = (
        Amount(base_units, channel.asset)
        for base_units in (channel.state.deposit, channel.authorized, channel.state.settled)
    )
    if amount > deposit:
        raise AmountExceedsDeposit(f"a capture of {amount} is more than the deposit of {deposit}")
    if amount > authorized:
        raise PaymentRefused(f"a capture of {amount} is more than the best voucher authorizes: {authorized}")
    if amount.base_units > channel.spent:
        spent = Amount(channel.spent, channel.asset)
        raise PaymentRefused(f"a capture of {amount} is more than was charged: {spent} of {authorized}")
    if amount < settled or (action is Action.SETTLE and amount == settled):
        raise PaymentRefused(
            f"a capture of {amount} takes nothing: {settled} is settled already, and --capture is the total"
        )
    return PlannedCapture(channel=channel, capture_amount=amount.base_units, chosen=True)


def _reaches(channel: PayeeChannel, minimum: str | None) -> bool:
    if minimum is None:
        return True
    unit = unit_of(minimum)
    if unit is not None and not names_asset(unit, channel.asset):
        return False
    return channel.unsettled >= Amount.parse(minimum, channel.asset).base_units
