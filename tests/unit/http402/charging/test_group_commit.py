"""Many pieces of work in one commit: each is told once the disk has it, and the loop goes on."""

from __future__ import annotations

import asyncio
import errno
import gc
import threading
from contextlib import nullcontext, suppress

import pytest
from model import keyed

from microwallet.errors import LedgerUnwritable
from microwallet.http402.charging import sales
from microwallet.http402.charging.group_commit import GroupCommit
from microwallet.http402.charging.refusal import Refused
from microwallet.http402.charging.sales import Handover, Order
from microwallet.http402.wire.problems import Problem, ProblemType
from microwallet.ledger import database
from microwallet.ledger.database import Database
from microwallet.ledger.ledger import Ledger
from microwallet.ledger.mark import Mark
from microwallet.ledger.vouchers import Vouchers

CHANNEL = keyed(1)


class Disk:
    """What becomes of what was written, as a test decides."""

    def __init__(self):
        self.answers = threading.Event()
        self.answers.set()
        self.is_broken = False
        self.syncs = 0

    def sync(self, descriptor):
        assert self.answers.wait(10)
        self.syncs += 1
        if self.is_broken:
            raise OSError(errno.EIO, "Input/output error")
        database.os.fdatasync(descriptor)


@pytest.fixture
def disk(monkeypatch):
    """The disk under the ledger."""
    disk = Disk()
    monkeypatch.setattr(database, "_sync", disk.sync)
    return disk


@pytest.fixture
def ledger(ledger):
    """A payee's ledger with one channel of 1000."""
    ledger.sessions.add_channel(CHANNEL.payee_channel(deposit=1000), now=1)
    return ledger


def selling(cumulative_amount, cost=1):
    """The work of one sale."""
    handover = Handover(CHANNEL.channel_id, cumulative_amount, bytes(65), 1000, 0, "challenge", None)
    return lambda rows: sales.sell(rows, Order(handover, cost), 1)


def spent(path):
    """What another process reads."""
    with Database.open(path) as other:
        return Vouchers(other).get(CHANNEL.channel_id).spent


def test_nothing_is_told_before_the_disk_has_it(ledger, disk):
    """Others may see it; the loop goes on; whatever was asked for meanwhile is told in its turn."""

    async def run():
        commit = GroupCommit(ledger.sessions)
        disk.answers.clear()
        told = [commit.run(selling(number)) for number in (1, 2)]
        refused = commit.run(selling(2))
        await asyncio.sleep(0.05)
        assert spent(ledger.database.path) == 2
        late = commit.run(selling(3))
        await asyncio.sleep(0.05)
        assert not any(one.done() for one in (*told, refused, late))
        assert disk.syncs == 0
        disk.answers.set()
        assert [(await one).account.spent for one in (*told, late)] == [1, 2, 3]
        with pytest.raises(Refused):
            await refused

    asyncio.run(run())
    assert spent(ledger.database.path) == 3


def test_a_disk_that_loses_what_was_written(ledger, disk):
    """Nobody is told that it is paid, and nothing more is sold on top of what may be lost."""

    async def run():
        commit = GroupCommit(ledger.sessions)
        await commit.run(selling(1))
        disk.is_broken = True
        with pytest.raises(LedgerUnwritable, match="Input/output error"):
            await commit.run(selling(2))
        disk.is_broken = False
        with pytest.raises(LedgerUnwritable, match="start this program again"):
            await commit.run(selling(3))
        with pytest.raises(LedgerUnwritable), ledger.database.write():
            raise AssertionError("written behind what may be lost")

    asyncio.run(run())


def test_a_disk_that_failed_and_answers_again(ledger, disk):
    """The system tells a failure once: what may be lost since is neither told as durable nor marked."""
    mark = Mark(ledger.database.path.with_suffix(".mark"))
    marked = mark.read()
    disk.is_broken = True
    with ledger.sessions.transaction() as rows:
        selling(1)(rows)
    with pytest.raises(LedgerUnwritable):
        ledger.sessions.sync()
    disk.is_broken = False
    with pytest.raises(LedgerUnwritable, match="start this program again"):
        ledger.sessions.sync()
    ledger.close()
    ledger.close()
    assert mark.read() == marked


@pytest.mark.parametrize("is_broken", [False, True])
def test_another_process_marks_only_what_the_disk_has(ledger, disk, is_broken):
    """It finds the mark behind: what it reads may not be durable yet."""
    path = ledger.database.path
    mark = Mark(path.with_suffix(".mark"))
    marked = mark.read()
    with ledger.sessions.transaction() as rows:
        selling(1)(rows)
    disk.is_broken = is_broken
    with Ledger.open(path) as other:
        assert other.vouchers.get(CHANNEL.channel_id).spent == 1
    assert (disk.syncs, mark.read()) == (1, marked if is_broken else marked + 1)


@pytest.mark.parametrize("is_broken", [False, True])
def test_a_thread_that_cannot_be_started(ledger, disk, monkeypatch, is_broken):
    """What is committed becomes durable all the same and is told of, or that the disk failed; with a thread
    it goes on."""

    def start(_):
        raise RuntimeError("no thread")

    async def run():
        commit = GroupCommit(ledger.sessions)
        with monkeypatch.context() as patched:
            patched.setattr(threading.Thread, "start", start)
            assert (await asyncio.wait_for(commit.run(selling(1)), 5)).account.spent == 1
        assert (disk.syncs, spent(ledger.database.path)) == (1, 1)
        assert (await asyncio.wait_for(commit.run(selling(2)), 5)).account.spent == 2

    disk.is_broken = is_broken
    with pytest.raises(LedgerUnwritable) if is_broken else nullcontext():
        asyncio.run(run())


def test_work_that_was_cancelled_harms_nobody(ledger, disk):
    """Who has gone is not told; the others are."""

    async def run():
        commit = GroupCommit(ledger.sessions)
        disk.answers.clear()
        gone, stays = (commit.run(selling(number)) for number in (1, 2))
        await asyncio.sleep(0.02)
        gone.cancel()
        disk.answers.set()
        assert (await stays).account.spent == 2

    asyncio.run(run())


def test_work_that_was_cancelled_is_done(ledger):
    """Also where the commit had not begun: what is to be given back is, whoever waits for it."""

    async def run():
        commit = GroupCommit(ledger.sessions)
        commit.run(selling(1)).cancel()
        assert (await commit.run(selling(2))).account.spent == 2

    asyncio.run(run())


def test_many_at_once_share_the_disk(ledger, disk):
    """A hundred sales that come together wait for the disk a few times."""

    async def run():
        commit = GroupCommit(ledger.sessions)
        await asyncio.gather(*(commit.run(selling(number)) for number in range(1, 101)))

    asyncio.run(run())
    assert disk.syncs <= 3
    assert spent(ledger.database.path) == 100


class Unready:
    """A job that raises at a stage of it."""

    def __init__(self, stage):
        self._stage = stage

    def prepare(self):
        if self._stage == "prepare":
            raise Refused(Problem(type=ProblemType.TRY_AGAIN, detail="later"))

    def work(self, _rows):
        if self._stage == "work":
            raise Refused(Problem(type=ProblemType.TRY_AGAIN, detail="later"))

    def finish(self):
        raise Refused(Problem(type=ProblemType.TRY_AGAIN, detail="later"))


@pytest.mark.parametrize("stage", ["prepare", "work", "finish"])
def test_what_is_refused_does_not_linger(ledger, stage):
    """No refused request waits in memory for Python's collector to find that nobody needs it."""

    async def refuse(commit):
        with suppress(Refused):
            await commit.do(Unready(stage))
            raise AssertionError("it was not refused")

    async def run():
        commit = GroupCommit(ledger.sessions)
        await refuse(commit)
        gc.collect()
        gc.disable()
        try:
            for _ in range(20):
                await refuse(commit)
            del _
            assert not [one for one in gc.get_objects() if isinstance(one, Unready)]
        finally:
            gc.enable()

    asyncio.run(run())
