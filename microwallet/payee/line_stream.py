"""Lines from a pipe or a file: in batches as they arrive, never more of one than a line may have."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from microwallet.domain.voucher_document import LINE_LIMIT
from microwallet.payee.accept import Rejection

CHUNK = 256 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Lines that arrived together, and how many others were too long to keep."""

    lines: list[bytes]
    too_long: int


class Taking(Protocol):
    """What lines of vouchers are for: an acceptance or a restoration."""

    def take(self, lines: list[bytes]) -> None:
        """Verify a batch of lines, and commit what is in order."""

    def reject(self, reason: Rejection) -> None:
        """Count a line that could not even be read."""


def take_all(taking: Taking, read: Callable[[int], bytes]) -> None:
    """Feed everything that `read` gives to an acceptance or a restoration, batch by batch."""
    for batch in batches(read):
        for _ in range(batch.too_long):
            taking.reject(Rejection.TOO_LONG)
        taking.take(batch.lines)


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
