"""`serve` with several workers: one ledger, one settlement, and an end together."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time

import httpx
import pexpect
import pytest
from http402.running import PRICE, channels, fails

from microwallet.cli.serve_view import serve_line


def test_two_workers_sell_from_one_ledger(serve, pay, bob):
    """Parallel payments from one channel: every one is served by some worker, and the books agree."""
    gateway = serve("--workers", "2")
    assert len(gateway.workers()) == 2
    pay(gateway.url).data  # noqa: B018
    done = []
    threads = [
        threading.Thread(target=lambda: done.append(pay(gateway.url + "/again").exit_code)) for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert done == [0] * 6
    assert gateway.end() == 0
    assert [line["event"] for line in gateway.events.seen] == ["listening", "stopped"]
    (channel,) = channels(bob)
    assert (channel.authorized, channel.spent) == (7000, 7000)


def test_a_close_waits_for_what_another_worker_serves(serve, pay, alice, upstream):
    """It takes what was charged in the end, not what was reserved when it was asked for."""
    gateway = serve("--workers", "2")
    channel_id = pay(gateway.url).data["payment"]["channelId"]
    serving, closing = gateway.workers()
    os.kill(closing, signal.SIGSTOP)
    paying = threading.Thread(target=lambda: pay(gateway.url + "/slow/status/503"))
    paying.start()
    while upstream.asked[-1][0] != "/slow/status/503":
        time.sleep(0.01)
    os.kill(serving, signal.SIGSTOP)
    os.kill(closing, signal.SIGCONT)
    done = []
    words = ("channel", "close", channel_id, "--yes", "--json")
    asking = threading.Thread(target=lambda: done.append(alice.run(*words)))
    asking.start()
    time.sleep(1.5)
    assert [line["event"] for line in gateway.events.seen] == ["listening"]
    os.kill(serving, signal.SIGCONT)
    upstream.slow.set()
    paying.join()
    asking.join()
    assert done[0].exit_code == 0, done
    assert gateway.events.next("closed")["captured"] == "1000"


def test_a_killed_worker_is_replaced(serve):
    """And told of; the others serve meanwhile."""
    gateway = serve("--workers", "2")
    before = gateway.workers()
    os.kill(before[0], signal.SIGKILL)
    replaced = gateway.events.next("worker-replaced")
    assert "SIGKILL" in replaced["message"]
    line = serve_line("worker-replaced", {"worker": 0, "message": replaced["message"]})
    assert line.endswith("  worker replaced  worker 0  the one before was killed by SIGKILL")
    while len(after := gateway.workers()) < 2:
        time.sleep(0.01)
    assert before[0] not in after
    assert httpx.get(gateway.url).status_code == 402
    assert gateway.end(signal.SIGINT) == 0


def test_one_that_fails_by_itself_ends_all(bob):
    """It has said why, and its exit code is the command's."""
    bob.path.mkdir(exist_ok=True)
    (bob.path / "ledger.sqlite3").write_text("this is no ledger at all")
    sells = ("--upstream", "http://127.0.0.1:9000", *PRICE, "--port", "0")
    assert fails(bob, *sells, "--workers", "2")["code"] == "ledger-corrupt"


def test_it_gives_up_when_they_are_killed_again_and_again(serve):
    """Eleven within a minute: exit 1, and nobody is left."""
    gateway = serve("--workers", "2")
    killed = set()
    while gateway.process.poll() is None:
        for worker in set(gateway.workers()) - killed:
            os.kill(worker, signal.SIGKILL)
            killed.add(worker)
        time.sleep(0.01)
    assert gateway.process.wait() == 1
    assert len(killed) >= 11
    assert "giving up" in gateway.requests.end()[-1]["error"]["message"]


def test_at_a_terminal(bob, upstream):
    """The password is asked for once, before there are several; Ctrl-C is one interrupt, not three."""
    arguments = ["serve", "--upstream", upstream.url, *PRICE, "--port", "0", "--workers", "2"]
    terminal = pexpect.spawn(
        sys.executable,
        ["-m", "microwallet", *arguments],
        env={**bob.environment, "MICROWALLET_PASSWORD_FILE": ""},
        cwd=str(bob.path.parent),
        encoding="utf-8",
        timeout=30,
    )
    terminal.expect("Password for the key of account bob: ")
    terminal.sendline(bob.password_file.read_text().strip())
    terminal.expect("listening on (http://[^ ]+) ")
    assert httpx.get(terminal.match[1]).status_code == 402
    terminal.sendintr()
    terminal.expect("stopped")
    terminal.expect(pexpect.EOF)
    terminal.close()
    assert terminal.exitstatus == 0
    assert "Password" not in terminal.before


def test_workers_end_with_their_parent(serve):
    """However it ends: nobody goes on serving."""
    gateway = serve("--workers", "2")
    gateway.process.kill()
    gateway.process.wait()
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            httpx.get(gateway.url)
        except httpx.ConnectError:
            return
        except httpx.TransportError:  # a worker that ended in the middle of it
            continue
        time.sleep(0.05)
    pytest.fail("a worker still serves")
