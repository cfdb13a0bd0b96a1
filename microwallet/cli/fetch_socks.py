"""A SOCKS proxy of `microwallet fetch` that does not answer, or speaks something else."""

from __future__ import annotations

from functools import partial
from typing import Any

import httpcore

from microwallet.http402.paying.patience import PatientTransport, WrappedStream

_FIRST = (b"\x05", b"\x01")
"""How an answer begins, and one to a user name and a password. RFC 1928, RFC 1929."""


class SocksTransport(PatientTransport):
    """What sends through a SOCKS proxy. ProxyError for one that is none: httpcore waits for its first
    answers without end, and lets through what cannot be read of them."""

    def __init__(self, seconds: float, **options: Any) -> None:
        super().__init__(**options)
        self._wrap_connections(partial(_SocksStream, seconds))


class _SocksStream(WrappedStream):
    """Only what is said to a SOCKS proxy has no time limit of its own."""

    def __init__(self, seconds: float, inner: httpcore.NetworkStream) -> None:
        super().__init__(inner)
        self._seconds = seconds

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        if timeout is not None:
            return super().read(max_bytes, timeout)
        try:
            answer = super().read(max_bytes, self._seconds)
        except httpcore.ReadTimeout as error:
            raise httpcore.ProxyError(f"nothing within {self._seconds:g} seconds") from error
        if len(answer) < 2 or not answer.startswith(_FIRST):
            raise httpcore.ProxyError("what is no SOCKS 5")
        return answer

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        super().write(buffer, timeout or self._seconds)
