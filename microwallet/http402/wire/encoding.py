"""JSON objects in header fields: canonical (RFC 8785), in base64url without padding (RFC 4648, section 5)."""

from __future__ import annotations

import binascii
from collections.abc import Mapping
from typing import Any

import orjson
import rfc8785

from microwallet.errors import MalformedMessage

_TO_URL = bytes.maketrans(b"+/", b"-_")
_FROM_URL = bytes.maketrans(b"-_+/=", b"+/!!!")
"""What is of base64 alone becomes what is of neither."""
_PADDING = (b"", b"===", b"==", b"=")
"""By the characters beyond a whole four; one alone stands for nothing."""


def base64url(raw: bytes) -> str:
    """Base64url without padding."""
    return binascii.b2a_base64(raw, newline=False).translate(_TO_URL, b"=").decode()


def from_base64url(text: bytes) -> bytes:
    """What is in base64url without padding; ValueError if it is not."""
    return binascii.a2b_base64(text.translate(_FROM_URL) + _PADDING[len(text) % 4], strict_mode=True)


def encode_object(value: Mapping[str, Any]) -> str:
    """A JSON object as it goes into a field."""
    if all(type(name) is str and name.isascii() and type(one) is str for name, one in value.items()):
        # Nothing but text under plain names: canonical once it is sorted, and ten times as fast.
        return base64url(orjson.dumps(value, option=orjson.OPT_SORT_KEYS))
    return base64url(rfc8785.dumps(dict(value)))


def decode_object(text: str, *, what: str, limit: int) -> dict[str, Any]:
    """The JSON object in a field of at most `limit` characters; MalformedMessage names it as `what`."""
    if len(text) > limit:
        raise MalformedMessage(f"the {what} has {len(text)} characters; {limit} are the most")
    try:
        raw = from_base64url(text.encode())
    except ValueError as error:
        raise MalformedMessage(f"the {what} is not base64url without padding") from error
    return json_object(raw, what=what)


def json_object(text: bytes | str, *, what: str) -> dict[str, Any]:
    """The JSON object in a text; MalformedMessage names it as `what`."""
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise MalformedMessage(f"the {what} is not JSON") from error
    if not isinstance(value, dict):
        raise MalformedMessage(f"the {what} is no JSON object")
    return value
