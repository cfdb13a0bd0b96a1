"""Many requests in one commit: work on the store is collected while others are being read."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

from microwallet.errors import LedgerError
from microwallet.http402.charging.refusal import Refused
from microwallet.http402.charging.sales import StreamEnded
from microwallet.http402.charging.store import SessionRows, SessionStore

T = TypeVar("T")
Check = Callable[[], None]
_EXPECTED = (Refused, StreamEnded)
"""What work may raise without harm to the others in its transaction: it has changed nothing since."""

_Outcome = tuple[asyncio.Future[Any], Any, Exception | None]
"""Of a piece of work: whom to tell, and what it gave or raised."""

_IDLE_TURNS = 2
"""What the loop reads in one turn is worked on in the next."""
_LARGEST = 64
"""Pieces of work that are committed without waiting for more."""


def _nothing() -> None:
    """No check."""


class GroupCommit:
    """Runs work on a store's rows; each piece is durable when its result is there.

    One event loop uses it. Pieces run one after the other in the order they came, so that those of
    one channel are serialized; the store serializes processes.
    """

    def __init__(self, store: SessionStore) -> None:
        self._store = store
        self._waiting: list[tuple[Check, Callable[[SessionRows], Any], asyncio.Future[Any]]] = []
        self._is_syncing = False
        self._syncer = ThreadPoolExecutor(1, thread_name_prefix="sync")
        """Waits for the disk: the loop goes on meanwhile, and the next commit is of all that has come."""

    def run(self, work: Callable[[SessionRows], T], *, check: Check = _nothing) -> asyncio.Future[T]:
        """The result of `work` once it is durable; raises what it raises, or LedgerError.

        What `check` raises is raised too, and nothing is done then. All checks of a commit run in a row,
        before its transaction.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self._waiting.append((check, work, future))
        if len(self._waiting) == 1 and not self._is_syncing:
            loop.call_soon(self._gather, 0, 0)
        return future

    def _gather(self, seen: int, idle_turns: int) -> None:
        """Commit once the loop brings no more work, or there is enough."""
        count = len(self._waiting)
        idle_turns = idle_turns + 1 if count == seen else 0
        if idle_turns == _IDLE_TURNS or count >= _LARGEST:
            self._commit()
        else:
            asyncio.get_running_loop().call_soon(self._gather, count, idle_turns)

    def _commit(self) -> None:
        waiting, self._waiting = self._waiting, []
        good = [(work, future) for check, work, future in waiting if _passes(check, future)]
        if not good:
            return
        outcomes: list[_Outcome] = []
        try:
            with self._store.transaction() as rows:
                for work, future in good:
                    try:
                        outcomes.append((future, work(rows), None))
                    except _EXPECTED as expected:
                        outcomes.append((future, None, expected))
            syncing = asyncio.get_running_loop().run_in_executor(self._syncer, self._store.sync)
        except Exception as error:  # noqa: BLE001  # nothing is written, or there is no thread: all are told
            for _, future in good:
                _fail(future, error)
            return
        self._is_syncing = True
        syncing.add_done_callback(partial(self._tell, outcomes))

    def _tell(self, outcomes: list[_Outcome], syncing: asyncio.Future[None]) -> None:
        """Tell everybody what became of their work, now that it is durable."""
        lost = syncing.exception()
        for future, result, failure in outcomes:
            if (error := lost or failure) is not None:
                _fail(future, error)
            elif not future.cancelled():
                future.set_result(result)
        self._is_syncing = False
        loop = asyncio.get_running_loop()
        loop.call_soon(self._catch_up)  # once those that were told have answered
        if self._waiting:
            loop.call_soon(self._gather, 0, 0)

    def _catch_up(self) -> None:
        with suppress(LedgerError):  # the next time, then
            self._store.catch_up()


def _passes(check: Check, future: asyncio.Future[Any]) -> bool:
    """Whether a check raises nothing; what it does is told to whom it concerns."""
    try:
        check()
    except Exception as error:  # noqa: BLE001
        _fail(future, error)
        return False
    return True


def _fail(future: asyncio.Future[Any], error: BaseException) -> None:
    if not future.cancelled():
        future.set_exception(error)
