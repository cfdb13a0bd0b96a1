"""Paying: commit the next cumulative amount, then sign its vouchers."""

from __future__ import annotations

import secrets
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from microwallet.domain.channel import PayerChannel
from microwallet.domain.money import Amount
from microwallet.domain.payment import Payment, next_payment
from microwallet.domain.voucher import VoucherDigest, VoucherKey
from microwallet.domain.voucher_document import voucher_writer
from microwallet.errors import UnknownReference, UsageError
from microwallet.ledger.ledger import Ledger
from microwallet.ledger.payments import check_same

KeyOf = Callable[[PayerChannel], VoucherKey]
_KEY_LIMIT = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedPayment:
    """A payment that is committed, and the means to sign its vouchers, again and again the same."""

    channel: PayerChannel
    payment: Payment
    key: VoucherKey

    def vouchers(self) -> Iterator[str]:
        """Every voucher of the payment as JSON text, first to last."""
        return self._sign(self.payment.cumulative_amounts)

    def last(self) -> str:
        """The payment's last voucher as JSON text: it carries all before it."""
        return next(self._sign(self.payment.cumulative_amounts[-1:]))

    def _sign(self, amounts: range) -> Iterator[str]:
        descriptor, payment = self.channel.descriptor, self.payment
        digest = VoucherDigest(descriptor.chain_id, descriptor.escrow_contract, payment.channel_id)
        write = voucher_writer(
            descriptor, payment.channel_id, self.channel.asset, payment_start=payment.start
        )
        for amount in amounts:
            yield write(amount, payment.step, payment.deposit, self.key.sign(digest(amount)))


def new_idempotency_key() -> str:
    """A key nobody used before."""
    return "pay-" + secrets.token_hex(12)


def pay(
    ledger: Ledger,
    reference: str,
    amount: str,
    *,
    count: int,
    memo: str | None,
    idempotency_key: str,
    key_of: KeyOf,
    before_commit: Callable[[], None],
    now: int,
) -> SignedPayment:
    """Commit `count` payments of `amount` on the channel that `reference` means.

    The same key with the same arguments gives the same vouchers again and moves nothing. Nothing is
    committed unless the voucher key can be used; `before_commit` is called when all that can be
    checked is. Raises what Channels.find, Amount.parse, next_payment and check_same raise.
    """
    check_idempotency_key(idempotency_key)
    channel = ledger.channels.find(reference)
    step = Amount.parse(amount, channel.asset).base_units
    recorded = ledger.payments.find(idempotency_key)
    if recorded is None:
        plan = partial(
            next_payment, idempotency_key=idempotency_key, step=step, count=count, memo=memo, now=now
        )
        plan(channel)
        key = key_of(channel)
        before_commit()
        recorded = ledger.payments.record(channel.channel_id, idempotency_key, plan)
    else:
        key = key_of(channel)
    check_same(recorded, channel_id=channel.channel_id, step=step, count=count, memo=memo)
    return SignedPayment(channel=channel, payment=recorded, key=key)


def resume(
    ledger: Ledger,
    idempotency_key: str,
    *,
    key_of: KeyOf,
    reference: str | None = None,
    amount: str | None = None,
    count: int | None = None,
    memo: str | None = None,
) -> SignedPayment:
    """The vouchers of a payment made earlier, byte for byte; moves nothing.

    Raises UnknownReference if no payment was made under the key, and IdempotencyMismatch if one of
    the arguments that are given was another then.
    """
    recorded = ledger.payments.find(idempotency_key)
    channel = ledger.channels.get(recorded.channel_id) if recorded else None
    if recorded is None or channel is None:
        raise UnknownReference(
            f"no payment was made under the idempotency key {idempotency_key!r}: nothing was signed",
            hint=f"microwallet pay CHANNEL AMOUNT --idempotency-key {shlex.quote(idempotency_key)}",
        )
    named = channel if reference is None else ledger.channels.find(reference)
    check_same(
        recorded,
        channel_id=named.channel_id,
        step=recorded.step if amount is None else Amount.parse(amount, named.asset).base_units,
        count=recorded.count if count is None else count,
        memo=recorded.memo if memo is None else memo,
    )
    return SignedPayment(channel=channel, payment=recorded, key=key_of(channel))


def check_idempotency_key(text: object) -> str:
    """The key, if it can be one: 1 to 128 printable characters."""
    if not isinstance(text, str):
        raise UsageError(f"{text!r} cannot be an idempotency key: it is no text", hint='such as "order-17"')
    if not 0 < len(text) <= _KEY_LIMIT or not text.isprintable():
        raise UsageError(
            f"{text[:80]!r} cannot be an idempotency key: 1 to {_KEY_LIMIT} printable characters"
        )
    return text
