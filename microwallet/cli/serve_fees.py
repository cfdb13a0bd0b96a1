"""Options of `serve` about gas: whose is paid for whom, and how much."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from microwallet.errors import InvalidAmount, UsageError

if TYPE_CHECKING:
    from microwallet.selling import FeePolicy
    from microwallet.wallet import Wallet

DEFAULT_GAS_BUDGET = 10**16
"""Wei."""

PayFeesFrom = Annotated[
    str | None,
    typer.Option(
        "--pay-fees-from",
        metavar="AMOUNT",
        help="Pay the gas of payers who deposit this much or more by signature.",
    ),
]
GasBudget = Annotated[
    str | None,
    typer.Option(
        "--gas-budget", metavar="AMOUNT", help="Most to pay for their gas in an hour: 0.01 ETH if not given."
    ),
]


def fee_policy(wallet: Wallet, pay_fees_from: str | None, gas_budget: str | None) -> FeePolicy | None:
    """Which payers' gas is paid; None if nobody's."""
    from microwallet.domain.money import Amount, unit_of
    from microwallet.selling import FeePolicy

    if pay_fees_from is None:
        if gas_budget is not None:
            raise UsageError("--gas-budget is for --pay-fees-from", hint='--pay-fees-from "1 USDC"')
        return None
    least = Amount.parse(pay_fees_from, wallet.resolve_asset(unit_of(pay_fees_from)))
    if least.asset.is_native:
        raise UsageError(f"{least.asset.symbol} is the chain's own coin: whoever has some pays its own gas")
    if not least.base_units:
        raise InvalidAmount("gas for deposits of nothing would be paid without end")
    budget = DEFAULT_GAS_BUDGET
    if gas_budget is not None:
        amount = Amount.parse(gas_budget, wallet.resolve_asset(unit_of(gas_budget)))
        if not amount.asset.is_native:
            raise InvalidAmount(
                f"gas is paid in {wallet.network.native_symbol}, not in {amount.asset.symbol}"
            )
        budget = amount.base_units
    return FeePolicy(min_deposits={least.asset.token: least.base_units}, gas_budget=budget)
