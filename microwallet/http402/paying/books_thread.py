"""For asyncio: one thread beside the event loop, on which ledger, keys and chain are used."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import TypeVar
from weakref import WeakSet

from microwallet.errors import UsageError
from microwallet.http402.paying.client import PayingClient
from microwallet.http402.paying.handshake import Handshake
from microwallet.http402.paying.to_its_end import to_its_end

Value = TypeVar("Value")


class BooksThread:
    """One thread on which everything but HTTP is done, and what was opened there."""

    def __init__(self) -> None:
        self._is_closed = False
        self.has_ended = False
        """Whether nothing can be done there any more."""
        self._of_parent: list[ExitStack] = []
        self._start()

    def _start(self) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="microwallet")
        self.opened = ExitStack()
        self.client: PayingClient | None = None
        self._in_hand: WeakSet[Handshake] = WeakSet()
        self._pid = os.getpid()

    def _start_in_child(self) -> None:
        """A child has no thread of its parent's, and what was opened there must not be used, nor closed."""
        if self._pid != os.getpid():
            self._of_parent.append(self.opened)
            self._start()

    def begin(self, handshake: Handshake) -> None:
        """Stay open until this one has ended. UsageError once it is closed."""
        self._start_in_child()
        if self._is_closed:
            raise UsageError("this transport is closed")
        self._in_hand.add(handshake)

    async def end(self, handshake: Handshake) -> None:
        """Let go of what it holds; again, it does nothing."""
        if handshake not in self._in_hand:
            return
        try:
            await self.do(handshake.close)
        finally:
            self._in_hand.discard(handshake)
            await self._end_if_unused()

    async def do(self, work: Callable[[], Value]) -> Value:
        """Do something there for what has begun; it is done to its end, even where nobody waits any more."""
        return await to_its_end(asyncio.get_running_loop().run_in_executor(self._thread, work))

    async def close(self) -> None:
        """Close what was opened, and end the thread, once nothing is in hand; again, it does nothing."""
        self._start_in_child()
        self._is_closed = True
        await self._end_if_unused()

    async def _end_if_unused(self) -> None:
        if self._is_closed and not self._in_hand and not self.has_ended:
            self.has_ended = True
            try:
                await self.do(self.opened.close)
            finally:
                self._thread.shutdown(wait=False)
