"""Adding to a channel's deposit: committed to the ledger first, resumed and never doubled."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass, replace

from microwallet.domain.channel import PayerChannel
from microwallet.domain.money import DEPOSIT_LIMIT, Amount
from microwallet.errors import ChannelNotOpen, InvalidAmount
from microwallet.ledger.deposits import Deposit, DepositKind, DepositStatus
from microwallet.payer.close import newest, require_on_chain
from microwallet.payer.deposit import MadeDeposit, begun_deposit, make_deposit, new_deposit_key, require_same
from microwallet.payer.funds import require_funds
from microwallet.payer.paying_account import PayingAccount
from microwallet.payer.signed_deposit import SignedDeposit, sign_deposit
from microwallet.payer.ways import Way, choose_way


@dataclass(frozen=True, slots=True, kw_only=True)
class TopUpPlan:
    """What is about to happen, for a person to agree to."""

    channel: PayerChannel
    amount: Amount
    idempotency_key: str
    way: Way
    max_fee: int | None
    """Wei; None for a top-up that was begun before."""
    begun: Deposit | None
    """The same top-up, begun by an earlier run."""

    @property
    def cancels_close(self) -> bool:
        """Whether a pending close request will be cancelled."""
        return self.channel.state.close_requested_at > 0


def plan_top_up(
    account: PayingAccount,
    channel: PayerChannel,
    amount: Amount,
    *,
    idempotency_key: str | None,
    way: Way | None = None,
    is_gasless: bool = False,
) -> TopUpPlan:
    """Check that the top-up can be done, touching no key and committing nothing to be sent.

    One begun before, under the same key or without one with the same arguments, is resumed. Raises
    ChannelNotOpen for a finalized channel, and what plan_open raises.
    """
    channel = newest(account, channel)
    begun = begun_deposit(account, DepositKind.TOP_UP, _arguments(channel, amount), idempotency_key)
    if begun is not None:
        return TopUpPlan(
            channel=channel,
            amount=amount,
            idempotency_key=begun.idempotency_key,
            way=Way(begun.method),
            max_fee=None,
            begun=begun,
        )
    _require_live(channel)
    if channel.state.deposit + amount.base_units >= DEPOSIT_LIMIT:
        raise InvalidAmount(f"{amount} is too large: the deposit in all stays below 2**96 base units")
    chosen = choose_way(account, amount.asset, amount.base_units, Way.AUTHORIZATION if is_gasless else way)
    gas = 0 if is_gasless else chosen.gas(DepositKind.TOP_UP)
    return TopUpPlan(
        channel=channel,
        amount=amount,
        idempotency_key=idempotency_key or new_deposit_key(DepositKind.TOP_UP),
        way=chosen,
        max_fee=require_funds(account, amount, gas),
        begun=None,
    )


def top_up(account: PayingAccount, plan: TopUpPlan) -> MadeDeposit:
    """Top the channel up, or finish doing so; see make_deposit for what it raises."""
    with account.ledger.turns.turn(f"deposit {plan.idempotency_key}"):
        deposit, resumed = _begun(account, plan)
        made = make_deposit(account, deposit, plan.channel, again=top_up_command(plan), resumed=resumed)
    cancelled = plan.cancels_close and made.channel.state.close_requested_at == 0
    return replace(made, cancelled_close=cancelled)


def sign_top_up(account: PayingAccount, plan: TopUpPlan) -> SignedDeposit | MadeDeposit:
    """Commit the top-up and sign it for the payee to send; see sign_deposit."""
    with account.ledger.turns.turn(f"deposit {plan.idempotency_key}"):
        deposit, resumed = _begun(account, plan)
        return sign_deposit(account, deposit, plan.channel, resumed=resumed)


def top_up_command(plan: TopUpPlan) -> str:
    """The command that does, or finishes, exactly this top-up."""
    return (
        f'microwallet channel top-up {plan.channel.channel_id} "{plan.amount}"'
        f" --idempotency-key {shlex.quote(plan.idempotency_key)}"
    )


def _begun(account: PayingAccount, plan: TopUpPlan) -> tuple[Deposit, bool]:
    """The committed deposit, and whether an earlier run had begun it."""
    deposits = account.ledger.deposits
    deposit, is_new = deposits.begin(
        plan.idempotency_key, lambda: (_deposit(plan), plan.channel), now=account.clock()
    )
    require_same(deposit, DepositKind.TOP_UP, _arguments(plan.channel, plan.amount))
    if deposit.status is DepositStatus.ABANDONED:
        deposits.revive(deposit, None, now=account.clock())
    return deposit, not is_new


def _require_live(channel: PayerChannel) -> None:
    require_on_chain(channel)
    if channel.state.finalized:
        raise ChannelNotOpen(
            f"channel {channel.name} is finalized: it takes no more deposits",
            hint=f"microwallet channel open {channel.descriptor.payee} AMOUNT",
        )


def _arguments(channel: PayerChannel, amount: Amount) -> str:
    return json.dumps({"amount": str(amount.base_units), "channelId": channel.channel_id}, sort_keys=True)


def _deposit(plan: TopUpPlan) -> Deposit:
    return Deposit(
        idempotency_key=plan.idempotency_key,
        kind=DepositKind.TOP_UP,
        channel_id=plan.channel.channel_id,
        amount=plan.amount.base_units,
        arguments=_arguments(plan.channel, plan.amount),
        method=plan.way,
        authorization_expires_at=None,
        status=DepositStatus.PENDING,
    )
