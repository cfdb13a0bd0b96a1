"""How the payer chooses the voucher for an HTTP request.

More may be signed for a request than it costs. That headroom buys later requests before more is signed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum

from microwallet.domain.channel import PayerChannel
from microwallet.domain.identifiers import ChannelId
from microwallet.domain.money import Amount, Asset
from microwallet.domain.payment import require_open
from microwallet.errors import AboveLimit, AmountExceedsDeposit


class PurchaseStatus(StrEnum):
    """What became of a purchase."""

    IN_FLIGHT = "in-flight"
    """Its voucher may have been sent and there is no answer yet: its cost counts as spent."""
    PAID = "paid"
    RETURNED = "returned"
    """Answered without service: its cost no longer counts as spent, but its voucher stays signed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Purchase:
    """One voucher that was signed for an HTTP request."""

    id: int
    idempotency_key: str
    channel_id: ChannelId
    cumulative_amount: int
    """Of the voucher: no other purchase on the channel has the same."""
    cost: int
    """Base units it adds to what is spent; lowered to the actual cost when that is known."""
    method: str
    url: str
    fingerprint: bytes
    """Digest of method, URL and body: the same key must come with the same request."""
    status: PurchaseStatus
    created_at: int

    @property
    def is_paid(self) -> bool:
        """Whether it bought what was asked for."""
        return self.status is PurchaseStatus.PAID


@dataclass(frozen=True, slots=True, kw_only=True)
class VoucherTerms:
    """What the voucher for a request must be, by the payee, and may be, by `most`; in base units."""

    cost: int
    most: int
    """The payer's own limit: by how much `authorized` may rise, all of which a payee could take and deliver
    nothing. With `takes_headroom`, how much may be authorized and not spent once more is signed."""
    risen: int = 0
    """How much was signed for the same request before, or was reserved for it of what was signed."""
    min_voucher_delta: int = 0
    """How far a new voucher must be above the one before."""
    at_least: int = 0
    """The cumulative amount that the payee waits for; 0 if it told none."""
    takes_headroom: bool = False
    """Whether the payee may charge all that is authorized and not spent without asking: a metered stream."""

    def above(self, *, spent: int, authorized: int) -> int:
        """The lowest cumulative amount that is enough and above all that was signed."""
        return max(spent + self.cost, self.at_least, authorized + max(1, self.min_voucher_delta))

    def require_allowed(self, amount: int, *, spent: int, authorized: int, asset: Asset) -> None:
        """AboveLimit if a voucher of this cumulative amount would authorize more than `most` allows."""
        rise = amount - authorized
        taken = amount - spent if self.takes_headroom and rise > 0 else rise
        if taken <= self.most:
            return
        wanted, most, risen = (Amount(one, asset) for one in (taken, self.most, self.risen))
        before = f"{risen} was signed for it before; nothing more was"
        raise AboveLimit(
            f"the payee wants {wanted} more to be authorized, and at most {most} may be for this request;"
            f" {before if self.risen else 'nothing was signed'}",
            hint=f'--max-amount "{Amount(self.risen + taken, asset)}"',
        )

    def on(self, channel: PayerChannel, authorized: int) -> VoucherTerms:
        """The terms with the cost to reserve on a channel once `authorized` is signed: with `takes_headroom`,
        all that is not spent."""
        headroom = authorized - channel.spent
        return replace(self, cost=max(self.cost, headroom)) if self.takes_headroom else self


def voucher_amount(
    channel: PayerChannel,
    terms: VoucherTerms,
    *,
    is_used: Callable[[int], bool],
    highest_unused: Callable[[int], int | None],
    now: int,
) -> int:
    """The cumulative amount of the voucher that buys something on `channel`.

    Headroom is used up before more is signed. `is_used` tells whether a purchase has that amount already;
    `highest_unused` gives the highest amount from its argument up to `authorized` that none has. Raises what
    require_open raises, AboveLimit and AmountExceedsDeposit; nothing may be signed then.
    """
    require_open(channel, now=now)
    amount = _amount(channel, terms, is_used, highest_unused)
    terms.require_allowed(amount, spent=channel.spent, authorized=channel.authorized, asset=channel.asset)
    if amount > channel.state.deposit:
        deposit = Amount(channel.state.deposit, channel.asset)
        missing = Amount(amount - channel.state.deposit, channel.asset)
        raise AmountExceedsDeposit(
            f"the deposit of channel {channel.name}, {deposit}, is used up; nothing was signed",
            hint=f'microwallet channel top-up {channel.name} "{missing}"',
        )
    return amount


def _amount(
    channel: PayerChannel,
    terms: VoucherTerms,
    is_used: Callable[[int], bool],
    highest_unused: Callable[[int], int | None],
) -> int:
    spent, authorized = channel.spent + terms.cost, channel.authorized
    above = terms.above(spent=channel.spent, authorized=authorized)
    if max(spent, terms.at_least) > authorized:
        return above
    if spent >= terms.at_least and not is_used(spent):
        return spent
    found = highest_unused(max(1, terms.at_least))
    return above if found is None else found
