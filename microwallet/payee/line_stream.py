"""Lines from a pipe or a file: in batches as they arrive, never more of one than a line may have."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from microwallet.domain.voucher_document import LINE_LIMIT

CHUNK = 256 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Lines that arrived together, and how many others were too long to keep."""

    lines: list[bytes]
    too_long: int


def batches(read: Callable[[int], bytes]) -> Iterator[Batch]:
    """The lines `read` gives, blank ones left out; `read` returns b"" at the end.

    Memory stays bounded whatever comes: a line beyond LINE_LIMIT is dropped as it streams by.
    """
    rest = b""
    skipping = False
    while chunk := read(CHUNK):
        *complete, rest = (rest + chunk).split(b"\n")
        too_long = 0
        if skipping and complete:
            complete = complete[1:]
            skipping = False
        elif skipping:
            rest = b""
        if len(rest) > LINE_LIMIT:
            rest, skipping, too_long = b"", True, 1
        kept = [line for line in complete if len(line) <= LINE_LIMIT]
        too_long += len(complete) - len(kept)
        yield Batch(lines=[line for line in kept if line.strip()], too_long=too_long)
    if rest.strip():
        yield Batch(lines=[rest], too_long=0)
