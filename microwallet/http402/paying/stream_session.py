"""A channel's only session, which a metered stream holds while it runs: whoever else wants it waits.

draft-evm-session-00, section "Concurrency".
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack

from microwallet.domain.channel import PayerChannel
from microwallet.domain.identifiers import ChannelId
from microwallet.domain.purchase import VoucherTerms
from microwallet.errors import LedgerBusy
from microwallet.http402.paying.client import PayingClient
from microwallet.http402.paying.exchange import Pause, Steps
from microwallet.http402.paying.funding import Funded, Funding

_SESSION_SECONDS = 60
"""How long to wait for another process's stream to end."""
_POLL_SECONDS = 0.05


class StreamSession:
    """That of one request, if it has begun one."""

    def __init__(self, client: PayingClient) -> None:
        self._client = client
        self._stack = ExitStack()
        self.is_held = False

    def close(self) -> None:
        """Let go of it."""
        self._stack.close()

    def begin(self, funding: Funding, terms: VoucherTerms, without: Sequence[ChannelId]) -> Steps[Funded]:
        """A channel whose session was free, and is held now. Where another process holds them all, it is
        waited for; where this one does, another channel is opened: waiting would be for ever."""
        sessions, deadline = self._client.sessions, time.monotonic() + _SESSION_SECONDS
        has_said = False
        while True:
            fitting = [one for one in funding.fitting(terms, without) if one.channel_id not in sessions]
            offered = [Funded(channel=one) for one in fitting]
            for funded in offered or [funding.channel(terms, (*without, *sessions))]:
                try:
                    self._hold(funded.channel)
                except LedgerBusy:
                    if time.monotonic() > deadline:
                        raise
                    waited_for = funded.channel
                else:
                    return funded
            if not has_said:
                self._client.reporter.say(f"waiting for the stream that holds channel {waited_for.name}")
                has_said = True
            yield Pause(_POLL_SECONDS)

    def is_another_on(self, channel: PayerChannel) -> bool:
        """Whether a stream of another request runs on a channel: what it takes of the vouchers for this one,
        as they may come in any order, is known when it ends."""
        if self.is_held:
            return False
        try:
            with self._turn(channel):
                return False
        except LedgerBusy:
            return True

    def _hold(self, channel: PayerChannel) -> None:
        self._stack.enter_context(self._turn(channel))
        self.is_held = True
        self._client.sessions.add(channel.channel_id)
        self._stack.callback(self._client.sessions.discard, channel.channel_id)

    def _turn(self, channel: PayerChannel) -> AbstractContextManager[None]:
        return self._client.ledger.turns.turn(f"stream {channel.channel_id}", seconds=0)
