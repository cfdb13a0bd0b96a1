"""The channels a gateway is paid through: their checks prepared, the chain's state of them kept fresh."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from microwallet.domain.channel import ChannelDescriptor, ChannelState, PayeeChannel
from microwallet.domain.identifiers import ChannelId
from microwallet.domain.money import Asset
from microwallet.domain.voucher import SignerCheck, VoucherDigest
from microwallet.errors import LedgerError, NetworkError
from microwallet.http402.charging.chain import PayeeChain
from microwallet.http402.charging.desk import Desk
from microwallet.http402.charging.offers import Offer
from microwallet.http402.charging.store import SessionStore

KEPT = 20_000
"""Channels kept ready; what is forgotten is read from the store again."""
STATE_SECONDS = 30
"""For how long the chain's word about a channel is taken for current."""
SILENCE_SECONDS = 300
"""For how long it is while the chain cannot be asked: a third of the grace period."""
RENEW_SECONDS = 15
"""From which age on the chain is asked again about a channel that is used; its last word still holds."""
GATHER_SECONDS = 0.5
"""Channels that are used at that age meanwhile are asked about together."""


@dataclass(slots=True, kw_only=True)
class KnownChannel:
    """A channel that was told of. `state` has no more deposit than is confirmed."""

    channel_id: ChannelId
    descriptor: ChannelDescriptor
    asset: Asset
    digest: VoucherDigest
    is_by_signer: SignerCheck
    state: ChannelState
    state_at: int | None
    """Unix seconds at which the chain said so; None if it is to be asked first."""
    told: int = 0
    """How often it was told of beside the questions: an answer to one from before that is too old."""
    payer_fields: Sequence[tuple[bytes, bytes]]
    """Who pays in what, as the application is told."""
    fitted: Offer | None = None
    """The last offer that it was found to fit."""

    @classmethod
    def of(cls, channel: PayeeChannel, *, state_at: int | None) -> KnownChannel:
        """The channel of the store, its checks prepared."""
        descriptor = channel.descriptor
        return cls(
            channel_id=channel.channel_id,
            descriptor=descriptor,
            asset=channel.asset,
            digest=VoucherDigest(descriptor.chain_id, descriptor.escrow_contract, channel.channel_id),
            is_by_signer=SignerCheck(descriptor.voucher_signer),
            state=channel.state,
            state_at=state_at,
            payer_fields=(
                (b"x-payment-payer", descriptor.payer.encode()),
                (b"x-payment-channel", channel.channel_id.encode()),
                (b"x-payment-asset", channel.asset.symbol.encode()),
                (b"x-payment-decimals", b"%d" % channel.asset.decimals),
            ),
        )


class ChannelBook:
    """Known channels by id. One event loop uses it."""

    def __init__(self, store: SessionStore, chain: Desk[PayeeChain], *, clock: Callable[[], int]) -> None:
        self._store = store
        self._chain = chain
        self._clock = clock
        self._known: OrderedDict[ChannelId, KnownChannel] = OrderedDict()
        self._stale: set[ChannelId] = set()
        self._round: asyncio.Task[None] | None = None
        """Asks about the stale ones, for which somebody waits."""
        self._ageing: set[ChannelId] = set()
        self._renewal: asyncio.Task[None] | None = None
        """Asks about the ageing ones, for which nobody waits yet."""
        self._heard: Mapping[ChannelId, ChannelState] = {}
        self._heard_at = 0

    def get(self, channel_id: ChannelId) -> KnownChannel | None:
        """The channel, or None if nobody told of it."""
        known = self._known.get(channel_id)
        if known is not None:
            return known
        channel = self._store.channel(channel_id)
        return None if channel is None else self._keep(KnownChannel.of(channel, state_at=None))

    def add(self, channel: PayeeChannel) -> KnownChannel:
        """Keep a new channel, in the store too, with its first voucher and the state just asked for."""
        now = self._clock()
        self._store.add_channel(channel, now=now)
        return self._keep(KnownChannel.of(channel, state_at=now))

    def record(self, known: KnownChannel, state: ChannelState) -> None:
        """What the chain says of a channel now."""
        now = self._clock()
        self._store.record_states({known.channel_id: state}, as_of=now)
        known.state, known.state_at = state, now
        known.told += 1

    def doubt(self, known: KnownChannel) -> None:
        """Ask the chain about a channel before it is believed again."""
        known.state_at = None
        known.told += 1

    def hear(self, states: Mapping[ChannelId, ChannelState], *, at: int) -> None:
        """What somebody else was told by the chain `at`, Unix seconds; deposits may not be confirmed."""
        self._heard, self._heard_at = states, at

    def is_fresh(self, known: KnownChannel) -> bool:
        """Whether the chain was asked about a channel lately. Soon it is again, before anybody must wait."""
        if not self._is_ageing(known):
            return True
        self._ageing.add(known.channel_id)
        if self._renewal is None:
            self._renewal = asyncio.create_task(self._renew())
        return self._age(known) <= STATE_SECONDS

    def falls_short(self, known: KnownChannel, amount: int) -> bool:
        """Whether less than `amount` is known here to be deposited, and the store has more than that: another
        process was told of a top-up."""
        if amount <= known.state.deposit:
            return False
        channel = self._store.channel(known.channel_id)
        return channel is not None and channel.state.deposit > known.state.deposit

    async def freshen(self, known: KnownChannel) -> None:
        """Ask the chain about a channel unless it said so lately; all that wait are asked about at once.

        NetworkError once the chain has been silent for too long.
        """
        if self.is_fresh(known):
            return
        self._stale.add(known.channel_id)
        if self._round is None:
            self._round = asyncio.create_task(self._ask_now())
        try:
            await asyncio.shield(self._round)
        except NetworkError:
            if self._age(known) > SILENCE_SECONDS:
                raise

    async def _ask_now(self) -> None:
        await asyncio.sleep(0)  # for those that come in the same turn of the loop
        stale, self._stale = self._stale, set()
        self._round = None
        await self._ask(self._kept(stale))

    async def _renew(self) -> None:
        """Ask about ageing channels, until none are left that are used."""
        try:
            while self._ageing:
                await asyncio.sleep(GATHER_SECONDS)
                ageing, self._ageing = self._ageing, set()
                old = [known for known in self._kept(ageing) if self._is_ageing(known)]
                if old:
                    with suppress(NetworkError, LedgerError):
                        await self._ask(old)
        finally:
            self._renewal = None

    def _kept(self, channel_ids: Iterable[ChannelId]) -> Sequence[KnownChannel]:
        """Those of the channels that are still kept ready."""
        return [self._known[one] for one in channel_ids if one in self._known]

    async def _ask(self, named: Sequence[KnownChannel]) -> None:
        """Ask the chain about channels, and store what is news."""
        told = [known.told for known in named]
        states = await self._chain.run(lambda chain: chain.states([one.channel_id for one in named]))
        now = self._clock()
        asked = [known for known, before in zip(named, told, strict=True) if known.told == before]
        news = {
            known.channel_id: states[known.channel_id]
            for known in asked
            if states[known.channel_id] != known.state
        }
        if news:  # first: what fails stays news
            self._store.record_states(news, as_of=now)
        for known in asked:
            known.state, known.state_at = states[known.channel_id], now

    def _is_ageing(self, known: KnownChannel) -> bool:
        """Whether the chain's word about a channel is getting old, with what was heard of it since."""
        if self._age(known) < RENEW_SECONDS:
            return False
        self._learn_heard(known)
        return self._age(known) >= RENEW_SECONDS

    def _learn_heard(self, known: KnownChannel) -> None:
        """A channel that was heard to be as it is known is as good as asked about then."""
        if known.state_at is not None and self._heard.get(known.channel_id) == known.state:
            known.state_at = max(known.state_at, self._heard_at)

    def _age(self, known: KnownChannel) -> float:
        """Seconds since the chain was asked; endless where the clock was set back."""
        age = float("inf") if known.state_at is None else self._clock() - known.state_at
        return age if age >= 0 else float("inf")

    def _keep(self, known: KnownChannel) -> KnownChannel:
        self._known[known.channel_id] = known
        if len(self._known) > KEPT:
            self._known.popitem(last=False)
        return known
