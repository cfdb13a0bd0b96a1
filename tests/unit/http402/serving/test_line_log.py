"""Lines of a log: whole, in order, never in anybody's way; and nothing secret in those of requests."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import time

import pytest

from microwallet.http402.serving import line_log
from microwallet.http402.serving.line_log import LineLog, write_line
from microwallet.http402.serving.request_log import RequestLog, request_line


@pytest.fixture
def pipe():
    """Both ends of a pipe, as files; closing them twice does no harm."""
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb", 0) as reader, os.fdopen(writing, "wb", 0) as writer:
        yield reader, writer


def test_every_line_comes_whole_and_in_order(pipe):
    """JSON objects with the event and its time."""
    reader, writer = pipe
    log = LineLog(writer.fileno())
    for number in range(300):
        log("counted", {"number": number})
    log.close()
    lines = [json.loads(line) for line in reader.read(1 << 20).splitlines()]
    assert [line["number"] for line in lines] == list(range(300))
    assert {line["event"] for line in lines} == {"counted"}
    assert abs(lines[0]["time"] - time.time()) < 60


def test_a_path_that_is_no_text_keeps_no_later_line_back(pipe):
    """A folder whose name is in another encoding, in the error of its disk: what is told after it is told."""
    reader, writer = pipe
    folder = os.fsdecode(b"/caf\xe9")

    def text(event, _details):
        return f"{event} {folder}"

    log = LineLog(writer.fileno(), text)
    log("failed", {})
    time.sleep(3 * line_log.COLLECT_SECONDS)
    log("resumed", {})
    log.close()
    write_line(writer.fileno(), "stopped", {}, text)
    told = [rb"failed /caf\udce9", rb"resumed /caf\udce9", rb"stopped /caf\udce9"]
    assert reader.read(1 << 16).splitlines() == told


def test_a_reader_that_does_not_read_holds_nothing_up(pipe, monkeypatch):
    """Lines beyond what may wait are lost, and their number is told later."""
    reader, writer = pipe
    monkeypatch.setattr(line_log, "KEPT_LINES", 100)
    monkeypatch.setattr(line_log, "CLOSE_SECONDS", 0.01)
    log = LineLog(writer.fileno())
    begun = time.monotonic()
    for number in range(2_000):
        log("counted", {"number": number, "filler": "x" * 500})
        if number % 50 == 0:
            time.sleep(0.001)
    log.close()
    assert time.monotonic() - begun < 5
    seen = b""
    while b"lines-lost" not in seen:
        seen += reader.read(1 << 16)
        log("counted", {"number": -1})
    lost = next(json.loads(line) for line in seen.splitlines() if b"lines-lost" in line)
    assert lost["lines"] > 0
    reader.close()
    monkeypatch.setattr(line_log, "CLOSE_SECONDS", 10)
    log.close()


def test_a_reader_that_has_gone_is_no_harm(pipe):
    """Neither to a log nor to a single line."""
    reader, writer = pipe
    reader.close()
    log = LineLog(writer.fileno())
    log("one", {})
    log.close()
    log("two", {})
    write_line(writer.fileno(), "three", {})


def test_lines_of_two_writers_do_not_mix(pipe):
    """As of two processes: no piece is larger than what a pipe takes whole."""
    reader, writer = pipe
    logs = [LineLog(writer.fileno()), LineLog(writer.fileno())]
    for _ in range(150):
        for number, log in enumerate(logs):
            log("said", {"by": number, "filler": "x" * 100})
    for log in logs:
        log.close()
    lines = [json.loads(line) for line in reader.read(1 << 20).splitlines()]
    assert sorted(line["by"] for line in lines) == [0] * 150 + [1] * 150


def logged(scope, app):
    """What a request logs."""
    told = []
    front = RequestLog(app, lambda event, details: told.append((event, details)))

    async def send(_message):
        pass

    with contextlib.suppress(ZeroDivisionError, asyncio.CancelledError):
        asyncio.run(front(scope, None, send))
    ((event, details),) = told
    assert event == "request"
    return details


def scope(path=b"/a"):
    return {
        "type": "http",
        "method": "GET",
        "raw_path": path,
        "query_string": b"key=secret",
        "headers": [(b"authorization", b"Payment secret"), (b"cookie", b"secret")],
        "client": ("203.0.113.7", 1),
    }


async def answers(_scope, _receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": [(b"payment-receipt", b"secret")]})
    await send({"type": "http.response.body", "body": b"secret"})


async def fails(_scope, _receive, _send):
    raise ZeroDivisionError("secret")


async def is_cut_short(_scope, _receive, _send):
    raise asyncio.CancelledError


def test_a_request_that_the_end_of_the_server_cuts_short():
    """The line says so, in words: it named a class of Python's."""
    assert request_line("request", logged(scope(), is_cut_short)).endswith("  the server ends")


def test_a_request_is_a_line():
    """Method, path, status and time; no query, field, body or message."""
    for app, status in ((answers, 200), (fails, None)):
        details = logged(scope(), app)
        assert (details["method"], details["path"], details["status"]) == ("GET", "/a", status)
        assert details["ms"] >= 0
        assert "secret" not in json.dumps(details) + request_line("request", details)
        assert ("error" in details) == (app is fails)


def test_a_path_cannot_forge_lines():
    """Control characters, other scripts and endless paths stay on their line, as text."""
    details = logged(scope(b"/a\nGET  /b\x1b[2J\xff" + b"x" * 100_000), answers)
    line = request_line("request", details)
    assert line.isprintable()
    assert line.isascii()
    assert len(line) < 700
    assert len(json.dumps(details).splitlines()) == 1
