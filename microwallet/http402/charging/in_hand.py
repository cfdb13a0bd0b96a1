"""Requests that are being served, by channel: what they cost is reserved, and not yet certain."""

from __future__ import annotations

import asyncio
import mmap
import time
from collections.abc import Iterable, Iterator

from microwallet.domain.identifiers import ChannelId

SLOTS = 2**16
"""Counts of a worker. Channels that share one are waited for together, which harms nobody."""
_COUNT_BYTES = 4
_LOOK_SECONDS = 0.02
"""Between two looks at what others have in hand."""


class InHand:
    """Counts them, in memory that is shared with the processes forked since: the workers of a gateway."""

    def __init__(self, workers: int = 1) -> None:
        counts = memoryview(mmap.mmap(-1, workers * SLOTS * _COUNT_BYTES)).cast("i")
        self._workers = [counts[at : at + SLOTS] for at in range(0, len(counts), SLOTS)]
        self._own = self._workers[0]

    def work_as(self, number: int) -> None:
        """Count for the worker of this number, from 0; whoever had it before has died, with what it had."""
        self._own = self._workers[number]
        self._own[:] = memoryview(bytes(SLOTS * _COUNT_BYTES)).cast("i")

    def begin(self, channel_id: ChannelId) -> None:
        """One more: before it is sold."""
        self._own[_slot(channel_id)] += 1

    def end(self, channel_id: ChannelId) -> None:
        """One less: what it costs is certain."""
        self._own[_slot(channel_id)] -= 1

    def has(self, channel_id: ChannelId) -> bool:
        """Whether any worker has one."""
        slot = _slot(channel_id)
        return any(counts[slot] for counts in self._workers)

    async def until_none(self, channel_id: ChannelId, *, within: float) -> None:
        """Wait until no worker has one of a channel, for so many seconds at most."""
        for _ in self._looks([channel_id], within):
            await asyncio.sleep(_LOOK_SECONDS)

    def wait(self, channel_ids: Iterable[ChannelId], *, within: float) -> None:
        """What `until_none` does, for a thread that closes several channels."""
        for _ in self._looks(channel_ids, within):
            time.sleep(_LOOK_SECONDS)

    def _looks(self, channel_ids: Iterable[ChannelId], within: float) -> Iterator[None]:
        """Looks that find one in hand: other processes set no event."""
        end = time.monotonic() + within
        for channel_id in channel_ids:
            while self.has(channel_id) and time.monotonic() < end:
                yield


def _slot(channel_id: ChannelId) -> int:
    """The same in all processes that were forked, as the seed of hashes is."""
    return hash(channel_id) % SLOTS
