"""Work of one name in turn: one at a time, in order, and no more than so many that wait."""

from __future__ import annotations

import asyncio

import pytest

from microwallet.errors import NetworkError
from microwallet.http402.charging.in_turn import InTurn


def test_one_of_a_name_at_a_time():
    """In the order in which they came; those of other names do not wait."""

    async def run():
        in_turn, gate, done = InTurn(limit=8), asyncio.Event(), []

        async def work(name):
            if name.startswith("a"):
                await gate.wait()
            done.append(name)
            return name

        slow = [
            asyncio.create_task(in_turn.run("a", lambda name=name: work(name))) for name in ("a1", "a2", "a3")
        ]
        await asyncio.sleep(0)
        assert await in_turn.run("b", lambda: work("b")) == "b"
        gate.set()
        assert await asyncio.gather(*slow) == ["a1", "a2", "a3"]
        return done

    assert asyncio.run(run()) == ["b", "a1", "a2", "a3"]


def test_the_queue_of_a_name_has_an_end():
    """One more is refused at once, also the next time; what fails, or goes away, keeps no place."""

    async def fill(in_turn):
        gate = asyncio.Event()

        async def fail():
            await gate.wait()
            raise ZeroDivisionError

        async def work():
            return 5

        waiting = [asyncio.create_task(in_turn.run("a", fail)) for _ in range(3)]
        await asyncio.sleep(0)
        with pytest.raises(NetworkError, match="wait already"):
            await asyncio.wait_for(in_turn.run("a", work), 5)
        waiting.pop().cancel()
        await asyncio.sleep(0)
        waiting.append(asyncio.create_task(in_turn.run("a", fail)))
        await asyncio.sleep(0)
        gate.set()
        found = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(one) for one in found] == [ZeroDivisionError] * 3
        return await in_turn.run("a", work)

    async def run():
        in_turn = InTurn(limit=2)
        return [await fill(in_turn) for _ in range(2)]

    assert asyncio.run(run()) == [5, 5]
