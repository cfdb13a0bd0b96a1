"""Parsing JSON that somebody else wrote."""

from __future__ import annotations

import json
import sys
from typing import Any

NESTING_LIMIT = 1500
"""The recursion limit while JSON is parsed: Python frames and JSON levels together. Libraries for elliptic
curves raise the interpreter's own so far that deeply nested JSON would overflow the C stack."""


def parse_json(text: bytes | str) -> Any:
    """The value of a JSON document in UTF-8; ValueError for anything else, however deeply nested."""
    if isinstance(text, bytes):
        text = text.decode()
    limit = sys.getrecursionlimit()
    try:
        if limit > NESTING_LIMIT:
            sys.setrecursionlimit(NESTING_LIMIT)
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    finally:
        if limit > NESTING_LIMIT:
            sys.setrecursionlimit(limit)
