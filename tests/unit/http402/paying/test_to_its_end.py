"""Work that nobody waits for any more."""

from __future__ import annotations

import asyncio
import gc
from contextlib import suppress

import pytest

from microwallet.http402.paying.to_its_end import to_its_end


async def fail() -> None:
    """Ends with an error."""
    await asyncio.sleep(0.01)
    raise ValueError


async def wait(work: asyncio.Future[None]) -> None:
    """Waits for work."""
    await to_its_end(work)


async def give_up() -> None:
    """Is cancelled itself."""
    await asyncio.sleep(0.01)
    raise asyncio.CancelledError


@pytest.mark.parametrize("task", [fail, give_up])
def test_what_nobody_waits_for_goes_on_and_is_not_told(task):
    """Cancelling whoever waits does not cancel it, and the loop says nothing of how it ends."""
    said = []

    async def main() -> bool:
        asyncio.get_running_loop().set_exception_handler(lambda _loop, context: said.append(context))
        work = asyncio.ensure_future(task())
        waiting = asyncio.ensure_future(wait(work))
        await asyncio.sleep(0)
        waiting.cancel()
        with suppress(asyncio.CancelledError):
            await waiting
        is_going_on = not work.done()
        await asyncio.wait([work])
        del work, waiting
        gc.collect()
        await asyncio.sleep(0)
        return is_going_on

    assert asyncio.run(main())
    gc.collect()
    assert said == []
