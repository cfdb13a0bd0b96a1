"""Tables for people: columns as wide as they need to be, numbers to the right."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def table(headers: Sequence[str], rows: Iterable[Sequence[str]], *, right: Iterable[str] = ()) -> str:
    """Rows under headers, two spaces between columns; the columns named in `right` are right-aligned."""
    lines = [list(headers), *(list(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(headers))]
    aligned_right = set(right)
    return "\n".join(
        "  ".join(
            cell.rjust(width) if header in aligned_right else cell.ljust(width)
            for header, width, cell in zip(headers, widths, line, strict=True)
        ).rstrip()
        for line in lines
    )
