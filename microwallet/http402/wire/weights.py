"""Weights, by which a client says how much it wants what it can take. RFC 9110, section 12.4.2."""

from __future__ import annotations

WEIGHT = r"[ \t]*;[ \t]*[qQ]=(?P<weight>0(?:\.\d{0,3})?|1(?:\.0{0,3})?)"
"""A regular expression of a weight and the semicolon before it; to be matched as ASCII."""


def thousandths(weight: str | None) -> int:
    """What WEIGHT matched, 0 to 1000; without a weight, 1000."""
    whole, _, fraction = (weight or "1").partition(".")
    return int(whole) * 1000 + int(fraction.ljust(3, "0"))
