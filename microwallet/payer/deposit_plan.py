"""How an open or a top-up is to be made, found out before any key is touched and anything is written."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from microwallet.domain.channel import PayerChannel
from microwallet.domain.deposit import Deposit, DepositKind, Way
from microwallet.domain.identifiers import Address
from microwallet.domain.money import Amount
from microwallet.errors import IdempotencyMismatch
from microwallet.payer.funds import require_funds
from microwallet.payer.pay import check_idempotency_key
from microwallet.payer.paying_account import PayingAccount
from microwallet.payer.ways import choose_way


@dataclass(frozen=True, slots=True, kw_only=True)
class DepositPlan:
    """What is about to happen, for a person to agree to."""

    payee: Address
    amount: Amount
    channel: PayerChannel | None = None
    """The one that is topped up, as the chain has it; None for an open."""
    label: str | None = None
    """Of the channel that is opened."""
    is_gasless: bool = False
    """Whether it is signed for the payee, who brings it onto the chain."""
    arguments: str
    """What was asked for, as canonical text: the same key must come with the same."""
    idempotency_key: str
    way: Way
    max_fee: int | None
    """Wei; None for a deposit that was begun before."""
    begun: Deposit | None
    """The same deposit, begun by an earlier run."""

    @property
    def kind(self) -> DepositKind:
        """What the deposit does."""
        return DepositKind.OPEN if self.channel is None else DepositKind.TOP_UP

    @property
    def cancels_close(self) -> bool:
        """Whether a pending close request will be cancelled."""
        return self.channel is not None and self.channel.state.close_requested_at > 0


def plan_deposit(
    account: PayingAccount,
    *,
    payee: Address,
    amount: Amount,
    arguments: dict[str, Any],
    check: Callable[[], None],
    channel: PayerChannel | None = None,
    label: str | None = None,
    idempotency_key: str | None,
    way: Way | None,
    is_gasless: bool,
) -> DepositPlan:
    """One begun before, under the same key or without one with the same arguments, is what is resumed; for
    another one, `check` raises where it cannot be made.

    Raises UsageError, IdempotencyMismatch, InsufficientFunds, NetworkError.
    """
    kind = DepositKind.OPEN if channel is None else DepositKind.TOP_UP
    canonical = json.dumps(arguments, sort_keys=True)
    begun = _begun(account, kind, canonical, idempotency_key)
    if begun is not None:
        key, chosen, max_fee = begun.idempotency_key, begun.way, None
    else:
        check()
        key = idempotency_key or f"{kind.noun}-{secrets.token_hex(12)}"
        wanted = Way.AUTHORIZATION if is_gasless else way
        chosen = choose_way(account, amount.asset, amount.base_units, wanted)
        max_fee = require_funds(account, amount, 0 if is_gasless else chosen.gas(kind))
    return DepositPlan(
        payee=payee,
        amount=amount,
        channel=channel,
        label=label,
        is_gasless=is_gasless,
        arguments=canonical,
        idempotency_key=key,
        way=chosen,
        max_fee=max_fee,
        begun=begun,
    )


def require_same(deposit: Deposit, kind: DepositKind, arguments: str) -> None:
    """IdempotencyMismatch unless a deposit was begun with these arguments."""
    if deposit.kind is kind and deposit.arguments == arguments:
        return
    raise IdempotencyMismatch(
        f"the idempotency key {deposit.idempotency_key!r} was used for another deposit: {deposit.kind}"
        f" {deposit.arguments}; nothing was sent",
        hint="take another key, or the same arguments",
    )


def _begun(
    account: PayingAccount, kind: DepositKind, arguments: str, idempotency_key: str | None
) -> Deposit | None:
    """What an earlier run began under this key, or without a key with the same arguments."""
    deposits = account.ledger.deposits
    if idempotency_key is None:
        return next((begun for begun in deposits.pending() if begun.arguments == arguments), None)
    begun = deposits.find(check_idempotency_key(idempotency_key))
    if begun is not None:
        require_same(begun, kind, arguments)
    return begun
