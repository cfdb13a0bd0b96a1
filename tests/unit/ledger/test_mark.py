"""The mark beside the ledger: an older copy is recognised, whoever was killed or came late."""

from __future__ import annotations

import fcntl
import threading

import pytest
from model import keyed
from steps import Killed

from microwallet.domain.payment import next_payment
from microwallet.errors import LedgerCorrupt
from microwallet.ledger.ledger import Ledger
from microwallet.ledger.mark import Mark


@pytest.fixture
def path(tmp_path):
    """A ledger with one open channel."""
    with Ledger.open(tmp_path / "ledger.sqlite3") as ledger:
        ledger.channels.add(keyed(1).payer_channel(deposit=1000), now=0)
    return tmp_path / "ledger.sqlite3"


def pay(ledger, key):
    """Record a payment of ten base units."""
    return ledger.payments.record(
        keyed(1).channel_id,
        key,
        lambda channel: next_payment(channel, idempotency_key=key, step=10, count=1, memo=None, now=0),
    )


def knows_its_voucher(path):
    """Whether the channel may still pay after the ledger was opened."""
    with Ledger.open(path) as ledger:
        return ledger.channels.get(keyed(1).channel_id).voucher_known


def test_a_copy_taken_before_a_payment_is_recognised(path):
    """One voucher is enough; the same file again is no older copy."""
    copy = path.read_bytes()
    with Ledger.open(path) as ledger:
        pay(ledger, "a")
    assert knows_its_voucher(path)
    path.write_bytes(copy)
    assert not knows_its_voucher(path)
    assert not knows_its_voucher(path)


def test_many_transactions_in_a_row(path):
    """A gateway marks ten times a second, and when it closes: a copy from before is recognised."""
    copy = path.read_bytes()
    mark = Mark(path.with_suffix(".mark"))
    with Ledger.open(path) as ledger:
        before, marked = mark.read(), set()
        for _ in range(200):
            with ledger.sessions.transaction():
                pass
            ledger.sessions.sync()
            marked.add(mark.read())
        assert before + 1 in marked
        assert len(marked) < 100
    assert mark.read() == before + 200
    path.write_bytes(copy)
    assert not knows_its_voucher(path)


@pytest.mark.parametrize("content", [b"", b"abc", b"9" * 20, b"9" * 5000, b"\xff" * 20])
def test_a_damaged_mark_harms_nothing(path, content):
    """It is written anew, and the ledger works; with the ledger gone it still says that there was one."""
    mark = path.with_suffix(".mark")
    mark.write_bytes(content)
    assert knows_its_voucher(path)
    assert mark.read_bytes() == b"%020d" % 0
    mark.write_bytes(content)
    path.unlink()
    with pytest.raises(LedgerCorrupt):
        Ledger.open(path)


def test_killed_before_the_mark_was_written(path, monkeypatch):
    """The payment is resumed by another process: an older copy is recognised from then on."""
    copy = path.read_bytes()
    with monkeypatch.context() as patched, Ledger.open(path) as ledger:
        patched.setattr(Mark, "write", lambda *_: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            pay(ledger, "a")
    with Ledger.open(path) as ledger:
        assert ledger.payments.find("a") is not None
    path.write_bytes(copy)
    assert not knows_its_voucher(path)


def test_a_slow_process_does_not_take_the_mark_back(path):
    """Of two that commit one after the other, the first may write its mark last."""
    mark = Mark(path.with_suffix(".mark"))
    mark.write(7)
    mark.write(6)
    assert mark.read() == 7


@pytest.mark.parametrize("content", [b"", b"nonsense", b"\xff" * 20])
def test_a_mark_that_cannot_be_read_is_written_anew(path, content):
    """A mark lost to a power failure stops nobody, and the next opening restores it."""
    with Ledger.open(path) as ledger:
        pay(ledger, "a")
    mark = path.with_suffix(".mark")
    mark.write_bytes(content)
    assert knows_its_voucher(path)
    assert Mark(mark).read() == 1


def test_a_second_copy_of_the_life_before_is_recognised_too(path):
    """Restored, paid on, and restored again from a copy that had counted further than the first."""
    first = path.read_bytes()
    with Ledger.open(path) as ledger:
        for key in "abc":
            pay(ledger, key)
    second = path.read_bytes()
    with Ledger.open(path) as ledger:
        pay(ledger, "d")
    path.write_bytes(first)
    with Ledger.open(path) as ledger:
        ledger.channels.import_voucher(keyed(1).channel_id, 40)
        pay(ledger, "e")
    path.write_bytes(second)
    assert not knows_its_voucher(path)


def test_threads_queue_for_the_mark(tmp_path):
    """As processes do: what one is writing is not overtaken by a lower number of another."""
    mark = Mark(tmp_path / "ledger.mark")
    mark.write(1)
    writer = threading.Thread(target=mark.write, args=[2])
    with mark.path.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        writer.start()
        writer.join(0.1)
        assert mark.read() == 1
    writer.join()
    assert mark.read() == 2
