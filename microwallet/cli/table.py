"""Text for people: tables with columns as wide as they need to be, and lists of named values."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterable, Sequence


def table(headers: Sequence[str], rows: Iterable[Sequence[str]], *, right: Iterable[str] = ()) -> str:
    """Rows under headers; the columns named in `right` are right-aligned.

    Two spaces between columns, one where a terminal is too narrow for two.
    """
    lines = [list(headers), *(list(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(headers))]
    aligned_right = set(right)
    too_wide = sum(widths) + 2 * (len(widths) - 1) > shutil.get_terminal_size().columns
    gap = " " if too_wide and sys.stdout.isatty() else "  "
    return "\n".join(
        gap.join(
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
