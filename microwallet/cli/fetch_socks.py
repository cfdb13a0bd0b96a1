"""A SOCKS proxy of `microwallet fetch` that does not answer, or speaks something else."""

from __future__ import annotations

import ssl
from collections.abc import Iterable
from typing import Any

import httpcore

from microwallet.http402.paying.patience import PatientTransport

_FIRST = (b"\x05", b"\x01")
"""How an answer begins, and one to a user name and a password. RFC 1928, RFC 1929."""


class SocksTransport(PatientTransport):
    """What sends through a SOCKS proxy. ProxyError for one that is none: httpcore waits for its first
    answers without end, and lets through what cannot be read of them."""

    def __init__(self, seconds: float, **options: Any) -> None:
        super().__init__(**options)
        pool: Any = self._pool
        pool._network_backend = _Patience(pool._network_backend, seconds)  # noqa: SLF001  # httpx takes none


class _Patience(httpcore.NetworkBackend):
    def __init__(self, inner: httpcore.NetworkBackend, seconds: float) -> None:
        self._inner = inner
        self._seconds = seconds

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        stream = self._inner.connect_tcp(host, port, timeout, local_address, socket_options)
        return _PatientStream(stream, self._seconds)


class _PatientStream(httpcore.NetworkStream):
    """A connection. Only what is said to a SOCKS proxy has no time limit of its own."""

    def __init__(self, inner: httpcore.NetworkStream, seconds: float) -> None:
        self._inner = inner
        self._seconds = seconds

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        if timeout is not None:
            return self._inner.read(max_bytes, timeout)
        try:
            answer = self._inner.read(max_bytes, self._seconds)
        except httpcore.ReadTimeout as error:
            raise httpcore.ProxyError(f"nothing within {self._seconds:g} seconds") from error
        if len(answer) < 2 or not answer.startswith(_FIRST):
            raise httpcore.ProxyError("what is no SOCKS 5")
        return answer

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._inner.write(buffer, timeout or self._seconds)

    def close(self) -> None:
        self._inner.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        return self._inner.start_tls(ssl_context, server_hostname, timeout)

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)
