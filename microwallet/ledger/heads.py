"""Where a channel's account is stored, and how the sale of one of its vouchers is found.

A commit costs as much as the pages it changes, so a sale changes few. Its row is appended to `sales`, on a
page that it shares with other channels' sales, and holds the channel's account as it is after the sale. It
also names the channel's sale before it. These chains of sales begin in `heads`, hundreds of which share a
page.

Only a sale by the highest voucher so far joins the chain. An older sale is found by walking down the chain
from the next row of `landmarks`: there is one for every LANDMARK_EVERY sales of a chain, and one for each
sale by a voucher that was not the highest.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from typing import NamedTuple

from microwallet.domain.identifiers import ChannelId
from microwallet.ledger.database import to_text

LANDMARK_EVERY = 32
"""How many sales are read at most to find one."""


class Head(NamedTuple):
    """The last sale of a channel's chain."""

    id: int | None = None
    """In `heads`; None before the first sale."""
    position: int | None = None
    """Of that sale."""
    number: int = 0
    """How many sales the chain has."""
    holds_account: bool = False
    """Whether the channel's account is in this sale; else it is in the row in `vouchers`."""

    @property
    def is_landmark(self) -> bool:
        """Whether its last sale has a row in `landmarks`."""
        return self.number % LANDMARK_EVERY == 0

    def after(self, position: int) -> Head:
        """The head once the sale at `position` is added to the chain."""
        return Head(self.id, position, self.number + 1, holds_account=True)


class Found(NamedTuple):
    """Where the sale of a voucher is."""

    position: int | None
    """Of the sale; None if the voucher has bought nothing."""
    below: int | None
    """Then, of the sale in the chain by the next lower voucher; None if there is none."""


def find(
    connection: sqlite3.Connection, channel_id: ChannelId, cumulative_amount: int, head: int | None
) -> Found:
    """Find the sale of a voucher, going down from the next landmark above it; if there is none, from `head`,
    the position of the chain's last sale."""
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
    """Move the accounts of channels into `vouchers`, to be changed there; in a write transaction.

    If any was moved, all who remember accounts read them again.
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
