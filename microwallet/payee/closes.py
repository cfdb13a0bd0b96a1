"""Closes that have begun: their channels take no vouchers until the fate of each is known."""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import cache

from microwallet.domain.channel import PayeeChannel
from microwallet.domain.identifiers import ChainId, ChannelId
from microwallet.domain.ports import TransactionJournal, TransactionStatus
from microwallet.errors import NetworkError
from microwallet.escrow import calls
from microwallet.escrow.reader import ReaderOf, find_mined
from microwallet.escrow.signing import signed_call
from microwallet.ledger.vouchers import Vouchers
from microwallet.payee.captures import Action
from microwallet.payee.relayer import can_still_close, has_expired


class Closes:
    """The closes of one home on one chain that have begun. Begun and ended by one process at a time."""

    def __init__(
        self, vouchers: Vouchers, chain_id: ChainId, reader_of: ReaderOf, journal: TransactionJournal
    ) -> None:
        self._vouchers = vouchers
        self._chain_id = chain_id
        self._reader_of = reader_of
        self._journal = journal

    @property
    def are_pending(self) -> bool:
        """Whether there are any."""
        return bool(self._vouchers.closing(self._chain_id))

    def begin(self, channel_ids: Collection[ChannelId]) -> None:
        """Accept no more vouchers on channels."""
        self._vouchers.begin_closes(channel_ids)

    def end_finished(self) -> None:
        """Let channels take vouchers again whose close has ended.

        Not those that an older transaction can still close, or has closed though a node does not know it yet.
        """
        closing = self._vouchers.closing(self._chain_id)
        if not closing:
            return
        chain_time = self._chain_time_of(closing[0])
        try:
            closed = self.take_back_undone()
            can_close = [
                signed_call(entry.transaction)[0]
                for entry in self._journal.beginning_with(f"{Action.CLOSE}-")
                if entry.transaction.chain_id == self._chain_id
                and (entry.status.is_live or can_still_close(entry, chain_time=chain_time))
            ]
        except NetworkError:
            return  # the next one asks
        named = {
            one.channel_id for one in closing if any(calls.names(call, one.descriptor) for call in can_close)
        }
        # Not those that others have shut since: nothing was asked about them.
        self._vouchers.end_closes({one.channel_id for one in closing} - named - set(closed))

    def take_back_undone(self) -> Collection[ChannelId]:
        """Make closes unfinished again, to be sent once more, that a reorganisation undid. NetworkError.

        Returns the channels whose closes are in a block after all: the node that said open is behind.
        """
        reopened = {
            channel.channel_id: channel
            for channel in self._vouchers.closing(self._chain_id)
            if channel.state.exists and not channel.state.finalized
        }
        closed: set[ChannelId] = set()
        if not reopened:
            return closed
        chain_time = self._chain_time_of(next(iter(reopened.values())))
        for entry in self._journal.beginning_with(f"{Action.CLOSE}-"):
            transaction = entry.transaction
            if (
                entry.status is not TransactionStatus.MINED
                or transaction.chain_id != self._chain_id
                or transaction.channel_id not in (None, *reopened)
            ):
                continue
            call, _ = signed_call(transaction)
            named = [one for one in reopened.values() if calls.names(call, one.descriptor)]
            if not named:
                continue
            rpc = self._reader_of(named[0].descriptor.escrow_contract).rpc
            mined = find_mined(rpc, transaction.hash)
            if mined and mined.succeeded:
                closed.update(one.channel_id for one in named)
            elif not mined and not has_expired(call, chain_time=chain_time):
                self._journal.record(transaction.hash, TransactionStatus.BROADCAST)
        return closed

    def _chain_time_of(self, channel: PayeeChannel) -> Callable[[], int]:
        """Asks, once, which time the next block of a channel's chain may have, in Unix seconds."""
        return cache(self._reader_of(channel.descriptor.escrow_contract).next_block_time)
