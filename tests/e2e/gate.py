"""A way to a test's chain that can be shut."""

from __future__ import annotations

import socket
import threading
from urllib.parse import urlsplit


class Gate:
    """A way to the chain that can be shut: connections then fail, and open ones break."""

    def __init__(self, url):
        self._target = urlsplit(url)
        self._open = True
        self._connections = []
        self._server = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._server.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def shut(self):
        self._open = False
        for connection in self._connections:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue

    def open(self):
        self._open = True

    def close(self):
        self.shut()
        self._server.close()

    def _serve(self):
        while True:
            try:
                near, _ = self._server.accept()
            except OSError:
                return
            if not self._open:
                near.close()
                continue
            far = socket.create_connection((self._target.hostname, self._target.port))
            self._connections += [near, far]
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=self._copy, args=(source, sink), daemon=True).start()
            if not self._open:  # by now
                self.shut()

    def _copy(self, source, sink):
        with source, sink:
            try:
                while data := source.recv(65536):
                    sink.sendall(data)
            except OSError:
                return
