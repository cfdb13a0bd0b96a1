"""The header of an answer has the timeout as a whole over TLS too, by either version of HTTP."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from contextlib import suppress

import h2.config
import h2.connection
import httpx
import pytest
from certificates import Authority

from microwallet.http402.paying.patience import PatientTransport


def drip(connection):
    """A header that does not end, in HTTP/1.1."""
    connection.sendall(b"HTTP/1.1 200 OK\r\nX-Drip: ")
    while True:
        connection.sendall(b"x")
        time.sleep(0.1)


def ping(connection):
    """Frames without end in HTTP/2, of which none is an answer."""
    state = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
    state.initiate_connection()
    while True:
        state.ping(b"12345678")
        connection.sendall(state.data_to_send())
        time.sleep(0.1)


@pytest.mark.parametrize(("version", "talk"), [("http/1.1", drip), ("h2", ping)])
def test_a_header_without_end_over_tls(tmp_path, version, talk):
    """It is waited for no longer than the read timeout, each time, and no thread is left of it."""
    authority = Authority(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority.issue())
    context.set_alpn_protocols([version])
    listening = socket.create_server(("127.0.0.1", 0))

    def serve():
        with suppress(OSError), context.wrap_socket(listening.accept()[0], server_side=True) as connection:
            talk(connection)

    for _ in range(2):
        threading.Thread(target=serve, daemon=True).start()
    threads = threading.active_count()
    transport = PatientTransport(verify=ssl.create_default_context(cafile=authority.certificate), http2=True)
    with listening, httpx.Client(transport=transport, timeout=httpx.Timeout(10, read=0.5)) as client:
        for _ in range(2):
            before = time.monotonic()
            with pytest.raises(httpx.ReadTimeout):
                client.get(f"https://127.0.0.1:{listening.getsockname()[1]}/")
            assert time.monotonic() - before < 4
    assert threading.active_count() <= threads
