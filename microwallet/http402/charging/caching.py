"""What caches are told of an answer that was paid for.

draft-httpauth-payment-00, section "Caching"; RFC 9111, section 5.2.
"""

from __future__ import annotations

import re
from functools import lru_cache

from microwallet.http402.wire.auth_fields import TCHARS

PRIVATE = (b"cache-control", b"private")
NO_STORE = (b"cache-control", b"no-store")

_DIRECTIVE = re.compile(rb"""(%b)(?:=(?:[^\s,"]+|"(?:[^"\\]|\\.)*"))?""" % TCHARS.encode())
_SEPARATOR = re.compile(rb"[ \t]*(?:,[ \t]*)+|[ \t]*\Z")
_OF_SHARED_CACHES = (b"public", b"private", b"s-maxage")
_FIELDS_OF_SHARED_CACHES = (b"cdn-cache-control", b"surrogate-control", b"edge-control", b"x-accel-expires")
"""Or what their names end with. RFC 9213, and those before it."""


@lru_cache(maxsize=64)
def kept_private(field: bytes) -> bytes:
    """A Cache-Control field of the application without what it says of shared caches, of which none keeps the
    answer: `private` is to go with it. What cannot be read might forbid more: it is `no-store`."""
    kept = []
    at = len(field) - len(field.lstrip(b" \t,"))
    while at < len(field):
        directive = _DIRECTIVE.match(field, at)
        separator = None if directive is None else _SEPARATOR.match(field, directive.end())
        if directive is None or separator is None:
            return b"no-store"
        if directive[1].lower() not in _OF_SHARED_CACHES:
            kept.append(directive[0])
        at = separator.end()
    return b", ".join(kept)


def is_for_shared_caches(name: bytes) -> bool:
    """Whether a field, its name in lowercase, is for caches that are shared, and counts more to them than
    Cache-Control."""
    return name.endswith(_FIELDS_OF_SHARED_CACHES)
