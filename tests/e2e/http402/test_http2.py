"""Paying over HTTP/2: a server that nobody here wrote, TLS, and an authority that the payer trusts."""

from __future__ import annotations

import asyncio
import json
import re
import ssl
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from certificates import Authority

import microwallet


class Server:
    """Hypercorn, with an application of bob's."""

    def __init__(self, home, folder, **settings):
        self._authority = Authority(folder)
        certificate, key = self._authority.issue()
        settings |= {"certfile": str(certificate), "keyfile": str(key), "bind": "127.0.0.1:0", "workers": 0}
        file = folder / "hypercorn.toml"
        file.write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in settings.items()))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "hypercorn", "--config", file, "http2_application:app"],
            cwd=Path(__file__).parent,
            env=home.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.url = next(
            found[1] for line in self._process.stderr if (found := re.search(r"on (https://[0-9.:]+)", line))
        )

    @property
    def trust(self):
        """The environment of whoever is to trust it."""
        return {"SSL_CERT_FILE": str(self._authority.certificate)}

    def end(self):
        """How the requests came, in order."""
        self._process.terminate()
        try:
            said, errors = self._process.communicate(timeout=5)
        except subprocess.TimeoutExpired:  # from Python 3.13 on, after a connection that broke off within TLS
            self._process.kill()
            said, errors = self._process.communicate(timeout=30)
        sys.stderr.write(errors)  # shown where a test fails
        return [told for line in said.splitlines() if "ended" not in (told := json.loads(line))]

    def wait_for_end_of(self, path):
        """Wait until the application has ended a request; what it tells until then is not told again."""
        for line in self._process.stdout:
            if json.loads(line) == {"ended": path}:
                return


@pytest.fixture
def start_server(bob, tmp_path):
    """Starts the server, with settings of its own."""
    started = []

    def start(**settings):
        started.append(Server(bob, tmp_path, **settings))
        return started[-1]

    yield start
    for server in started:
        server.end()


def test_requests(alice, start_server):
    """A challenge and what pays for it come over one connection of HTTP/2; who does not trust the authority
    sends nothing."""
    server = start_server()
    refused = alice.run("fetch", server.url, "--yes", "--json")
    assert (refused.exit_code, "certificate" in refused.error["message"]) == (3, True)
    first = alice.run("fetch", server.url, "--yes", "--json", env=server.trust).data
    assert (first["body"], first["payment"]["amount"], first["payment"]["receiptProblems"]) == (
        "an article",
        "1000",
        [],
    )
    again = alice.run("fetch", "-i", "POST", server.url, "-d", "tea", "--yes", env=server.trust).succeeded()
    assert again.stdout.startswith("HTTP/2 200")
    came = server.end()
    assert [(one["version"], one["method"], one["pays"]) for one in came] == [
        ("2", "GET", False),
        ("2", "GET", True),
        ("2", "POST", False),
        ("2", "POST", True),
    ]
    assert [one["connection"] for one in came[::2]] == [one["connection"] for one in came[1::2]]


def test_a_large_body(alice, start_server, tmp_path):
    """It goes over HTTP/1.1, where the challenge is heard that comes before all of it is sent."""
    server = start_server()
    large = tmp_path / "large"
    large.write_bytes(bytes(3_000_000))
    for body in (["-d", f"@{large}"], ["-F", f"file=@{large}"]):
        bought = alice.run("fetch", server.url, *body, "--yes", "--json", env=server.trust, timeout=60).data
        assert (bought["body"], bought["payment"]["amount"]) == ("an article", "1000")
    assert {one["version"] for one in server.end()} == {"1.1"}


@pytest.mark.parametrize("at_once", [100, 1])
def test_a_stream(alice, start_server, at_once):
    """Its vouchers come over HTTP/2 while it runs, however few requests at once the server takes."""
    server = start_server(h2_max_concurrent_streams=at_once)
    done = alice.run("fetch", server.url + "/events/7", "--yes", env=server.trust, timeout=20).succeeded()
    for number in range(7):
        assert f"id: {number}\ndata: event {number}\n\n" in done.stdout
    assert "paid 0.007 USDC" in done.stderr
    assert "warning" not in done.stderr
    came = server.end()
    assert {one["version"] for one in came} == {"2"}
    assert [one["method"] for one in came] == ["GET", "GET", *["HEAD"] * 6]


def test_requests_side_by_side(alice, start_server):
    """Those of one program share a connection and a channel; its streams have a channel each."""
    server = start_server()
    trusted = ssl.create_default_context(cafile=server.trust["SSL_CERT_FILE"])

    def http():
        return httpx.AsyncHTTPTransport(verify=trusted, http2=True)

    async def program(wallet, paths):
        paying = microwallet.AsyncPayingTransport(http(), beside=http(), wallet=wallet, max_deposit="1 USDC")
        async with httpx.AsyncClient(transport=paying) as client:
            answers = await asyncio.gather(*(client.get(server.url + path) for path in paths))
        payments = [microwallet.payment_of(answer) for answer in answers]
        assert {one.receipt_problems for one in payments} == {()}
        return [str(one.amount) for one in payments]

    with microwallet.Wallet.open(
        alice.path, rpc_url=alice.settings["MICROWALLET_RPC_URL"], password_file=alice.password_file
    ) as wallet:
        paths = [f"/{number}" for number in range(20)]
        assert asyncio.run(program(wallet, paths)) == ["0.001 USDC"] * 20
        assert [str(one.spent) for one in wallet.channels()] == ["0.02 USDC"]
        assert asyncio.run(program(wallet, ["/events/5"] * 2)) == ["0.005 USDC"] * 2
        assert sorted(str(one.spent) for one in wallet.channels()) == ["0.005 USDC", "0.025 USDC"]
    came = server.end()
    assert {one["version"] for one in came} == {"2"}
    assert len({one["connection"] for one in came if "events" not in one["path"]}) == 1


def test_an_answer_that_is_cut_short(alice, start_server):
    """Proxies end one that breaks off behind them as if it were whole: what was paid is told with its key."""
    server = start_server()
    paid = alice.run("fetch", server.url + "/short", "--yes", "--json", env=server.trust)
    assert (paid.exit_code, paid.error["code"]) == (5, "outcome-unknown")
    assert "broke off before its end: Expected 1000 bytes, received 4" in paid.error["message"]
    payment = paid.json["data"]["payment"]
    assert payment["amount"] == "1000"
    assert f"--idempotency-key {payment['idempotencyKey']}" in paid.error["hint"]
    for arguments in ((), ("--no-pay",)):
        free = alice.run("fetch", server.url + "/free/short", *arguments, "--json", env=server.trust)
        assert (free.exit_code, free.error["code"]) == (3, "network")


def test_an_answer_that_is_cut_short_for_programs(alice, start_server):
    """They are told as `fetch` is, with what httpx has raised as the cause."""
    server = start_server()
    trusted = ssl.create_default_context(cafile=server.trust["SSL_CERT_FILE"])

    async def read(wallet):
        http = httpx.AsyncHTTPTransport(verify=trusted, http2=True)
        paying = microwallet.AsyncPayingTransport(http, wallet=wallet, max_deposit="1 USDC")
        async with httpx.AsyncClient(transport=paying) as client:
            await client.get(server.url + "/short")

    def read_blocking(wallet):
        http = httpx.HTTPTransport(verify=trusted, http2=True)
        paying = microwallet.PayingTransport(http, wallet=wallet, max_deposit="1 USDC")
        with httpx.Client(transport=paying) as client:
            client.get(server.url + "/short")

    with microwallet.Wallet.open(
        alice.path, rpc_url=alice.settings["MICROWALLET_RPC_URL"], password_file=alice.password_file
    ) as wallet:
        for reading in (lambda: asyncio.run(read(wallet)), lambda: read_blocking(wallet)):
            with pytest.raises(microwallet.OutcomeUnknown, match="broke off before its end") as unknown:
                reading()
            assert isinstance(unknown.value.__cause__, httpx.RemoteProtocolError)


@pytest.mark.parametrize("is_async", [True, False])
def test_a_stream_that_is_left(alice, start_server, is_async):
    """The server learns of it at once, and the connection goes on with other requests: it would charge for
    what nobody reads."""
    server = start_server()
    trusted = ssl.create_default_context(cafile=server.trust["SSL_CERT_FILE"])

    async def leave(wallet):
        http, beside = (httpx.AsyncHTTPTransport(verify=trusted, http2=True) for _ in range(2))
        paying = microwallet.AsyncPayingTransport(http, beside=beside, wallet=wallet, max_deposit="1 USDC")
        async with httpx.AsyncClient(transport=paying) as client:
            async with client.stream("GET", server.url + "/events/1000") as answer:
                await anext(answer.aiter_raw())
            await asyncio.wait_for(asyncio.to_thread(server.wait_for_end_of, "/events/1000"), 10)
            return (await client.get(server.url + "/1")).text

    def leave_blocking(wallet):
        http, beside = (httpx.HTTPTransport(verify=trusted, http2=True) for _ in range(2))
        paying = microwallet.PayingTransport(http, beside=beside, wallet=wallet, max_deposit="1 USDC")
        with httpx.Client(transport=paying) as client, ThreadPoolExecutor(1) as waiting:
            with client.stream("GET", server.url + "/events/1000") as answer:
                next(answer.iter_raw())
            waiting.submit(server.wait_for_end_of, "/events/1000").result(timeout=10)
            return client.get(server.url + "/1").text

    with microwallet.Wallet.open(
        alice.path, rpc_url=alice.settings["MICROWALLET_RPC_URL"], password_file=alice.password_file
    ) as wallet:
        served = asyncio.run(leave(wallet)) if is_async else leave_blocking(wallet)
    assert served == "an article"
    [after] = server.end()[-1:]
    assert (after["path"], after["pays"]) == ("/1", True)
