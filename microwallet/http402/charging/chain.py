"""What a gateway asks the chain, at its own pace: new channels, top-ups, and states as confirmed.

draft-evm-session-00, sections "Open Verification", "TopUp Verification" and "Transaction Outcome Checks".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from microwallet.domain.channel import ChannelState
from microwallet.domain.identifiers import ChainId, ChannelId, TxHash
from microwallet.escrow.events import ChannelEvent, ChannelOpened, EscrowEvents, TopUp
from microwallet.escrow.reader import EscrowReader, find_mined
from microwallet.http402.charging.refusal import refused
from microwallet.http402.wire.problems import ProblemType
from microwallet.payee.confirmed_chain import ConfirmedChain


class PayeeChain:
    """One escrow on one chain. Everything raises NetworkError; threads may share it."""

    def __init__(self, reader: EscrowReader, *, chain_id: ChainId, confirmations: int) -> None:
        self._reader = reader
        self._events = EscrowEvents(reader, chain_id)
        self._confirmed = ConfirmedChain(lambda _: reader, confirmations=confirmations)

    def states(self, channel_ids: Sequence[ChannelId]) -> Mapping[ChannelId, ChannelState]:
        """States with no more deposit than is confirmed."""
        return self._confirmed.states(self._reader.escrow_contract, channel_ids)

    def opened(self, transaction_hash: TxHash, channel_id: ChannelId) -> ChannelState | None:
        """The state of a channel that a transaction opened; None while it is not confirmed.

        Refused if the transaction was reverted, or did something else.
        """
        events = self._done(transaction_hash, channel_id)
        if events is None:
            return None
        if not any(isinstance(event, ChannelOpened) for event in events):
            detail = f"transaction {transaction_hash} did not open the channel"
            raise refused(ProblemType.VERIFICATION_FAILED, detail, channel_id)
        state = self.states([channel_id])[channel_id]
        return state if state.exists else None

    def topped_up(self, transaction_hash: TxHash, channel_id: ChannelId, amount: int) -> ChannelState | None:
        """The state of a channel to which a transaction added exactly `amount`; None while it is not
        confirmed. Refused as `opened` does."""
        events = self._done(transaction_hash, channel_id)
        if events is None:
            return None
        top_ups = [event for event in events if isinstance(event, TopUp)]
        if amount not in [event.additional_deposit for event in top_ups]:
            detail = f"transaction {transaction_hash} did not add {amount} to the channel"
            raise refused(ProblemType.VERIFICATION_FAILED, detail, channel_id)
        state = self.states([channel_id])[channel_id]
        return state if state.deposit >= max(event.deposit for event in top_ups) else None

    def holding(self, channel_id: ChannelId, deposit: int) -> ChannelState | None:
        """The state of a channel once as much as `deposit` is confirmed; None until then."""
        state = self.states([channel_id])[channel_id]
        return state if state.exists and state.deposit >= deposit else None

    def _done(self, transaction_hash: TxHash, channel_id: ChannelId) -> list[ChannelEvent] | None:
        """What a transaction did to a channel; None while it is not mined."""
        mined = find_mined(self._reader.rpc, transaction_hash)
        if mined is None:
            return None
        if not mined.succeeded:
            detail = f"transaction {transaction_hash} was reverted"
            raise refused(ProblemType.TRANSACTION_REVERTED, detail, channel_id)
        found = [self._events.decode(log) for log in mined.logs]
        return [event for event in found if event is not None and event.channel_id == channel_id]
