"""`fetch` and `serve` face to face: a real upstream, a real gateway, a real chain, and books that agree."""

from __future__ import annotations

import json
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from microwallet.wallet import Wallet


class Upstream(BaseHTTPRequestHandler):
    """Answers with what the path says: /status/503 or anything else with 200."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = self.path.split("/")
        self.send_response(int(parts[2]) if parts[1] == "status" else 200)
        self.send_header("Content-Length", "3")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(b"ok\n")

    def log_message(self, *_):
        """Nothing."""


@pytest.fixture
def gateway(bob):
    """The address of bob's gateway, which charges 0.001 USDC a request."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Upstream)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    upstream = f"http://127.0.0.1:{server.server_port}"
    process = bob.start(
        "serve",
        "--upstream",
        upstream,
        "--price",
        "0.001 USDC",
        "--port",
        "0",
        "--json",
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield json.loads(process.stdout.readline())["url"]
    finally:
        process.terminate()
        process.wait(timeout=30)
        process.stdout.close()
        server.shutdown()
        server.server_close()
        thread.join()


def books(home, kind):
    """Spent and authorized of each channel, by one side's ledger."""
    with Wallet.open(environment=home.environment) as wallet:
        channels = getattr(wallet.ledger, kind).list(finalized=True)
        return sorted((one.channel_id, one.spent, one.authorized) for one in channels)


def test_side_by_side_errors_and_close(alice, bob, gateway):
    """Thirty at once, errors between them, one key twice; both sides' books agree, and so does the chain."""

    def fetch(path, *flags):
        return alice.run("fetch", gateway + path, *flags, "--json")

    first = fetch("/", "--deposit", "1 USDC", "--yes").data
    assert (first["body"], first["payment"]["receiptProblems"]) == ("ok\n", [])
    paths = ["/status/503" if number % 5 == 0 else "/" for number in range(30)]
    with ThreadPoolExecutor(8) as pool:
        runs = [one.data for one in pool.map(fetch, paths)]
    assert [one["status"] for one in runs].count(503) == 6
    paid = [one["payment"] for one in runs if one["payment"] is not None]
    assert len(paid) == 24
    assert len({one["cumulativeAmount"] for one in paid}) == 24
    once = [fetch("/", "--idempotency-key", "once").data["payment"]["cumulativeAmount"] for _ in range(2)]
    assert once[0] == once[1]
    missing = fetch("/status/404").data
    assert (missing["status"], missing["payment"]["amount"]) == (404, "1000")
    [(channel, spent, authorized)] = books(alice, "channels")
    assert books(bob, "vouchers") == [(channel, spent, authorized)]
    assert spent == 27_000
    closed = alice.run("channel", "close", channel, "--yes", "--json").data
    assert (closed["stage"], closed["settled"]) == ("closed", "27000")
    assert closed["transactionHash"]
    again = fetch("/", "--yes").data["payment"]
    assert again["channelId"] != channel
