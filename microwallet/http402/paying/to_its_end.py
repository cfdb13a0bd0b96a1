"""Work of an event loop that is done to its end, even where nobody waits for it any more."""

from __future__ import annotations

import asyncio
from typing import TypeVar

Value = TypeVar("Value")


def to_its_end(work: asyncio.Future[Value]) -> asyncio.Future[Value]:
    """To be awaited: cancelling that does not cancel the work. What it raises then is told to nobody, where
    the loop would print it as never retrieved."""
    work.add_done_callback(lambda done: done.cancelled() or done.exception())
    return asyncio.shield(work)
