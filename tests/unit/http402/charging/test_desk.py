"""Work in threads: its results, its errors, its end."""

from __future__ import annotations

import asyncio
import threading
import time
from contextlib import contextmanager, nullcontext
from functools import partial

import pytest

from microwallet.errors import NetworkError
from microwallet.http402.charging.desk import QUEUE_LIMIT, Desk


def test_work_is_done_elsewhere_with_tools_opened_there():
    """In one thread, which opens its tools once, closes them as it ends, and keeps no process from ending."""
    opened, closed = [], []

    @contextmanager
    def tools():
        opened.append(threading.current_thread())
        yield "tools"
        closed.append(threading.current_thread())

    async def run():
        desk = Desk("desk", tools)
        found = [await desk.run(lambda tools: (tools, threading.current_thread())) for _ in range(3)]
        assert not closed
        assert desk.close(within=1)
        return found

    found = asyncio.run(run())
    assert {tools for tools, _ in found} == {"tools"}
    assert {thread for _, thread in found} == set(opened)
    assert len(opened) == 1
    assert opened[0] is not threading.main_thread()
    assert opened[0].daemon
    assert closed == opened


def test_several_threads_work_at_once():
    """As many as there may be, and no more than are needed."""

    async def run(threads):
        desk = Desk("desk", nullcontext, threads=threads)
        assert len({await desk.run(lambda _: threading.get_ident()) for _ in range(9)}) == 1
        gate = threading.Barrier(threads)
        await asyncio.gather(*(desk.run(lambda _: gate.wait(5)) for _ in range(threads)))
        return desk.close(within=1)

    assert asyncio.run(run(3))


def test_what_it_raises_is_the_callers():
    """Also what opening the tools raises, which is tried again the next time."""
    attempts = []

    def tools():
        attempts.append(None)
        if len(attempts) == 1:
            raise NetworkError("not yet")
        return nullcontext(5)

    async def run():
        desk = Desk("desk", tools)
        with pytest.raises(NetworkError, match="not yet"):
            await desk.run(lambda tools: tools)
        with pytest.raises(ZeroDivisionError):
            await desk.run(lambda tools: tools / 0)
        assert await desk.run(lambda tools: tools) == 5
        desk.close(within=1)

    asyncio.run(run())


def test_the_queue_has_an_end():
    """One more than it may hold is refused at once; the others are served, and then as many again."""

    async def run():
        desk = Desk("desk", nullcontext)
        for _ in range(2):
            gate = threading.Event()
            work = partial(desk.run, lambda _, gate=gate: gate.wait(5))
            waiting = [asyncio.ensure_future(work()) for _ in range(QUEUE_LIMIT)]
            await asyncio.sleep(0)
            with pytest.raises(NetworkError, match="wait for the desk already"):
                await desk.run(lambda _: None)
            gate.set()
            assert all(await asyncio.gather(*waiting))
        desk.close(within=1)

    asyncio.run(run())


def test_a_thread_that_cannot_be_had(monkeypatch):
    """It is told, and asked for again the next time; where there is another, that one does the work."""
    start = threading.Thread.start

    def fail(_thread):
        raise RuntimeError("can't start new thread")

    async def run():
        desk = Desk("desk", nullcontext, threads=2)
        monkeypatch.setattr(threading.Thread, "start", fail)
        with pytest.raises(NetworkError, match="the desk cannot be asked: can't start new thread"):
            await desk.run(lambda _: 1)
        monkeypatch.setattr(threading.Thread, "start", start)
        gate = threading.Event()
        first = asyncio.create_task(desk.run(lambda _: gate.wait(5)))
        await asyncio.sleep(0)
        monkeypatch.setattr(threading.Thread, "start", fail)
        second = asyncio.create_task(desk.run(lambda _: 2))
        await asyncio.sleep(0)
        gate.set()
        assert await first
        assert await asyncio.wait_for(second, 5) == 2
        assert desk.close(within=1)

    asyncio.run(run())


def test_what_is_urgent_comes_first():
    """Also where the queue is full: nobody can keep it away by asking for much."""
    done = []

    async def run():
        desk = Desk("desk", nullcontext)
        gate = threading.Event()
        asked = [asyncio.create_task(desk.run(lambda _: gate.wait(5)))]
        asked += [
            asyncio.create_task(desk.run(lambda _, n=number: done.append(n)))
            for number in range(QUEUE_LIMIT - 1)
        ]
        await asyncio.sleep(0)
        with pytest.raises(NetworkError):
            await desk.run(lambda _: done.append("too many"))
        asked.append(asyncio.create_task(desk.run(lambda _: done.append("urgent"), is_urgent=True)))
        await asyncio.sleep(0)
        gate.set()
        await asyncio.gather(*asked)
        assert desk.close(within=1)

    asyncio.run(run())
    assert done == ["urgent", *range(QUEUE_LIMIT - 1)]


def test_closing_waits_for_what_is_in_hand_alone():
    """What waits is not begun; what takes longer than the patience is told."""

    async def run():
        desk = Desk("desk", nullcontext)
        began, gate = threading.Event(), threading.Event()

        def work(_tools):
            began.set()
            return gate.wait(5)

        begun = asyncio.ensure_future(desk.run(work))
        waiting = asyncio.ensure_future(desk.run(lambda _: pytest.fail("it was begun")))
        await asyncio.to_thread(began.wait)
        assert not desk.close(within=0.01)
        threading.Timer(0.05, gate.set).start()
        assert desk.close(within=5)
        assert await begun
        with pytest.raises(NetworkError, match="not asked any more"):
            await waiting
        with pytest.raises(NetworkError, match="not asked any more"):
            await desk.run(lambda _: None)

    begun = time.monotonic()
    asyncio.run(run())
    assert time.monotonic() - begun < 4


def test_closing_without_patience_tells_of_what_is_in_hand_alone():
    """A desk with nothing to do has nothing left undone, however long its threads take to end."""

    async def run():
        desk = Desk("desk", nullcontext)
        await desk.run(lambda _: None)
        idle = desk.close(within=0)
        desk, began, gate = Desk("desk", nullcontext), threading.Event(), threading.Event()
        begun = asyncio.ensure_future(desk.run(lambda _: (began.set(), gate.wait(5))))
        await asyncio.to_thread(began.wait)
        busy = desk.close(within=0)
        gate.set()
        await begun
        return idle, busy

    assert asyncio.run(run()) == (True, False)


def test_a_caller_that_goes_away_leaves_the_work():
    """It is done all the same, and the desk goes on."""

    async def run():
        desk = Desk("desk", nullcontext)
        done, gate = threading.Event(), threading.Event()

        def work(_tools):
            gate.wait(5)
            done.set()

        task = asyncio.ensure_future(desk.run(work))
        await asyncio.sleep(0.01)
        task.cancel()
        gate.set()
        assert await desk.run(lambda _: 7) == 7
        assert done.is_set()
        desk.close(within=1)

    asyncio.run(run())
