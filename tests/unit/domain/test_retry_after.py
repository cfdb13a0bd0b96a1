"""How long a server wants to be left alone."""

from __future__ import annotations

import pytest

from microwallet.domain.retry_after import retry_after_seconds


@pytest.mark.parametrize(
    ("field", "seconds"),
    [
        ("0", 0),
        ("120", 120),
        ("999999999", 999_999_999),
        (None, None),
        ("", None),
        ("-1", None),
        ("1.5", None),
        ("٣", None),
        ("9" * 10, None),
        ("Wed, 21 Oct 2026 07:28:00 GMT", None),
    ],
)
def test_seconds_are_read(field, seconds):
    """Whole ones alone, and no number without end."""
    assert retry_after_seconds(field) == seconds
