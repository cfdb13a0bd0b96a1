"""The wallet of a Python program: the use cases of both sides, never a prompt."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from microwallet.api.pool import WalletPool, open_adapters
from microwallet.api.results import (
    Accepted,
    Balance,
    Capture,
    Channel,
    Payment,
    accepted_result,
    balance_result,
    capture_result,
    channel_result,
)
from microwallet.domain.money import Amount, Asset, check_amount, format_units
from microwallet.errors import InvalidAmount, UsageError, VoucherRejected

if TYPE_CHECKING:
    import httpx

    from microwallet.domain.channel import PayerChannel
    from microwallet.payer.paying_account import PayingAccount
    from microwallet.wallet import Wallet as Adapters

HTTP_SECONDS = 30.0
"""For each wait of an HTTP request."""


class Wallet:
    """One home, one account and one network. Threads may share it; a context manager.

    Amounts are text with a unit, such as "0.001 USDC", or an Amount. A channel is named by its id, the start
    of it, its label, or a payee with one channel. Every method raises MicrowalletError: NetworkError where
    the chain cannot be asked, OutcomeUnknown where money may have moved (call `sync`, then repeat the call
    with the same arguments; `request` with the key in its `data["idempotencyKey"]`), KeyUnavailable where a
    key is locked, LedgerError for a ledger that is busy or damaged.
    What is awaited is told to the logger `microwallet`.
    """

    def __init__(self, pool: WalletPool) -> None:
        """Use `Wallet.open`."""
        self._pool = pool

    @classmethod
    def open(
        cls,
        home: str | Path | None = None,
        *,
        account: str | None = None,
        network: str | None = None,
        rpc_url: str | None = None,
        password_file: str | Path | None = None,
    ) -> Self:
        """The wallet in a folder, or that of the user, with an account and a network by name.

        What is not given comes from MICROWALLET_* variables and the configuration, as on the command line.
        Reads the configuration; creates nothing, asks nobody, touches no key.
        """
        return cls(
            WalletPool(
                open_adapters(
                    home, account=account, network=network, rpc_url=rpc_url, password_file=password_file
                )
            )
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the ledger. What other threads are doing with it is finished."""
        self._pool.close()

    @property
    def address(self) -> str:
        """The address of the account in use. UsageError if there is none, or several and none is named."""
        return self._pool.base.account.address

    @property
    def network(self) -> str:
        """The name of the network in use."""
        return self._pool.base.network.name

    def amount(self, text: str) -> Amount:
        """The amount that a text with a unit means on the network in use. Raises UsageError."""
        from microwallet.paying import amount_of

        return amount_of(self._pool.base, text)

    def open_channel(
        self,
        payee: str,
        deposit: str | Amount,
        *,
        label: str | None = None,
        idempotency_key: str | None = None,
    ) -> Channel:
        """Lock a deposit for one payee, an address or the name of an account here.

        Called again after a crash, with the same arguments, it finishes what was begun. Raises UsageError,
        PaymentRefused (InsufficientFunds), TransactionReverted.
        """
        from microwallet.payer.deposit import make_deposit
        from microwallet.payer.open import plan_open
        from microwallet.paying import amount_of

        with self._pool.lend() as wallet:
            account = wallet.paying_account()
            plan = plan_open(
                account,
                wallet.address_of(payee),
                amount_of(wallet, deposit),
                label=label,
                idempotency_key=idempotency_key,
            )
            return channel_result(make_deposit(account, plan).channel, now=wallet.now())

    def channels(self, *, finalized: bool = False) -> list[Channel]:
        """The channels that this home pays through, oldest first; from the ledger."""
        with self._pool.lend() as wallet:
            found = wallet.ledger.channels.list(finalized=finalized)
            return [channel_result(channel, now=wallet.now()) for channel in found]

    def channel(self, channel: str | Channel) -> Channel:
        """One channel that this home pays through; from the ledger. UsageError unless one alone is meant."""
        with self._pool.lend() as wallet:
            return channel_result(_find(wallet, channel), now=wallet.now())

    def pay(
        self,
        channel: str | Channel,
        amount: str | Amount,
        *,
        memo: str | None = None,
        idempotency_key: str | None = None,
    ) -> Payment:
        """Sign the next voucher of a channel: the payment is committed when this returns.

        The same key with the same arguments gives the same voucher again and moves nothing. Raises
        PaymentRefused (AmountExceedsDeposit, ChannelNotOpen, VoucherUnknown), UsageError for another use of
        the key; nothing is signed then.
        """
        from microwallet.payer.pay import new_idempotency_key, pay

        with self._pool.lend() as wallet:
            key = new_idempotency_key() if idempotency_key is None else idempotency_key
            signed = pay(
                wallet.ledger,
                _reference(channel),
                amount if isinstance(amount, str) else _text(amount, _find(wallet, channel).asset),
                count=1,
                memo=memo,
                idempotency_key=key,
                key_of=partial(self._pool.voucher_key, wallet),
                before_commit=lambda: None,
                now=wallet.now(),
            )
            after = wallet.ledger.channels.newest(signed.channel)
            asset = after.asset
            return Payment(
                channel=channel_result(after, now=wallet.now()),
                amount=Amount(signed.payment.step, asset),
                cumulative_amount=Amount(signed.payment.end, asset),
                voucher=signed.last(),
                idempotency_key=key,
            )

    def top_up(
        self, channel: str | Channel, amount: str | Amount, *, idempotency_key: str | None = None
    ) -> Channel:
        """Add to a channel's deposit; it cancels a pending close. Resumed and refused like `open_channel`."""
        from microwallet.payer.deposit import make_deposit
        from microwallet.payer.top_up import plan_top_up

        with self._paying(channel) as (wallet, account, known):
            added = Amount.parse(_text(amount, known.asset), known.asset)
            plan = plan_top_up(account, known, added, idempotency_key=idempotency_key)
            return channel_result(make_deposit(account, plan).channel, now=wallet.now())

    def close_channel(self, channel: str | Channel, *, on_chain: bool = False) -> Channel:
        """Ask for the money back: of the payee over HTTP where it was paid so, else of the chain.

        The channel that is returned is `finalized`, or `closing`: then `withdraw` after `withdrawable_at`.
        Raises PaymentRefused (ChannelNotOpen), TransactionReverted.
        """
        from microwallet.payer.close import close
        from microwallet.paying import ask_payee

        with self._paying(channel) as (wallet, account, known):
            closing = close(account, known, ask_payee=None if on_chain else partial(ask_payee, wallet))
            return channel_result(closing.channel, now=wallet.now())

    def withdraw(self, channel: str | Channel, *, wait: bool = False) -> Channel:
        """Take back what is left, once the grace period of 15 minutes is over; `wait` until it is.

        Raises PaymentRefused (CloseNotReady, ChannelNotOpen), TransactionReverted.
        """
        from microwallet.payer.withdraw import withdraw

        with self._paying(channel) as (wallet, account, known):
            return channel_result(withdraw(account, known, wait=wait).channel, now=wallet.now())

    def sync(self) -> list[Channel]:
        """Find the account's channels on the chain, and settle what a crash left unfinished."""
        from microwallet.payer.sync import sync

        with self._pool.lend() as wallet:
            synced = sync([wallet.paying_account()], wallet.trusted_escrows, wallet.asset_of)
            found = [wallet.ledger.channels.newest(channel) for channel in synced.channels]
            return [channel_result(channel, now=wallet.now()) for channel in found]

    def balances(self, *, offline: bool = False) -> list[Balance]:
        """What the account has, asset by asset; `offline` from the ledger alone."""
        from microwallet.balances import balances_of

        with self._pool.lend() as wallet:
            found = balances_of(wallet, [wallet.account], offline=offline)
            return [balance_result(balance) for balance in found]

    def request(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        content: str | bytes | None = None,
        json: Any = None,
        max_amount: str | Amount | None = None,
        max_deposit: str | Amount | None = None,
        payee: str | None = None,
        idempotency_key: str | None = None,
        follow_redirects: bool = False,
        timeout: float = HTTP_SECONDS,
    ) -> httpx.Response:
        """Send one HTTP request, and pay if the server wants to be paid; see PayingTransport for the limits.

        `payment_of` tells what it cost. For more than one request give a client a PayingTransport. Raises
        PaymentRefused (AboveLimit, NoPayableChallenge), NetworkError for the chain and what httpx does for
        the server, OutcomeUnknown: with the same `idempotency_key` the call can be repeated and pays once.
        """
        import httpx

        from microwallet.api.hints import by_call
        from microwallet.api.transport import PayingTransport
        from microwallet.http402.paying.messages import IDEMPOTENCY_KEY, REPEATS

        key = {} if idempotency_key is None else {IDEMPOTENCY_KEY: idempotency_key}
        paying = PayingTransport(wallet=self, max_amount=max_amount, max_deposit=max_deposit, payee=payee)
        with httpx.Client(transport=paying, follow_redirects=follow_redirects, timeout=timeout) as client:
            return client.request(
                method,
                url,
                headers=headers,
                content=content,
                json=json,
                extensions={REPEATS: by_call, **key},
            )

    def accept(self, vouchers: str | bytes | Iterable[str | bytes]) -> Accepted:
        """Verify vouchers, JSON as `pay` gives it, and keep the best of each channel, durably.

        Raises VoucherRejected, a PaymentRefused, if any is not in order: those that are have been kept, and
        `data` has the counts, `rejectedByReason` and `rejectedLines`.
        """
        from microwallet.accepting import acceptance_of
        from microwallet.payee.line_stream import take_all
        from microwallet.payee.tally import tally_document

        lines = [vouchers] if isinstance(vouchers, str | bytes) else vouchers
        content = b"\n".join(line.encode() if isinstance(line, str) else line for line in lines)
        with self._pool.lend() as wallet:
            acceptance = acceptance_of(wallet)
            take_all(acceptance, BytesIO(content).read)
            tally = acceptance.tally
            if tally.rejected:
                told = ", ".join(f"{count} {reason}" for reason, count in tally.rejected_by_reason.items())
                raise VoucherRejected(f"vouchers were rejected: {told}", data=tally_document(tally))
            known = [wallet.ledger.vouchers.get(channel_id) for channel_id in tally.channels]
            kept = [channel for channel in known if channel is not None]
            return accepted_result(tally, kept, now=wallet.now())

    def payee_channels(self, *, finalized: bool = False) -> list[Channel]:
        """The channels that this home is paid through; from the ledger."""
        with self._pool.lend() as wallet:
            found = wallet.ledger.vouchers.list(finalized=finalized)
            return [channel_result(channel, now=wallet.now()) for channel in found]

    def settle(
        self, channels: Iterable[str | Channel] | None = None, *, close: bool = False
    ) -> list[Capture]:
        """Take what is owed, on all channels or those named; with `close` refund the rest and finalize them.

        Raises what failed first, TransactionReverted, NetworkError or OutcomeUnknown: `data` then names the
        channels that were captured and those that failed.
        """
        from microwallet.payee.captures import Action, Selection

        with self._pool.lend() as wallet:
            named = [wallet.ledger.vouchers.find(_reference(one)) for one in channels or ()]
            if channels is not None and not named:
                return []
            for one in named:
                _require_network(wallet, one.channel_id, one.descriptor.chain_id)
            settlement, action = wallet.settlement, Action.CLOSE if close else Action.SETTLE
            live = named or wallet.ledger.vouchers.live(wallet.network.chain_id)
            outcome = settlement.resume({channel.descriptor.payee for channel in live})
            ids = [channel.channel_id for channel in named]
            payee = None if named else wallet.account.address
            planned = settlement.plan(Selection(action=action, channel_ids=ids, payee=payee))
            if planned:
                outcome.add(settlement.execute(action, planned))
            if (error := outcome.error()) is not None:
                error.data = {
                    "captured": [done.channel.channel_id for done in outcome.channels],
                    "failed": {one.channel.channel_id: one.code for one in outcome.failed},
                }
                raise error
            return [capture_result(done, now=wallet.now()) for done in outcome.channels]

    @contextmanager
    def _paying(self, channel: str | Channel) -> Iterator[tuple[Adapters, PayingAccount, PayerChannel]]:
        """A channel, and the account that pays it."""
        with self._pool.lend() as wallet:
            known = _find(wallet, channel)
            _require_network(wallet, known.channel_id, known.descriptor.chain_id)
            yield wallet, wallet.account_paying(known), known


def _text(amount: str | Amount, asset: Asset) -> str:
    """An amount in the asset of a channel, as it would be typed; InvalidAmount for one of another asset."""
    amount = check_amount(amount)
    if isinstance(amount, str):
        return amount
    if amount.asset != asset:
        raise InvalidAmount(f"{amount} is no amount of the channel's {asset.symbol} ({asset.token})")
    return format_units(amount.base_units, asset.decimals)


def _reference(channel: str | Channel) -> str:
    return channel if isinstance(channel, str) else channel.channel_id


def _find(wallet: Adapters, channel: str | Channel) -> PayerChannel:
    return wallet.ledger.channels.find(_reference(channel))


def _require_network(wallet: Adapters, channel_id: str, chain_id: int) -> None:
    if wallet.network.chain_id != chain_id:
        raise UsageError(
            f"channel {channel_id} is on chain {chain_id}, and {wallet.network.name} is chain"
            f" {wallet.network.chain_id}",
            hint="open the wallet with the channel's network",
        )
