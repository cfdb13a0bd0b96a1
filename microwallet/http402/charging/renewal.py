"""A certificate that is renewed while a gateway serves: new connections get it, those that are open stay."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from microwallet.errors import UsageError
from microwallet.http402.charging.listening import certificate_warnings, load_certificate, tls_context
from microwallet.http402.charging.settings import Settings

RENEWAL_SECONDS = 5.0
"""Between two looks at the files of a certificate and its key."""


async def keep_renewed(
    context: ssl.SSLContext, settings: Settings, tell: Callable[[str, Mapping[str, Any]], None]
) -> None:
    """Load the files of `tls_context` again when they change; what is no pair, as one of them may have been
    written before the other, leaves the old one in use, and is told where it stays so for a look more."""
    used = seen = told = _looks(settings)
    while True:
        await asyncio.sleep(RENEWAL_SECONDS)
        before, seen = seen, _looks(settings)
        if seen == used:
            continue
        try:
            tls_context(settings)  # tried before the context in use is touched
            load_certificate(context, settings)
        except UsageError as error:
            if seen == before != told:
                told = seen
                tell("warning", {"message": f"{error.message}: the certificate of before stays in use"})
            continue
        used = seen
        tell("certificate-renewed", {"message": str(settings.tls_cert)})
        with suppress(OSError):  # gone again: the next look finds out
            for warning in certificate_warnings(settings, now=int(time.time())):
                tell("warning", {"message": warning})


def _looks(settings: Settings) -> list[tuple[int, int, int] | None]:
    """What tells one version of the files from another; None for one that is not there."""
    looks: list[tuple[int, int, int] | None] = []
    for name in (settings.tls_cert, settings.tls_key):
        looks.append(None)
        with suppress(OSError):
            about = Path(str(name)).stat()
            looks[-1] = (about.st_ino, about.st_size, about.st_mtime_ns)
    return looks
