"""What a payee has accepted and sold on one channel."""

from __future__ import annotations

from typing import NamedTuple

from microwallet.domain.identifiers import ChannelId


class SessionAccount(NamedTuple):
    """What is accepted and spent on a channel: draft-evm-session-00, section "Server-Side Accounting".

    0 <= spent <= accepted. `accepted` never falls; `spent` falls only when something is given back. Also
    accepted <= deposit, until a reorganisation takes a top-up back: what is above the deposit buys nothing.

    It is copied for each sale, so `with_accepted` and `with_spent` are written out: `_replace` is slower.
    """

    channel_id: ChannelId
    deposit: int
    """Base units, as the chain says."""
    accepted: int = 0
    """The highest cumulative amount of a voucher: `acceptedCumulative`."""
    spent: int = 0
    """Charged, or reserved by requests that are being served."""
    stream: int = 0
    """The number of the newest stream on the channel: all before it have ended."""
    is_closing: bool = False
    """Whether the payee's close is being sent: what is paid now could come too late."""
    is_close_requested: bool = False
    """Whether the payer has requested a close."""
    is_finalized: bool = False

    def with_accepted(self, accepted: int) -> SessionAccount:
        """The account with a higher voucher."""
        channel_id, deposit, _, spent, stream, is_closing, is_requested, is_finalized = self
        return SessionAccount(
            channel_id, deposit, accepted, spent, stream, is_closing, is_requested, is_finalized
        )

    def with_spent(self, spent: int) -> SessionAccount:
        """The account with more charged, or something given back."""
        channel_id, deposit, accepted, _, stream, is_closing, is_requested, is_finalized = self
        return SessionAccount(
            channel_id, deposit, accepted, spent, stream, is_closing, is_requested, is_finalized
        )

    @property
    def goes_on(self) -> bool:
        """Whether the channel takes vouchers."""
        return not (self.is_closing or self.is_close_requested or self.is_finalized)

    @property
    def available(self) -> int:
        """What is authorized, deposited and not spent, base units."""
        return max(0, min(self.accepted, self.deposit) - self.spent)


class Sale(NamedTuple):
    """One request that a voucher bought. Neither the voucher nor the request's key buys anything else."""

    channel_id: ChannelId
    cumulative_amount: int
    """Of the voucher that came with the request."""
    cost: int
    """Base units charged, or reserved while it is served."""
    idempotency_key: str | None
    fingerprint: bytes | None
    """Of the request, where it has a key."""
    answer: bytes | None
    """What was answered, where it could be kept."""
    created_at: int
    """Unix seconds."""
    repeats: int = 0
    """How often it was, or is being, served again without a new charge, as its answer is not kept."""
    is_settled: bool = False
    """Whether `cost` is final, where what was used is known only after the service."""
