"""What a transaction offers per gas (EIP-1559), under the user's cap."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from microwallet.domain.money import format_units
from microwallet.errors import PaymentRefused

GWEI = 10**9


@dataclass(frozen=True, slots=True, kw_only=True)
class Fees:
    """Wei per gas: the most that is offered, and the part of it that goes to the block's builder."""

    max_fee_per_gas: int
    max_priority_fee_per_gas: int
    data_fee_per_gas: int = 0
    """What a rollup takes beside for the data of a transaction, at most, by its gas."""

    def cost(self, gas: int) -> int:
        """Wei that `gas` costs at most."""
        return gas * (self.max_fee_per_gas + self.data_fee_per_gas)


def cap_in_wei(max_fee_gwei: float) -> int:
    """The setting `max-fee-gwei` in wei."""
    return int(Decimal(str(max_fee_gwei)) * GWEI)


def suggest(*, base_fee: int, priority_fee: int, cap: int) -> Fees:
    """Fees that stay good while the base fee doubles, or up to the cap.

    Raises PaymentRefused when even the next block costs more than the cap.
    """
    if base_fee + priority_fee > cap:
        raise _above_cap(base_fee + priority_fee, cap)
    return Fees(max_fee_per_gas=min(2 * base_fee + priority_fee, cap), max_priority_fee_per_gas=priority_fee)


def bump(last: Fees, suggested: Fees, *, cap: int) -> Fees:
    """Fees that replace a pending transaction: at least an eighth more of each.

    Raises PaymentRefused when that passes the cap.
    """
    fees = Fees(
        max_fee_per_gas=max(suggested.max_fee_per_gas, _an_eighth_more(last.max_fee_per_gas)),
        max_priority_fee_per_gas=max(
            suggested.max_priority_fee_per_gas, _an_eighth_more(last.max_priority_fee_per_gas)
        ),
    )
    if fees.max_fee_per_gas > cap:
        raise _above_cap(fees.max_fee_per_gas, cap)
    return fees


def _an_eighth_more(price: int) -> int:
    return price + -(-price // 8) + 1


def _above_cap(needed: int, cap: int) -> PaymentRefused:
    return PaymentRefused(
        f"gas costs {format_units(needed, 9)} gwei now; the setting max-fee-gwei allows"
        f" {format_units(cap, 9)}",
        hint=f"wait, or: microwallet config set max-fee-gwei {-(-needed // GWEI) + 1}",
    )
