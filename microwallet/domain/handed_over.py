"""Payments that were handed over as vouchers: each base unit of them is counted once.

A channel's cumulative amount grows by payments that are handed over and by requests that are paid over HTTP.
A voucher above all before pays for all up to it. One that comes after a better one, which may have been a
request's, pays for what its own payment added, up to it, so far as that was not counted before.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

Range = tuple[int, int]
"""Base units of the cumulative amount above the first number, up to the second."""


@dataclass(slots=True, kw_only=True)
class HandedOver:
    """What a payee holds of one channel, and which part of it was handed over."""

    authorized: int
    spent: int
    ranges: list[Range]
    """What was counted, in order; no two touch."""

    def count(self, cumulative_amount: int, payment_start: int) -> int:
        """Count a voucher, of a payment that went on from `payment_start`: the base units it pays for.

        No more than is authorized and not spent.
        """
        start = payment_start
        if cumulative_amount > self.authorized:
            start, self.authorized = self.authorized, cumulative_amount
        counted = 0
        for first, last in list(_gaps(self.ranges, start, cumulative_amount)):
            part = min(last - first, self.authorized - self.spent)
            if part:
                add_range(self.ranges, first, first + part)
                self.spent += part
                counted += part
        return counted


def add_range(ranges: list[Range], start: int, end: int) -> None:
    """Add a range that overlaps none of the others, joined to those it touches."""
    at = bisect_left(ranges, (start, end))
    if at < len(ranges) and ranges[at][0] == end:
        end = ranges.pop(at)[1]
    if at and ranges[at - 1][1] == start:
        at -= 1
        start = ranges.pop(at)[0]
    ranges.insert(at, (start, end))


def _gaps(ranges: Sequence[Range], start: int, end: int) -> Iterator[Range]:
    """What is between `start` and `end` in none of the ranges."""
    at = max(0, bisect_left(ranges, (start, start)) - 1)
    while start < end:
        first, last = ranges[at] if at < len(ranges) else (end, end)
        if first > start:
            yield start, min(first, end)
        start, at = max(start, last), at + 1
