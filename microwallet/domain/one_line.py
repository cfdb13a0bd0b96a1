"""The words of somebody else, made safe to show."""

from __future__ import annotations

_MOST = 300


def one_line(text: str) -> str:
    """As it is, without what a terminal would obey, on one line and of at most 300 characters."""
    return printable(text[:_MOST])


def printable(text: str) -> str:
    """All of it on one line, without what a terminal would obey."""
    return "".join(char if char.isprintable() else " " for char in text)
