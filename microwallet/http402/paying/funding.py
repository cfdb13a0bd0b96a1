"""Which channel pays: an open one, else one that is opened or topped up, within the limits."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from microwallet.domain.channel import PayerChannel
from microwallet.domain.deposit import Deposit, DepositKind, DepositStatus, Way
from microwallet.domain.identifiers import ChannelId, TxHash
from microwallet.domain.money import Amount
from microwallet.domain.purchase import VoucherTerms
from microwallet.errors import ChannelNotOpen, PaymentRefused
from microwallet.http402.paying.choice import Choice, signs_deposits
from microwallet.http402.paying.client import PayingClient
from microwallet.http402.paying.deposit_size import DepositSize, missing
from microwallet.http402.paying.payee_channels import PayeeChannels

if TYPE_CHECKING:
    from microwallet.payer.deposit_plan import DepositPlan
    from microwallet.payer.paying_account import PayingAccount
    from microwallet.payer.signed_deposit import SignedDeposit


@dataclass(frozen=True, slots=True, kw_only=True)
class ToldTopUp:
    """A top-up that the payee is to be told of."""

    amount: int
    transaction_hash: TxHash


@dataclass(frozen=True, slots=True, kw_only=True)
class Funded:
    """A channel that can pay, and what happened on chain for it just now."""

    channel: PayerChannel
    open_hash: TxHash | None = None
    top_up: ToldTopUp | None = None
    signed: SignedDeposit | None = None
    """A deposit that the payee is to bring onto the chain: until then the channel cannot pay."""
    is_new: bool = False
    """Whether money was deposited for it just now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview:
    """How something would be paid for: from a channel, or by a deposit that has to be made first."""

    way: str
    """channel, open or topUp."""
    channel: PayerChannel | None
    deposit: Amount | None


class Funding:
    """Finds channels for one offer, and makes deposits for it."""

    def __init__(self, client: PayingClient, choice: Choice) -> None:
        self._client = client
        self._choice = choice
        self._channels = PayeeChannels(client, choice)
        self._size = DepositSize(client, choice, self._channels)

    def channel(self, terms: VoucherTerms, without: Collection[ChannelId]) -> Funded:
        """A channel with enough left, but none of `without`; opened or topped up if need be.

        Of processes that find none at once, one makes the deposit. Raises AboveLimit, what the user's
        confirmation raises, and what opening and topping up raise.
        """
        if (found := self._suitable(terms, without)) is not None:
            return Funded(channel=found)
        request = self._choice.request
        with self._client.ledger.turns.turn(f"fund {self._client.payer} {request.recipient}"):
            while True:
                if (found := self._suitable(terms, without)) is not None:
                    return Funded(channel=found)
                short = self._short(without)
                try:
                    return self._deposited_into(short, terms, without)
                except ChannelNotOpen:
                    if short is None or not self._is_closed(short):
                        raise  # else on without it

    def fitting(self, terms: VoucherTerms, without: Collection[ChannelId]) -> Sequence[PayerChannel]:
        """The channels with enough left, the one the server suggests first."""
        suggested = self._choice.request.channel_id
        found = [
            channel
            for channel in self._channels.usable(without)
            if max(channel.spent + terms.cost, channel.authorized) <= channel.state.deposit
        ]
        return sorted(found, key=lambda channel: channel.channel_id != suggested)

    def top_up(self, channel: PayerChannel, terms: VoucherTerms) -> Funded:
        """A channel with enough added to its deposit, if it has not got that meanwhile."""
        with self._client.ledger.turns.turn(f"fund {self._client.payer} {channel.descriptor.payee}"):
            channel = self._client.ledger.channels.newest(channel)
            if missing(channel, terms) <= 0:
                return Funded(channel=channel)
            return self._deposited_into(channel, terms)

    def preview(self, terms: VoucherTerms) -> Preview:
        """What `channel` would do, told from the ledger alone: a deposit that has expired may be dead."""
        if (found := self._suitable(terms, ())) is not None:
            return Preview(way="channel", channel=found, deposit=None)
        short = self._short(())
        begun = self._begun(short, terms, self._has_expired)
        if begun is None:
            deposit = self._size.of(short, terms, is_gasless=self._is_gasless(lambda: True))
        else:
            deposit = self._amount_of(begun)
        return Preview(way="open" if short is None else "topUp", channel=short, deposit=deposit)

    def _is_closed(self, channel: PayerChannel) -> bool:
        """Whether the ledger knows by now that nothing can be paid from a channel any more."""
        return self._client.ledger.channels.newest(channel).state.finalized

    def _suitable(self, terms: VoucherTerms, without: Collection[ChannelId]) -> PayerChannel | None:
        return next(iter(self.fitting(terms, without)), None)

    def _short(self, without: Collection[ChannelId]) -> PayerChannel | None:
        """A channel that pays again when it is topped up."""
        return next(iter(self._channels.usable(without)), None)

    def _deposited_into(
        self, short: PayerChannel | None, terms: VoucherTerms, without: Collection[ChannelId] = ()
    ) -> Funded:
        """Top up a channel that is short, or open one; go on with what was begun, or has landed just now."""
        from microwallet.payer.open import plan_open
        from microwallet.payer.top_up import plan_top_up

        account = self._client.account(self._choice.request.escrow_contract)
        kind = DepositKind.OPEN if short is None else DepositKind.TOP_UP
        is_gasless = self._is_gasless(partial(_can_send, account, kind))
        begun = self._begun(short, terms, partial(self._has_died, account))
        if short is None:
            landed = self._suitable(terms, without)
        else:
            short = self._client.ledger.channels.newest(short)
            landed = short if missing(short, terms) <= 0 else None
        if begun is not None:
            amount, key = self._amount_of(begun), begun.idempotency_key
        elif landed is not None:
            return Funded(channel=landed)
        else:
            amount, key = self._size.of(short, terms, is_gasless=is_gasless), None
        if short is None:
            if (silent := self._channels.silent()) is not None:
                then = "microwallet channel sync --voucher FILE"
                self._client.reporter.say(f"{silent}; ask the payee for it, then: {then}")
            payee = self._choice.request.recipient
            plan = plan_open(account, payee, amount, idempotency_key=key, is_gasless=is_gasless)
            return self._made(account, plan, f"opening a channel to {payee} with {amount}")
        plan = plan_top_up(account, short, amount, idempotency_key=key, is_gasless=is_gasless)
        return self._made(account, plan, f"topping up channel {short.name} by {amount}")

    def _made(self, account: PayingAccount, plan: DepositPlan, what: str) -> Funded:
        """Make a deposit, or sign it for the payee to make."""
        from microwallet.payer.deposit import make_deposit
        from microwallet.payer.signed_deposit import SignedDeposit, sign_deposit

        self._client.confirm(account, plan, self._choice)
        self._client.reporter.say(what)
        made = sign_deposit(account, plan) if plan.is_gasless else make_deposit(account, plan)
        if isinstance(made, SignedDeposit):
            return Funded(channel=made.channel, signed=made, is_new=True)
        sent = made.transaction_hash
        if plan.kind is DepositKind.OPEN:
            return Funded(channel=made.channel, open_hash=sent, is_new=True)
        told = None if sent is None else ToldTopUp(amount=plan.amount.base_units, transaction_hash=sent)
        return Funded(channel=made.channel, top_up=told, is_new=True)

    def _is_gasless(self, can_send: Callable[[], bool]) -> bool:
        """Whether a deposit is signed for the payee to send."""
        return signs_deposits(self._choice.request, wanted=self._client.limits.is_gasless, has_coin=can_send)

    def _begun(
        self, short: PayerChannel | None, terms: VoucherTerms, is_dead: Callable[[Deposit], bool]
    ) -> Deposit | None:
        """An open to this payee, or a top-up of a channel that is enough, that an earlier run, or another
        process, did not finish, and that can still be finished."""
        begun = [
            deposit
            for deposit in self._client.ledger.deposits.pending()
            if (self._is_open(deposit) if short is None else _tops_up(deposit, short))
        ]
        live = [deposit for deposit in begun if not is_dead(deposit)]
        enough = 0 if short is None else missing(short, terms)
        return next((one for one in live if one.amount >= enough and self._size.allows(one)), None)

    def _is_open(self, deposit: Deposit) -> bool:
        """Whether it opens a channel to this payee, and none that the user gave a name."""
        channel = self._client.ledger.channels.get(deposit.channel_id)
        return (
            deposit.kind is DepositKind.OPEN
            and channel is not None
            and self._channels.has(channel)
            and json.loads(deposit.arguments).get("label") is None
        )

    def _amount_of(self, begun: Deposit) -> Amount:
        return Amount(begun.amount, self._choice.price.asset)

    def _has_expired(self, deposit: Deposit) -> bool:
        """Whether what was signed for a deposit is worth nothing any more, if it was not used."""
        ends = deposit.authorization_expires_at
        return ends is not None and self._client.clock() >= ends

    def _has_died(self, account: PayingAccount, deposit: Deposit) -> bool:
        """Whether it has expired without being used: it is abandoned then."""
        from microwallet.payer.sync import settle_deposit

        channel = account.ledger.channels.get(deposit.channel_id)
        if channel is None or not self._has_expired(deposit):
            return False
        return settle_deposit(account, deposit, channel) is DepositStatus.ABANDONED


def _tops_up(deposit: Deposit, channel: PayerChannel) -> bool:
    return deposit.kind is DepositKind.TOP_UP and deposit.channel_id == channel.channel_id


def _can_send(account: PayingAccount, kind: DepositKind) -> bool:
    """Whether an account has the coin for a deposit that it signs and sends itself."""
    try:
        needed = account.fees().cost(Way.AUTHORIZATION.gas(kind))
    except PaymentRefused:  # gas is dearer than this payer pays
        return False
    return account.reader.native_balance(account.address) >= needed
