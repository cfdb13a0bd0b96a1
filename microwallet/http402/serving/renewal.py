"""A certificate that is renewed while a gateway serves: new connections get it, those that are open stay."""

from __future__ import annotations

import asyncio
import ssl
import time
from contextlib import suppress
from pathlib import Path
from typing import Self

from microwallet.domain.ports import Emit
from microwallet.errors import UsageError
from microwallet.http402.serving.listening import certificate_warnings, load_certificate, tls_context
from microwallet.http402.serving.settings import Settings

RENEWAL_SECONDS = 2.0
"""Between two looks at the files of a certificate and its key."""

_Looks = list[tuple[int, int, int] | None]
"""What tells one version of the two files from another; None for one that is not there."""


class Certificate:
    """The certificate of a gateway and its key, and which version of their files that is. It can be loaded
    before a fork: whoever keeps it finds out what has changed since."""

    def __init__(self, settings: Settings, context: ssl.SSLContext, loaded: _Looks) -> None:
        self._settings = settings
        self._loaded = loaded
        self.context = context

    @classmethod
    def load(cls, settings: Settings) -> Self | None:
        """None without TLS; UsageError as tls_context."""
        looks = _looks(settings)  # before they are read, so that what changes meanwhile is found
        context = tls_context(settings)
        return None if context is None else cls(settings, context, looks)

    async def keep_renewed(self, emit: Emit) -> None:
        """Load the files again when they change; what is no pair, as one of them may have been written before
        the other, leaves the old one in use, and is told where it stays so for a look more."""
        seen = told = self._loaded
        while True:
            before, seen = seen, _looks(self._settings)
            if seen != self._loaded:
                try:
                    self._load(seen, emit)
                except UsageError as error:
                    if seen == before != told:
                        told, kept = seen, "the certificate of before stays in use"
                        emit("warning", {"message": f"{error.message}: {kept}"})
            await asyncio.sleep(RENEWAL_SECONDS)

    def _load(self, looks: _Looks, emit: Emit) -> None:
        tls_context(self._settings)  # tried before the context in use is touched
        load_certificate(self.context, self._settings)
        self._loaded = looks
        emit("certificate-renewed", {"message": str(self._settings.tls_cert)})
        with suppress(OSError):  # gone again: the next look finds out
            for warning in certificate_warnings(self._settings, now=int(time.time())):
                emit("warning", {"message": warning})


def _looks(settings: Settings) -> _Looks:
    return [_look(str(name)) for name in (settings.tls_cert, settings.tls_key)]


def _look(name: str) -> tuple[int, int, int] | None:
    """Of inode, bytes and nanoseconds of the last change, where links lead."""
    try:
        about = Path(name).stat()
    except OSError:
        return None
    return about.st_ino, about.st_size, about.st_mtime_ns
