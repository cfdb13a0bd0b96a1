"""Requests that are being served, by channel: what they cost is reserved, and not yet certain."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from microwallet.domain.identifiers import ChannelId


class InHand:
    """Counts them. One event loop uses it."""

    def __init__(self) -> None:
        self._counts: dict[ChannelId, int] = {}
        self._waiting: dict[ChannelId, asyncio.Event] = {}

    def begin(self, channel_id: ChannelId) -> None:
        """One more."""
        self._counts[channel_id] = self._counts.get(channel_id, 0) + 1

    def end(self, channel_id: ChannelId) -> None:
        """One less: what it costs is certain."""
        left = self._counts[channel_id] - 1
        if left:
            self._counts[channel_id] = left
            return
        del self._counts[channel_id]
        if (waiting := self._waiting.pop(channel_id, None)) is not None:
            waiting.set()

    async def none(self, channel_id: ChannelId, *, within: float) -> None:
        """Wait until a channel has none, for so many seconds at most."""
        if channel_id in self._counts:
            waiting = self._waiting.setdefault(channel_id, asyncio.Event())
            with suppress(TimeoutError):
                async with asyncio.timeout(within):
                    await waiting.wait()
