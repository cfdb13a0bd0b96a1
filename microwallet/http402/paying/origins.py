"""Whom a credential may be sent to: one origin, over a connection nobody listens to. RFC 6454, RFC 9110."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Self
from urllib.parse import urlsplit

from microwallet.errors import UsageError
from microwallet.http402.loopback import is_loopback

_DEFAULT_PORTS = {"http": 80, "https": 443}
_USER = re.compile(r"(?<=//)[^/?#]*@")
_EXAMPLE = "write it whole: https://example.com/path"


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Scheme, host and port: what was agreed with one is no agreement with another."""

    scheme: str
    host: str
    """In lowercase; an IPv6 address without brackets."""
    port: int

    @classmethod
    def of(cls, url: str) -> Self:
        """The origin of an absolute http or https URL that may be paid; UsageError for anything else."""
        origin = cls.named_in(url)
        if "@" in urlsplit(url).netloc:
            raise UsageError("no URL with a user name in it is paid", hint="use -H for credentials")
        return origin

    @classmethod
    def named_in(cls, url: str) -> Self:
        """As `of`, for any URL that may be asked: also one with a user name in it."""
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError as error:
            raise UsageError(f"{_shown(url)!r} cannot be read: {str(error)[:80]}", hint=_EXAMPLE) from error
        if parts.scheme not in _DEFAULT_PORTS or not host:
            raise UsageError(f"{_shown(url)!r} is no http or https URL", hint=_whole(url))
        if port is None:
            port = _DEFAULT_PORTS[parts.scheme]
        return cls(scheme=parts.scheme, host=host.rstrip("."), port=port)

    @property
    def is_private(self) -> bool:
        """Whether nobody in between reads what is sent: TLS, or this very machine."""
        return self.scheme == "https" or is_loopback(self.host)

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port == _DEFAULT_PORTS[self.scheme] else f":{self.port}"
        return f"{self.scheme}://{host}{port}"


def _shown(url: str) -> str:
    """A URL without what may be a password, as far as it is told."""
    return _USER.sub("", url, count=1)[:200]


def _whole(url: str) -> str:
    """A URL without a scheme is one whose scheme was left out; anything else is another thing."""
    host = re.match(r"[A-Za-z0-9.-]+(?=$|[:/?])", url)
    if "://" in url or host is None:
        return _EXAMPLE
    return f"write it whole: {'http' if is_loopback(host[0]) else 'https'}://{url[:200]}"
