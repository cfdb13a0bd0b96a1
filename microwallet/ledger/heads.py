"""Where the account of a channel is, and where what its vouchers bought is found.

A commit costs as much as the pages it changes. What is sold is appended, to pages that it shares with what
others bought. A sale by its channel's best voucher holds the channel's account after it, and names the one
before it: a chain, whose last is in `heads`, of which hundreds share a page. Older ones are found from the
`landmarks` above them: each LANDMARK_EVERYth of the chain, and each sale by a voucher that was not the best.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from typing import NamedTuple

from microwallet.domain.identifiers import ChannelId
from microwallet.ledger.database import to_text

LANDMARK_EVERY = 32
"""At most so many sales are read to find one."""


class Head(NamedTuple):
    """The last sale of a channel's chain."""

    id: int | None = None
    """In `heads`; None before the first sale."""
    position: int | None = None
    """Of that sale."""
    number: int = 0
    """Of sales in the chain."""
    holds_account: bool = False
    """Whether it holds the channel's account, and not the row in `vouchers`."""

    @property
    def is_landmark(self) -> bool:
        """Whether it is found by itself."""
        return self.number % LANDMARK_EVERY == 0

    def after(self, position: int) -> Head:
        """The head once the sale at `position` is added to the chain."""
        return Head(self.id, position, self.number + 1, holds_account=True)


class Found(NamedTuple):
    """Where a voucher is among the sales of its channel."""

    position: int | None
    """Of its sale; None if there is none."""
    below: int | None
    """Of the sale in the chain by the next lower voucher, if there is one; only if it has none itself."""


def find(
    connection: sqlite3.Connection, channel_id: ChannelId, cumulative_amount: int, head: int | None
) -> Found:
    """Find the sale of a voucher, from the next landmark above it; where there is none, from `head`, the
    position of the chain's last sale."""
    amount = to_text(cumulative_amount)
    landmark = connection.execute(
        """SELECT position FROM landmarks WHERE channel_id = ? AND cumulative_amount >= ?
        ORDER BY cumulative_amount LIMIT 1""",
        (channel_id, amount),
    ).fetchone()
    found = connection.execute(
        """WITH RECURSIVE chain AS (
            SELECT position, cumulative_amount, previous FROM sales WHERE position = :start
            UNION ALL SELECT s.position, s.cumulative_amount, s.previous
            FROM chain AS c JOIN sales AS s ON s.position = c.previous WHERE c.cumulative_amount > :amount)
        SELECT position, cumulative_amount FROM chain WHERE cumulative_amount <= :amount LIMIT 1""",
        {"start": landmark[0] if landmark else head, "amount": amount},
    ).fetchone()
    if found is None:
        return Found(None, None)
    position, its_amount = found
    return Found(position, None) if its_amount == amount else Found(None, position)


def move_accounts(connection: sqlite3.Connection, channel_ids: Iterable[ChannelId]) -> None:
    """Have `vouchers` hold the accounts of channels, to be changed there; in a write transaction.

    Whoever remembers accounts reads them again if any was moved.
    """
    moved = 0
    for channel_id in channel_ids:
        moved += connection.execute(
            """UPDATE vouchers SET authorized = s.cumulative_amount, spent = s.spent, stream = s.stream,
                signature = s.signature, accepted_at = s.created_at
            FROM heads AS h JOIN sales AS s USING (position)
            WHERE vouchers.channel_id = ? AND h.id = vouchers.head AND h.holds_account""",
            (channel_id,),
        ).rowcount
        connection.execute(
            "UPDATE heads SET holds_account = 0 WHERE id = (SELECT head FROM vouchers WHERE channel_id = ?)",
            (channel_id,),
        )
    if moved:
        connection.execute("UPDATE generation SET changes = changes + 1")
