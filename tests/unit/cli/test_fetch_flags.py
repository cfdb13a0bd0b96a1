"""What the flags of `fetch` mean."""

from __future__ import annotations

from dataclasses import fields

import pytest

from microwallet.cli.fetch_flags import FetchFlags
from microwallet.errors import UsageError


def seconds(timeout):
    """How long each wait may last by a `--timeout`."""
    named = {field.name: None for field in fields(FetchFlags)}
    return FetchFlags(**named | {"timeout": timeout}).seconds


@pytest.mark.parametrize(
    ("timeout", "meant"), [(None, 30), ("5", 5), ("0.5", 0.5), ("5s", 5), ("500ms", 0.5), ("1m30s", 90)]
)
def test_a_timeout_is_seconds_or_a_duration(timeout, meant):
    """Plain seconds as curl takes them, or what other commands call a duration."""
    assert seconds(timeout) == meant


@pytest.mark.parametrize("timeout", ["0", "0s", "-1", "nan", "inf", "x", "5 s", "5sec", "100d", ""])
def test_a_timeout_that_is_none(timeout):
    """The message has what was typed, the hint what works."""
    with pytest.raises(UsageError, match="--timeout is") as refused:
        seconds(timeout)
    assert refused.value.hint == "--timeout 30s"
