"""A model of the escrow in a page of Python, and channels to use it with: what tests compare against.

It is for what needs no transactions; `contracts.py` has the same rules behind the calls of transactions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from microwallet.domain.channel import (
    CLOSE_GRACE_PERIOD,
    NO_CHANNEL,
    ChannelDescriptor,
    ChannelState,
    PayeeChannel,
    PayerChannel,
)
from microwallet.domain.identifiers import Address, ChainId, ChannelId, checksum_address, keccak
from microwallet.domain.money import Asset
from microwallet.domain.voucher import SignatureError, SignerCheck, VoucherDigest, VoucherKey
from microwallet.domain.voucher_document import voucher_writer

CHAIN = ChainId(31337)
ESCROW = checksum_address(b"\xee" * 20)
PAYER = checksum_address(b"\x11" * 20)
PAYEE = checksum_address(b"\x44" * 20)
TOKEN = checksum_address(b"\x55" * 20)
USDC = Asset(chain_id=CHAIN, token=TOKEN, symbol="USDC", decimals=6)


@dataclass(frozen=True, slots=True, kw_only=True)
class Keyed:
    """A channel's identity and the key of its authorized signer."""

    descriptor: ChannelDescriptor
    channel_id: ChannelId
    key: VoucherKey

    def line(self, amount: int, *, key: VoucherKey | None = None) -> bytes:
        """The voucher line for a cumulative amount, signed by the channel's key or by another."""
        digest = VoucherDigest(self.descriptor.chain_id, self.descriptor.escrow_contract, self.channel_id)
        signature = (key or self.key).sign(digest(amount))
        return voucher_writer(self.descriptor, self.channel_id, USDC)(amount, 1, amount, signature).encode()

    def payer_channel(self, *, deposit: int, label: str | None = None, authorized: int = 0) -> PayerChannel:
        """The channel as its payer's ledger has it once it is open."""
        new = PayerChannel.new(self.descriptor, USDC, label=label, voucher_known=True)
        state = replace(NO_CHANNEL, deposit=deposit)
        return replace(new, state=state, authorized=authorized, spent=authorized, as_of=0)

    def payee_channel(self, *, deposit: int, signature: bytes = bytes(65)) -> PayeeChannel:
        """The channel as its payee's ledger has it before anything was bought through it."""
        return PayeeChannel(
            channel_id=self.channel_id,
            descriptor=self.descriptor,
            asset=USDC,
            state=replace(NO_CHANNEL, deposit=deposit),
            authorized=0,
            spent=0,
            as_of=None,
            signature=signature,
        )


def keyed(number: int, **other: object) -> Keyed:
    """Channel number `number`; keywords change its descriptor."""
    key = VoucherKey(keccak(b"voucher key %d" % number))
    descriptor = ChannelDescriptor(
        payer=PAYER,
        payee=PAYEE,
        token=TOKEN,
        salt="0x" + keccak(b"salt %d" % number).hex(),
        authorized_signer=key.address,
        escrow_contract=ESCROW,
        chain_id=CHAIN,
    )
    descriptor = replace(descriptor, **other)
    return Keyed(descriptor=descriptor, channel_id=descriptor.channel_id(), key=key)


class Reverted(Exception):
    """The model's contract said no."""


@dataclass(slots=True, kw_only=True)
class Escrow:
    """The escrow's rules for one token, and a clock. Implements the payee's port to the chain."""

    now: int = 1_000_000
    held: int = 0
    balances: dict[Address, int] = field(default_factory=dict)
    channels: dict[ChannelId, ChannelState] = field(default_factory=dict)
    questions: int = 0
    valid_by_contract: bool = False
    """What every contract signer says."""

    def states(
        self, escrow_contract: Address, channel_ids: Sequence[ChannelId]
    ) -> Mapping[ChannelId, ChannelState]:
        assert escrow_contract == ESCROW
        self.questions += 1
        return {channel_id: self.state(channel_id) for channel_id in channel_ids}

    def is_valid_signature(
        self, _escrow: Address, _signer: Address, _digest: bytes, _signature: bytes
    ) -> bool:
        return self.valid_by_contract

    def state(self, channel_id: ChannelId) -> ChannelState:
        return self.channels.get(channel_id, NO_CHANNEL)

    def open(self, channel: Keyed, deposit: int) -> None:
        if self.state(channel.channel_id).exists or deposit <= 0:
            raise Reverted("open")
        self._take(channel.descriptor.payer, deposit)
        self.channels[channel.channel_id] = replace(NO_CHANNEL, deposit=deposit)

    def top_up(self, channel: Keyed, amount: int) -> None:
        state = self._live(channel)
        self._take(channel.descriptor.payer, amount)
        self.channels[channel.channel_id] = replace(
            state, deposit=state.deposit + amount, close_requested_at=0
        )

    def settle(self, channel: Keyed, cumulative: int, capture: int, signature: bytes) -> None:
        state = self._live(channel)
        if capture <= state.settled:
            raise Reverted("nothing to settle")
        self._check_capture(channel, state, cumulative, capture, signature)
        self._pay(channel.descriptor.payee, capture - state.settled)
        self.channels[channel.channel_id] = replace(state, settled=capture)

    def close(self, channel: Keyed, cumulative: int, capture: int, signature: bytes) -> None:
        state = self._live(channel)
        if not state.settled <= capture <= cumulative:
            raise Reverted("capture")
        if capture > state.settled:
            self._check_capture(channel, state, cumulative, capture, signature)
        self._pay(channel.descriptor.payee, capture - state.settled)
        self._pay(channel.descriptor.payer, state.deposit - capture)
        self.channels[channel.channel_id] = replace(state, settled=capture, finalized=True)

    def request_close(self, channel: Keyed) -> None:
        state = self._live(channel)
        if not state.close_requested_at:
            self.channels[channel.channel_id] = replace(state, close_requested_at=self.now)

    def withdraw(self, channel: Keyed) -> None:
        state = self._live(channel)
        if not state.close_requested_at or self.now < state.close_requested_at + CLOSE_GRACE_PERIOD:
            raise Reverted("not yet")
        self._pay(channel.descriptor.payer, state.deposit - state.settled)
        self.channels[channel.channel_id] = replace(state, finalized=True)

    def _live(self, channel: Keyed) -> ChannelState:
        state = self.state(channel.channel_id)
        if state.finalized or not state.exists:
            raise Reverted("not live")
        return state

    def _check_capture(
        self, channel: Keyed, state: ChannelState, cumulative: int, capture: int, signature: bytes
    ) -> None:
        digest = VoucherDigest(CHAIN, ESCROW, channel.channel_id)(cumulative)
        try:
            signed = SignerCheck(channel.descriptor.voucher_signer)(digest, signature)
        except SignatureError:
            signed = False
        if not signed:
            raise Reverted("signature")
        if capture > cumulative or capture > state.deposit:
            raise Reverted("capture")

    def _take(self, owner: Address, amount: int) -> None:
        self.balances[owner] = self.balances.get(owner, 0) - amount
        self.held += amount

    def _pay(self, owner: Address, amount: int) -> None:
        self.balances[owner] = self.balances.get(owner, 0) + amount
        self.held -= amount
