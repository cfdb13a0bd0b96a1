"""The proxy that `microwallet fetch` goes through: of --proxy, or of the environment."""

from __future__ import annotations

from urllib.parse import urlsplit

from microwallet.cli.fetch_secrets import SecretWords
from microwallet.domain.whole_url import whole_url
from microwallet.errors import UsageError
from microwallet.http402.paying.origins import Origin

_SCHEMES = ("http", "https", "socks5", "socks5h")
_EXAMPLE = "socks5://127.0.0.1:1080"


def proxy_of(url: str) -> str | None:
    """The proxy that the environment names for a URL; this machine is reached without one."""
    origin = Origin.of(url)
    if origin.scheme == "http" and origin.is_private:
        return None
    from urllib.request import getproxies, proxy_bypass

    proxies = getproxies()
    return None if proxy_bypass(origin.host) else proxies.get(origin.scheme, proxies.get("all"))


def check_proxy(url: str) -> None:
    """UsageError unless it has a scheme that is spoken, and a host."""
    try:
        parts = urlsplit(url)
        is_usable = parts.scheme in _SCHEMES and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_usable = False
    if not is_usable:
        raise no_proxy(url)


def no_proxy(url: str) -> UsageError:
    """The error of what cannot be a proxy, with the one that was meant."""
    from microwallet.escrow.transport import redacted

    user, at, host = ("", "", url) if "://" in url else url.rpartition("@")
    meant = whole_url(host, otherwise=_EXAMPLE, is_clear=True)
    if url.startswith("socks") and "://" in url:
        meant = f"socks5://{meant.partition('://')[2]}"
    elif at and meant != _EXAMPLE:
        meant = f"http://{user}@{host}"
    return UsageError(
        f"{redacted(url)!r} is no proxy: http://, https:// or socks5:// and a host are expected",
        hint=f"--proxy {SecretWords().quoted('proxy', meant)}",
    )
