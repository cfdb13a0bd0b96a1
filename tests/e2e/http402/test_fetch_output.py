"""Where an answer goes that was paid for: files, devices, pipes, and what takes none of it."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pexpect
import pytest
from http402 import payee_double
from http402.payee_double import PAID_BODY, STREAM
from unwritable import FULL, into_full, into_nowhere, needs_full


def test_the_body_goes_to_devices_and_pipes(alice, payee, fetch, tmp_path):
    """-o takes what is no file of its own: it is written to, never cut."""
    fetch()
    assert alice.run("fetch", payee.url + "/", "-o", "/dev/null").exit_code == 0
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with ThreadPoolExecutor(1) as pool:
        read = pool.submit(pipe.read_bytes)
        assert alice.run("fetch", payee.url + "/", "-o", pipe).exit_code == 0
        assert read.result(timeout=10) == PAID_BODY


@pytest.mark.parametrize(("status", "kept"), [(200, b""), (204, b""), (404, b""), (304, b"what was there")])
def test_an_empty_answer_in_a_file(fetch, payee, tmp_path, status, kept):
    """As with curl, what was there before is gone, but where the server says that it still holds; and where
    no answer came."""
    file = tmp_path / "answer"
    file.write_bytes(b"what was there")

    def answer(handler, _action):
        handler.answer(status, {})
        return True

    def hang_up(handler, _action):
        handler.close_connection = True
        return True

    payee.before = hang_up
    assert fetch("-o", file).exit_code == 3
    assert file.read_bytes() == b"what was there"
    payee.before = answer
    fetch("-o", file).succeeded()
    assert file.read_bytes() == kept


def test_a_file_in_which_nothing_came(alice, fetch, payee, tmp_path):
    """None is left behind where there was none before, and what was there stays. An empty answer is one, and
    makes an empty file."""
    file, old = tmp_path / "answer", tmp_path / "old"
    old.touch()
    assert alice.run("fetch", payee.url + "/", "-o", old).exit_code == 2
    assert old.exists()
    refused = alice.run("fetch", payee.url + "/", "-o", file)
    assert (refused.exit_code, file.exists()) == (2, False)
    assert "this needs --yes" in refused.stderr
    payee.before = lambda handler, _: handler.answer(304, {}) or True
    fetch("-o", file).succeeded()
    assert not file.exists()
    payee.before = lambda handler, _: handler.answer(200, {}) or True
    fetch("-o", file).succeeded()
    assert file.read_bytes() == b""


@pytest.mark.parametrize(
    ("output", "said", "hint"),
    [
        ("nowhere/file", "nowhere/file cannot be written: there is no folder nowhere", "mkdir -p nowhere"),
        ("a b/c/file", "a b/c/file cannot be written: there is no folder 'a b/c'", "mkdir -p 'a b/c'"),
        ("nowhere/", "nowhere/ is a folder, not a file", "-o nowhere/FILE"),
        ("/dev", "/dev is a folder, not a file", "-o /dev/FILE"),
    ],
)
def test_a_place_that_takes_no_answer(payee, fetch, output, said, hint):
    """It is refused before anything is asked, and the hint says what to do."""
    refused = fetch("-o", output)
    assert (refused.exit_code, refused.error["message"], refused.error["hint"]) == (2, said, hint)
    assert payee.seen == []


@needs_full
@pytest.mark.parametrize("to", ["stdout", "file", "json"])
def test_a_paid_answer_that_cannot_be_written(alice, payee, fetch, to):
    """Exit 5, what was paid, and the command that has the answer again and pays nothing."""
    fetch()
    flags = {"stdout": [], "file": ["-o", str(FULL)], "json": ["--json"]}[to]
    code, said = into_full(alice, "fetch", payee.url + "/", "-H", "X-Of: ours", *flags)
    cannot = "it was paid, but the answer could not be written (No space left on device)"
    assert code == 5
    assert said[0].startswith("idempotency key: fetch-")
    key = said[0].rpartition(" ")[2]
    assert said[1].startswith("paid 0.001 USDC to ")
    if to == "json":
        error = json.loads(said[2])["error"]
        assert len(said) == 3
        assert (error["code"], error["message"]) == ("outcome-unknown", cannot)
        hint = error["hint"]
    else:
        assert said[2] == f"error: {cannot}"
        hint = said[3].removeprefix("hint: ")
    again = ["microwallet", "fetch", payee.url + "/", "-H", "X-Of: ours", *flags]
    assert shlex.split(hint) == [*again, "--idempotency-key", key]
    if to == "stdout":
        assert alice.run(*shlex.split(hint)[1:]).succeeded().stdout == PAID_BODY.decode()
        assert payee.highest() == 2_000


@needs_full
@pytest.mark.parametrize("flags", [(), ("--json",)], ids=["text", "--json"])
def test_the_hint_after_a_paid_answer_tells_no_secret(alice, payee, fetch, flags):
    """What stderr says may be kept in a log: the hint leaves secrets to be filled in."""
    fetch()
    secret = ("-H", "Authorization: Bearer s3cret", "-H", "x-api-key: s3cret")
    code, said = into_full(alice, "fetch", payee.url + "/", *secret, *flags)
    told = json.loads(said[-1])["error"]["hint"] if flags else said[-1]
    assert code == 5
    assert '-H "Authorization: $AUTHORIZATION" -H "x-api-key: $X_API_KEY"' in told
    assert "s3cret" not in "".join(said)


@needs_full
def test_a_free_answer_that_cannot_be_written(alice, payee):
    """Exit 1, as nothing was paid."""
    payee.before = lambda handler, _: handler.answer(200, {}, b"free") or True
    free = into_full(alice, "fetch", payee.url + "/")
    assert free == (1, ["error: the answer could not be written (No space left on device)"])
    code, said = into_full(alice, "fetch", payee.url + "/", "--dry-run", "--json")
    assert (code, json.loads(said[0])["error"]["exitCode"]) == (1, 1)


@needs_full
def test_a_stream_that_cannot_be_written(alice, payee, fetch):
    """It cannot be had again under its key: the channel shows what became of it."""
    fetch()
    payee.unit_type = "event"
    code, said = into_full(alice, "fetch", payee.url + STREAM)
    assert code == 5
    assert said[-2].startswith("error: it was paid, ")
    assert said[-1].startswith("hint: microwallet channel show ")


def test_a_paid_answer_into_a_pipe_that_closes(alice, payee, fetch):
    """Where nobody reads the whole answer it says the same: what was paid, and how to have it again."""
    fetch()
    code, said = into_nowhere(alice, "fetch", payee.url + "/")
    assert code == 5
    assert said[1].startswith("paid 0.001 USDC to ")
    assert said[2] == "error: it was paid, but what reads the output has gone away"
    assert said[3].startswith(f"hint: microwallet fetch {payee.url}/ --idempotency-key fetch-")


def test_a_stream_of_which_only_the_beginning_is_read(alice, payee, fetch):
    """As by head: it is left, and stderr says what it cost. That it has no receipt then is no news."""
    fetch()
    payee.unit_type, payee.events = "event", 10_000
    process = alice.start(
        "fetch", payee.url + STREAM, "--max-amount", "1 USDC", stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    with process.stdout as stdout:
        assert stdout.readline() == b"data: event 0\n"
    with process.stderr as stderr:
        said = stderr.read().decode().splitlines()
    assert process.wait(timeout=20) == 1
    assert said[0].startswith("idempotency key: ")
    assert said[1].startswith("paid ")
    assert said[2:] == ["error: what reads the output has gone away"]


BINARY = b"\x89PNG\x00\x00\x1b[2J"


def at_a_terminal(wallet, *words):
    """The exit code of a command, and all that its terminal got."""
    child = pexpect.spawn(
        sys.executable,
        ["-m", "microwallet", *words],
        env=wallet.environment,
        timeout=20,
        dimensions=(50, 300),
    )
    child.expect(pexpect.EOF)
    child.close()
    return child.exitstatus, child.before


def test_a_paid_binary_answer_at_a_terminal(alice, payee, fetch, tmp_path, monkeypatch):
    """It would garble it: nothing of it is printed, and the hint puts it into a file for no more money. With
    `-o -` it is printed all the same."""
    fetch()
    monkeypatch.setattr(payee_double, "PAID_BODY", BINARY)
    code, printed = at_a_terminal(alice, "fetch", payee.url + "/", "-H", "X-Of: ours")
    *said, error, hint = printed.decode().splitlines()
    assert code == 5
    assert [line.partition(" ")[0] for line in said] == ["idempotency", "paid"]
    assert error == "error: it was paid, but the answer is binary, and would garble this terminal"
    command = ["microwallet", "fetch", payee.url + "/", "-H", "X-Of: ours", "--output", "FILE"]
    words = shlex.split(hint.removeprefix("hint: "))
    assert words[:-1] == [*command, "--idempotency-key"]
    file = tmp_path / "answer"
    again = alice.run(*[str(file) if word == "FILE" else word for word in words[1:]]).succeeded()
    assert "nothing new was paid" in again.stderr
    assert file.read_bytes() == BINARY
    assert at_a_terminal(alice, "fetch", payee.url + "/", "-o", "-")[1].count(BINARY) == 1


def test_a_free_binary_answer_at_a_terminal(alice, payee):
    """Exit 1, as for other places that take no answer; a pipe takes it, and a terminal what is text."""
    payee.before = lambda handler, _: handler.answer(200, {}, BINARY) or True
    code, printed = at_a_terminal(alice, "fetch", payee.url + "/")
    said = ["error: the answer is binary, and would garble this terminal", "hint: --output FILE"]
    assert (code, printed.decode().splitlines()) == (1, said)
    with alice.start("fetch", payee.url + "/", stdout=subprocess.PIPE) as process:
        assert process.stdout.read() == BINARY
    assert process.returncode == 0
    payee.before = lambda handler, _: handler.answer(200, {}, b"text") or True
    assert at_a_terminal(alice, "fetch", payee.url + "/") == (0, b"text\r\n")
