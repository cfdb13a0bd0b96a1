"""What the use cases return to programs: flat, frozen, amounts with their asset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast

from microwallet.domain.channel import ChannelStatus, PayeeChannel, PayerChannel
from microwallet.domain.money import Amount

if TYPE_CHECKING:
    from microwallet.http402.paying.receipts import BookedPayment
    from microwallet.payee.outcome import Captured
    from microwallet.payee.tally import Tally
    from microwallet.payer.balance import Balance as AssetBalance

Status = Literal["opening", "abandoned", "open", "closing", "withdrawable", "finalized"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Channel:
    """A channel as this side's ledger has it. Addresses are EIP-55 text, `channel_id` is lowercase 0x hex."""

    channel_id: str
    payer: str
    payee: str
    token: str
    chain_id: int
    escrow_contract: str
    status: Status
    deposit: Amount
    settled: Amount
    authorized: Amount | None
    """The highest voucher signed, or accepted; None for a rebuilt channel that must not pay yet."""
    spent: Amount
    """How much of it was charged."""
    remaining: Amount | None
    """What can still be authorized."""
    unsettled: Amount
    """What the payee can still take for what was charged."""
    withdrawable_at: int | None
    """Unix seconds from which the payer may withdraw; None unless a close is requested."""
    label: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Payment:
    """A payment that was committed; its voucher is for the payee."""

    channel: Channel
    """As it is after the payment."""
    amount: Amount
    cumulative_amount: Amount
    voucher: str
    """One JSON object, as `microwallet pay` prints it."""
    idempotency_key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpPayment:
    """What an HTTP request cost, by the payer's own books."""

    channel: Channel
    amount: Amount
    """What it cost, or may have cost at most."""
    is_most: bool
    """Whether it may have cost less: it is paid for by what is used, and no receipt said how much."""
    signed_before: Amount
    """The part of `amount` that was signed for other requests, and that the payee may have charged for this
    one: a sum leaves it out."""
    cumulative_amount: Amount
    """Of the last voucher signed for it."""
    deposited: bool
    """Whether a channel was opened or topped up for it."""
    paid_before: bool
    """Whether it was paid under the same idempotency key before, and nothing new was."""
    idempotency_key: str
    receipt: Mapping[str, Any] | None
    """The server's, decoded; None if it sent none that can be decoded."""
    receipt_problems: Sequence[str]
    """What in it cannot be true."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Balance:
    """One account's money in one asset."""

    address: str
    on_chain: Amount | None
    """None when the chain was not asked."""
    locked: Amount
    """Deposits of live channels, less what has been settled."""
    authorized: Amount
    """The part of `locked` that vouchers promise to payees."""
    free: Amount
    """The part of `locked` that no voucher promises."""
    unsettled: Amount
    """What accepted vouchers of others are worth and have not paid yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """What became of vouchers, all of which were in order."""

    accepted: int
    """How many pay for something that no voucher paid for before."""
    duplicates: int
    channels: Sequence[Channel]
    """Those the vouchers are of, as they are now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Capture:
    """A channel that was settled or closed, as the chain's receipt tells it."""

    channel: Channel
    captured: Amount
    """Paid to the payee."""
    refunded: Amount
    """Paid back to the payer."""
    transaction_hash: str


def channel_result(channel: PayerChannel | PayeeChannel, *, now: int) -> Channel:
    """A channel of the ledger at `now`, Unix seconds."""
    descriptor, state = channel.descriptor, channel.state

    def amount(base_units: int) -> Amount:
        return Amount(base_units, channel.asset)

    status = channel.status(now=now)
    is_closing = status in (ChannelStatus.CLOSING, ChannelStatus.WITHDRAWABLE)
    return Channel(
        channel_id=channel.channel_id,
        payer=descriptor.payer,
        payee=descriptor.payee,
        token=descriptor.token,
        chain_id=descriptor.chain_id,
        escrow_contract=descriptor.escrow_contract,
        status=cast("Status", str(status)),
        deposit=amount(state.deposit),
        settled=amount(state.settled),
        authorized=amount(channel.authorized) if channel.voucher_known else None,
        spent=amount(channel.spent),
        remaining=amount(channel.remaining) if channel.voucher_known else None,
        unsettled=amount(channel.unsettled),
        withdrawable_at=state.withdrawable_at if is_closing else None,
        label=channel.label,
    )


def http_payment_result(payment: BookedPayment, *, now: int) -> HttpPayment:
    """A payment as the transport tells it."""
    asset = payment.channel.asset
    return HttpPayment(
        channel=channel_result(payment.channel, now=now),
        amount=Amount(payment.amount, asset),
        is_most=payment.is_most,
        signed_before=Amount(payment.signed_before, asset),
        cumulative_amount=Amount(payment.cumulative_amount, asset),
        deposited=payment.deposited,
        paid_before=payment.paid_before,
        idempotency_key=payment.idempotency_key,
        receipt=payment.receipt,
        receipt_problems=tuple(payment.receipt_problems),
    )


def balance_result(balance: AssetBalance) -> Balance:
    """A balance in base units, as amounts."""
    asset = balance.asset
    return Balance(
        address=balance.address,
        on_chain=None if balance.on_chain is None else Amount(balance.on_chain, asset),
        locked=Amount(balance.locked, asset),
        authorized=Amount(balance.authorized, asset),
        free=Amount(balance.free, asset),
        unsettled=Amount(balance.unsettled, asset),
    )


def accepted_result(tally: Tally, channels: Sequence[PayeeChannel], *, now: int) -> Accepted:
    """A tally of vouchers none of which was rejected."""
    return Accepted(
        accepted=tally.accepted,
        duplicates=tally.duplicates,
        channels=tuple(channel_result(channel, now=now) for channel in channels),
    )


def capture_result(captured: Captured, *, now: int) -> Capture:
    """What a transaction did to one channel."""
    asset = captured.channel.asset
    return Capture(
        channel=channel_result(captured.channel, now=now),
        captured=Amount(captured.captured, asset),
        refunded=Amount(captured.refunded, asset),
        transaction_hash=captured.transaction_hash,
    )
