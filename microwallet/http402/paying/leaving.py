"""Leaving a stream over HTTP/2 before its end: the server is to learn of it, since it charges as it delivers.

httpcore 1.0 only stops to read, and the connection goes on with other requests. RFC 9113, section 5.4.2.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

_CANCEL = 0x8


def reset(stream: object) -> None:
    """Tell the server that nobody reads an httpx stream any more; nothing is done but over HTTP/2."""
    with suppress(Exception):  # the stream, or its connection, has ended already
        if (send := _cancelled(stream)) is not None:
            send()


async def reset_async(stream: object) -> None:
    """As `reset`."""
    with suppress(Exception):
        if (send := _cancelled(stream)) is not None:
            await send()


def _cancelled(stream: object) -> Callable[[], Any] | None:
    """What sends the frame that cancels a stream of httpcore's HTTP/2, which has no public way to do so."""
    body: Any = getattr(getattr(stream, "_httpcore_stream", None), "_stream", None)
    connection: Any = getattr(body, "_connection", None)
    state = getattr(connection, "_h2_state", None)
    if state is None:
        return None
    state.reset_stream(body._stream_id, _CANCEL)  # noqa: SLF001  # see above
    return partial(connection._write_outgoing_data, body._request)  # noqa: SLF001  # see above
