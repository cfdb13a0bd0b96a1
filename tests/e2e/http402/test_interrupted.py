"""Payments that are interrupted: by a kill, a key, a full disk, a pipe that closes."""

from __future__ import annotations

import json
import resource
import shlex
import signal
import subprocess
import threading
import time

import pytest
from http402.payee_double import (
    PAID_BODY,
    STREAM,
    drip,
)

from microwallet.wallet import Wallet


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="limits another process on Linux alone")
def test_a_disk_that_is_full_once_it_was_paid(alice, payee, fetch, books):
    """What was bought cannot be written down: exit 5 with its key, under which it is had again."""
    fetch()
    started = threading.Event()

    def fill(_handler, action):
        if action is not None:
            assert started.wait(10)
            resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (16, 16))
        return False

    payee.before = fill
    process = alice.start("fetch", payee.url + "/", "--json", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    started.set()
    out, err = process.communicate(timeout=30)
    error = json.loads(out)["error"]
    assert (process.returncode, error["code"]) == (5, "outcome-unknown")
    assert "0.001 USDC may have been paid" in error["message"]
    key = json.loads(out)["data"]["idempotencyKey"]
    assert error["hint"].endswith(f"--idempotency-key {key}")
    assert f"idempotency key: {key}" in err.decode()
    payee.before = lambda _handler, _action: False
    assert fetch("--idempotency-key", key).data["body"] == PAID_BODY.decode()
    assert [one[1:] for one in books()[1]] == [(1_000, 1_000, "paid"), (2_000, 1_000, "paid")]


def test_killed_between_signing_and_answer(alice, payee, books):
    """kill -9 after the voucher left: the same key finds it, and it is paid once."""
    arrived = threading.Event()

    def before(_handler, action):
        if action is None:
            return False
        arrived.set()
        time.sleep(3)
        return True

    payee.before = before
    process = alice.start(
        "fetch", payee.url + "/", "--yes", "--idempotency-key", "k", stdout=subprocess.DEVNULL
    )
    assert arrived.wait(20)
    process.kill()
    process.wait()
    payee.before = lambda _handler, _action: False
    payment = alice.run("fetch", payee.url + "/", "--idempotency-key", "k", "--json").data["payment"]
    assert (payment["cumulativeAmount"], payment["spent"]) == ("1000", "1000")
    assert len(books()[1]) == 1


@pytest.mark.parametrize("stage", ["offer", "paid"])
def test_interrupted_before_the_answer(alice, payee, books, stage):
    """Ctrl-C once a voucher has left: the error says what may have been paid, and the hint asks for the
    answer, which is paid once. Before that it says nothing of it."""
    arrived = threading.Event()

    def before(_handler, action):
        if action is None and stage == "paid":
            return False
        arrived.set()
        time.sleep(1.5)
        return True

    payee.before = before
    process = alice.start(
        "fetch", payee.url + "/", "--yes", "--json", stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert arrived.wait(20)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=20)
    told = json.loads(output)
    error = told["error"]
    assert (process.returncode, error["code"]) == (130, "interrupted")
    payee.before = lambda _handler, _action: False
    if stage == "offer":
        assert (error["message"], error["hint"], books()[1]) == ("interrupted", None, [])
        return
    said = f"interrupted: 0.001 USDC may have been paid to {payee.address}, but no answer came"
    assert error["message"] == said
    assert error["hint"].endswith(f"--idempotency-key {told['data']['idempotencyKey']}")
    again = alice.run(*shlex.split(error["hint"])[1:]).succeeded()
    assert (again.data["payment"]["spent"], len(books()[1])) == ("1000", 1)


def test_interrupted_while_the_answer_is_recorded(alice, payee, fetch, books):
    """Ctrl-C between the answer and the books, as where another process keeps the ledger: the hint asks for
    the answer again, which is paid once."""
    fetch()
    with Wallet.open(environment=alice.environment) as wallet:
        answered, kept = threading.Event(), threading.Event()

        def keep(_handler, action):
            if action is not None:
                answered.set()
                assert kept.wait(10)
            return False

        payee.before = keep
        process = alice.start(
            "fetch", payee.url + "/", "--json", stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        assert answered.wait(20)
        with wallet.ledger.database.write():
            kept.set()
            time.sleep(0.5)
            process.send_signal(signal.SIGINT)
            time.sleep(0.2)
        output, _ = process.communicate(timeout=20)
    error = json.loads(output)["error"]
    assert (process.returncode, error["code"]) == (130, "interrupted")
    assert "0.001 USDC may have been paid" in error["message"]
    payee.before = lambda _handler, _action: False
    again = alice.run(*shlex.split(error["hint"])[1:]).succeeded()
    assert (again.data["payment"]["spent"], len(books()[1])) == ("2000", 2)


def test_interrupted_in_the_middle_of_an_answer(alice, payee, fetch, books):
    """What was paid for and has not come whole is told, with the command that asks for it again."""
    fetch()
    payee.before = lambda handler, action: action is not None and drip(handler, 200, {}, most=100)
    process = alice.start("fetch", payee.url + "/", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout.read(2) == b"xx"
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=20)
    assert process.returncode == 130
    lines = said.decode().splitlines()
    assert any(line.startswith("paid 0.001 USDC to ") for line in lines)
    payee.before = lambda _handler, _action: False
    [hint] = [line.removeprefix("hint: ") for line in lines if line.startswith("hint: ")]
    assert alice.run(*shlex.split(hint)[1:]).stdout == PAID_BODY.decode()
    assert [one[1:] for one in books()[1]] == [(1_000, 1_000, "paid"), (2_000, 1_000, "paid")]


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_interrupted_stream(alice, payee, fetch, ending):
    """Ctrl-C, `kill` or a terminal that goes away ends a stream with exit 130, and says what it has cost: its
    books are closed."""
    fetch()
    payee.events, payee.unit_type = 10_000, "event"
    process = alice.start(
        "fetch",
        payee.url + STREAM,
        "--max-amount",
        "1 USDC",
        "--deposit",
        "1 USDC",
        "--yes",
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    while b"event 5" not in process.stdout.readline():
        pass
    process.send_signal(ending)
    _, said = process.communicate(timeout=20)
    assert process.returncode == 130
    assert b"paid up to 0." in said
    assert said.endswith(b"error: interrupted\n")


def test_interrupted_stream_in_json(alice, payee, fetch):
    """With --json Ctrl-C leaves one document: the error, what was received, and what it cost."""
    fetch()
    payee.events, payee.unit_type = 10_000, "event"
    metered = threading.Event()

    def before(handler, _action):
        if handler.command == "HEAD":
            metered.set()
        return False

    payee.before = before
    words = ("--max-amount", "1 USDC", "--deposit", "1 USDC", "--yes", "--json")
    process = alice.start("fetch", payee.url + STREAM, *words, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert metered.wait(20)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=20)
    document = json.loads(output)
    assert (process.returncode, document["error"]["code"]) == (130, "interrupted")
    assert document["data"]["body"].startswith("data: event 0")
    payment = document["data"]["payment"]
    assert int(payment["amount"]) > 0
    assert (payment["isMost"], payment["receiptProblems"]) == (True, [])


def test_a_stream_into_a_pipe_that_closes(alice, payee, fetch):
    """Where nobody reads on, the stream is ended, and what it has cost is told: exit 1."""
    fetch()
    payee.events, payee.unit_type = 10_000, "event"
    words = ("--max-amount", "1 USDC", "--deposit", "1 USDC", "--yes")
    process = alice.start("fetch", payee.url + STREAM, *words, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.readline()
    process.stdout.close()
    with process.stderr as stderr:
        said = stderr.read()
    assert process.wait(timeout=20) == 1
    assert b"paid up to 0." in said
    assert said.endswith(b"error: what reads the output has gone away\n")
