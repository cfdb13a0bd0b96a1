"""Connections that would hold or fill a gateway for ever, against the real server with small bounds."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from contextlib import contextmanager

import pytest
import uvicorn

from microwallet.http402.serving.bounded_protocol import BoundedProtocol, Bounds

SMALL = Bounds(
    connections=20,
    head_bytes=4096,
    head_seconds=0.4,
    body_seconds=0.4,
    body_bytes=1000,
    stalled_seconds=0.4,
)
SOON = 5.0
HEAD = b"POST / HTTP/1.1\r\nhost: x\r\n"
CHUNKED = HEAD + b"transfer-encoding: chunked\r\n\r\n"


class Application:
    """Reads the body and answers with its size; on /slow it waits, on /endless it goes on for long."""

    def __init__(self):
        self.sizes = []

    async def __call__(self, scope, receive, send):
        if scope["path"] == "/slow":
            await asyncio.sleep(1)
        size, more = 0, True
        while more:
            message = await receive()
            if message["type"] != "http.request":
                return
            size += len(message["body"])
            more = message["more_body"]
        self.sizes.append(size)
        headers = [] if scope["path"] == "/endless" else [(b"content-length", b"1")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        until = time.monotonic() + (3 if scope["path"] == "/endless" else 0)
        while time.monotonic() < until:
            await send({"type": "http.response.body", "body": b"x" * 65536, "more_body": True})
            await asyncio.sleep(0.001)
        await send({"type": "http.response.body", "body": str(len(scope["headers"])).encode()})


@contextmanager
def running(bounds):
    """A server with an application, and where it is."""
    app = Application()
    protocol = type("Bounded", (BoundedProtocol,), {"bounds": bounds})
    config = uvicorn.Config(
        app, http=protocol, ws="none", lifespan="off", log_config=None, access_log=False, log_level=60
    )
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        place = listening.getsockname()
        thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listening])))
        thread.start()
        while not server.started:
            time.sleep(0.01)
        yield place, app, server
        server.should_exit = server.force_exit = True
        thread.join()


@pytest.fixture(scope="module")
def served():
    """One server with small bounds for all of these tests."""
    with running(SMALL) as found:
        yield found


@pytest.fixture
def connect(served):
    """Opens connections, which end with the test."""
    opened = []

    def open_one():
        opened.append(socket.create_connection(served[0], timeout=SOON))
        return opened[-1]

    yield open_one
    for connection in opened:
        connection.close()
    while served[2].server_state.connections:
        time.sleep(0.01)


def ends(connection):
    """What still comes until the server ends the connection, within SOON; fails if it does not."""
    seen = b""
    try:
        while chunk := connection.recv(65536):
            seen += chunk
    except ConnectionError:
        pass
    return seen


def trickle(connection, pieces, pause=0.1):
    """Send pieces one by one until the server has enough of it; whether it had."""
    for piece in pieces:
        try:
            connection.sendall(piece)
        except ConnectionError:
            return True
        time.sleep(pause)
    return False


def get(connection, path=b"/"):
    connection.sendall(b"GET " + path + b" HTTP/1.1\r\nhost: x\r\n\r\n")
    return answer(connection)


def answer(connection):
    """A whole answer, whose body is one character."""
    seen = b""
    while not seen.partition(b"\r\n\r\n")[2]:
        seen += (chunk := connection.recv(65536))
        assert chunk, seen
    return seen


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"GET / HTTP/1.1\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nx-host: x\r\n", b"400"),
        (b"GET http://x/ HTTP/1.1\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nhost: x\r\nHOST: x\r\n", b"400"),
        (b"GET / HTTP/1.0\r\nhost: x\r\nhost: y\r\n", b"400"),
        (b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nHost:\r\n", b"200"),
        (b"GET / HTTP/1.0\r\n", b"200"),
    ],
)
def test_a_request_has_one_host(connect, served, head, status):
    """RFC 9112, section 3.2: another is answered with 400, and nobody behind sees it. HTTP/1.0 needs none."""
    before = len(served[1].sizes)
    connection = connect()
    connection.sendall(head + b"\r\n")
    assert answer(connection).split()[1] == status
    assert len(served[1].sizes) - before == (status == b"200")
    if status == b"400":
        assert ends(connection) == b""


def test_the_same_holds_for_every_request_of_a_connection(connect):
    """The first one is answered, the next is not served."""
    connection = connect()
    assert b"200 OK" in get(connection)
    connection.sendall(b"GET / HTTP/1.1\r\n\r\n")
    assert answer(connection).startswith(b"HTTP/1.1 400")


def test_one_that_says_nothing_is_ended(connect):
    """Neither before its first request nor in the midst of one."""
    silent, half = connect(), connect()
    half.sendall(b"GET / HT")
    assert ends(silent) == ends(half) == b""


@pytest.mark.parametrize("piece", [b"x", b"\r\n", b"x-a: b\r\n"], ids=["a byte", "empty lines", "fields"])
def test_a_head_that_comes_bit_by_bit_is_ended(connect, piece):
    """However often a little comes: the time for all of it counts."""
    connection = connect()
    if piece != b"\r\n":
        connection.sendall(b"GET / HTTP/1.1\r\nhost: x\r\nx-b: ")
    assert trickle(connection, [piece] * 60)


def test_that_holds_for_every_request_of_a_connection(connect):
    """Not only for the first."""
    connection = connect()
    assert b"200 OK" in get(connection)
    assert trickle(connection, [b"GET / HTTP/1.1\r\n"] + [b"x-a: b\r\n"] * 60)


def test_quick_requests_on_one_connection_go_on(connect):
    """Timers of the one do not run on into the next."""
    connection = connect()
    begun = time.monotonic()
    while time.monotonic() - begun < 3 * SMALL.head_seconds:
        assert b"200 OK" in get(connection)
        time.sleep(0.05)


@pytest.mark.parametrize(("size", "is_served"), [(-1, True), (0, True), (1, False)])
def test_a_head_has_a_largest_size(connect, size, is_served):
    """To the byte, after its first piece; one that is larger is ended, whatever follows."""
    connection = connect()
    connection.sendall(b"GET / HTTP/1.1\r\nhost: x\r\nx-big: ")
    time.sleep(0.05)
    end = b"\r\n\r"
    connection.sendall(b"x" * (SMALL.head_bytes + size - len(end)) + end)
    time.sleep(0.05)
    trickle(connection, [b"\n"])
    found = answer(connection) if is_served else ends(connection)
    assert (b"200 OK" in found) == is_served


def test_fields_without_end_are_ended(connect):
    """And so is a request line without one."""
    for start, piece in ((b"GET / HTTP/1.1\r\n", b"x-a: b\r\n" * 100), (b"GET /", b"x" * 1000)):
        connection = connect()
        connection.sendall(start)
        assert trickle(connection, [piece] * 100, pause=0.001)


def test_a_body_may_be_large_and_slow_enough(connect, served):
    """What comes at the least pace, over several periods, is served."""
    connection = connect()
    connection.sendall(HEAD + b"content-length: 5000\r\n\r\n")
    assert not trickle(connection, [b"x" * 500] * 10, pause=0.12)
    assert b"200 OK" in answer(connection)
    assert served[1].sizes[-1] == 5000


@pytest.mark.parametrize("head", [HEAD + b"content-length: 5000\r\n\r\n", CHUNKED], ids=["length", "chunked"])
def test_a_body_that_comes_bit_by_bit_is_ended(connect, head):
    """A client holds nothing behind the gateway by a byte now and then."""
    connection = connect()
    connection.sendall(head)
    assert trickle(connection, [b"1\r\nx\r\n" if head is CHUNKED else b"x"] * 60)


def test_a_body_that_we_do_not_read_yet_may_wait(connect):
    """The pace is the client's only while somebody reads."""
    connection = connect()
    connection.sendall(b"POST /slow HTTP/1.1\r\nhost: x\r\ncontent-length: 200000\r\n\r\n")
    connection.sendall(b"x" * 100_000)
    time.sleep(2 * SMALL.body_seconds)
    connection.sendall(b"x" * 100_000)
    assert b"200 OK" in answer(connection)


@pytest.mark.parametrize(
    "piece",
    [b"x-trailer: " + b"y" * 990 + b"\r\n", b"y" * 1000],
    ids=["many trailers", "one trailer"],
)
def test_trailers_without_end_are_ended(connect, piece):
    """They fill no memory: there is as much room for them as for a head."""
    connection = connect()
    connection.sendall(CHUNKED + b"1\r\nx\r\n0\r\nx-first: ")
    assert trickle(connection, [piece] * 100, pause=0.001)


def test_chunk_extensions_without_end_are_ended(connect):
    """Nor do these."""
    connection = connect()
    connection.sendall(CHUNKED + b"1;")
    assert trickle(connection, [b"x=y;" * 250] * 100, pause=0.001)


def test_tiny_chunks_are_a_body(connect, served):
    """Framing in proportion is nobody's fault."""
    connection = connect()
    for _ in range(20):
        connection.sendall(CHUNKED if _ == 0 else b"")
        connection.sendall(b"1\r\nx\r\n" * 500)
    connection.sendall(b"0\r\nx-trailer: y\r\n\r\n")
    found = answer(connection)
    assert b"200 OK" in found
    assert served[1].sizes[-1] == 10_000
    assert found.endswith(b"2"), "a trailer is no field"


def test_one_that_never_reads_is_ended(connect):
    """An answer that nobody takes is not kept for ever."""
    connection = connect()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.sendall(b"GET /endless HTTP/1.1\r\nhost: x\r\n\r\n")
    time.sleep(4 * SMALL.stalled_seconds)
    with pytest.raises(ConnectionError):
        for _ in range(100):
            connection.sendall(b"x" * 1000)
            time.sleep(0.02)


def test_one_that_reads_may_read_for_long(connect):
    """The bound is on standing still, not on the whole."""
    connection = connect()
    connection.sendall(b"GET /endless HTTP/1.1\r\nhost: x\r\n\r\n")
    begun = time.monotonic()
    while time.monotonic() - begun < 3 * SMALL.stalled_seconds:
        assert connection.recv(1 << 20)


def test_no_more_connections_than_there_may_be(connect, served):
    """Whoever comes then is turned away at once, and welcome when others have gone."""
    crowd = [connect() for _ in range(SMALL.connections)]
    while len(served[2].server_state.connections) < SMALL.connections:
        time.sleep(0.01)
    begun = time.monotonic()
    assert ends(connect()) == b""
    assert time.monotonic() - begun < SMALL.head_seconds / 2
    for connection in crowd:
        connection.close()
    while served[2].server_state.connections:
        time.sleep(0.01)
    assert b"200 OK" in get(connect())
