"""Points in time as header fields carry them: RFC 3339."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from functools import lru_cache

from microwallet.errors import MalformedMessage

_RFC3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)", re.ASCII)


@lru_cache(maxsize=16)
def rfc3339(seconds: int) -> str:
    """Unix seconds as text, in UTC."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_rfc3339(text: str) -> int:
    """Unix seconds, fractions cut off; MalformedMessage for anything else."""
    if _RFC3339.fullmatch(text) is None:
        raise MalformedMessage(f"{text[:40]!r} is not an RFC 3339 date and time")
    try:
        return int(datetime.fromisoformat(text.upper()).timestamp() // 1)
    except (ValueError, OverflowError) as error:
        raise MalformedMessage(f"{text[:40]!r} is no point in time") from error
