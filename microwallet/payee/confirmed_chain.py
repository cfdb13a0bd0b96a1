"""The chain as a careful payee sees it: a deposit counts once it has its confirmations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from microwallet.domain.channel import NO_CHANNEL, ChannelState
from microwallet.domain.identifiers import Address, ChannelId
from microwallet.escrow.reader import ReaderOf


class ConfirmedChain:
    """Implements payee.accept.Chain over the readers of escrows."""

    def __init__(self, reader_of: ReaderOf, *, confirmations: int) -> None:
        self._reader_of = reader_of
        self._depth = max(0, confirmations - 1)

    def states(
        self, escrow_contract: Address, channel_ids: Sequence[ChannelId]
    ) -> Mapping[ChannelId, ChannelState]:
        """Newest states, but with no more deposit than had its confirmations."""
        reader = self._reader_of(escrow_contract)
        head = reader.head().number
        newest = reader.channel_states(channel_ids, head)
        confirmed = newest
        if self._depth:
            confirmed = reader.channel_states(channel_ids, max(0, head - self._depth))
        return {one: _careful(newest[one], confirmed[one]) for one in channel_ids}

    def is_valid_signature(
        self, escrow_contract: Address, signer: Address, digest: bytes, signature: bytes
    ) -> bool:
        """ERC-1271 `isValidSignature` of a contract signer."""
        return self._reader_of(escrow_contract).is_valid_signature(signer, digest, signature)


def _careful(newest: ChannelState, confirmed: ChannelState) -> ChannelState:
    if not (newest.exists and confirmed.exists):
        return NO_CHANNEL
    return replace(newest, deposit=min(newest.deposit, confirmed.deposit))
