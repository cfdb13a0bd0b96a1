"""Work that comes one after the other where it has one name."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from microwallet.errors import NetworkError

T = TypeVar("T")


@dataclass(slots=True)
class _Queue:
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    places: int = 0
    """Those taken: of what is in hand, and of what waits for it."""


class InTurn(Generic[T]):
    """One piece of work of each name in hand, and `limit` that wait for it. One event loop uses it."""

    def __init__(self, *, limit: int) -> None:
        self._limit = limit
        self._queues: dict[str, _Queue] = {}

    async def run(self, name: str, work: Callable[[], Awaitable[T]]) -> T:
        """The result of `work`, when all that came before under that name has ended; NetworkError if too
        much waits already."""
        queue = self._queues.setdefault(name, _Queue())
        if queue.places > self._limit:
            raise NetworkError(f"{self._limit} pieces of work of {name} wait already")
        queue.places += 1
        try:
            async with queue.lock:
                return await work()
        finally:
            queue.places -= 1
            if not queue.places:
                del self._queues[name]
