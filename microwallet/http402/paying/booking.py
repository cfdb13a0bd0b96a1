"""Recording what a request cost once its answer is there, by a receipt that is checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from microwallet.domain.channel import PayerChannel
from microwallet.domain.purchase import Purchase
from microwallet.http402.paying.receipts import BookedPayment, Books, read_receipt
from microwallet.http402.paying.spending import Held, Spending
from microwallet.ledger.purchases import Confirmation, Unconfirmed

_LEAVING_SECONDS = 60
"""How long a payee may go on charging for a stream that was left, until it sees that."""


def book(
    spending: Spending,
    purchases: Sequence[Purchase],
    held: Held,
    receipt: str | Mapping[str, Any] | None,
    *,
    owes_receipt: bool,
    delivered: int = 0,
    is_left: bool = False,
) -> BookedPayment:
    """Record what the purchases of one request cost together.

    A missing receipt is a problem only where the payee `owes_receipt`, not with an error. `delivered` is what
    was received of a stream, in base units. A stream that `is_left`, before a receipt ended it, may still be
    charged for a while.
    """
    client, told = spending.client, read_receipt(receipt)
    ledger = client.ledger
    books = _books(spending, purchases, held, delivered)
    said = 0 if told.receipt is None else told.receipt.spent
    if said > books.most_spent and _may_have_a_stream(spending, books.channel, purchases):
        # A stream may be charged all that was signed for requests beside it, which then count as unpaid.
        books = replace(books, most_spent=books.channel.authorized)
    cost = books.cost(told)
    problems = books.problems(told) if owes_receipt or receipt is not None else []
    is_by_use = held.choice.is_by_use
    confirmation = books.confirmation(
        told,
        problems=problems,
        is_by_use=is_by_use,
        charged_until=client.clock() + _LEAVING_SECONDS if is_left else 0,
    )
    ledger.purchases.settle(purchases, cost, confirmation)
    besides = _besides(spending, purchases, held)
    for beside in besides:  # its key has bought by another voucher: a later receipt tells what it was for
        ledger.purchases.settle([beside], beside.cost, Confirmation(untold=beside.cost))
    if cost > books.reserved or besides:
        cost = sum(one.cost for one in ledger.purchases.of_request(spending.request) if one.is_paid)
    return BookedPayment(
        channel=spending.newest(held.channel),
        amount=cost,
        taken=max(cost, spending.risen),
        is_most=is_by_use and not books.is_counted(told),
        cumulative_amount=purchases[-1].cumulative_amount,
        idempotency_key=spending.asked.key,
        receipt=told.document,
        receipt_problems=problems,
        deposited=held.deposited,
        paid_before=held.is_resumed and all(one.is_paid for one in purchases),
    )


def _books(spending: Spending, purchases: Sequence[Purchase], held: Held, delivered: int) -> Books:
    reserved, channel = held.reserved, spending.newest(held.channel)
    total = sum(purchase.cost for purchase in purchases)
    unconfirmed, is_final = Unconfirmed(), False
    least, most = -total, 0  # no bound: what was spent before an earlier run is not known
    if reserved is not None:
        by_hand = spending.client.ledger.payments.total(channel.channel_id)
        least = max(0, reserved.least_spent - by_hand)
        most = reserved.before.spent + reserved.purchase.cost
        unconfirmed, is_final = reserved.unconfirmed, reserved.is_final
    return Books(
        channel=channel,
        challenge_id=held.choice.challenge.id if reserved is not None and len(purchases) == 1 else None,
        cumulative_amount=purchases[0].cumulative_amount,
        reserved=total,
        price=held.choice.price.base_units,
        agreed=spending.limit(held.choice),
        delivered=delivered,
        least_spent=least,
        most_spent=most,
        unconfirmed=unconfirmed,
        is_final=is_final,
    )


def _may_have_a_stream(spending: Spending, channel: PayerChannel, purchases: Sequence[Purchase]) -> bool:
    """Whether a stream runs on a channel, or one may have: other purchases than these have no answer."""
    if spending.is_stream or spending.has_stream(channel):
        return True
    ours = sum(one.cost for one in purchases if not one.is_paid)
    return spending.client.ledger.purchases.uncertain(channel.channel_id) > ours


def _besides(spending: Spending, purchases: Sequence[Purchase], held: Held) -> Sequence[Purchase]:
    """What else was signed for what the purchases bought: in this run, and in others, where it cannot have
    been for a stream."""
    if held.choice.is_open_ended:
        return [] if held.beside is None else [held.beside]
    return [one for one in spending.live() if one.id not in {bought.id for bought in purchases}]
