"""Text for people: tables with columns as wide as they need to be, and lists of named values."""

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


def named(pairs: Iterable[tuple[str, object]]) -> str:
    """One value a line under its name, values in one column; further lines of a value below it."""
    lines = [(name, str(value)) for name, value in pairs]
    width = max(len(name) for name, _ in lines) + 2
    below = "\n" + " " * width
    return "\n".join(f"{name:<{width}}{value.replace(chr(10), below)}".rstrip() for name, value in lines)
