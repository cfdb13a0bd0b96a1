"""JSON objects in header fields: canonical (RFC 8785), in base64url without padding (RFC 4648, section 5)."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Mapping
from typing import Any

import rfc8785

from microwallet.domain.json_text import parse_json
from microwallet.errors import MalformedMessage

_BASE64URL = re.compile(r"[A-Za-z0-9_-]+")


def base64url(raw: bytes) -> str:
    """Base64url without padding."""
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def encode_object(value: Mapping[str, Any]) -> str:
    """A JSON object as it goes into a field."""
    if all(type(name) is str and name.isascii() and type(one) is str for name, one in value.items()):
        # Nothing but text under plain names: canonical once it is sorted, and ten times as fast.
        text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
        return base64url(text.encode())
    return base64url(rfc8785.dumps(dict(value)))


def decode_object(text: str, *, what: str, limit: int) -> dict[str, Any]:
    """The JSON object in a field of at most `limit` characters; MalformedMessage names it as `what`."""
    if len(text) > limit:
        raise MalformedMessage(f"the {what} has {len(text)} characters; {limit} are the most")
    if _BASE64URL.fullmatch(text) is None:
        raise MalformedMessage(f"the {what} is not base64url without padding")
    try:
        raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except binascii.Error as error:
        raise MalformedMessage(f"the {what} is not base64url") from error
    return json_object(raw, what=what)


def json_object(text: bytes | str, *, what: str) -> dict[str, Any]:
    """The JSON object in a text; MalformedMessage names it as `what`."""
    try:
        if isinstance(text, bytes):
            text = text.decode()
        value = parse_json(text)
        if "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode()  # fails for half a surrogate pair: no text
    except (ValueError, RecursionError) as error:
        raise MalformedMessage(f"the {what} is not JSON") from error
    if not isinstance(value, dict):
        raise MalformedMessage(f"the {what} is no JSON object")
    return value
