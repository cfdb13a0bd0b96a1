"""Digests that bind a challenge to a request body: `Content-Digest` of RFC 9530."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Mapping

from microwallet.errors import MalformedMessage

ALGORITHMS = {"sha-256": hashlib.sha256, "sha-512": hashlib.sha512}
"""What RFC 9530 calls active; others are passed over."""
_LIMIT = 1024
_MEMBER = re.compile(r"([a-z*][a-z0-9_.*-]*)=(:?)([A-Za-z0-9+/]*={0,2})\2")
"""Also without the colons, as other implementations of the Payment scheme write it."""


def body_digest(body: bytes) -> str:
    """The SHA-256 of a body as a dictionary with one member."""
    return f"sha-256=:{base64.b64encode(hashlib.sha256(body).digest()).decode()}:"


def parse_digest(text: str) -> Mapping[str, bytes]:
    """Digests by algorithm, known or not; MalformedMessage if it is no dictionary of byte sequences."""
    members = [_MEMBER.fullmatch(part.strip(" \t")) for part in text[: _LIMIT + 1].split(",")]
    if len(text) > _LIMIT or None in members:
        raise MalformedMessage(f"{text[:80]!r} is no digest as RFC 9530 writes it")
    try:
        return {one[1]: base64.b64decode(one[3], validate=True) for one in members if one is not None}
    except binascii.Error as error:
        raise MalformedMessage(f"{text[:80]!r} holds what is not base64") from error


def matches(text: str, body: bytes) -> bool:
    """Whether every digest of a known algorithm is that of `body`, and there is one."""
    known = {name: value for name, value in parse_digest(text).items() if name in ALGORITHMS}
    return bool(known) and all(
        hmac.compare_digest(ALGORITHMS[name](body).digest(), value) for name, value in known.items()
    )
