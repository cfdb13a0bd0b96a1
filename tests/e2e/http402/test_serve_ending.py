"""How `serve` ends: what is in hand is finished, or costs nothing."""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
import threading
import time
from contextlib import closing
from pathlib import Path

import httpx
import pytest
from http402.running import PRICE, channels, listens, unfinished


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_request_in_hand_is_finished(serve, pay, upstream, number, workers):
    """It is waited for; nobody new is let in; what was paid is kept."""
    gateway = serve("--workers", workers)
    pay(gateway.url + "/first").data  # noqa: B018
    done = []
    thread = threading.Thread(target=lambda: done.append(pay(gateway.url + "/slow")))
    thread.start()
    while upstream.asked[-1][0] != "/slow":
        time.sleep(0.01)
    gateway.process.send_signal(number)
    time.sleep(0.5)
    with pytest.raises(httpx.ConnectError):
        httpx.get(gateway.url)
    upstream.slow.set()
    thread.join()
    assert done[0].data["body"] == "you asked for /slow"
    assert gateway.process.wait(timeout=20) == 0
    assert gateway.events.next("stopped")["unsettled"][0]["unsettled"] == "2000"


def test_a_stream_that_would_need_a_voucher_breaks_off(serve, alice, bob, upstream):
    """None can come any more: the payer is told what the stream cost by then."""
    gateway = serve(sells=(*PRICE, "--per", "event"))
    stream = alice.start(
        *("fetch", gateway.url + "/halting", "--deposit", "1 USDC", "--max-amount", "0.005 USDC"),
        *("--yes", "--json"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    while not channels(bob) or channels(bob)[0].spent < 1000:
        time.sleep(0.05)
    gateway.process.send_signal(signal.SIGTERM)
    while listens(gateway.url):
        time.sleep(0.05)
    upstream.slow.set()
    said = json.loads(stream.communicate(timeout=20)[0])["error"]
    assert (stream.returncode, said["code"]) == (3, "network")
    assert "its receipt tells what it has cost" in said["message"]
    assert gateway.process.wait(timeout=20) == 0
    [paying] = alice.run("channel", "list", "--json").data["channels"]
    assert (paying["spent"], channels(bob)[0].spent) == ("1000", 1000)


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_hangup_that_is_ignored(serve, pay, workers):
    """Under `nohup` it goes on."""
    gateway = serve("--workers", workers, program=Path(__file__).with_name("without_hangups.py"))
    gateway.process.send_signal(signal.SIGHUP)
    time.sleep(0.5)
    assert pay(gateway.url).data["status"] == 200
    assert gateway.end() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_told_again_and_again(serve, number):
    """It ends once, in order."""
    gateway = serve("--workers", "3")
    while gateway.process.poll() is None:
        gateway.process.send_signal(number)
        time.sleep(0.02)
    assert gateway.process.returncode == 0
    assert gateway.events.end()[-1]["event"] == "stopped"


def test_what_fails_while_the_ledger_is_locked_is_given_back_at_the_end(serve, pay, upstream, bob):
    """It ends when that is done: the client has its answer long since."""
    gateway = serve(program=Path(__file__).with_name("impatient.py"))
    pay(gateway.url + "/first").data  # noqa: B018
    thread = threading.Thread(target=lambda: pay(gateway.url + "/slow/status/503"))
    thread.start()
    while upstream.asked[-1][0] != "/slow/status/503":
        time.sleep(0.01)
    with closing(sqlite3.connect(bob.path / "ledger.sqlite3", isolation_level=None)) as locks:
        locks.execute("BEGIN IMMEDIATE")
        upstream.slow.set()
        time.sleep(0.5)
        gateway.process.send_signal(signal.SIGTERM)
        thread.join()
        time.sleep(1.5)
        assert gateway.process.poll() is None
    assert gateway.process.wait(timeout=60) == 0
    assert channels(bob)[0].spent == 1000


def test_a_second_interrupt_forces_the_end(serve, pay, upstream, bob):
    """130 at once; the request that was not answered costs nothing, and is told so."""
    gateway, done = serve(), []
    pay(gateway.url + "/first").data  # noqa: B018
    thread = threading.Thread(target=lambda: done.append(pay(gateway.url + "/slow")))
    thread.start()
    while upstream.asked[-1][0] != "/slow":
        time.sleep(0.01)
    gateway.process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    assert gateway.process.poll() is None
    begun = time.monotonic()
    assert gateway.end(signal.SIGINT) == 130
    assert time.monotonic() - begun < 5
    assert channels(bob)[0].spent == 1000
    thread.join()
    told = done[0].data
    assert (told["status"], told["payment"]) == (503, None)
    assert json.loads(told["body"])["detail"] == "the server ends; nothing was charged"
    assert gateway.requests.end()[-2]["status"] == 503
    last = gateway.events.end()[-1]
    assert (last["event"], [one["unsettled"] for one in last["unsettled"]]) == ("stopped", ["1000"])


def test_what_is_free_and_was_not_answered_is_told_that_it_ends(serve, upstream):
    """As what is paid for is: 503, not 500, which would be a defect of the upstream's."""
    gateway, done = serve("--free", "/slow"), []
    thread = threading.Thread(target=lambda: done.append(httpx.get(gateway.url + "/slow", timeout=30)))
    thread.start()
    while not upstream.asked or upstream.asked[-1][0] != "/slow":
        time.sleep(0.01)
    gateway.process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    assert gateway.end(signal.SIGINT) == 130
    thread.join()
    assert done[0].status_code == 503
    assert done[0].json()["detail"] == "the server ends; nothing was charged"
    assert gateway.requests.end()[-2]["status"] == 503


def test_a_settlement_that_is_not_mined_is_finished_by_the_next(serve, pay, bob, chain):
    """Stopped while it waits, it ends in time with 0; started again, it sends nothing twice."""
    gateway = serve()
    pay(gateway.url).data  # noqa: B018
    gateway.end()
    chain.rpc.call("evm_setAutomine", [False])
    gateway = serve("--settle-above", "0.001 USDC")
    while not unfinished(bob):
        time.sleep(0.05)
    begun = time.monotonic()
    assert gateway.end() == 0
    assert time.monotonic() - begun < 15
    assert gateway.events.next("interrupted")["code"] == "outcome-unknown"
    chain.rpc.call("evm_setAutomine", [True])
    again = serve("--settle-above", "0.001 USDC")
    chain.rpc.call("evm_mine", [])
    deadline = time.monotonic() + 20
    while unfinished(bob) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert again.end() == 0
    assert int(chain.rpc.call("eth_getTransactionCount", [bob.address, "latest"]), 16) == 1
    assert channels(bob)[0].state.settled == 1000
