"""Where a gateway keeps what it accepted and sold: the port that a store implements."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Protocol

from microwallet.domain.channel import ChannelState, PayeeChannel
from microwallet.domain.identifiers import ChannelId
from microwallet.domain.session import Sale, SessionAccount


class SessionRows(Protocol):
    """The rows of a store inside one transaction; nobody else changes them meanwhile."""

    def account(self, channel_id: ChannelId) -> SessionAccount | None:
        """The account of a channel, or None if the channel is not known."""

    def save(self, account: SessionAccount) -> None:
        """Store `spent` and `stream` of an account."""

    def save_voucher(self, account: SessionAccount, signature: bytes, *, now: int) -> None:
        """Store an account whose `accepted` rose, with the signature of the voucher."""

    def sale(self, channel_id: ChannelId, cumulative_amount: int) -> Sale | None:
        """What a voucher bought."""

    def sale_by_key(self, channel_id: ChannelId, idempotency_key: str) -> Sale | None:
        """What was bought under an idempotency key."""

    def add_first_sale(self, sale: Sale, account: SessionAccount, signature: bytes) -> None:
        """Store a new sale by a voucher above all before, with its signature and the account after it."""

    def add_sale(self, sale: Sale) -> bool:
        """Store a new sale by any voucher; False, and nothing is stored, if that has bought already."""

    def update_sale(self, sale: Sale) -> None:
        """Store what a sale costs, and whether that is settled."""

    def save_repeats(self, sale: Sale) -> None:
        """Store how often a sale is served again."""

    def keep_answer(self, sale: Sale, answer: bytes) -> None:
        """Store what was answered to a sale."""

    def remove_sale(self, sale: Sale) -> None:
        """Forget a sale that was given back: its voucher and its key can buy again."""

    def claim_challenge(self, challenge_id: str, channel_id: ChannelId, *, expires_at: int) -> bool:
        """Let a challenge serve this channel; False if it serves another already."""


class SessionStore(Protocol):
    """A durable store that several processes share."""

    def transaction(self) -> AbstractContextManager[SessionRows]:
        """One transaction, alone with what it reads; what it changes is durable after `sync`."""

    def sync(self) -> None:
        """Make durable what transactions have changed; for any thread. LedgerError if it may be lost."""

    def channel(self, channel_id: ChannelId) -> PayeeChannel | None:
        """A channel with its best voucher, or None."""

    def add_channel(self, channel: PayeeChannel, *, now: int) -> None:
        """Store a channel, unless it is known."""

    def record_states(self, states: Mapping[ChannelId, ChannelState], *, as_of: int) -> None:
        """Store what the chain says of channels at `as_of`, Unix seconds."""

    def forget_expired(self, *, now: int, answers_before: int) -> None:
        """Drop expired challenges, and answers kept for replays that are older."""
