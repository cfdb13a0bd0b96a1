"""Locks between processes: given back by the system, whatever happens to their holder."""

from __future__ import annotations

import fcntl
import subprocess
import sys
from pathlib import Path

import pytest

from microwallet.domain.identifiers import Address, ChainId
from microwallet.errors import LedgerUnwritable
from microwallet.payee.exclusive import exclusive, is_held, is_sold_for, is_watched, settling_lock, watch_lock

REPOSITORY = Path(__file__).parents[3]
HOLD = """
import sys
from pathlib import Path
from microwallet.payee.exclusive import exclusive
with exclusive(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_lock_is_held_by_one_process_and_freed_by_its_death(tmp_path):
    """Another process sees it taken; after SIGKILL it is free at once."""
    path = watch_lock(tmp_path / "home", ChainId(1))
    assert is_held(path) is False
    assert not path.exists()
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={"PYTHONPATH": str(REPOSITORY)},
    )
    with holder:
        assert holder.stdout.readline() == b"held\n"
        assert is_held(path)
        with exclusive(path) as free:
            assert free is False
        holder.kill()
        holder.wait()
    assert not is_held(path)
    with exclusive(path) as free:
        assert free
        assert is_held(path)


def test_whether_a_lock_is_held_is_told_of_a_file_that_cannot_be_written():
    """As in a home that is read alone: here a program that runs, which nobody may write to."""
    assert not is_held(Path(sys.executable).resolve())


def test_who_watches_and_who_sells(tmp_path):
    """A gateway does both, on its own chain and for its own account; `payee watch` does not sell."""
    here, elsewhere, payee, other = (
        ChainId(1),
        ChainId(11),
        Address("0x" + "44" * 20),
        Address("0x" + "55" * 20),
    )
    for lock, sells in ((settling_lock(tmp_path, here, payee), True), (watch_lock(tmp_path, here), False)):
        with exclusive(lock):
            assert (is_watched(tmp_path, here), is_watched(tmp_path, elsewhere)) == (True, False)
            assert (is_sold_for(tmp_path, payee), is_sold_for(tmp_path, other)) == (sells, False)
        assert not is_watched(tmp_path, here)


def test_two_who_look_take_each_other_for_no_holder(tmp_path):
    """They look at the same time: that is seen as no lock that is held."""
    path = tmp_path / "lock"
    with path.open("w") as looking:
        fcntl.flock(looking, fcntl.LOCK_SH)
        assert not is_held(path)


def test_a_folder_that_cannot_be_written_is_told(tmp_path):
    """A file where the home should be: an error of the ledger's kind, not a traceback."""
    (tmp_path / "home").write_text("")
    with pytest.raises(LedgerUnwritable), exclusive(watch_lock(tmp_path / "home", ChainId(1))):
        pass
