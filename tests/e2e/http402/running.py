"""`microwallet serve` as a process: what it says, and how it ends."""

from __future__ import annotations

import json
import os
import queue
import signal
import socket
import subprocess
import threading
import time
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import httpx
from local_server import Handler, LocalServer

from microwallet.http402.charging.answers import KEPT_LIMIT
from microwallet.wallet import Wallet

PRICE = ("--price", "0.001 USDC")


class Upstream(LocalServer):
    """What stands behind a gateway: it says what it got.

    /slow takes as long as `slow` says, /status/503 has that status, /slow/status/503 both, /stream has five
    events, /halting the first of them before it takes as long, /dying two before the connection breaks off,
    /endless goes on until nobody reads it, /large is more than a gateway keeps, /to/here leads to /here, and
    /unchanged is a 304 that says how long the whole would be.
    """

    def __init__(self):
        super().__init__(_Upstream)
        self.asked = []
        self.slow = threading.Event()
        self.was_left = threading.Event()
        """Whether what is endless was broken off."""

    def __exit__(self, *_):
        self.slow.set()
        super().__exit__()

    def handle_error(self, *_):
        """A gateway that has gone is no news."""


class _Upstream(Handler):
    protocol_version = "HTTP/1.1"

    def respond(self):
        self.read_body()
        fields = {name.lower(): value for name, value in self.headers.items()}
        self.server.asked.append((self.path, fields))
        if self.path.startswith("/slow"):
            self.server.slow.wait(20)
        if self.path == "/stream":
            events = b"".join(b"data: event %d\n\n" % number for number in range(5))
            self.answer(200, {"content-type": "text/event-stream"}, events)
            return
        if self.path == "/halting":
            self.send_response(200)
            self.send_header("content-type", "text/event-stream")
            self.send_header("connection", "close")
            self.end_headers()
            self.wfile.write(b"data: event 0\n\n")
            self.server.slow.wait(20)
            self.wfile.write(b"".join(b"data: event %d\n\n" % number for number in range(1, 5)))
            self.close_connection = True
            return
        if self.path == "/dying":
            self.send_response(200)
            self.send_header("content-type", "text/event-stream")
            self.send_header("transfer-encoding", "chunked")
            self.end_headers()
            self.wfile.write(b"12\r\ndata: 0\n\ndata: 1\n\n\r\n" + b"9\r\ndata")
            self.close_connection = True
            return
        if self.path == "/endless":
            self.send_response(200)
            self.send_header("transfer-encoding", "chunked")
            self.end_headers()
            self.close_connection = True
            try:
                while not self.server.slow.wait(0.001):
                    self.wfile.write(b"400\r\n%b\r\n" % bytes(1024))
            except OSError:
                self.server.was_left.set()
            return
        if self.path == "/unchanged":
            self.send_response(304)
            self.send_header("content-length", "1000")
            self.end_headers()
            return
        if self.path.startswith("/to/"):
            self.answer(302, {"location": self.path.removeprefix("/to")})
            return
        status = self.path.partition("/status/")[2] or 200
        padding = "" if self.path != "/large" else " " * KEPT_LIMIT
        self.answer(int(status), {}, f"you asked for {self.path}{padding}".encode())


class Lines:
    """The objects that a process writes, one a line."""

    def __init__(self, stream):
        self._queue = queue.SimpleQueue()
        self.seen = []
        self._reading = threading.Thread(target=self._read, args=(stream,), daemon=True)
        self._reading.start()

    def next(self, *events, seconds=30):
        """The next object of one of these events; others before it are passed over."""
        deadline = time.monotonic() + seconds
        while True:
            line = self._queue.get(timeout=max(0.01, deadline - time.monotonic()))
            assert line is not None, f"it ended before {events}: {self.seen}"
            if line.get("event") in events:
                return line

    def end(self):
        """All of them, once the process has ended."""
        self._reading.join(30)
        return self.seen

    def _read(self, stream):
        with stream:
            for line in stream:
                said = json.loads(line)
                self.seen.append(said)
                self._queue.put(said)
        self._queue.put(None)


class Serving:
    """A running gateway."""

    def __init__(self, home, *arguments, env=None, program=None):
        """`program` runs the command where that is not `microwallet`."""
        home = replace(home, settings={**home.settings, **(env or {})})
        start = home.start if program is None else partial(home.start_program, program)
        self.process = start(
            *("serve", "--port", "0", "--json", *arguments),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self.events = Lines(self.process.stdout)
        self.requests = Lines(self.process.stderr)

    def listening(self):
        """The address, once it listens."""
        self.url = self.events.next("listening")["url"]
        return self

    def workers(self):
        """The ids of its child processes."""
        try:
            children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        except OSError:  # it has just ended
            return []
        return [int(one) for one in children.split()]

    def end(self, number=signal.SIGTERM, seconds=30):
        """Send a signal; the exit code."""
        self.process.send_signal(number)
        code = self.process.wait(timeout=seconds)
        for lines in (self.events, self.requests):
            lines.end()
        return code

    def kill(self):
        """End it, and whatever it has started."""
        if self.process.poll() is None:
            workers = self.workers()
            self.process.kill()
            self.process.wait()
            for worker in workers:
                try:
                    os.kill(worker, signal.SIGKILL)
                except ProcessLookupError:
                    continue


def channels(home):
    """A payee's channels, as its ledger has them."""
    with Wallet.open(environment=home.environment) as wallet:
        return wallet.ledger.vouchers.list(finalized=True)


def listens(url):
    """Whether somebody takes connections there."""
    with suppress(OSError), socket.create_connection((httpx.URL(url).host, httpx.URL(url).port)):
        return True
    return False


def fails(bob, *arguments, **options):
    """The error of a `serve` that does not start; it printed nothing on stdout."""
    done = bob.run("serve", *arguments, "--json", **options)
    assert done.stdout == "", done
    error = json.loads(done.stderr.splitlines()[-1])["error"]
    assert error["exitCode"] == done.exit_code
    return error


def unfinished(home):
    """Transactions of a home whose outcome is not known."""
    with Wallet.open(environment=home.environment) as wallet:
        return wallet.ledger.journal.unfinished(wallet.network.chain_id)
