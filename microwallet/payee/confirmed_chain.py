"""The chain as a careful payee sees it: a deposit counts once it has its confirmations."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from microwallet.domain.channel import NO_CHANNEL, ChannelState
from microwallet.domain.identifiers import Address, ChannelId
from microwallet.domain.money import Asset
from microwallet.escrow.reader import EscrowReader


class ConfirmedChain:
    """Implements payee.accept.Chain over an escrow reader."""

    def __init__(
        self, reader: EscrowReader, *, confirmations: int, asset_of: Callable[[Address], Asset]
    ) -> None:
        self._reader = reader
        self._depth = max(0, confirmations - 1)
        self.asset = asset_of

    def states(self, channel_ids: Sequence[ChannelId]) -> Mapping[ChannelId, ChannelState]:
        """Newest states, but with no more deposit than had its confirmations."""
        head = self._reader.head()
        newest = self._reader.channel_states(channel_ids, head.number)
        confirmed = (
            self._reader.channel_states(channel_ids, max(0, head.number - self._depth))
            if self._depth
            else newest
        )
        pairs = zip(newest, confirmed, strict=True)
        return dict(zip(channel_ids, (_careful(*pair) for pair in pairs), strict=True))

    def is_valid_signature(self, signer: Address, digest: bytes, signature: bytes) -> bool:
        """ERC-1271 `isValidSignature` of a contract signer."""
        return self._reader.is_valid_signature(signer, digest, signature)


def _careful(newest: ChannelState, confirmed: ChannelState) -> ChannelState:
    if not (newest.exists and confirmed.exists):
        return NO_CHANNEL
    return replace(newest, deposit=min(newest.deposit, confirmed.deposit))
