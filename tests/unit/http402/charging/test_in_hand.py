"""Requests in hand: what one worker serves, every other waits for."""

from __future__ import annotations

import asyncio
import copy
import time

import pytest

from microwallet.http402.charging.in_hand import InHand

CHANNEL, OTHER = "0x" + "ab" * 32, "0x" + "cd" * 32


@pytest.fixture
def workers():
    """Two workers, as if they had been forked."""
    first = InHand(workers=2)
    second = copy.copy(first)
    second.work_as(1)
    return first, second


def test_its_own():
    """As many as began and did not end, of the channel that is asked for."""
    in_hand = InHand()
    in_hand.begin(CHANNEL)
    in_hand.begin(CHANNEL)
    in_hand.end(CHANNEL)
    assert in_hand.has(CHANNEL)
    assert not in_hand.has(OTHER)
    in_hand.end(CHANNEL)
    assert not in_hand.has(CHANNEL)


def test_what_another_worker_has(workers):
    """It is waited for, no longer than is said; one that takes a dead one's place has nothing in hand."""
    first, second = workers
    first.begin(CHANNEL)
    first.end(CHANNEL)
    second.begin(CHANNEL)
    for wait in (
        lambda: asyncio.run(first.until_none(CHANNEL, within=0.1)),
        lambda: first.wait([OTHER, CHANNEL], within=0.1),
    ):
        begun = time.monotonic()
        wait()
        assert 0.1 <= time.monotonic() - begun < 5
    copy.copy(first).work_as(1)
    first.wait([CHANNEL], within=60)
    assert not second.has(CHANNEL)


def test_waiting_ends_with_the_last_request(workers):
    """Whoever serves it."""
    first, second = workers

    async def wait():
        waiting = asyncio.create_task(first.until_none(CHANNEL, within=60))
        for one in workers:
            await asyncio.sleep(0.05)
            assert not waiting.done()
            one.end(CHANNEL)
        await waiting

    first.begin(CHANNEL)
    second.begin(CHANNEL)
    asyncio.run(wait())
