"""Payments that were handed over as vouchers: each base unit of them is counted once.

A channel's cumulative amount grows by payments that are handed over and by requests that are paid over HTTP.
A voucher above all before pays for all up to it. One that comes after a better one, which may have been a
request's, pays for what its own payment added, up to it, so far as that was not counted before.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

Range = tuple[int, int]
"""Base units of the cumulative amount above the first number, up to the second."""


class Counted(Protocol):
    """Which base units of one channel were counted; none above what is authorized."""

    def gap(self, start: int, end: int) -> Range | None:
        """The first part between `start` and `end` that was not; None if all was."""

    def add(self, start: int, end: int) -> None:
        """Add a part that was not."""


@dataclass(slots=True, kw_only=True)
class HandedOver:
    """What a payee holds of one channel, and which part of it was handed over."""

    authorized: int
    spent: int
    counted: Counted

    def count(self, cumulative_amount: int, payment_start: int) -> int:
        """Count a voucher, of a payment that went on from `payment_start`: the base units it pays for.

        No more than is authorized and not spent. What it takes does not grow with what was counted before:
        a payer can make that as scattered as he likes.
        """
        before = self.spent
        if cumulative_amount > self.authorized:
            self._add(self.authorized, cumulative_amount)
            self.authorized = cumulative_amount
            return self.spent - before
        start = payment_start
        while (room := self.authorized - self.spent) > 0:
            gap = self.counted.gap(start, cumulative_amount)
            if gap is None:
                break
            start = min(gap[1], gap[0] + room)
            self._add(gap[0], start)
        return self.spent - before

    def _add(self, start: int, end: int) -> None:
        self.counted.add(start, end)
        self.spent += end - start
