"""Tables of text: as wide as they need to be, and no wider than the terminal where that can be had."""

from __future__ import annotations

import io
import sys

import pytest

from microwallet.cli.table import table

HEADERS = ("NAME", "AMOUNT", "STATUS")
ROWS = [("coffee", "10", "withdrawable")]


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_columns_stand_two_spaces_apart():
    """In a pipe whatever the width is said to be."""
    assert table(HEADERS, ROWS, right=["AMOUNT"]).splitlines() == [
        "NAME    AMOUNT  STATUS",
        "coffee      10  withdrawable",
    ]


@pytest.mark.parametrize(("columns", "apart"), [(28, "  "), (27, " ")])
def test_a_terminal_too_narrow_brings_columns_together(columns, apart, monkeypatch):
    """A line that would wrap by a few letters does not."""
    monkeypatch.setattr(sys, "stdout", _Terminal())
    monkeypatch.setenv("COLUMNS", str(columns))
    assert table(HEADERS, ROWS).splitlines()[1] == apart.join(("coffee", "10    ", "withdrawable"))
