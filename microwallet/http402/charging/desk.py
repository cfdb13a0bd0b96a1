"""Slow work away from the event loop: a few threads, and a queue with an end."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

from microwallet.errors import NetworkError

Tools = TypeVar("Tools")
T = TypeVar("T")

QUEUE_LIMIT = 64
"""Pieces of work that wait at most: beyond it the caller had better come back later."""


class Desk(Generic[Tools]):
    """Does work in threads of its own, each with tools that it builds when they are first needed."""

    def __init__(self, name: str, build: Callable[[], Tools], *, threads: int = 1) -> None:
        self._name = name
        self._build = build
        self._own = threading.local()
        self._threads = ThreadPoolExecutor(max_workers=threads, thread_name_prefix=name)
        self._waiting = 0

    async def run(self, work: Callable[[Tools], T]) -> T:
        """The result of `work`; NetworkError if too much waits already."""
        if self._waiting >= QUEUE_LIMIT:
            raise NetworkError(f"{self._waiting} questions wait for the {self._name} already")
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, self._do, work)
        finally:
            self._waiting -= 1

    def close(self) -> None:
        """Wait for the work in hand, and do no other."""
        self._threads.shutdown(wait=True, cancel_futures=True)

    def _do(self, work: Callable[[Tools], T]) -> T:
        if not hasattr(self._own, "tools"):
            self._own.tools = self._build()
        return work(self._own.tools)
