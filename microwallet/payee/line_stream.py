"""Lines from a pipe or a file: in batches as they arrive, never more of one than a line may have."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from microwallet.domain.voucher_document import LINE_LIMIT
from microwallet.payee.tally import Rejection, Tally

CHUNK = 256 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Lines that arrived together, and their numbers in the input; the numbers of those too long to keep."""

    lines: list[bytes]
    numbers: list[int]
    too_long: list[int]


class Taking(Protocol):
    """What lines of vouchers are for: an acceptance or a restoration."""

    tally: Tally

    def take(self, lines: list[bytes], numbers: list[int]) -> None:
        """Verify a batch of lines, and commit what is in order."""


def take_all(taking: Taking, read: Callable[[int], bytes]) -> None:
    """Feed everything that `read` gives to an acceptance or a restoration, batch by batch."""
    for batch in batches(read):
        too_long = Tally()
        for number in batch.too_long:
            too_long.reject(number, Rejection.TOO_LONG)
        taking.take(batch.lines, batch.numbers)
        taking.tally.add(too_long)


def batches(read: Callable[[int], bytes]) -> Iterator[Batch]:
    """The lines `read` gives, blank ones left out; `read` returns b"" at the end.

    Memory stays bounded whatever comes: a line beyond LINE_LIMIT is dropped as it streams by.
    """
    rest, number = b"", 1  # the line that is not complete yet
    skipping = False
    while chunk := read(CHUNK):
        *complete, rest = (rest + chunk).split(b"\n")
        numbered = list(enumerate(complete, start=number))
        number += len(complete)
        if skipping and complete:
            numbered = numbered[1:]
            skipping = False
        elif skipping:
            rest = b""
        too_long = [at for at, line in numbered if len(line) > LINE_LIMIT]
        if len(rest) > LINE_LIMIT:
            rest, skipping = b"", True
            too_long.append(number)
        kept = [(at, line) for at, line in numbered if len(line) <= LINE_LIMIT and line.strip()]
        yield Batch(lines=[line for _, line in kept], numbers=[at for at, _ in kept], too_long=too_long)
    if rest.strip():
        yield Batch(lines=[rest], numbers=[number], too_long=[])
