"""Whose gas a gateway pays: payers who deposit enough by signature, within a budget.

draft-evm-session-00, section "Fee Payment".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from microwallet.domain.identifiers import Address
from microwallet.domain.money import Amount
from microwallet.errors import InvalidAmount, UsageError
from microwallet.http402.charging.setting_names import SettingNames

DEFAULT_GAS_BUDGET = 10**16
"""Wei."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FeePolicy:
    """Which deposits of payers are brought onto the chain for them, and what that may cost."""

    min_deposits: Mapping[Address, int]
    """Base units by token; of a token that is not there, payers send deposits themselves."""
    gas_budget: int
    """Wei an hour, all processes of the home together."""


def fee_policy(
    pay_fees_from: str | None,
    gas_budget: str | None,
    amount: Callable[[str], Amount],
    names: SettingNames,
) -> FeePolicy | None:
    """The policy that two texts describe, read by `amount`; None if nobody's gas is paid."""
    if pay_fees_from is None:
        if gas_budget is not None:
            with names.naming("gas-budget"):
                raise UsageError(
                    "nobody's gas is paid without pay-fees-from", hint='--pay-fees-from "1 USDC"'
                )
        return None
    with names.naming("pay-fees-from"):
        least = amount(pay_fees_from)
        if least.asset.is_native:
            raise UsageError(
                f"{least.asset.symbol} is the chain's own coin: whoever has some pays its own gas"
            )
        if not least.base_units:
            raise InvalidAmount("gas for deposits of nothing would be paid without end")
    budget = DEFAULT_GAS_BUDGET
    if gas_budget is not None:
        with names.naming("gas-budget"):
            given = amount(gas_budget)
            if not given.asset.is_native:
                raise InvalidAmount(f"gas is paid in the chain's own coin, not in {given.asset.symbol}")
        budget = given.base_units
    return FeePolicy(min_deposits={least.asset.token: least.base_units}, gas_budget=budget)
