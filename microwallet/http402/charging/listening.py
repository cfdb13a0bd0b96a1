"""Where a gateway listens: on loopback, with TLS, or behind a proxy that does it; nowhere else.

draft-httpauth-payment-00, section "Transport Security": challenges and credentials go over TLS.
"""

from __future__ import annotations

import socket
import ssl
from pathlib import Path

from microwallet.errors import PortTaken, UsageError
from microwallet.http402.charging.settings import Settings
from microwallet.http402.loopback import is_loopback

BACKLOG = 1024


def bind(settings: Settings) -> socket.socket:
    """The socket that listens; UsageError if that would be in the clear, PortTaken if it cannot."""
    host, port = settings.host, settings.port
    if not (is_loopback(host) or settings.has_tls or settings.behind_tls_proxy):
        raise UsageError(
            f"{host} can be reached by others, and payments do not go in the clear",
            hint="--tls-cert cert.pem --tls-key key.pem, or --behind-tls-proxy ADDRESS of the proxy",
        )
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen(BACKLOG)
    except OSError as error:
        listening.close()
        reason = error.strerror or str(error)
        if isinstance(error, PermissionError | socket.gaierror):
            raise UsageError(f"{host}:{port} cannot be listened on: {reason}") from error
        raise PortTaken(
            f"{host}:{port} cannot be listened on: {reason}", hint="--port 0  (any free one)"
        ) from error
    listening.setblocking(False)
    return listening


def url_of(settings: Settings, listening: socket.socket) -> str:
    """The address of a gateway, as it can be typed on this machine."""
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return f"{'https' if settings.has_tls else 'http'}://{host}:{listening.getsockname()[1]}"


def tls_context(settings: Settings) -> ssl.SSLContext | None:
    """The certificate, loaded; None without TLS. UsageError if it and its key are not good."""
    certificate, key = settings.tls_cert, settings.tls_key
    if certificate is None or key is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_alpn_protocols(["http/1.1"])
    try:
        for file in (certificate, key):
            Path(file).open("rb").close()
        context.load_cert_chain(certificate, key, password=_no_password)
    except ssl.SSLError as error:
        raise UsageError(
            f"{certificate} and {key} are no certificate and its key in PEM, unencrypted: {error.reason}"
        ) from error
    except OSError as error:
        raise UsageError(f"{error.filename} cannot be read: {error.strerror}") from error
    return context


def _no_password() -> str:
    """OpenSSL would ask at the terminal."""
    return ""
