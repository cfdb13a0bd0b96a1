"""The base units of a channel's cumulative amount that were counted as payments, stored as ranges.

Implements domain.handed_over.Counted row by row, as a payer can make as many ranges as he likes.
"""

from __future__ import annotations

import sqlite3

from microwallet.domain.handed_over import Range
from microwallet.domain.identifiers import ChannelId
from microwallet.ledger.database import to_text


class CountedRows:
    """What was counted of one channel, inside one write transaction that ends with `store`."""

    def __init__(self, connection: sqlite3.Connection, channel_id: ChannelId) -> None:
        self._connection = connection
        self._channel_id = channel_id
        self._new: Range | None = None
        """Not stored yet: most vouchers begin where the one before ended, so it often grows."""

    def gap(self, start: int, end: int) -> Range | None:
        """The first range between `start` and `end` that is not counted yet; None if all is."""
        self.store()
        while (row := self._at_or_below(start)) is not None and row[1] > start:
            start = row[1]
        above: str | None = self._connection.execute(
            "SELECT min(above) FROM handed_over WHERE channel_id = ? AND above > ?",
            (self._channel_id, to_text(start)),
        ).fetchone()[0]
        end = end if above is None else min(end, int(above))
        return (start, end) if start < end else None

    def add(self, start: int, end: int) -> None:
        """Count a range that was not counted yet."""
        if self._new is not None and self._new[1] == start:
            start = self._new[0]
        else:
            self.store()
        self._new = (start, end)

    def store(self) -> None:
        """Store what was added, joined to the ranges it touches."""
        if self._new is None:
            return
        (start, end), self._new = self._new, None
        before = self._at_or_below(start)
        if before is not None and before[1] == start:
            start = before[0]
        after = self._connection.execute(
            "DELETE FROM handed_over WHERE channel_id = ? AND above = ? RETURNING up_to",
            (self._channel_id, to_text(end)),
        ).fetchone()
        self._connection.execute(
            "INSERT INTO handed_over VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET up_to = excluded.up_to",
            (self._channel_id, to_text(start), to_text(end) if after is None else after[0]),
        )

    def _at_or_below(self, start: int) -> Range | None:
        """The last range that begins no later than `start`."""
        row = self._connection.execute(
            """SELECT above, up_to FROM handed_over WHERE channel_id = ? AND above <= ?
            ORDER BY above DESC LIMIT 1""",
            (self._channel_id, to_text(start)),
        ).fetchone()
        return None if row is None else (int(row[0]), int(row[1]))
