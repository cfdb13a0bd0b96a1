"""Durations: one grammar for every command and file."""

from __future__ import annotations

from datetime import timedelta

import pytest

from microwallet.domain.duration import parse_duration, whole_seconds
from microwallet.errors import UsageError


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0),
        ("0s", 0),
        ("1s", 1),
        ("90s", 90),
        ("900", 900),
        ("15m", 900),
        ("1h30m", 5400),
        ("2h", 7200),
        ("2d", 172_800),
    ],
)
def test_durations(text, seconds):
    """Whole numbers with their units, one after the other; a bare number is seconds."""
    assert parse_duration(text) == timedelta(seconds=seconds)
    assert whole_seconds(f" {text} ") == seconds


@pytest.mark.parametrize(("text", "milliseconds"), [("10ms", 10), ("1s500ms", 1500), ("1m1ms", 60_001)])
def test_parts_of_a_second(text, milliseconds):
    """Milliseconds are a unit, never mistaken for minutes; where whole seconds count they are refused."""
    assert parse_duration(text) == timedelta(milliseconds=milliseconds)
    with pytest.raises(UsageError, match="whole number of seconds"):
        whole_seconds(text)


@pytest.mark.parametrize(
    "text",
    ["", " ", "-1s", "-5", "1.5h", "1 h", "1y", "m", "5m3", "1e3", "1M", "٣s", "²", "1s\n2s", "9999999999"],
)
def test_no_durations(text):
    """Anything else is refused, with what would be one."""
    with pytest.raises(UsageError, match="is not a duration") as refused:
        parse_duration(text)
    assert "1h30m" in refused.value.hint


def test_longer_than_any_clock():
    """What no clock counts is refused, not an overflow."""
    with pytest.raises(UsageError, match="longer than any clock"):
        parse_duration("999999999d" * 2)


def test_a_least_time():
    """Where no time at all makes no sense it is refused, and the least is not."""
    assert whole_seconds("1s", least=1) == 1
    with pytest.raises(UsageError, match="less than 1 s"):
        whole_seconds("0m", least=1)
