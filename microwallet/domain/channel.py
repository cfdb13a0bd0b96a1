"""A payment channel: its descriptor, its state on chain, and the status they add up to."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from enum import StrEnum
from typing import Self

from microwallet.domain.identifiers import Address, ChainId, ChannelId, hexed, keccak, word
from microwallet.domain.money import Asset

CLOSE_GRACE_PERIOD = 15 * 60
"""Seconds between a close request and the payer's withdrawal."""


class ChannelStatus(StrEnum):
    """Where a channel is in its life."""

    OPENING = "opening"
    ABANDONED = "abandoned"
    OPEN = "open"
    CLOSING = "closing"
    WITHDRAWABLE = "withdrawable"
    FINALIZED = "finalized"


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelDescriptor:
    """What identifies a channel; none of it ever changes. All addresses EIP-55, `salt` 0x hex."""

    payer: Address
    payee: Address
    token: Address
    salt: str
    authorized_signer: Address
    escrow_contract: Address
    chain_id: ChainId

    @property
    def voucher_signer(self) -> Address:
        """Who signs vouchers: the authorized signer, or the payer where it is the zero address."""
        return self.payer if int(self.authorized_signer, 16) == 0 else self.authorized_signer

    def channel_id(self) -> ChannelId:
        """keccak256(abi.encode(payer, payee, token, salt, authorizedSigner, escrow, chainId)).

        draft-evm-session-00, section "Channel State".
        """
        fields = (
            self.payer,
            self.payee,
            self.token,
            self.salt,
            self.authorized_signer,
            self.escrow_contract,
            self.chain_id,
        )
        return ChannelId(hexed(keccak(b"".join(word(field) for field in fields))))


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelState:
    """What the escrow stores of a channel, in base units and Unix seconds; deposit 0 means none."""

    deposit: int
    settled: int
    close_requested_at: int
    finalized: bool

    @property
    def exists(self) -> bool:
        return self.deposit > 0

    @property
    def refundable(self) -> int:
        """Base units that return to the payer if no more is settled; once finalized, that did."""
        return self.deposit - self.settled

    def status(self, *, now: int) -> ChannelStatus:
        """The status at `now`, Unix seconds."""
        if self.finalized:
            return ChannelStatus.FINALIZED
        if not self.exists:
            return ChannelStatus.OPENING
        if self.close_requested_at == 0:
            return ChannelStatus.OPEN
        if now >= self.withdrawable_at:
            return ChannelStatus.WITHDRAWABLE
        return ChannelStatus.CLOSING

    @property
    def withdrawable_at(self) -> int:
        """Unix seconds from which a requested close may be withdrawn."""
        return self.close_requested_at + CLOSE_GRACE_PERIOD


NO_CHANNEL = ChannelState(deposit=0, settled=0, close_requested_at=0, finalized=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Channel:
    """A channel as one side knows it: what it is, what the chain said last, what is authorized."""

    channel_id: ChannelId
    descriptor: ChannelDescriptor
    asset: Asset
    state: ChannelState
    authorized: int
    """The highest cumulative amount that was signed (payer) or accepted (payee), base units; never falls."""
    spent: int
    """How much of it was charged, or is reserved for what is being served, by this side's own books."""
    as_of: int | None
    """Unix seconds at which the chain said `state`; None if it never did."""
    label: str | None = None
    """The payer's own name for it."""
    voucher_known: bool = True
    """False while a rebuilt channel's highest voucher has not been imported: it must not pay."""

    def status(self, *, now: int) -> ChannelStatus:
        """The status at `now`, Unix seconds."""
        return self.state.status(now=now)

    @property
    def remaining(self) -> int:
        """Base units that can still be authorized: none once the channel is finalized."""
        return 0 if self.state.finalized else max(0, self.state.deposit - self.authorized)

    @property
    def unpaid(self) -> int:
        """Base units that were charged and not settled; lost to the payee once the channel is finalized."""
        return max(0, min(self.spent, self.state.deposit) - self.state.settled)

    @property
    def unsettled(self) -> int:
        """Base units that the payee can still take: none once the channel is finalized."""
        return 0 if self.state.finalized else self.unpaid


@dataclass(frozen=True, slots=True, kw_only=True)
class PayerChannel(Channel):
    """A channel this wallet pays through."""

    label: str | None
    voucher_known: bool
    open_abandoned: bool = False
    """Whether its open was proven dead, as the ledger has it."""

    def status(self, *, now: int) -> ChannelStatus:
        """The status at `now`, Unix seconds."""
        return ChannelStatus.ABANDONED if self.is_abandoned else self.state.status(now=now)

    @property
    def is_abandoned(self) -> bool:
        """Whether its open was proven dead, and it is not on the chain after all."""
        return self.open_abandoned and not self.state.exists

    @classmethod
    def new(
        cls, descriptor: ChannelDescriptor, asset: Asset, *, label: str | None, voucher_known: bool
    ) -> Self:
        """One of which the chain has said nothing yet."""
        return cls(
            channel_id=descriptor.channel_id(),
            descriptor=descriptor,
            asset=asset,
            state=NO_CHANNEL,
            authorized=0,
            spent=0,
            as_of=None,
            label=label,
            voucher_known=voucher_known,
        )

    @property
    def name(self) -> str:
        """What to type for it: the label as a word of the shell, or the id."""
        return shlex.quote(self.label) if self.label else self.channel_id


@dataclass(frozen=True, slots=True, kw_only=True)
class PayeeChannel(Channel):
    """A channel this wallet is paid through, with the signature of its best voucher."""

    signature: bytes
