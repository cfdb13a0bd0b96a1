"""Waiting for the disk in a thread: the loop goes on meanwhile."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from threading import Thread

from microwallet.http402.charging.store import SessionStore

Tell = Callable[[Exception | None], None]
"""Told in the loop that asked: what has failed, or None."""
_Asked = SimpleQueue[tuple[asyncio.AbstractEventLoop, Tell] | None]
"""Who asked, in order; None ends the thread."""


class Syncer:
    """Syncs a store as often as it is asked, one time after the other.

    Less is done between two threads than by an executor: half a thousand times a second that is much.
    """

    def __init__(self, store: SessionStore) -> None:
        self._store = store
        self._asked: _Asked = SimpleQueue()
        self._has_thread = False

    def begin(self, tell: Tell) -> None:
        """Sync in the thread; where none can be had, at once."""
        loop = asyncio.get_running_loop()
        if self._has_thread or self._starts_thread():
            self._asked.put((loop, tell))
        else:
            loop.call_soon(tell, _failure(self._store))

    def _starts_thread(self) -> bool:
        """Start the thread; False where none can be had."""
        with suppress(RuntimeError):
            Thread(target=_work, args=(self._store, self._asked), name="sync", daemon=True).start()
            self._has_thread = True
            weakref.finalize(self, self._asked.put, None)
        return self._has_thread


def _work(store: SessionStore, asked: _Asked) -> None:
    """What the thread does. It does not know the Syncer: that ends it, once nobody needs it any more."""
    while (one := asked.get()) is not None:
        loop, tell = one
        failure = _failure(store)
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(tell, failure)
        del one, loop, tell  # nothing of what was told is kept while the next is waited for


def _failure(store: SessionStore) -> Exception | None:
    """What syncing failed with, or None."""
    try:
        store.sync()
    except Exception as error:  # noqa: BLE001  # whoever waits is told
        return error
    return None
