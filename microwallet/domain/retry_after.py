"""How long whoever answers wants to be left alone: RFC 9110, section 10.2.3."""

from __future__ import annotations

_MOST_DIGITS = 9


def retry_after_seconds(field: str | None) -> int | None:
    """The seconds of a Retry-After; None where there is none, or a date, for which nobody here would wait."""
    if field and field.isascii() and field.isdigit() and len(field) <= _MOST_DIGITS:
        return int(field)
    return None
