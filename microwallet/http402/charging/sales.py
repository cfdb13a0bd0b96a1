"""Selling: what becomes of an order in one transaction over the store's rows.

draft-evm-session-00, sections "Voucher Verification", "Per-Request Processing" and "Request Idempotency".

The signature of a voucher is checked before it comes here. Each voucher buys once. One that is not the
highest any more can still buy, as long as what is authorized and not spent covers the cost.
"""

from __future__ import annotations

from contextlib import suppress
from typing import NamedTuple

from microwallet.domain.identifiers import ChannelId
from microwallet.domain.session import Sale, SessionAccount
from microwallet.http402.charging.account import (
    accept,
    amount_above,
    charge,
    give_back,
    insufficient,
)
from microwallet.http402.charging.refusal import Refused, refused
from microwallet.http402.charging.store import SessionRows
from microwallet.http402.wire.problems import ProblemType

MOST_REPEATS = 3
"""How often a request is served again without a new charge, since answers get lost; but not for ever."""
_OF_REQUEST = 32
"""How many of a fingerprint's first bytes identify the request; the rest depend on its price."""


class Handover(NamedTuple):
    """A voucher with a valid signature, and the challenge that it answers."""

    channel_id: ChannelId
    cumulative_amount: int
    signature: bytes
    deposit: int
    """Of its channel, confirmed; base units."""
    min_voucher_delta: int
    challenge_id: str
    challenge_expires_at: int | None
    """None where the challenge is known to serve this channel."""


class Order(NamedTuple):
    """A request that a voucher is to buy."""

    handover: Handover
    cost: int
    """Base units to charge, or to reserve."""
    idempotency_key: str | None = None
    fingerprint: bytes | None = None
    """Of the request and its price: after a new price it is not served again for the old one."""
    is_stream: bool = False
    """Whether it becomes the channel's newest stream, which ends the one before."""
    may_repeat: bool = False
    """Whether serving it again harms nobody."""


class Sold(NamedTuple):
    """An order that was charged, or one that was served before under the same key."""

    sale: Sale
    account: SessionAccount
    is_replay: bool = False
    is_repeat: bool = False
    """Whether it is to be served again: its answer is not kept."""

    @property
    def reserved(self) -> int:
        """Base units charged for it now, which are given back if it is not served."""
        return 0 if self.is_replay else self.sale.cost


class StreamEnded(Exception):
    """A newer stream runs on the channel, or the channel takes no vouchers any more."""


def sell(rows: SessionRows, order: Order, now: int, *, is_closing: bool = False) -> Sold:
    """Accept the voucher and charge the cost, or find what was sold under the order's key before.

    Refused if nothing is sold; a voucher that is higher than all before is kept even then. `is_closing` says
    that the channel is about to be closed, which the store does not know yet.
    """
    handover, key = order.handover, order.idempotency_key
    account = _claimed(rows, handover)
    if key is not None and (earlier := rows.sale_by_key(handover.channel_id, key)) is not None:
        if _request_of(earlier) != _request_of(order):
            detail = "the idempotency key was used for another request"
            raise refused(ProblemType.IDEMPOTENCY_MISMATCH, detail)
        with suppress(Refused):  # the earlier sale is found whatever becomes of this voucher
            account = _taken(rows, account, handover, now)
        is_repeat = (
            order.may_repeat
            and earlier.answer is None
            and earlier.repeats < MOST_REPEATS
            and earlier.fingerprint == order.fingerprint
        )
        if is_repeat:
            earlier = earlier._replace(repeats=earlier.repeats + 1)
            rows.save_repeats(earlier)
        return Sold(earlier, account, is_replay=True, is_repeat=is_repeat)
    if is_closing:
        account = account._replace(is_closing=True)
    accepted = _accepted(account, handover)
    sale = Sale(
        handover.channel_id, handover.cumulative_amount, order.cost, key, order.fingerprint, None, now
    )
    is_better = accepted is not account
    try:
        charged = charge(accepted, order.cost, min_voucher_delta=handover.min_voucher_delta)
    except Refused as refusal:
        if is_better:
            rows.save_voucher(accepted, handover.signature, now=now)
        raise _unless_uncertain(refusal, accepted, order) from None
    if order.is_stream:
        charged = charged._replace(stream=charged.stream + 1)
    if is_better:  # none above all before has bought already
        rows.add_first_sale(sale, charged, handover.signature)
    elif rows.add_sale(sale):
        rows.save(charged)
    else:
        raise _bought_already(rows, accepted, order)
    return Sold(sale, charged)


def _bought_already(rows: SessionRows, account: SessionAccount, order: Order) -> Refused:
    """The refusal of a voucher that has bought, where what is authorized covers the order."""
    required = account.spent + order.cost
    if rows.sale(account.channel_id, required) is not None:
        required = amount_above(account, order.cost, order.handover.min_voucher_delta)
    return insufficient(account, "this voucher has bought already", required=required)


def _unless_uncertain(refusal: Refused, account: SessionAccount, order: Order) -> Refused:
    """The refusal of an order that an account cannot pay for.

    If it could by the deposit that came with the order, the chain has told two deposits, since one of its
    nodes is behind: the payer is to try again.
    """
    if account._replace(deposit=order.handover.deposit).available < order.cost:
        return refusal
    detail = "it is not certain how much is deposited, as the chain told two sums; nothing was charged"
    return refused(ProblemType.TRY_AGAIN, detail, account.channel_id)


def _request_of(sold: Order | Sale) -> bytes | None:
    """The part of a fingerprint that identifies the request, without its price."""
    return sold.fingerprint and sold.fingerprint[:_OF_REQUEST]


def take(rows: SessionRows, handover: Handover, now: int) -> SessionAccount:
    """Accept a voucher that buys nothing by itself; Refused if it cannot be accepted."""
    return _taken(rows, _claimed(rows, handover), handover, now)


def settle_cost(rows: SessionRows, sale: Sale, cost: int) -> Sold:
    """Charge a sale `cost`, at most what was reserved for it, and give the rest back. Does so once, however
    often the sale is served again, and not if it was given back."""
    account = known_account(rows, sale.channel_id)
    current = rows.sale(sale.channel_id, sale.cumulative_amount)
    if current is None or current.is_settled:
        return Sold(current or sale, account)
    cost = min(cost, current.cost)
    account = give_back(account, current.cost - cost)
    rows.save(account)
    settled = current._replace(cost=cost, is_settled=True)
    rows.update_sale(settled)
    return Sold(settled, account)


def undo(rows: SessionRows, sale: Sale) -> bool:
    """Give back all that a sale cost, as nothing was served; unless it was or is served another time. Whether
    it is given back."""
    current = rows.sale(sale.channel_id, sale.cumulative_amount)
    if current is None:
        return True
    if current.repeats:
        rows.save_repeats(current._replace(repeats=current.repeats - 1))
        return False
    rows.save(give_back(known_account(rows, sale.channel_id), current.cost))
    rows.remove_sale(current)
    return True


def charge_units(rows: SessionRows, sale: Sale, amount: int, *, wanted: int, stream: int) -> tuple[int, Sold]:
    """Charge a stream for its next units of `amount` each, as many of `wanted` as the account can pay for.

    StreamEnded if a newer stream runs, or the channel takes no vouchers any more: what is charged then may
    come too late to be captured.
    """
    account = known_account(rows, sale.channel_id)
    if account.stream != stream or not account.goes_on:
        raise StreamEnded
    count = min(wanted, account.available // amount)
    if count:
        account = charge(account, count * amount)
        rows.save(account)
        sale = sale._replace(cost=sale.cost + count * amount)
        rows.update_sale(sale)
    return count, Sold(sale=sale, account=account)


def known_account(rows: SessionRows, channel_id: ChannelId) -> SessionAccount:
    """The account of a channel; Refused if the channel is not known."""
    account = rows.account(channel_id)
    if account is None:
        raise channel_not_found(channel_id)
    return account


def _claimed(rows: SessionRows, handover: Handover) -> SessionAccount:
    """The account of a voucher's channel. From now on the voucher's challenge serves only that channel."""
    channel_id = handover.channel_id
    if handover.challenge_expires_at is not None and not rows.claim_challenge(
        handover.challenge_id, channel_id, expires_at=handover.challenge_expires_at
    ):
        raise served_another()
    return known_account(rows, channel_id)


def _taken(rows: SessionRows, account: SessionAccount, handover: Handover, now: int) -> SessionAccount:
    accepted = _accepted(account, handover)
    if accepted is not account:
        rows.save_voucher(accepted, handover.signature, now=now)
    return accepted


def _accepted(account: SessionAccount, handover: Handover) -> SessionAccount:
    return accept(
        account,
        handover.cumulative_amount,
        min_voucher_delta=handover.min_voucher_delta,
        deposit=handover.deposit,
    )


def channel_not_found(channel_id: ChannelId) -> Refused:
    """The refusal of a channel that is not known here: an `open` action tells of it."""
    return refused(ProblemType.CHANNEL_NOT_FOUND, "no such channel was told of here", channel_id)


def served_another() -> Refused:
    """The refusal of a challenge for a second channel."""
    return refused(ProblemType.INVALID_CHALLENGE, "the challenge has served another channel")
