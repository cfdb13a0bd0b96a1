"""Adding to a channel's deposit: what is checked before."""

from __future__ import annotations

from microwallet.domain.channel import PayerChannel
from microwallet.domain.deposit import Way
from microwallet.domain.money import DEPOSIT_LIMIT, Amount
from microwallet.errors import InvalidAmount
from microwallet.payer.close import require_live
from microwallet.payer.deposit_plan import DepositPlan, plan_deposit
from microwallet.payer.paying_account import PayingAccount
from microwallet.payer.refresh import refreshed


def plan_top_up(
    account: PayingAccount,
    channel: PayerChannel,
    amount: Amount,
    *,
    idempotency_key: str | None = None,
    way: Way | None = None,
    is_gasless: bool = False,
) -> DepositPlan:
    """Check that a channel can be topped up; see plan_deposit. ChannelNotOpen for a finalized one."""
    channel = refreshed(account, channel)

    def check() -> None:
        require_live(channel)
        if channel.state.deposit + amount.base_units >= DEPOSIT_LIMIT:
            raise InvalidAmount(f"{amount} is too large: the deposit in all stays below 2**96 base units")

    return plan_deposit(
        account,
        payee=channel.descriptor.payee,
        amount=amount,
        arguments={"amount": str(amount.base_units), "channelId": channel.channel_id},
        check=check,
        channel=channel,
        idempotency_key=idempotency_key,
        way=way,
        is_gasless=is_gasless,
    )
