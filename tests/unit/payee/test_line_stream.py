"""Lines out of a stream: the limit at its boundary, and what comes at the end."""

from __future__ import annotations

import io

import pytest

from microwallet.domain.voucher_document import LINE_LIMIT
from microwallet.payee.line_stream import CHUNK, batches


def taken(content):
    """All lines, and how many were too long."""
    found = list(batches(io.BytesIO(content).read))
    return [line for batch in found for line in batch.lines], sum(len(batch.too_long) for batch in found)


@pytest.mark.parametrize("length", [LINE_LIMIT - 1, LINE_LIMIT, LINE_LIMIT + 1, CHUNK, CHUNK * 3 + 1])
@pytest.mark.parametrize("end", [b"", b"\n", b"\nlast", b"\nlast\n"])
def test_the_limit(length, end):
    """A line of exactly the limit is kept; one byte more is counted once, wherever the stream ends."""
    long = b"x" * length
    lines, too_long = taken(b"first\n" + long + end)
    fits = length <= LINE_LIMIT
    assert too_long == (not fits)
    assert lines == [b"first", *([long] if fits else []), *([b"last"] if b"last" in end else [])]


def test_blank_lines_are_nothing():
    """Empty lines, and lines of white space, as editors and shells leave them."""
    assert taken(b"\n\n a \r\n\t\n   ") == ([b" a \r"], 0)
    assert taken(b"") == ([], 0)


def test_lines_come_as_they_arrive():
    """A batch is given before the next is read: a slow payer's voucher is not kept waiting."""
    pieces = iter([b"one\ntw", b"o\nthree\n", b""])
    stream = batches(lambda _: next(pieces))
    assert next(stream).lines == [b"one"]
    assert next(stream).lines == [b"two", b"three"]
