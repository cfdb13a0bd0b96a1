"""Where a gateway listens: on loopback, with TLS, or behind a proxy that does it; nowhere else.

draft-httpauth-payment-00, section "Transport Security": challenges and credentials go over TLS.
"""

from __future__ import annotations

import errno
import re
import shlex
import socket
import ssl
from pathlib import Path

from microwallet.errors import PortTaken, UsageError
from microwallet.files import shell_path
from microwallet.http402.loopback import is_loopback
from microwallet.http402.serving.settings import Settings
from microwallet.http402.wire.timestamps import rfc3339

BACKLOG = 1024

_CERTIFICATE = re.compile(rb"-----BEGIN (?:TRUSTED |X509 )?CERTIFICATE-----")
_KEY = re.compile(rb"-----BEGIN (?:[A-Z]+ )?PRIVATE KEY-----")
_ENCRYPTED = re.compile(rb"BEGIN ENCRYPTED|Proc-Type: 4,ENCRYPTED")


def check_is_private(settings: Settings) -> None:
    """UsageError where payments would go in the clear."""
    with settings.names.naming("host"):
        if settings.host.startswith("["):
            raise UsageError(
                f"{settings.host} is written without brackets here",
                hint=f"--host {settings.host.strip('[]')}",
            )
        if not (is_loopback(settings.host) or settings.has_tls or settings.behind_tls_proxy):
            raise UsageError(
                f"{settings.host} can be reached by others, and payments do not go in the clear",
                hint="--tls-cert cert.pem --tls-key key.pem, or --behind-tls-proxy ADDRESS of the proxy",
            )


def bind(settings: Settings) -> socket.socket:
    """The socket that listens; UsageError if that would be in the clear, PortTaken if it cannot."""
    check_is_private(settings)
    host, port = settings.host, settings.port
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
        if error.errno == errno.EADDRNOTAVAIL:
            raise UsageError(
                f"{host}:{port} cannot be listened on: {reason}",
                hint="an address of this machine; --host 0.0.0.0 is all of them",
            ) from error
        raise PortTaken(
            f"{host}:{port} cannot be listened on: {reason}", hint="--port 0  (any free one)"
        ) from error
    listening.setblocking(False)
    return listening


def url_of(settings: Settings, port: int) -> str:
    """The address of a gateway on a port, as it can be typed on this machine."""
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return f"{'https' if settings.has_tls else 'http'}://{host}:{port}"


def tls_context(settings: Settings) -> ssl.SSLContext | None:
    """The certificate, loaded; None without TLS. UsageError if it and its key are not good."""
    if settings.tls_cert is None or settings.tls_key is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_alpn_protocols(["http/1.1"])
    load_certificate(context, settings)
    return context


def load_certificate(context: ssl.SSLContext, settings: Settings) -> None:
    """Load certificate and key for the connections that come from now on; UsageError as tls_context."""
    certificate, key = str(settings.tls_cert), str(settings.tls_key)
    try:
        contents = (Path(certificate).read_bytes(), Path(key).read_bytes())
        context.load_cert_chain(certificate, key, password=_no_password)
    except ssl.SSLError as error:
        raise _no_pair(certificate, key, contents, error.reason) from error
    except OSError as error:
        raise _unreadable(error, certificate) from error


def certificate_warnings(settings: Settings, *, now: int) -> list[str]:
    """What clients will refuse in the files of `tls_context`: certificates out of their time."""
    if settings.tls_cert is None:
        return []
    from cryptography.x509 import load_pem_x509_certificates  # needed by those who serve TLS alone

    try:
        certificates = load_pem_x509_certificates(Path(settings.tls_cert).read_bytes())
    except ValueError:  # in a form that OpenSSL alone reads, such as TRUSTED CERTIFICATE
        return []
    said = []
    for certificate in certificates:
        begins = int(certificate.not_valid_before_utc.timestamp())
        ends = int(certificate.not_valid_after_utc.timestamp())
        if now > ends:
            said.append(f"the certificate in {settings.tls_cert} expired at {rfc3339(ends)}")
        elif now < begins:
            said.append(f"the certificate in {settings.tls_cert} is not valid before {rfc3339(begins)}")
    return [f"{one}, and it is {rfc3339(now)} here: clients refuse it" for one in said]


def _unreadable(error: OSError, certificate: str) -> UsageError:
    file = Path(error.filename or certificate)
    looked_at = file.parent if isinstance(error, FileNotFoundError) else file
    return UsageError(f"{file} cannot be read: {error.strerror}", hint=f"ls -l {shell_path(looked_at)}")


def _no_pair(certificate: str, key: str, contents: tuple[bytes, bytes], reason: str | None) -> UsageError:
    """The error of two files, with what is in them, that are no certificate and its key."""
    quoted_certificate, quoted_key = shlex.quote(certificate), shlex.quote(key)
    first, second = contents
    if _CERTIFICATE.search(first) is None:
        if _KEY.search(first) and _CERTIFICATE.search(second):
            return UsageError(
                f"{certificate} holds a key and {key} a certificate: they are swapped",
                hint=f"--tls-cert {quoted_key} --tls-key {quoted_certificate}",
            )
        return UsageError(
            f"{certificate} holds no certificate in PEM", hint=f"head -n 1 {quoted_certificate}"
        )
    if _KEY.search(second) is None:
        return UsageError(f"{key} holds no private key in PEM", hint=f"head -n 1 {quoted_key}")
    if _ENCRYPTED.search(second):
        return UsageError(
            f"the key in {key} is encrypted, and nobody is asked for its password",
            hint=f"openssl pkey -in {quoted_key} -out unencrypted.pem  # then --tls-key unencrypted.pem",
        )
    return UsageError(
        f"{certificate} and {key} are no certificate and its key" + (f": {reason}" if reason else ""),
        hint=f"openssl x509 -noout -pubkey -in {quoted_certificate} && openssl pkey -pubout -in {quoted_key}"
        "  # both print the same key",
    )


def _no_password() -> str:
    """OpenSSL would ask at the terminal."""
    return ""
