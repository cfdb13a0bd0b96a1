"""The deposits that a `microwallet fetch` makes: agreed to by whoever runs it, and told in its document."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

from microwallet.cli.context import confirm
from microwallet.errors import LedgerError

if TYPE_CHECKING:
    from microwallet.domain.money import Asset
    from microwallet.http402.paying.choice import Choice
    from microwallet.payer.deposit_plan import DepositPlan
    from microwallet.payer.paying_account import PayingAccount
    from microwallet.wallet import Wallet


class FetchDeposits:
    """Those of one command, whatever comes of the request that they are for."""

    def __init__(self, wallet: Wallet, *, yes: bool) -> None:
        self._wallet = wallet
        self._yes = yes
        self._assets: dict[str, Asset] = {}
        """Of each that was agreed to, by idempotency key."""

    def agree(self, account: PayingAccount, plan: DepositPlan, choice: Choice) -> None:
        """Show what is about to be deposited, and for which price, and ask; raises what `confirm` raises."""
        from microwallet.cli.channel_deposit import deposit_summary

        confirm(deposit_summary(account, plan, price=choice.terms), yes=self._yes)
        self._assets[plan.idempotency_key] = plan.amount.asset

    def documents(self) -> list[dict[str, Any]]:
        """Each that was begun and not given up, as the ledger has it."""
        if not self._assets:
            return []
        from microwallet.cli.channel_deposit import recorded_deposit
        from microwallet.domain.deposit import DepositStatus
        from microwallet.payer.sync import SettledDeposit

        told = []
        with suppress(LedgerError):  # which was told before
            for key, asset in self._assets.items():
                deposit = self._wallet.ledger.deposits.find(key)
                if deposit is not None and deposit.status is not DepositStatus.ABANDONED:
                    recorded = recorded_deposit(SettledDeposit(deposit=deposit, status=deposit.status))
                    told.append(recorded | {"asset": asset.symbol, "decimals": asset.decimals})
        return told
