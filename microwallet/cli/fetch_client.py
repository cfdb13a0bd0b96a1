"""The HTTP client of `microwallet fetch`: the connection, what tells of it, and what pays."""

from __future__ import annotations

import os
import ssl
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache, partial
from operator import attrgetter
from typing import TYPE_CHECKING

from microwallet.cli.fetch_flags import FetchFlags
from microwallet.cli.fetch_proxy import check_proxy, no_proxy
from microwallet.cli.fetch_request import Wanted
from microwallet.errors import UsageError
from microwallet.http402.paying.origins import Origin

if TYPE_CHECKING:
    import httpx

    from microwallet.http402.paying.client import PayingClient
    from microwallet.paying import Confirm
    from microwallet.wallet import Wallet

_COMMAND_LINE_OF_HTTPX, _HTTP_2 = "httpx._main", "h2"
_SENT_AT_ONCE = 32 * 1024
"""Bytes of a body that every server of HTTP/2 takes unread: RFC 9113, section 6.9.2. While httpcore sends
more it hears no answer, such as the challenge to a large body, and may wait for ever."""
_CONNECT_SECONDS = 10
_MOST_REDIRECTS = 10
_OF_A_BODY = ("Content-Type", "Content-Encoding", "Content-Language", "Content-Location", "Last-Modified")


def fetch_client(
    wallet: Wallet, wanted: Wanted, flags: FetchFlags, proxy: str | None, *, agree: Confirm
) -> httpx.Client:
    """A client that asks as the flags say, and pays unless they say not to; UsageError for what cannot be."""
    seconds = flags.seconds
    may_need_tls = flags.follow or proxy is not None or wanted.url.startswith("https:")
    http2 = may_need_tls and wanted.size <= _SENT_AT_ONCE
    with _without(_COMMAND_LINE_OF_HTTPX, *(() if http2 else (_HTTP_2,))):
        inner, beside = _http(proxy, tls=may_need_tls, http2=http2, seconds=seconds)
    import httpx

    if flags.verbose:
        from microwallet.cli.fetch_verbose import ToldTransport

        inner, beside = ToldTransport(inner), ToldTransport(beside)
    if not flags.no_pay:
        inner = _paying(wallet, flags, inner, beside, agree=agree, is_direct=proxy is None)

    def without_body(request: httpx.Request) -> None:
        """A redirect that makes a GET of the request leaves out what told of its body: RFC 9110, section
        15.4."""
        if request.method != wanted.method:
            for name in _OF_A_BODY:
                request.headers.pop(name, None)

    typed, origin_of = wanted.cookies, attrgetter("scheme", "host", "port")

    def with_cookies(request: httpx.Request) -> None:
        """Httpx leaves out of a redirect what was typed: it is for the origin that it was typed for."""
        kept = "; ".join(request.headers.get_list("Cookie"))
        if typed and kept != typed and origin_of(request.url) == origin_of(httpx.URL(wanted.url)):
            request.headers["Cookie"] = f"{typed}; {kept}" if kept else typed

    return httpx.Client(
        transport=inner,
        event_hooks={"request": [without_body, with_cookies]},
        follow_redirects=flags.follow,
        max_redirects=_MOST_REDIRECTS,
        timeout=httpx.Timeout(seconds, connect=min(seconds, _CONNECT_SECONDS)),
    )


@contextmanager
def _without(*names: str) -> Iterator[None]:
    """While packages are imported that can do without these modules, whose loading takes longest."""
    hidden = [name for name in names if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]  # None makes an import fail
    try:
        yield
    finally:
        for name in hidden:
            sys.modules.pop(name, None)


def _http(
    proxy: str | None, *, tls: bool, http2: bool, seconds: float
) -> tuple[httpx.BaseTransport, httpx.BaseTransport]:
    """What sends, and what sends beside a stream."""
    import httpx

    from microwallet.http402.paying.patience import PatientTransport

    transport: Callable[..., httpx.HTTPTransport] = PatientTransport
    if proxy is not None:
        check_proxy(proxy)
        if proxy.lower().startswith("socks"):
            from microwallet.cli.fetch_socks import SocksTransport

            transport = partial(SocksTransport, seconds)
    try:
        # Loading the certificates takes longer than a request; a context without any trusts nobody.
        trusted = httpx.create_ssl_context() if tls else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        first, second = (transport(verify=trusted, http2=http2, proxy=proxy) for _ in range(2))
        return first, second
    except (ValueError, httpx.InvalidURL) as error:
        raise no_proxy(proxy or "") from error
    except OSError as error:
        named = os.environ.get("SSL_CERT_FILE") or os.environ.get("SSL_CERT_DIR")
        raise UsageError(
            f"the certificates to trust, {named}, cannot be read: {error.strerror}",
            hint="echo $SSL_CERT_FILE",
        ) from error


def _paying(
    wallet: Wallet,
    flags: FetchFlags,
    inner: httpx.BaseTransport,
    beside: httpx.BaseTransport,
    *,
    agree: Confirm,
    is_direct: bool,
) -> httpx.BaseTransport:
    from microwallet.http402.paying.transport import PayingTransport
    from microwallet.paying import limits_of, paying_client

    limits = limits_of(
        wallet,
        max_amount=flags.max_amount,
        deposit=flags.deposit,
        payee=None if flags.payee is None else wallet.address_of(flags.payee),
        is_gasless=flags.gasless,
        dry_run=flags.dry_run,
    )

    def is_private(origin: Origin) -> bool:
        """Even this machine's own name means another one to a proxy."""
        return origin.is_private if is_direct else origin.scheme == "https"

    @cache
    def client() -> PayingClient:
        return replace(paying_client(wallet, limits, confirm=agree), is_private=is_private)

    return PayingTransport(client, inner, beside=beside)
