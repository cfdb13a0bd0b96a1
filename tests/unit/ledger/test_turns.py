"""Turns: one process at a time, given back however its holder ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from microwallet.errors import LedgerBusy
from microwallet.ledger.turns import Turns

HOLD = """
import sys, time
from pathlib import Path
from microwallet.ledger.turns import Turns
with Turns(Path(sys.argv[1])).turn(sys.argv[2]):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def hold(tmp_path):
    """Starts a process that holds a turn until it is killed."""
    started = []

    def start(name: str) -> subprocess.Popen:
        process = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(tmp_path / "ledger.turns"), name],
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        started.append(process)
        assert process.stdout.readline() == b"held\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.fixture
def turns(tmp_path):
    """The turns of one ledger."""
    opened = Turns(tmp_path / "ledger.turns")
    yield opened
    opened.close()


def test_a_turn_that_another_process_has(turns, hold):
    """Waits, then LedgerBusy naming what is being done; another name is free."""
    hold("deposit k1")
    with (
        turns.turn("deposit k2"),
        pytest.raises(LedgerBusy, match="deposit k1"),
        turns.turn("deposit k1", seconds=0.2),
    ):
        raise AssertionError


def test_a_killed_holder_gives_its_turn_back(turns, hold):
    """SIGKILL leaves nothing to be cleaned up."""
    holder = hold("deposit k1")
    holder.send_signal(signal.SIGKILL)
    began = time.monotonic()
    with turns.turn("deposit k1", seconds=5):
        assert time.monotonic() - began < 1


def test_an_inner_turn_does_not_give_back_the_outer_one(turns, tmp_path):
    """A process may hold several; ending one leaves the others held."""
    probe = (
        "import sys\nfrom pathlib import Path\nfrom microwallet.ledger.turns import Turns\n"
        "with Turns(Path(sys.argv[1])).turn('outer', seconds=0.1): pass"
    )
    command = [sys.executable, "-c", probe, str(tmp_path / "ledger.turns")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}

    def is_free() -> bool:
        return subprocess.run(command, env=environment, capture_output=True, check=False).returncode == 0

    with turns.turn("outer"):
        with turns.turn("inner"):
            pass
        assert not is_free()
    assert is_free()
