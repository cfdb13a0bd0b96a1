"""Turns: one process and one thread at a time, given back however its holder ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
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


@pytest.fixture
def is_free(tmp_path):
    """Whether another process could take a turn now."""
    probe = (
        "import sys\nfrom pathlib import Path\nfrom microwallet.ledger.turns import Turns\n"
        "with Turns(Path(sys.argv[1])).turn(sys.argv[2], seconds=0.1): pass"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}

    def ask(name: str) -> bool:
        command = [sys.executable, "-c", probe, str(tmp_path / "ledger.turns"), name]
        return subprocess.run(command, env=environment, capture_output=True, check=False).returncode == 0

    return ask


@pytest.mark.parametrize(("outer", "inner"), [("one", "two"), ("two", "one")])
def test_an_inner_turn_does_not_give_back_the_outer_one(turns, is_free, outer, inner):
    """A process may hold several; ending one leaves the others held, wherever they are in the file."""
    with turns.turn(outer):
        with turns.turn(inner):
            pass
        assert not is_free(outer)
    assert is_free(outer)


def test_a_turn_that_another_ledger_of_this_process_has(turns, tmp_path):
    """A program may open its ledger once a thread: they queue for each other as processes do."""
    other = Turns(tmp_path / "ledger.turns")
    with turns.turn("fund"), pytest.raises(LedgerBusy), other.turn("fund", seconds=0.1):
        raise AssertionError
    with other.turn("fund", seconds=0.1):
        pass
    other.close()


def test_closing_one_ledger_gives_back_no_turn_of_another(turns, tmp_path, is_free):
    """Neither to this process nor to others; what the closed one held is given back."""
    other = Turns(tmp_path / "ledger.turns")
    with turns.turn("outer"):
        with other.turn("inner"):
            other.close()
            assert is_free("inner")
        assert not is_free("outer")
        third = Turns(tmp_path / "ledger.turns")
        with pytest.raises(LedgerBusy), third.turn("outer", seconds=0.1):
            raise AssertionError
        third.close()
    assert is_free("outer")


def test_threads_take_turns(tmp_path):
    """Eight threads, each with a ledger of its own, never do the same thing at once."""
    at_once, most = 0, 0

    def work() -> None:
        nonlocal at_once, most
        own = Turns(tmp_path / "ledger.turns")
        for _ in range(5):
            with own.turn("fund", seconds=30):
                at_once += 1
                most = max(most, at_once)
                time.sleep(0.001)
                at_once -= 1
        own.close()

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (most, at_once) == (1, 0)


def test_a_forked_child_holds_nothing_of_its_parent(turns):
    """It queues like every other process, and its end takes nothing from the parent."""
    with turns.turn("outer"):
        child = os.fork()
        if child == 0:
            status = 1
            try:
                with turns.turn("outer", seconds=0.1):
                    pass
            except LedgerBusy:
                turns.close()
                status = 0
            os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_forked_child_gets_what_its_parent_gave_back(turns):
    """That it was held when the child began means nothing to it."""
    reading, writing = os.pipe()
    with turns.turn("outer"):
        child = os.fork()
        if child == 0:
            status = 1
            try:
                os.read(reading, 1)
                with turns.turn("outer", seconds=0.1):
                    status = 0
            finally:
                os._exit(status)
    os.write(writing, b"!")
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    for end in (reading, writing):
        os.close(end)
