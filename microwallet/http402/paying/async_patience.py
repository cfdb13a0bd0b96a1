"""The same patience with a transport on an event loop; apart, as asyncio takes long to load."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx

from microwallet.http402.paying.messages import reading_seconds
from microwallet.http402.paying.patience import BEGINS, ENDS, TIMED_OUT, TRACE


@asynccontextmanager
async def patient(request: httpx.Request) -> AsyncIterator[None]:
    """While a request is sent on the event loop, by a transport that tells how it goes on as httpx's does."""
    seconds, told = reading_seconds(request), request.extensions.get(TRACE)
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(None) as limit:

            async def trace(event: str, info: dict[str, Any]) -> None:
                if event.endswith(BEGINS):
                    limit.reschedule(None if seconds is None else loop.time() + seconds)
                elif event.endswith(ENDS) and not limit.expired():
                    limit.reschedule(None)
                if told is not None:
                    await told(event, info)

            request.extensions = {**request.extensions, TRACE: trace}
            yield
    except TimeoutError as error:
        raise httpx.ReadTimeout(TIMED_OUT) from error
