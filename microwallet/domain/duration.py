"""Durations as people write them."""

from __future__ import annotations

import re
from datetime import timedelta

from microwallet.errors import UsageError

_MILLISECONDS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_PART = re.compile(r"([0-9]{1,9})(ms|[smhd])", re.ASCII)
_DURATION = re.compile(rf"(?:{_PART.pattern})+|[0-9]{{1,9}}", re.ASCII)
_HINT = "write it like 900, 90s, 15m, 1h30m or 2d"


def parse_duration(text: str) -> timedelta:
    """The time that a text such as 500ms, 90s, 1h30m or 2d means; a bare number is seconds.

    UsageError for anything else.
    """
    given = text.strip()
    if _DURATION.fullmatch(given) is None:
        raise UsageError(f"{text[:40]!r} is not a duration", hint=_HINT)
    if given.isdigit():
        given += "s"
    parts = _PART.findall(given)
    try:
        return timedelta(milliseconds=sum(int(number) * _MILLISECONDS[unit] for number, unit in parts))
    except OverflowError as error:
        raise UsageError(f"{text[:40]!r} is longer than any clock counts", hint=_HINT) from error


def whole_seconds(text: str, *, least: int = 0) -> int:
    """The same in seconds; UsageError where it is no whole number of them, or less than `least`."""
    seconds, rest = divmod(parse_duration(text), timedelta(seconds=1))
    if rest:
        raise UsageError(f"{text[:40]!r} is not a whole number of seconds", hint=_HINT)
    if seconds < least:
        raise UsageError(f"{text[:40]!r} is less than {least} s", hint=_HINT)
    return seconds
