"""What pays for HTTP requests, built out of a wallet: its account in use, within its user's limits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from microwallet.config import SETTINGS
from microwallet.domain.channel import PayerChannel
from microwallet.domain.identifiers import ZERO_ADDRESS, Address
from microwallet.domain.money import Amount, check_amount, unit_of
from microwallet.errors import (
    InvalidAmount,
    KeyUnavailable,
    NetworkError,
    PaymentRefused,
    UnknownReference,
    UsageError,
    ZeroAmount,
)
from microwallet.escrow.networks import known_networks
from microwallet.escrow.tokens import known_assets
from microwallet.http402.paying.client import Limits, PayingClient
from microwallet.http402.paying.origins import Origin
from microwallet.payer.pay import check_idempotency_key
from microwallet.wallet import Wallet

if TYPE_CHECKING:
    from microwallet.domain.purchase import Purchase
    from microwallet.http402.paying.choice import Choice
    from microwallet.http402.wire.receipt import SessionReceipt
    from microwallet.payer.close import ClosedByPayee
    from microwallet.payer.deposit_plan import DepositPlan
    from microwallet.payer.paying_account import PayingAccount

Confirm = Callable[["PayingAccount", "DepositPlan", "Choice"], None]


def limits_of(
    wallet: Wallet,
    *,
    max_amount: str | Amount | None = None,
    max_deposit: str | Amount | None = None,
    deposit: str | None = None,
    payee: Address | None = None,
    is_gasless: bool = False,
    dry_run: bool = False,
) -> Limits:
    """The settings `max-amount` and `max-deposit`, or what is given instead, as amounts with a unit.

    Only the asset that a maximum is in is paid in. Raises what amount_of raises.
    """
    return Limits(
        max_amounts=_maximum(wallet, "max-amount", max_amount),
        max_deposits=_maximum(wallet, "max-deposit", max_deposit),
        deposit=None if deposit is None else amount_of(wallet, deposit),
        payee=payee,
        is_gasless=is_gasless,
        dry_run=dry_run,
    )


def paying_client(wallet: Wallet, limits: Limits, *, confirm: Confirm) -> PayingClient:
    """The client of the wallet's account in use; `confirm` is asked before a deposit is made.

    No key is touched, and the chain is not asked, before either is needed.
    """
    network = wallet.network
    return PayingClient(
        ledger=wallet.ledger,
        payer=_payer(wallet, limits),
        chain_id=network.chain_id,
        networks={known.chain_id: known.name for known in known_networks(wallet.configuration).values()},
        escrow_contracts=wallet.trusted_escrows,
        assets={asset.token: asset for asset in known_assets(wallet.configuration, network)},
        limits=limits,
        key_of=wallet.voucher_key,
        account=lambda escrow: wallet.paying_account(escrow_contract=escrow),
        confirm=confirm,
        reporter=wallet.reporter,
        clock=wallet.now,
    )


def _payer(wallet: Wallet, limits: Limits) -> Address:
    """The account in use; nobody, which is said, where a dry run finds none at all."""
    try:
        return wallet.account.address
    except UnknownReference as error:
        if not limits.dry_run or wallet.accounts.list():
            raise
        wallet.reporter.say(f"{error.message}: {error.hint}")
        return ZERO_ADDRESS


def last_purchase(wallet: Wallet, channel: PayerChannel) -> Purchase | None:
    """The last one through a channel, else through any to the same payee, as where a channel was found again:
    that is where the payee can be asked over HTTP."""
    purchases, descriptor = wallet.ledger.purchases, channel.descriptor
    own = purchases.newest(channel.channel_id)
    return own or purchases.newest_from(descriptor.payee, descriptor.chain_id)


def ask_payee(wallet: Wallet, channel: PayerChannel) -> ClosedByPayee | None:
    """Ask the payee over HTTP to close a channel, where it was last paid; None if it does not, told why."""
    purchase = last_purchase(wallet, channel)
    if purchase is None:
        return None
    from microwallet.payer.close import ClosedByPayee

    wallet.reporter.say(f"asking {Origin.of(purchase.url)} to close")
    try:
        told = _asked(wallet, channel, purchase, to_close=True)
    except (PaymentRefused, NetworkError) as error:
        wallet.reporter.say(f"{error.message}; closing on the chain")
        return None
    return ClosedByPayee(transaction_hash=None if told is None else told.transaction_hash)


@dataclass(frozen=True, slots=True, kw_only=True)
class PaidByHand:
    """What was paid by hand on a channel to a payee that is paid over HTTP too, base units."""

    total: int
    uncounted: int
    """So much of it the payee has not counted, by its word."""
    is_exact: bool
    """Whether it is no more than that: not where requests are unsettled that it may not have charged."""
    idempotency_keys: Sequence[str]
    """Of the payments, oldest first."""


def paid_by_hand(wallet: Wallet, channel: PayerChannel) -> PaidByHand | None:
    """What the payee, asked where it was last paid over HTTP, counts of the payments by hand on a channel.

    None where there are none, or it does not say, or cannot be asked without a key that is locked.
    """
    ledger = wallet.ledger
    payments = ledger.payments.of_channel(channel.channel_id)
    purchase = last_purchase(wallet, channel) if payments else None
    if purchase is None:
        return None
    wallet.reporter.say(f"asking {Origin.of(purchase.url)} what it counts of the payments by hand")
    try:
        told = _asked(wallet, channel, purchase, to_close=False)
    except (PaymentRefused, NetworkError, KeyUnavailable) as error:
        wallet.reporter.detail(error.message)
        return None
    if told is None:
        return None
    total = ledger.payments.total(channel.channel_id)
    uncertain = ledger.purchases.uncertain(channel.channel_id)
    never_seen = sum(payment.beyond(told.accepted_cumulative) for payment in payments)
    uncounted = min(total, max(never_seen, channel.spent - uncertain - told.spent))
    return PaidByHand(
        total=total,
        uncounted=uncounted,
        is_exact=not uncertain or uncounted == total,
        idempotency_keys=[payment.idempotency_key for payment in payments],
    )


def _asked(
    wallet: Wallet, channel: PayerChannel, purchase: Purchase, *, to_close: bool
) -> SessionReceipt | None:
    from microwallet.http402.paying.closing import ask

    key, timeout = wallet.voucher_key(channel), wallet.configuration.get("wait-seconds")
    return ask(channel, purchase, key, to_close=to_close, clock=wallet.now, timeout=timeout)


def amount_of(wallet: Wallet, amount: str | Amount) -> Amount:
    """The amount that a text means on the network in use: its unit, or the default asset.

    Raises what Wallet.resolve_asset, check_amount and Amount.parse raise; UsageError for an amount of another
    chain.
    """
    amount = check_amount(amount)
    if isinstance(amount, str):
        return Amount.parse(amount, wallet.resolve_asset(unit_of(amount), amount=amount))
    if amount.asset.chain_id != wallet.network.chain_id:
        raise UsageError(
            f"{amount} is an amount on chain {amount.asset.chain_id}, and {wallet.network.name} is chain"
            f" {wallet.network.chain_id}"
        )
    return amount


def check_http_key(key: str) -> str:
    """An idempotency key that can be sent over HTTP; UsageError for any other."""
    if not check_idempotency_key(key).isascii():
        raise UsageError(f"{key!r} cannot be sent: an idempotency key for HTTP is ASCII")
    return key


def _maximum(wallet: Wallet, name: str, given: str | Amount | None) -> dict[Address, int]:
    """The most of the asset it is in, base units, as given or else by the setting."""
    configuration = wallet.configuration
    try:
        amount = amount_of(wallet, configuration.get(name) if given is None else given)
    except (InvalidAmount, UnknownReference) as error:
        if given is not None:
            if isinstance(error, ZeroAmount) and name == "max-amount":
                error.hint = "--no-pay  (pays nothing)"
            raise
        if isinstance(error, UnknownReference) and configuration.resolve(name).source == "default":
            return {}  # the network has no token of that name
        instead = configuration.instead(name, SETTINGS[name].default)
        raise type(error)(f"{name}: {error.message}", hint=instead) from error
    return {amount.asset.token: amount.base_units}
