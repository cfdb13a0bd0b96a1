"""Requests in hand: what one process serves, every other waits for."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import subprocess
import sys
import time
from contextlib import closing

import pytest

from microwallet.errors import LedgerUnwritable
from microwallet.payee.in_hand import InHand, InHandHere

CHANNEL, OTHER = "0x" + "ab" * 32, "0x" + "cd" * 32
MOST = 2**128 - 1

SERVE = f"""
import sys, time
from pathlib import Path
from microwallet.payee.in_hand import InHandHere
InHandHere(Path(sys.argv[1])).reserve("{CHANNEL}", 7)
print("serving", flush=True)
time.sleep(60)
"""


def take_in_hand(gateway, amount):
    """A request that reserves `amount`."""
    gateway.begin(CHANNEL)
    gateway.reserve(CHANNEL, amount)


@pytest.fixture
def gateways(tmp_path):
    """Two of them on one home."""
    with closing(InHandHere(tmp_path)) as first, closing(InHandHere(tmp_path)) as second:
        yield first, second


def test_what_is_reserved(tmp_path, gateways):
    """The sum of what began and did not end, wherever, of the channel that is asked for."""
    first, second = gateways
    take_in_hand(first, 3)
    take_in_hand(first, MOST)
    take_in_hand(second, MOST)
    for seen_by in (first, second, InHand(tmp_path)):
        assert seen_by.reserved([CHANNEL, OTHER]) == {CHANNEL: 2 * MOST + 3, OTHER: 0}
    first.end(CHANNEL, MOST)
    second.end(CHANNEL, MOST)
    assert second.reserved([CHANNEL]) == {CHANNEL: 3}
    first.end(CHANNEL, 3)
    assert second.reserved([CHANNEL]) == {CHANNEL: 0}


def test_channels_whose_ids_are_alike(gateways):
    """A payer makes its ids: none is to keep a close from taking what another channel owes."""
    first, second = gateways
    take_in_hand(first, 3)
    alike = [CHANNEL[:-4] + f"{number:04x}" for number in range(20)]
    assert sum(second.reserved(alike).values()) <= 3  # one may happen to share the place


def test_what_a_gateway_leaves_behind(tmp_path):
    """Nothing counts of one that has ended or was killed, and no file stays."""
    with closing(InHandHere(tmp_path)) as ended:
        take_in_hand(ended, 5)
    command = [sys.executable, "-c", SERVE, str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "serving\n"
        assert InHand(tmp_path).reserved([CHANNEL]) == {CHANNEL: 7}
        process.send_signal(signal.SIGKILL)
    assert InHand(tmp_path).reserved([CHANNEL]) == {CHANNEL: 0}
    assert list(tmp_path.iterdir()) == []


def test_a_gateway_that_is_killed_at_every_start(tmp_path):
    """Its files do not fill the disk, though nobody ever settles."""
    command = [sys.executable, "-c", SERVE, str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    for _ in range(2):
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout.readline() == "serving\n"
            process.kill()
        assert len(list(tmp_path.iterdir())) == 1


def test_what_cannot_be_seen_is_not_taken_for_nothing(tmp_path, gateways):
    """As where a process has too many files open: nobody settles what may be reserved, and it is told."""
    take_in_hand(gateways[0], 5)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        with pytest.raises(LedgerUnwritable, match="open files"):
            InHand(tmp_path).reserved([CHANNEL])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert InHand(tmp_path).reserved([CHANNEL]) == {CHANNEL: 5}


def test_waiting_for_no_longer_than_is_said(gateways):
    """What another has in hand is waited for."""
    first, second = gateways
    take_in_hand(second, 1)
    for wait in (
        lambda: asyncio.run(first.until_none(CHANNEL, within=0.1)),
        lambda: first.wait([OTHER, CHANNEL], within=0.1),
    ):
        begun = time.monotonic()
        wait()
        assert 0.1 <= time.monotonic() - begun < 5


def test_waiting_ends_with_the_last_request(gateways):
    """Whoever serves it."""
    first, second = gateways

    async def wait():
        waiting = asyncio.create_task(first.until_none(CHANNEL, within=60))
        for one in gateways:
            await asyncio.sleep(0.05)
            assert not waiting.done()
            one.end(CHANNEL, 1)
        await waiting

    take_in_hand(first, 1)
    take_in_hand(second, 1)
    asyncio.run(wait())


def test_a_home_that_cannot_be_written(tmp_path):
    """Nothing is served then: others could not know."""
    with pytest.raises(LedgerUnwritable, match="cannot be counted"):
        InHandHere(tmp_path / "missing")
