"""JSON from others: deep nesting is an error, never a crash, whatever was imported before."""

import sys

import pytest

from microwallet.domain.json_text import parse_json

IS_ONE_LIMIT = sys.version_info < (3, 12)
"""Whether frames of Python and levels of JSON are counted together."""


@pytest.mark.parametrize("opening", [b"[", b'{"a":'])
def test_nested_too_deeply(opening):
    """A million brackets are a ValueError, even where a library raised the recursion limit."""
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(100_000)
    try:
        with pytest.raises(ValueError, match="nested too deeply"):
            parse_json(opening * 1_000_000)
        assert sys.getrecursionlimit() == 100_000
    finally:
        sys.setrecursionlimit(before)


def test_plain_documents():
    """Ordinary documents are parsed as json does."""
    assert parse_json('{"a": [1, "2", null]}') == {"a": [1, "2", None]}
    with pytest.raises(ValueError, match="Expecting"):
        parse_json("nope")


def test_a_short_text_is_nested_too_deeply_as_well():
    """Where no library has raised the interpreter's limit, a few hundred bytes reach it; from Python 3.12 on
    levels of JSON do not count for that."""
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(1000)
    try:
        with pytest.raises(ValueError, match="nested too deeply" if IS_ONE_LIMIT else "Expecting"):
            parse_json(b"[" * 1400)
    finally:
        sys.setrecursionlimit(before)
