"""The payer's rule for what may be signed next."""

from __future__ import annotations

from dataclasses import dataclass

from microwallet.domain.channel import ChannelStatus, PayerChannel
from microwallet.domain.identifiers import ChannelId
from microwallet.domain.money import Amount
from microwallet.errors import AmountExceedsDeposit, ChannelNotOpen, VoucherUnknown


@dataclass(frozen=True, slots=True, kw_only=True)
class Payment:
    """`count` equal increments of `step` base units on one channel, from `start` on.

    It is kept as this one record, so that all its vouchers can be made again byte for byte.
    """

    idempotency_key: str
    channel_id: ChannelId
    start: int
    step: int
    count: int
    deposit: int
    """The channel's deposit when the payment was made; `remaining` in its vouchers counts from it."""
    memo: str | None
    created_at: int

    @property
    def end(self) -> int:
        """The cumulative amount of the last voucher."""
        return self.start + self.step * self.count

    def beyond(self, cumulative_amount: int) -> int:
        """Base units of it that no voucher up to this cumulative amount covers."""
        return max(0, self.end - max(self.start, cumulative_amount))

    @property
    def cumulative_amounts(self) -> range:
        """The cumulative amount of each voucher, first to last."""
        return range(self.start + self.step, self.end + 1, self.step)


def next_payment(
    channel: PayerChannel,
    *,
    idempotency_key: str,
    step: int,
    count: int,
    memo: str | None,
    now: int,
) -> Payment:
    """The payment that comes next on `channel`: above all that was signed, all of it in the deposit.

    Raises ChannelNotOpen, VoucherUnknown or AmountExceedsDeposit; then nothing may be signed.
    """
    require_open(channel, now=now)
    if step * count > channel.remaining:
        raise _exceeds(channel, step, count)
    return Payment(
        idempotency_key=idempotency_key,
        channel_id=channel.channel_id,
        start=channel.authorized,
        step=step,
        count=count,
        deposit=channel.state.deposit,
        memo=memo,
        created_at=now,
    )


def require_open(channel: PayerChannel, *, now: int) -> None:
    """ChannelNotOpen or VoucherUnknown unless vouchers of the channel may be signed."""
    name = channel.name
    status = channel.status(now=now)
    if status is not ChannelStatus.OPEN:
        raise ChannelNotOpen(
            f"channel {name} is {status}, not open: nothing was signed",
            hint=_HINTS[status].format(name=name, payee=channel.descriptor.payee),
        )
    if not channel.voucher_known:
        raise VoucherUnknown(
            f"the highest voucher of channel {name} is not known: paying now could sign below it",
            hint="microwallet channel sync --voucher FILE"
            f"  (ask the payee {channel.descriptor.payee} for it)",
        )


_HINTS = {
    ChannelStatus.OPENING: "microwallet channel sync",
    ChannelStatus.ABANDONED: "microwallet channel open {payee} DEPOSIT",
    ChannelStatus.CLOSING: "microwallet channel top-up {name} AMOUNT  (cancels the close)",
    ChannelStatus.WITHDRAWABLE: "microwallet channel withdraw {name}",
    ChannelStatus.FINALIZED: "microwallet channel open {payee} DEPOSIT",
}


def _exceeds(channel: PayerChannel, step: int, count: int) -> AmountExceedsDeposit:
    def amount(base_units: int) -> Amount:
        return Amount(base_units, channel.asset)

    wanted = f"{count} x {amount(step)} = {amount(step * count)}" if count > 1 else str(amount(step))
    missing = step * count - channel.remaining
    return AmountExceedsDeposit(
        f"{wanted} does not fit in channel {channel.name}: {amount(channel.remaining)} of the deposit of"
        f" {amount(channel.state.deposit)} is left; nothing was signed",
        hint=f'microwallet channel top-up {channel.name} "{amount(missing)}"',
    )
