"""The chain behind an RPC server that fails in every way, and the commands that say so."""

from __future__ import annotations

import json
import os
import socket
import socketserver
import ssl
import threading
import time
from contextlib import contextmanager

import pytest
from certificates import Authority

from microwallet.config import Configuration, Paths
from microwallet.domain.channel import NO_CHANNEL
from microwallet.errors import NetworkError, NotTrusted, WrongChain
from microwallet.escrow.artifacts import artifact
from microwallet.escrow.networks import resolve_network
from microwallet.escrow.reader import EscrowReader
from microwallet.escrow.rpc import Rpc, RpcError
from microwallet.escrow.tokens import read_asset

SECRET = "Ab3dEf6hIj9kLm2nOp5qRs8tUv1wXy4z"
ID = "0x" + "22" * 32


class Server:
    """An HTTP server whose answers the test writes: `answer(request) -> bytes`, or a list of them."""

    def __init__(self, answer):
        self.requests = []
        self.targets = []
        self._answer = answer
        self._connections = set()
        server = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self):
                server._connections.add(self.connection)
                try:
                    while (line := self.rfile.readline()).startswith((b"POST", b"CONNECT")):
                        server.targets.append(line.decode().strip())
                        length = 0
                        while header := self.rfile.readline().strip():
                            name, _, value = header.partition(b":")
                            length = int(value) if name.lower() == b"content-length" else length
                        server.requests.append(json.loads(self.rfile.read(length) or b"{}"))
                        for part in server._answer(server.requests[-1]):
                            self.wfile.write(part)
                            self.wfile.flush()
                        if getattr(server, "closes", False):
                            return
                except (OSError, ValueError):
                    return

        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def wrap(self, context):
        """Speak TLS from now on."""
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)

    def stop(self):
        self._server.shutdown()
        self._server.server_close()
        for connection in self._connections:
            connection.close()

    @property
    def methods(self):
        return [item["method"] for item in self.requests if isinstance(item, dict)]


@contextmanager
def serving(answer):
    server = Server(answer)
    try:
        yield server
    finally:
        server.stop()


def http(body, status="200 OK", headers=()):
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers]
    return ["\r\n".join(lines).encode() + b"\r\n\r\n" + body]


def result(request, value):
    return {"jsonrpc": "2.0", "id": request["id"], "result": value}


def ok(request, value="0x7a69"):
    return http(json.dumps(result(request, value)).encode())


def drip(_):
    """A byte of a valid answer every 50 ms, for ever."""
    yield b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n"
    while True:
        yield b" "
        time.sleep(0.05)


def drip_headers(_):
    """Header bytes that never end."""
    yield b"HTTP/1.1 200 OK\r\n"
    while True:
        yield b"X"
        time.sleep(0.05)


def silence(_):
    time.sleep(30)
    yield b""


FAULTS = {
    "500": lambda _: http(b"<html>oops</html>", "500 Internal Server Error"),
    "500 with json": lambda _: http(b'{"error": "oops"}', "500 Internal Server Error"),
    "404": lambda _: http(b"", "404 Not Found"),
    "redirect": lambda _: http(b"", "301 Moved", ["Location: http://127.0.0.1:1/"]),
    "empty": lambda _: http(b""),
    "html": lambda _: http(b"<html>Welcome to the hotel network</html>"),
    "garbage": lambda _: http(bytes(range(256))),
    "not http": lambda _: [b"\x00\xff" * 50 + b"\r\n\r\n"],
    "cut short": lambda _: [b'HTTP/1.1 200 OK\r\nContent-Length: 90\r\n\r\n{"jsonrpc"'],
    "another id": lambda _: http(b'{"jsonrpc": "2.0", "id": 999999, "result": "0x7a69"}'),
    "no result": lambda _: http(b'{"jsonrpc": "2.0"}'),
    "a list": lambda _: http(b"[]"),
    "a number": lambda _: http(b"17"),
    "nested": lambda _: http(b"[" * 500_000),
    "huge number": lambda _: http(b'{"id": 1, "result": ' + b"9" * 100_000 + b"}"),
    "huge header": lambda _: [b"HTTP/1.1 200 OK\r\nX: " + b"y" * 200_000 + b"\r\n\r\n"],
    "silence": silence,
    "drip": drip,
    "drip of headers": drip_headers,
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_server_that_fails_is_a_network_error_in_time(fault):
    """Whatever it answers: exit 3, the address named, and within the time-out."""
    with serving(FAULTS[fault]) as server:
        server.closes = fault == "cut short"
        started = time.monotonic()
        with Rpc([server.url], timeout=1.5) as rpc, pytest.raises(NetworkError) as caught:
            rpc.call("eth_blockNumber")
        assert time.monotonic() - started < 2.5
        assert server.url in caught.value.message
        assert len(server.requests) <= 3


def test_an_endless_answer_stops_at_the_limit():
    """A body of more than 20 MB is not read to its end."""

    def flood(_):
        yield b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n"
        for _ in range(40):
            yield b" " * 1024 * 1024

    with (
        serving(flood) as server,
        Rpc([server.url], timeout=10) as rpc,
        pytest.raises(NetworkError, match="more than 20971520 bytes"),
    ):
        rpc.call("eth_blockNumber")


def test_nobody_listens():
    """A refused connection fails fast and names the command that starts a local chain on that very port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        url = f"http://127.0.0.1:{port}"
    started = time.monotonic()
    with Rpc([url], timeout=10) as rpc, pytest.raises(NetworkError, match="refused the connection") as caught:
        rpc.call("eth_blockNumber")
    assert time.monotonic() - started < 3
    assert caught.value.hint == f"microwallet devnet up --port {port}"


@pytest.mark.parametrize(("chain_id", "flag"), [(31337, ""), (84532, " --chain-id 84532")])
def test_nobody_listens_for_a_chain(chain_id, flag):
    """What is to be started is a chain with the id that is asked for."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with (
        Rpc([f"http://127.0.0.1:{port}"], timeout=10, chain_id=chain_id) as rpc,
        pytest.raises(NetworkError) as caught,
    ):
        rpc.call("eth_blockNumber")
    assert caught.value.hint == f"microwallet devnet up --port {port}{flag}"


def test_a_server_that_is_no_chain():
    """What listens is no local chain that is down: the hint is where its address is read."""
    with (
        serving(lambda _: http(b"no such page", "404 Not Found")) as server,
        Rpc([server.url], timeout=10) as rpc,
        pytest.raises(NetworkError, match="answered HTTP 404") as caught,
    ):
        rpc.call("eth_blockNumber")
    assert caught.value.hint == "microwallet network show"


def test_an_address_that_swallows_everything_times_out():
    """A server that accepts and never answers costs the time-out, no more."""
    with socket.create_server(("127.0.0.1", 0), backlog=1) as mute:
        url = f"http://127.0.0.1:{mute.getsockname()[1]}"
        started = time.monotonic()
        with Rpc([url], timeout=1) as rpc, pytest.raises(NetworkError, match=r"timed out \(1 s\)"):
            rpc.call("eth_blockNumber")
        assert 0.9 < time.monotonic() - started < 1.5


def test_an_unknown_host_is_named_in_time():
    """A name that does not exist is told as such; a resolver that hangs does not hold us."""
    started = time.monotonic()
    with Rpc(["http://no-such-host.invalid"], timeout=1.5) as rpc, pytest.raises(NetworkError) as caught:
        rpc.call("eth_blockNumber")
    assert time.monotonic() - started < 2.5
    assert "no-such-host.invalid" in caught.value.message


def test_the_wrong_chain_is_refused_before_anything_else():
    """The id is proven first: nothing of another chain is believed, and no second address is tried."""
    with (
        serving(lambda request: ok(request, "0x1")) as server,
        Rpc([server.url, "http://127.0.0.1:1"], timeout=2, chain_id=31337) as rpc,
        pytest.raises(WrongChain, match="is chain 1; chain 31337 is expected"),
    ):
        rpc.call("eth_blockNumber")
    assert server.methods == ["eth_chainId"]


def test_every_fallback_address_proves_its_chain():
    """The second address is not trusted because the first was right."""
    with (
        serving(FAULTS["500"]) as broken,
        serving(lambda request: ok(request, "0x1")) as other,
        Rpc([broken.url, other.url], timeout=5, chain_id=31337) as rpc,
        pytest.raises(WrongChain),
    ):
        rpc.call("eth_blockNumber")


@pytest.mark.parametrize("is_away_first", [True, False])
def test_an_address_that_becomes_another_chain_is_refused(monkeypatch, is_away_first):
    """Under a gateway that runs on: a node proves its chain again once it was away, and from time to time."""
    node = {"answer": ok}

    def answer(request):
        return node["answer"](request)

    with (
        serving(answer) as server,
        Rpc([server.url], timeout=5, chain_id=31337) as rpc,
    ):
        assert rpc.call("eth_blockNumber") == "0x7a69"
        if is_away_first:
            node["answer"] = FAULTS["500"]
            with pytest.raises(NetworkError, match="HTTP 500"):
                rpc.call("eth_blockNumber")
        else:
            monkeypatch.setattr("microwallet.escrow.rpc.PROVEN_SECONDS", 0)
        node["answer"] = lambda request: ok(request, "0x1")
        with pytest.raises(WrongChain, match="is chain 1; chain 31337 is expected"):
            rpc.call("eth_blockNumber")


@pytest.mark.parametrize("fault", ["500", "html", "silence", "not http"])
def test_the_next_address_answers_where_one_fails(fault):
    """Several addresses are one chain; the one that answered is asked first from then on."""
    with (
        serving(FAULTS[fault]) as broken,
        serving(ok) as good,
        Rpc([broken.url, good.url], timeout=4, chain_id=31337) as rpc,
    ):
        assert rpc.call("eth_gasPrice") == "0x7a69"
        asked = len(broken.requests)
        assert rpc.call("eth_gasPrice") == "0x7a69"
    assert len(broken.requests) == asked
    assert good.methods == ["eth_chainId", "eth_gasPrice", "eth_gasPrice"]


def test_a_busy_server_is_asked_again_a_little_later():
    """HTTP 429 and the JSON-RPC error of the same meaning are waited out."""
    answers = iter(
        [
            http(b"slow down", "429 Too Many Requests", ["Retry-After: 0"]),
            http(b'{"jsonrpc": "2.0", "id": 2, "error": {"code": -32005, "message": "limit"}}'),
        ]
    )
    with serving(lambda request: next(answers, None) or ok(request)) as server:
        with Rpc([server.url], timeout=5) as rpc:
            assert rpc.call("eth_blockNumber") == "0x7a69"
        assert len(server.requests) == 3


@pytest.mark.parametrize("method", ["evm_mine", "evm_increaseTime", "eth_sendTransaction"])
def test_what_is_not_a_read_is_never_asked_twice(method):
    """A lost answer does not mine two blocks or send two transactions."""
    with serving(lambda _: [b""]) as server:
        server.closes = True
        with Rpc([server.url], timeout=2) as rpc, pytest.raises(NetworkError):
            rpc.call(method)
        assert server.methods == [method]


def test_a_connection_is_used_again_and_mended():
    """Requests share a connection; one that the server closed meanwhile is opened anew, unseen."""
    with serving(ok) as server, Rpc([server.url], timeout=2) as rpc:
        for _ in range(3):
            rpc.call("eth_blockNumber")
        assert len(server._connections) == 1
        for connection in list(server._connections):
            connection.shutdown(socket.SHUT_RDWR)
        assert rpc.call("eth_blockNumber") == "0x7a69"
        assert len(server._connections) == 2


def test_what_is_not_a_read_leaves_no_connection_behind(chain):
    """Each takes a connection of its own; one at most is kept, however many there were."""

    def lowest_free_descriptor():
        descriptor = os.dup(0)
        os.close(descriptor)
        return descriptor

    before = lowest_free_descriptor()
    for _ in range(20):
        chain.rpc.call("evm_mine")
    assert lowest_free_descriptor() <= before + 1


def test_secrets_in_an_address_stay_secret():
    """User, password and API key are sent to the server, and never shown."""
    with serving(FAULTS["500"]) as server:
        port = server.url.rpartition(":")[2]
        url = f"http://user:{SECRET}@127.0.0.1:{port}/v3/{SECRET}?key={SECRET}"
        with Rpc([url], timeout=2) as rpc, pytest.raises(NetworkError) as caught:
            rpc.call("eth_blockNumber")
        assert SECRET not in caught.value.message + repr(rpc)
        assert f"127.0.0.1:{port}/v3/…" in caught.value.message


class TestProxy:
    def test_a_proxy_of_the_environment_is_used(self, monkeypatch):
        """Plain http goes through it by absolute address; this machine and `no_proxy` do not."""
        with serving(ok) as proxy, serving(ok) as local:
            monkeypatch.setenv("http_proxy", proxy.url.replace("http://", "http://me:pw@"))
            monkeypatch.setenv("no_proxy", "direct.invalid")
            with Rpc(["http://node.invalid/rpc", local.url], timeout=3) as rpc:
                assert rpc.call("eth_chainId") == "0x7a69"
            with Rpc([local.url], timeout=3) as rpc:
                assert rpc.call("eth_chainId") == "0x7a69"
            with Rpc(["http://direct.invalid"], timeout=3) as rpc, pytest.raises(NetworkError):
                rpc.call("eth_chainId")
        assert proxy.targets == ["POST http://node.invalid/rpc HTTP/1.1"]
        assert local.targets == ["POST / HTTP/1.1"]

    def test_https_goes_through_a_tunnel(self, monkeypatch):
        """A proxy that refuses the tunnel is a network error; it never sees the request."""
        with serving(lambda _: http(b"", "403 Forbidden")) as proxy:
            monkeypatch.setenv("https_proxy", proxy.url)
            with (
                Rpc([f"https://node.invalid/{SECRET}"], timeout=3) as rpc,
                pytest.raises(NetworkError, match="Tunnel connection failed: 403"),
            ):
                rpc.call("eth_chainId")
        assert {target.rpartition(" ")[0] for target in proxy.targets} == {"CONNECT node.invalid:443"}


class TestTls:
    @pytest.fixture
    def secure(self, tmp_path):
        """A server with a certificate that an authority signed: its address, and the authority."""
        authority = Authority(tmp_path)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*authority.issue())
        with serving(ok) as server:
            server.wrap(context)
            yield server.url.replace("http://", "https://"), authority.certificate

    def test_an_unknown_certificate_is_refused(self, secure):
        """Nobody in between can pretend to be the chain."""
        url, _ = secure
        with Rpc([url], timeout=30) as rpc, pytest.raises(NetworkError, match=r"(?i)certificate"):
            rpc.call("eth_chainId")

    def test_a_trusted_certificate_is_accepted(self, secure, monkeypatch):
        """SSL_CERT_FILE adds an authority, as for other programs."""
        url, certificate = secure
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        with Rpc([url], timeout=30) as rpc:
            assert rpc.call("eth_chainId") == "0x7a69"
            assert rpc.call("eth_chainId") == "0x7a69"


def test_an_error_of_the_server_is_an_rpc_error():
    """Code, message and data stay apart, and its words cannot control the terminal."""
    body = (
        b'{"jsonrpc": "2.0", "id": 1, "error": {"code": -32000, "message": "n\\u001b[2Jo", "data": "0x12"}}'
    )
    for status in ("200 OK", "400 Bad Request", "503 Busy"):
        with (
            serving(lambda _, status=status: http(body, status)) as server,
            Rpc([server.url], timeout=2) as rpc,
            pytest.raises(RpcError) as caught,
        ):
            rpc.call("eth_sendRawTransaction", ["0x"])
        assert caught.value.error_code == -32000
        assert caught.value.revert_data == b"\x12"
        assert "\x1b" not in caught.value.message


class TestBatches:
    def test_answers_come_back_in_the_order_of_the_questions(self):
        """A server may shuffle them; a missing one is a failure, not a None."""

        def shuffled(requests):
            answers = [result(request, request["params"][0]) for request in requests]
            return http(json.dumps(answers[::-1]).encode())

        with serving(shuffled) as server, Rpc([server.url], timeout=2) as rpc:
            assert rpc.batch([("eth_call", [n]) for n in range(250)]) == list(range(250))
            assert [len(request) for request in server.requests] == [100, 100, 50]

    def test_a_missing_answer_is_a_network_error(self):
        """Half a batch is no batch."""

        def half(requests):
            return http(json.dumps([result(requests[0], "0x1")]).encode())

        with (
            serving(half) as server,
            Rpc([server.url], timeout=1) as rpc,
            pytest.raises(NetworkError, match="every request"),
        ):
            rpc.batch([("eth_call", []), ("eth_call", [])])

    def test_a_server_without_batches_is_asked_one_by_one(self):
        """Some servers answer a batch with one error."""

        def single(request):
            if isinstance(request, list):
                return http(b'{"jsonrpc": "2.0", "id": null, "error": {"code": -32600, "message": "no"}}')
            return ok(request, request["params"][0])

        with serving(single) as server, Rpc([server.url], timeout=2) as rpc:
            assert rpc.batch([("eth_call", ["a"]), ("eth_call", ["b"])]) == ["a", "b"]


class TestLies:
    """A reader never takes a strange answer for a fact about money."""

    @pytest.mark.parametrize(
        "answer",
        [
            "0x",
            "0x0",
            "0xzz",
            None,
            17,
            [],
            {"a": 1},
            "0x" + "00" * 64,
            "0x" + (32).to_bytes(32, "big").hex() + (2).to_bytes(32, "big").hex() + "00" * 256,
            "0x" + (32).to_bytes(32, "big").hex() + (1).to_bytes(32, "big").hex() + "00" * 127,
            "0x" + (32).to_bytes(32, "big").hex() + (1).to_bytes(32, "big").hex() + "ff" * 128,
            # settled above the deposit
            "0x" + b"".join(n.to_bytes(32, "big") for n in (32, 1, 5, 6, 0, 0)).hex(),
            # finalized neither true nor false
            "0x" + b"".join(n.to_bytes(32, "big") for n in (32, 1, 6, 5, 0, 2)).hex(),
            # a close that was requested in a million years
            "0x" + b"".join(n.to_bytes(32, "big") for n in (32, 1, 6, 5, 2**45, 0)).hex(),
        ],
    )
    def test_a_channel_state_that_cannot_be_is_a_network_error(self, answer):
        """Above all "nothing" does not mean that a channel does not exist."""
        lying = serving(lambda request: ok(request, answer))
        with lying as server, Rpc([server.url], timeout=1) as rpc:
            reader = EscrowReader(rpc, artifact("ChannelEscrow").address)
            with pytest.raises(NetworkError):
                reader.channel_state(ID)

    @pytest.mark.parametrize(
        "answer",
        [
            None,
            "0x",
            {},
            {"number": "0x1"},
            {"hash": "0x", "number": 5},
            {"number": "0x1", "timestamp": hex(2**45)},
        ],
    )
    @pytest.mark.parametrize("ask", [EscrowReader.head, EscrowReader.next_block_time])
    def test_a_head_that_cannot_be_is_a_network_error(self, ask, answer):
        """No block, or a malformed one, or one of a time that no calendar knows."""

        def same(request):
            if isinstance(request, list):
                return http(json.dumps([result(one, answer) for one in request]).encode())
            return ok(request, answer)

        with (
            serving(same) as server,
            Rpc([server.url], timeout=1) as rpc,
            pytest.raises(NetworkError),
        ):
            ask(EscrowReader(rpc, artifact("ChannelEscrow").address))

    @pytest.mark.parametrize("answer", [None, 5, [], {}, "", "0x", "0xzz"])
    def test_a_chain_id_that_cannot_be_is_a_network_error(self, answer):
        """Nothing else is asked then."""
        with (
            serving(lambda request: ok(request, answer)) as server,
            Rpc([server.url], timeout=1, chain_id=31337) as rpc,
            pytest.raises(NetworkError, match="does not tell its chain id"),
        ):
            rpc.call("eth_blockNumber")

    @pytest.mark.parametrize("answer", ["0x", "0x" + "f" * 65, "5", 5, None, "0x-5"])
    def test_a_balance_that_cannot_be_is_a_network_error(self, answer):
        """A balance is a number below 2**256 or not known at all."""
        with (
            serving(lambda request: ok(request, answer)) as server,
            Rpc([server.url], timeout=1) as rpc,
            pytest.raises(NetworkError),
        ):
            EscrowReader(rpc, ID[:42]).native_balance(ID[:42])


class TestReader:
    def test_a_thousand_channels_are_read_at_once(self, chain):
        """Channels that do not exist are all zero; the answer keeps order and number."""
        reader = EscrowReader(chain.rpc, chain.escrow_contract)
        ids = ["0x" + n.to_bytes(32, "big").hex() for n in range(1200)]
        assert list(reader.channel_states(ids).items()) == [(one, NO_CHANNEL) for one in ids]
        assert reader.channel_states([]) == {}

    def test_no_escrow_is_not_no_channel(self, chain):
        """Before the escrow was there, or at another address, nothing is concluded."""
        reader = EscrowReader(chain.rpc, ID[:42])
        with pytest.raises(NetworkError, match="no escrow contract"):
            reader.channel_state(ID)
        with pytest.raises(NetworkError, match="no escrow contract"):
            EscrowReader(chain.rpc, chain.escrow_contract).channel_state(ID, block=0)


class TestCommands:
    def test_use_needs_no_chain(self, home):
        """`network use` works while nothing answers, and `list` marks it."""
        assert home.run("network", "use", "base-sepolia", "--json").data["chainId"] == 84532
        networks = home.run("network", "list", "--json").data["networks"]
        assert [network["name"] for network in networks if network["inUse"]] == ["base-sepolia"]
        assert len(networks) == 6
        assert "* base-sepolia" in home.run("network", "list").succeeded().stdout

    def test_use_loads_no_heavy_library(self, home):
        """It is fast because neither web3 nor an ABI library nor HTTP is imported."""
        done = home.run("network", "use", "anvil", env={"PYTHONPROFILEIMPORTTIME": "1"}).succeeded()
        loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if "|" in line}
        assert "microwallet.escrow.networks" in loaded
        assert not loaded & {"web3", "eth_abi", "eth_account", "http.server", "keyring", "rlp"}

    def test_check_proves_each_thing(self, make_home, chain):
        """Chain id, head, escrow code and latency, each by name."""
        checked = make_home("user", chain).run("network", "check", "--json").data
        assert [check["name"] for check in checked["checks"]] == ["chain-id", "head", "escrow", "latency"]
        assert all(check["ok"] for check in checked["checks"])

    def test_check_of_a_dead_chain_is_exit_3(self, home):
        """The first question that gets no answer ends it; what was found stays in the data."""
        done = home.run("network", "check", "--rpc-url", "http://127.0.0.1:1", "--json")
        assert (done.exit_code, done.error["code"]) == (3, "network")
        assert [check["ok"] for check in done.json["data"]["checks"]] == [False]

    def test_check_of_a_wrong_chain_is_exit_3(self, home, chain):
        """An address of another chain is not taken for this one."""
        done = home.run("network", "check", "base-sepolia", "--rpc-url", chain.rpc_url, "--json")
        assert (done.exit_code, done.error["code"]) == (3, "wrong-chain")
        assert done.error["hint"] == "microwallet network show base-sepolia"
        in_use = {"MICROWALLET_NETWORK": "base-sepolia"}
        done = home.run("network", "check", "--rpc-url", chain.rpc_url, "--json", env=in_use)
        assert done.error["hint"] == f"microwallet network check anvil --rpc-url {chain.rpc_url}"

    @pytest.mark.parametrize(("chain_id", "hint"), [(84532, "--network base-sepolia"), (7, None)])
    def test_the_network_of_an_address_is_named(self, home, chain_id, hint):
        """An address that was given leads to a chain that has a network, or to one that nobody knows."""
        with serving(lambda request: ok(request, hex(chain_id))) as server:
            done = home.run("devnet", "advance", "15m", "--rpc-url", server.url, "--json")
        assert done.error["code"] == "wrong-chain"
        assert done.error["hint"] == (hint or "microwallet network show anvil")

    def test_an_own_address_of_another_chain_is_shown(self, home):
        """Where the network itself names the address, another network would not lead there."""
        with serving(lambda request: ok(request, hex(84532))) as server:
            home.run("network", "add", "anvil", "--rpc-url", server.url).succeeded()
            done = home.run("devnet", "advance", "15m", "--json")
        assert done.error["hint"] == "microwallet network show anvil"

    def test_verbose_tells_what_the_chain_is_asked(self, make_home, chain):
        """With -v each request is a line on stderr, its address without secrets; else nothing is said."""
        home = make_home("user")
        url = chain.rpc_url + "/?key=SECRET"
        told = home.run("-v", "escrow", "show", "--rpc-url", url).succeeded()
        assert f"{chain.rpc_url}/?… eth_getCode x 1" in told.stderr
        assert "SECRET" not in told.stdout + told.stderr
        assert home.run("escrow", "show", "--rpc-url", url).stderr == ""

    def test_check_finds_a_missing_escrow(self, make_home, chain):
        """A chain without the escrow is told, with the command that deploys it."""
        chain.rpc.call("anvil_setCode", [chain.escrow_contract, "0x"])
        done = make_home("user", chain).run("network", "check", "--json")
        assert done.exit_code == 3
        assert done.error["hint"] == "microwallet escrow deploy --network anvil"
        by_name = {check["name"]: check["ok"] for check in done.json["data"]["checks"]}
        assert by_name == {"chain-id": True, "head": True, "escrow": False, "latency": True}

    def test_check_finds_other_code_at_the_address(self, make_home, chain):
        """Code that is not the escrow's is never trusted."""
        chain.rpc.call("anvil_setCode", [chain.escrow_contract, "0x6001"])
        done = make_home("user", chain).run("network", "check", "--json")
        assert done.exit_code == 3
        assert "other code" in done.error["message"]

    def test_a_mainnet_stays_off_until_its_name_is_typed(self, home):
        """Adding it is not enough; `allow` takes the name itself, and without a terminal the flag."""
        added = home.run(
            "network", "add", "base", "--chain-id", 8453, "--rpc-url", f"https://x.example/{SECRET}", "--json"
        )
        assert added.data["allowed"] is False
        assert SECRET not in added.stdout
        assert home.run("network", "use", "base", "--json").error["code"] == "not-trusted"
        refused = home.run("network", "allow", "base", "--json").error
        assert refused["code"] == "confirmation-required"
        assert refused["message"].startswith("this needs --confirm base, as there is no terminal to ask at: ")
        assert home.run("network", "allow", "base", "--confirm", "bas").exit_code == 2
        assert home.run("network", "use", "base").exit_code == 2
        assert home.run("network", "allow", "base", "--confirm", "base", "--json").data["allowed"] is True
        home.run("network", "use", "base").succeeded()

    def test_a_mainnet_cannot_be_called_a_testnet(self, home):
        """`--testnet` with a mainnet's id is refused, and nothing is written."""
        done = home.run(
            "network", "add", "mine", "--chain-id", 1, "--rpc-url", "https://x.example", "--testnet", "--json"
        )
        assert (done.exit_code, done.error["code"]) == (2, "usage")
        assert home.run("network", "show", "mine").exit_code == 2

    def test_an_address_that_is_asked_instead_is_told(self, home):
        """Which setting it comes from, and without its key."""
        env = {"MICROWALLET_RPC_URL": "http://127.0.0.1:1/?key=secret"}
        told = home.run("network", "show", env=env).succeeded()
        assert told.stderr == "its rpc is not asked: the environment says rpc-url http://127.0.0.1:1/?…\n"
        assert home.run("network", "show").succeeded().stderr == ""

    def test_a_misspelt_network_is_not_guessed(self, home):
        """The close name is in the hint."""
        done = home.run("network", "use", "base-sepola", "--json")
        assert (done.exit_code, done.error["hint"]) == (2, "microwallet network use base-sepolia")


def data_contract(answer: bytes) -> str:
    """Code of a contract that answers every call with the same bytes."""
    prefix = bytes.fromhex(f"61{len(answer):04x}80600c6000396000f3")
    return "0x" + (prefix + answer).hex()


def text_answer(text: str) -> bytes:
    """ABI encoding of a string; its first word, 32, is what `decimals()` gives."""
    raw = text.encode()
    padded = raw.ljust(-(-len(raw) // 32) * 32, b"\0")
    return (32).to_bytes(32, "big") + len(raw).to_bytes(32, "big") + padded


class TestTokens:
    TOKEN = "0x1111111111111111111111111111111111111111"

    def test_a_token_is_read_from_the_chain(self, make_home, chain):
        """Symbol and decimals become its entry, known by symbol from then on."""
        chain.rpc.call("anvil_setCode", [self.TOKEN, data_contract(text_answer("EURX"))])
        home = make_home("user", chain)
        added = home.run("network", "token", "add", self.TOKEN, "--json").data
        assert added == {"token": self.TOKEN, "asset": "EURX", "decimals": 32, "chainId": 31337}
        tokens = home.run("network", "token", "list", "--json").data["tokens"]
        assert [token["asset"] for token in tokens] == ["ETH", "USDC", "EURX"]

    @pytest.mark.parametrize(
        "symbol",
        [
            "USDC",
            "usdc",
            "U5DC",
            "ETH",
            "",
            "x" * 10_000,
            "A\x1b[2J",
            "A\nB",
            "\u0405DC",
            "1INCH",
            "wei",
            "a b",
        ],
        ids=lambda symbol: ascii(symbol[:8]),
    )
    def test_a_hostile_symbol_needs_an_alias(self, chain, tmp_path, symbol):
        """Control characters, ten thousand letters, another token's name: refused, never printed raw."""
        chain.rpc.call("anvil_setCode", [self.TOKEN, data_contract(text_answer(symbol))])
        configuration = Configuration(Paths.from_environment({"MICROWALLET_HOME": str(tmp_path)}), {})
        reader = EscrowReader(chain.rpc, chain.escrow_contract)
        network = resolve_network(configuration)
        with pytest.raises(NotTrusted) as caught:
            read_asset(configuration, network, reader, self.TOKEN)
        assert caught.value.hint.endswith(f"microwallet network token add {self.TOKEN} --alias NAME")
        assert caught.value.message.isprintable()
        assert len(caught.value.message) < 300
        assert read_asset(configuration, network, reader, self.TOKEN, alias="MINE").symbol == "MINE"

    def test_a_second_usdc_is_refused_by_the_command(self, make_home, chain):
        """The command says which token has the symbol already, and how to name the other."""
        chain.rpc.call("anvil_setCode", [self.TOKEN, data_contract(text_answer("USDC"))])
        home = make_home("user", chain)
        done = home.run("network", "token", "add", self.TOKEN, "--json")
        assert (done.exit_code, done.error["code"]) == (2, "not-trusted")
        assert chain.token in done.error["message"]
        added = home.run("network", "token", "add", self.TOKEN, "--alias", "MINE", "--json").data
        assert added["asset"] == "MINE"

    def test_an_alias_may_not_deceive_either(self, make_home, chain):
        """Another token cannot be called USDC, by anyone's mistake."""
        chain.rpc.call("anvil_setCode", [self.TOKEN, data_contract(text_answer("EURX"))])
        done = make_home("user", chain).run(
            "network", "token", "add", self.TOKEN, "--alias", "USDC", "--json"
        )
        assert done.error["code"] == "not-trusted"

    def test_what_is_no_token_is_refused(self, make_home, chain):
        """An address without code, and a contract that tells no decimals."""
        home = make_home("user", chain)
        done = home.run("network", "token", "add", self.TOKEN, "--json")
        assert (done.exit_code, done.error["code"]) == (2, "usage")
        assert "has no code" in done.error["message"]
        chain.rpc.call("anvil_setCode", [self.TOKEN, "0x00"])
        done = home.run("network", "token", "add", self.TOKEN, "--json")
        assert "tells no decimals" in done.error["message"]


class TestBaseSepolia:
    def test_a_local_chain_can_stand_in_for_base_sepolia(self, make_home, anvil):
        """The built-in network and --rpc-url: chain id 84532 with Circle's address as its USDC."""
        from microwallet.devnet.local_chain import local_chain

        with local_chain(anvil, chain_id=84532) as chain:
            home = make_home("user")
            home.run("network", "use", "base-sepolia").succeeded()
            checked = home.run("network", "check", "--rpc-url", chain.rpc_url, "--json").data
            assert checked["chainId"] == 84532
            assert all(check["ok"] for check in checked["checks"])
            assert chain.token == "0x036CbD53842c5426634e7929541eC2318f3dCF7e"
