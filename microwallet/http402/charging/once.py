"""Work that several requests ask for at the same time, done once for all of them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Once(Generic[T]):
    """Work in hand, by a name. One event loop uses it."""

    def __init__(self) -> None:
        self._in_hand: dict[str, asyncio.Future[T]] = {}

    def __contains__(self, name: str) -> bool:
        """Whether the work of that name is in hand."""
        return name in self._in_hand

    async def run(self, name: str, work: Callable[[], Awaitable[T]]) -> T:
        """The result of the work of that name that is in hand, else of `work`; raises what it raises.

        It goes on when whoever asked for it goes away.
        """
        task = self._in_hand.get(name)
        if task is None:
            task = self._in_hand[name] = asyncio.ensure_future(work())
            task.add_done_callback(lambda _: self._in_hand.pop(name))
        return await asyncio.shield(task)
