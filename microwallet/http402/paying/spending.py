"""What one request spends: its purchases, however often it is tried, and what they may cost together.

`booking` records what they did cost.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from microwallet.domain.channel import PayerChannel
from microwallet.domain.identifiers import ChannelId, TxHash
from microwallet.domain.purchase import Purchase, PurchaseStatus, VoucherTerms
from microwallet.domain.secret_fields import without_secrets
from microwallet.errors import (
    AmountExceedsDeposit,
    ChannelNotOpen,
    IdempotencyMismatch,
    PaymentRefused,
)
from microwallet.http402.paying.choice import Choice
from microwallet.http402.paying.client import PayingClient
from microwallet.http402.paying.credentials import Signer
from microwallet.http402.paying.exchange import Asked, Steps
from microwallet.http402.paying.funding import Funded, Funding
from microwallet.http402.paying.handing_over import hand_over, tell
from microwallet.http402.paying.origins import Origin
from microwallet.http402.paying.stream_session import StreamSession
from microwallet.ledger.purchases import HttpRequest, Reserved

_MOST_RACES = 3
"""How often a channel is topped up again because other requests used up the deposit first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """A purchase that is committed, with all it takes to hand its voucher over."""

    choice: Choice
    channel: PayerChannel
    purchase: Purchase
    reserved: Reserved | None
    """None for a purchase of an earlier run."""
    open_hash: TxHash | None
    """Of the open, while the payee is to be told of it."""
    deposited: bool
    earlier: int = 0
    """Base units of the other purchases that an earlier run made under the same key, for its stream."""
    beside: Purchase | None = None
    """A purchase added to one of an earlier run, whose voucher a stream used up: see `signed_beside`."""

    @property
    def is_resumed(self) -> bool:
        """Whether an earlier run bought it, and may have paid for it."""
        return self.reserved is None


class Spending:
    """Commits each purchase before its voucher is signed, and never authorizes more than the limit."""

    def __init__(self, client: PayingClient, asked: Asked) -> None:
        self.client = client
        self.asked = asked
        self.origin = Origin.named_in(asked.url)
        self.request = HttpRequest(
            idempotency_key=asked.own_key,
            method=asked.method,
            url=asked.url,
            fingerprint=asked.fingerprint,
        )
        self._risen: dict[ChannelId, int] = {}
        """By how much each channel's `authorized` rose for it."""
        self._signers: dict[ChannelId, Signer] = {}
        self._session = StreamSession(client)

    def close(self) -> None:
        """Let go of the channel's session, if this is a stream that held it."""
        self._session.close()

    @property
    def risen(self) -> int:
        """Base units by which what is authorized rose for it, on all channels together."""
        return sum(self._risen.values())

    def begun(self) -> Purchase | None:
        """An earlier run's purchase under the key, if any; IdempotencyMismatch for another request."""
        try:
            return next(iter(self.live()), None)
        except IdempotencyMismatch as error:
            raise (self._led_elsewhere(error) if self.asked.hop else error) from None

    def live(self) -> Sequence[Purchase]:
        """Purchases under the key that were not returned, oldest first."""
        purchases = self.client.ledger.purchases.of_request(self.request)
        return [one for one in purchases if one.status is not PurchaseStatus.RETURNED]

    def _led_elsewhere(self, error: IdempotencyMismatch) -> IdempotencyMismatch:
        """The redirect has another target than before: to pay for that too would be to pay twice."""
        first = self.client.ledger.purchases.of_key(self.request.idempotency_key)[0]
        if first.url == self.asked.url:
            return error
        key = first.idempotency_key
        then = replace(
            self.asked, method=first.method, url=first.url, idempotency_key=key, hop=0, repeats=None
        )
        return IdempotencyMismatch(
            f"the redirect leads to {without_secrets(self.asked.url)} now, and led to"
            f" {without_secrets(first.url)} when it was paid for under the idempotency key"
            f" {self.asked.key!r}; nothing new was paid for it",
            hint=then.again,
        )

    def limit(self, choice: Choice) -> int:
        """Base units that may be paid for this request."""
        return self.client.limits.max_amounts.get(choice.price.asset.token, 0)

    def forget_risen(self, channel: PayerChannel, untaken: int) -> None:
        """Free the limit of `untaken` base units: the channel is finalized, and they were not settled."""
        risen = self._risen.get(channel.channel_id, 0)
        self._risen[channel.channel_id] = max(0, risen - max(0, untaken))

    def terms(self, choice: Choice, *, reserved: int = 0) -> VoucherTerms:
        """The terms of a voucher for an offer, within what may still be authorized. What is `reserved` for
        the request may have been signed before, for others: it counts all the same."""
        signed = max(self.risen, reserved)
        return VoucherTerms(
            cost=choice.reserved,
            most=max(0, self.limit(choice) - signed),
            risen=signed,
            min_voucher_delta=choice.request.min_voucher_delta,
            takes_headroom=choice.is_open_ended,
        )

    def buy(self, choice: Choice, *, without: Sequence[ChannelId] = ()) -> Steps[Held]:
        """Find a channel with enough left and commit the purchase on it."""
        terms = self.terms(choice)
        while True:
            funded = yield from self._funded(choice, terms, without)
            try:
                return (yield from self._bought(choice, funded, terms))
            except ChannelNotOpen:
                deposit = self.newest(funded.channel).state.deposit
                if funded.is_new or deposit != funded.channel.state.deposit:
                    raise  # after a deposit just now, of which no second one is made
                without = (*without, funded.channel.channel_id)  # closed meanwhile

    def buy_more(self, held: Held, terms: VoucherTerms, *, continues: bool = False) -> Steps[Held]:
        """Commit another purchase on the same channel."""
        funded = Funded(channel=self.newest(held.channel))
        more = yield from self._bought(held.choice, funded, terms, continues=continues)
        return replace(
            held,
            channel=more.channel,
            purchase=more.purchase,
            reserved=more.reserved,
            deposited=held.deposited or more.deposited,
        )

    def _bought(
        self, choice: Choice, funded: Funded, terms: VoucherTerms, *, continues: bool = False
    ) -> Steps[Held]:
        """Commit a purchase on a channel, topped up where its deposit does not cover it."""
        races = 0
        while True:
            if funded.signed is not None:
                signer, again = self.signer(funded.channel), self.asked.again
                funded = yield from hand_over(self.client, signer, choice, funded.signed, again=again)
            self._pin(choice)
            channel_id = funded.channel.channel_id
            self.signer(funded.channel)  # without its key nothing is committed
            try:
                reserved = self.client.ledger.purchases.reserve(
                    channel_id, self.request, terms, now=self.client.clock(), continues=continues
                )
            except AmountExceedsDeposit:
                # Others were faster, or the payee's smallest step does not fit.
                races += funded.is_new
                if races > _MOST_RACES:
                    raise
                funded = Funding(self.client, choice).top_up(funded.channel, terms)
            else:
                break
        self._risen[channel_id] = self._risen.get(channel_id, 0) + reserved.rise
        yield from self.tell_deposit(choice, funded, reserved.purchase)
        return Held(
            choice=choice,
            channel=funded.channel,
            purchase=reserved.purchase,
            reserved=reserved,
            open_hash=funded.open_hash,
            deposited=funded.is_new or races > 0,
        )

    def _funded(self, choice: Choice, terms: VoucherTerms, without: Sequence[ChannelId]) -> Steps[Funded]:
        """A channel for it; a stream then also holds the channel's session."""
        funding = Funding(self.client, choice)
        if self.asked.is_stream or choice.is_by_event:
            return (yield from self._session.begin(funding, terms, without))
        return funding.channel(terms, without)

    @property
    def is_stream(self) -> bool:
        """Whether it holds a channel's session."""
        return self._session.is_held

    def has_stream(self, channel: PayerChannel) -> bool:
        """Whether a stream of another request runs on a channel."""
        return self._session.is_another_on(channel)

    def chargeable(self, channel: PayerChannel) -> int:
        """Base units that a payee who charges without asking can have charged for this request by now: all
        that is authorized, less what was certainly charged for others."""
        return self.client.ledger.purchases.chargeable(channel.channel_id)

    def resumed(self, choice: Choice, purchase: Purchase) -> Held:
        """Take up an earlier run's purchase: its voucher is sent again and nothing is reserved. What that run
        spent counts against the limit."""
        channel = self.client.ledger.channels.get(purchase.channel_id)
        if channel is None or not choice.request.fits(channel.descriptor):
            raise PaymentRefused(
                f"the purchase under the key {self.request.idempotency_key!r} was from another payee, or in"
                " another token, escrow or chain than the server asks for now; nothing was signed"
            )
        counted = sum(one.cost for one in self.live())
        self._risen[channel.channel_id] = counted
        return Held(
            choice=choice,
            channel=channel,
            purchase=purchase,
            reserved=None,
            open_hash=None,
            deposited=False,
            earlier=counted - purchase.cost,
        )

    def signed_beside(self, held: Held, required: int) -> Steps[Held | None]:
        """Sign one more voucher for what an earlier run bought, since a stream used up the one it signed.

        The payee wants `required` base units in all. What of that does not count as spent yet is a new
        purchase, within the limit. None if the payee wants no more than was signed, or wants more for what
        was paid for before.
        """
        purchases, channel = self.client.ledger.purchases, self.newest(held.channel)
        is_counted = required <= purchases.counted(channel.channel_id)
        if required <= channel.authorized or (held.purchase.is_paid and not is_counted):
            return None
        terms = replace(self.terms(held.choice), cost=0, at_least=required, takes_headroom=not is_counted)
        signed = yield from self.buy_more(held, terms, continues=True)
        if is_counted:
            purchases.give_back([signed.purchase])  # it buys nothing itself
        return replace(
            held,
            channel=signed.channel,
            deposited=signed.deposited,
            beside=None if is_counted else signed.purchase,
        )

    def tell_deposit(self, choice: Choice, funded: Funded, purchase: Purchase | None = None) -> Steps[None]:
        """Tell the payee of a top-up, before the voucher of a `purchase` that needs it is sent.

        The answer is not looked at: the voucher shows whether the payee took it. The purchase is reserved
        before, as other requests would use up the deposit meanwhile.
        """
        if (told := funded.top_up) is None:
            return
        signer = self.signer(funded.channel)
        try:
            yield from tell(
                self.client,
                choice,
                lambda challenge: signer.top_up(challenge, told.amount, told.transaction_hash),
            )
        except GeneratorExit:  # it is given up
            if purchase is not None:
                self.client.ledger.purchases.give_back([purchase])
            raise

    def newest(self, channel: PayerChannel) -> PayerChannel:
        """A channel as the ledger has it now."""
        return self.client.ledger.channels.newest(channel)

    def signer(self, channel: PayerChannel) -> Signer:
        """What signs for a channel: its key is fetched once."""
        if channel.channel_id not in self._signers:
            self._signers[channel.channel_id] = Signer(channel, self.client.key_of(channel))
        return self._signers[channel.channel_id]

    def give_back(self, held: Held) -> None:
        """Give back a purchase that was answered without service, but not an earlier run's: it may have
        bought something then."""
        if not held.is_resumed:
            self.client.ledger.purchases.give_back([held.purchase])

    def give_back_untaken(self, held: Held, settled: int) -> bool:
        """Give back what an earlier run bought if the chain proves that it was not charged; whether it was
        given back.

        `settled` is what the payee took from the finalized channel, base units. It proves that if other
        requests, charged for certain, account for all of it.
        """
        ledger, channel_id, live = self.client.ledger, held.channel.channel_id, self.live()
        certain = ledger.purchases.certain(channel_id) - ledger.payments.total(channel_id)
        if settled > certain or any(one.is_paid for one in live):
            return False
        ledger.purchases.give_back(live)
        self._risen[channel_id] = 0
        return True

    def _pin(self, choice: Choice) -> None:
        """Remember the payee of this origin: from the first payment on, only it is paid."""
        known, client = self.client.ledger.known_payees, self.client
        payee = choice.request.recipient
        if known.get(str(self.origin), client.chain_id) != payee:
            known.remember(str(self.origin), client.chain_id, payee, now=client.clock())
