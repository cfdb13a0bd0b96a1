"""Payments that arrive as vouchers, outside of HTTP: each base unit of them is counted once.

Both such payments and requests over HTTP raise a channel's cumulative amount, and vouchers may arrive out of
order. A voucher higher than all before it pays for the whole rise. A lower one, which arrives late, pays for
the range from the start of its own payment up to its amount, less the parts of it that were counted already.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

Range = tuple[int, int]
"""Base units of the cumulative amount above the first number, up to the second."""


class Counted(Protocol):
    """The base units of one channel that were counted; none above what is authorized."""

    def gap(self, start: int, end: int) -> Range | None:
        """The first range between `start` and `end` that is not counted yet; None if all is."""

    def add(self, start: int, end: int) -> None:
        """Count a range that was not counted yet."""


@dataclass(slots=True, kw_only=True)
class HandedOver:
    """What a payee has accepted on one channel, and which base units of it are counted as payments."""

    authorized: int
    spent: int
    counted: Counted

    def count(self, cumulative_amount: int, payment_start: int) -> int:
        """Count a voucher of a payment that began at `payment_start`; the base units it pays for.

        Never more than what is authorized and not spent. Gaps are looked up one by one: a payer can scatter
        what was counted over as many ranges as he likes, and all of them are never read.
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
