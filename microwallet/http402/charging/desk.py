"""Slow work away from the event loop: a few threads, and a queue with an end."""

from __future__ import annotations

import asyncio
import itertools
import queue
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, suppress
from functools import cache, partial
from typing import Any, Generic, TypeVar

from microwallet.errors import MicrowalletError, NetworkError

Tools = TypeVar("Tools")
T = TypeVar("T")

QUEUE_LIMIT = 64
"""Pieces of work that wait at most: beyond it the caller had better come back later."""
_URGENT, _USUAL = 0, 1
_Work = Callable[[Callable[[], Tools]], None]
"""What a thread does with its tools."""


class Desk(Generic[Tools]):
    """Does work in threads of its own, each with tools that it opens when they are first needed.

    The threads do not keep a process from ending; one that ends before closes its tools.
    """

    def __init__(
        self, name: str, tools: Callable[[], AbstractContextManager[Tools]], *, threads: int = 1
    ) -> None:
        self._name = name
        self._tools = tools
        self._size = threads
        self._threads: list[threading.Thread] = []
        self._queue: queue.PriorityQueue[tuple[int, int, _Work[Tools] | None]] = queue.PriorityQueue()
        self._places = itertools.count()
        self._waiting = 0
        self._at_work: set[int] = set()
        """Threads with work in hand, by their ids: those that have none may yet take a moment to end."""
        self._is_closed = False

    async def run(self, work: Callable[[Tools], T], *, is_urgent: bool = False) -> T:
        """The result of `work`; NetworkError if too much waits already, or the desk is closed.

        What `is_urgent` is done before all that waits, however much that is.
        """
        if self._waiting >= QUEUE_LIMIT and not is_urgent:
            raise NetworkError(f"{self._waiting} questions wait for the {self._name} already")
        if self._is_closed:
            raise NetworkError(f"the {self._name} is not asked any more")
        if len(self._threads) < self._size and self._waiting >= len(self._threads):
            self._start_thread()
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()

        def do(tools: Callable[[], Tools]) -> None:
            self._at_work.add(threading.get_ident())  # before it looks, so that `close` sees it or stops it
            try:
                if self._is_closed:
                    raise NetworkError(f"the {self._name} is not asked any more")
                tell = partial(_tell, future, future.set_result, work(tools()))
            except BaseException as error:  # noqa: BLE001  # it is the caller's
                tell = partial(_tell, future, future.set_exception, error)
            finally:
                self._at_work.discard(threading.get_ident())
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(tell)

        self._waiting += 1
        self._queue.put((_URGENT if is_urgent else _USUAL, next(self._places), do))
        try:
            return await future
        finally:
            self._waiting -= 1

    def _start_thread(self) -> None:
        """Have one more thread; NetworkError where none can be had, and there is no other."""
        thread = threading.Thread(target=self._work, name=self._name, daemon=True)
        try:
            thread.start()
        except RuntimeError as error:
            if not self._threads:
                raise NetworkError(f"the {self._name} cannot be asked: {error}") from error
        else:
            self._threads.append(thread)

    def close(self, *, within: float) -> bool:
        """Take no other work, and wait that many seconds for what is in hand; whether it is done."""
        self._is_closed = True
        for _ in self._threads:
            self._queue.put((_USUAL, next(self._places), None))
        deadline = time.monotonic() + within
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        return not self._at_work

    def _work(self) -> None:
        with suppress(MicrowalletError), ExitStack() as own:
            tools = cache(lambda: own.enter_context(self._tools()))
            while (do := self._queue.get()[-1]) is not None:
                do(tools)


def _tell(future: asyncio.Future[Any], tell: Callable[[Any], None], told: Any) -> None:
    if not future.done():  # as it is where nobody waits any more
        tell(told)
