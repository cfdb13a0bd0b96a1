"""Many requests in one commit: work on the store is collected while more requests are being read."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any, Generic, Protocol, TypeVar

from microwallet.http402.charging.refusal import Refused
from microwallet.http402.charging.sales import StreamEnded
from microwallet.http402.charging.store import SessionRows, SessionStore
from microwallet.http402.charging.syncer import Syncer

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class NotReady(Exception):
    """A job needs something that is not in memory."""


_EXPECTED = (Refused, StreamEnded, NotReady)
"""What a job may raise when it leaves the rows in order: the others in its transaction go on."""


class Job(Protocol[T_co]):
    """Work on the store, in three stages. Each stage is run for all jobs of a transaction before the next
    stage: code that has just run for one job runs several times as fast for another."""

    def prepare(self) -> None:
        """Before the transaction: do what needs only memory. If this raises, the job ends."""

    def work(self, rows: SessionRows) -> None:
        """In the transaction; it may raise what is _EXPECTED."""

    def finish(self) -> T_co:
        """While the disk writes: return, or raise, what is to be told once all is durable."""


class Work(Generic[T]):
    """A job of one stage, which is done even if nobody waits for it any more."""

    __slots__ = ("_work", "result")
    result: T

    def __init__(self, work: Callable[[SessionRows], T]) -> None:
        self._work = work

    def prepare(self) -> None:
        pass

    def work(self, rows: SessionRows) -> None:
        self.result = self._work(rows)

    def finish(self) -> T:
        return self.result


_Waiting = tuple[Job[Any], asyncio.Future[Any]]
"""A job, and the future that waits for it."""
_Outcome = tuple[asyncio.Future[Any], Any, Exception | None]
"""The future that waits for a job, and what the job returned or raised."""

_IDLE_TURNS = 2
"""Turns of the loop without new work before a commit: what one turn reads becomes work in the next."""
_LARGEST = 64
"""With so many jobs, a commit does not wait for more."""


class GroupCommit:
    """Runs jobs on a store's rows; each is durable when its result is there.

    For one event loop. Jobs run one after the other, in the order they came; the store serializes processes.
    """

    def __init__(self, store: SessionStore) -> None:
        self._store = store
        self._waiting: list[_Waiting] = []
        self._is_syncing = False
        self.is_lost = False
        """Whether the disk has failed."""
        self._syncer = Syncer(store)
        """Waits for the disk in a thread; work that comes meanwhile is for the next commit."""

    def run(self, work: Callable[[SessionRows], T]) -> asyncio.Future[T]:
        """The result of `work` once it is durable; raises what it raises, or LedgerError.

        It is done even if nobody waits for it any more, as what must be given back is.
        """
        return self.do(Work(work))

    def do(self, job: Job[T]) -> asyncio.Future[T]:
        """What a job returns, once it is durable; raises what one of its stages raises, or LedgerError.

        It is dropped if nobody waits for it any more when it would begin.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self._waiting.append((job, future))
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
        ready = _prepared(waiting)
        if not ready:
            return
        done: list[_Waiting] = []
        outcomes: list[_Outcome] = []
        try:
            with self._store.transaction() as rows:
                for job, future in ready:
                    try:
                        job.work(rows)
                        done.append((job, future))
                    except _EXPECTED as expected:
                        outcomes.append((future, None, _untraced(expected)))
        except Exception as error:  # noqa: BLE001  # nothing is written: all are told
            for _, future in ready:
                _fail(future, error)
            return
        self._is_syncing = True
        self._syncer.begin(partial(self._tell, outcomes))
        _finish(done, outcomes)

    def _tell(self, outcomes: list[_Outcome], lost: Exception | None) -> None:
        """Tell everybody what became of their work, now that it is durable."""
        self.is_lost = lost is not None
        for future, result, failure in outcomes:
            if (error := lost or failure) is not None:
                _fail(future, error)
            elif not future.cancelled():
                future.set_result(result)
        self._is_syncing = False
        if self._waiting:
            asyncio.get_running_loop().call_soon(self._gather, 0, 0)


def _prepared(waiting: list[_Waiting]) -> list[_Waiting]:
    """The jobs that are prepared; those who wait for others are told what was raised."""
    ready: list[_Waiting] = []
    for one in waiting:
        job, future = one
        if future.cancelled() and not isinstance(job, Work):
            continue
        try:
            job.prepare()
            ready.append(one)
        except Exception as error:  # noqa: BLE001
            future.set_exception(_untraced(error))
    return ready


def _finish(done: list[_Waiting], outcomes: list[_Outcome]) -> None:
    """Add the outcomes of jobs that are done."""
    for job, future in done:
        try:
            outcomes.append((future, job.finish(), None))
        except Exception as error:  # noqa: BLE001
            outcomes.append((future, None, _untraced(error)))


def _untraced(error: Exception) -> Exception:
    """The error, without its traceback if it is expected. The traceback's frames lead to the future that will
    hold the error: a cycle that would keep the request in memory until Python's collector finds it."""
    return error.with_traceback(None) if isinstance(error, _EXPECTED) else error


def _fail(future: asyncio.Future[Any], error: BaseException) -> None:
    if not future.cancelled():
        future.set_exception(error)
