"""Looking again and again for what happens elsewhere: on a chain, or in another process."""

from __future__ import annotations

import time
from collections.abc import Iterator


def polls(*, within: float, every: float) -> Iterator[None]:
    """Times to look: now, and again after each pause of `every` seconds, until `within` seconds are over."""
    deadline = time.monotonic() + within
    while True:
        yield
        if time.monotonic() >= deadline:
            return
        time.sleep(every)
