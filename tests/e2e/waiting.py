"""Waiting in a test for what another process or thread does."""

from __future__ import annotations

import time


def wait_until(found, seconds=20):
    """What `found` returns once it is true."""
    deadline = time.monotonic() + seconds
    while not (result := found()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)
    return result
