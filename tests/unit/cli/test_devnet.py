"""Durations as people type them."""

import pytest

from microwallet.cli.devnet import _seconds
from microwallet.errors import UsageError


@pytest.mark.parametrize(
    ("typed", "seconds"), [("900", 900), ("90s", 90), ("15m", 900), ("1h30m", 5400), ("2d", 172800), ("0", 0)]
)
def test_durations_are_seconds_or_carry_units(typed, seconds):
    """A bare number is seconds; s, m, h and d add up."""
    assert _seconds(typed) == seconds


@pytest.mark.parametrize("typed", ["", "-5", "15 m", "1.5h", "m", "15x", "٣m", "1e3", "9999999999", "5m3"])
def test_anything_else_is_refused(typed):
    """What is no duration is a usage error, never a guess."""
    with pytest.raises(UsageError, match="duration"):
        _seconds(typed)
