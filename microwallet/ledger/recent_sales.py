"""Carrying recent sales over into the tables that are looked up by channel.

A commit costs as much as the pages it changes. What is sold goes into rows that share their pages, and
hundreds of them are put into their places at once.
"""

from __future__ import annotations

import sqlite3

MOST_RECENT = 256
"""Sales that are recent at most, but for those of one transaction."""


def carry_over_many(connection: sqlite3.Connection) -> None:
    """Carry recent sales over if there are MOST_RECENT of them; for use in a write transaction."""
    position: int | None = connection.execute("SELECT max(position) FROM recent_sales").fetchone()[0]
    if position is not None and position >= MOST_RECENT:  # they are numbered from 1 again after each time
        carry_over(connection)


def carry_over(connection: sqlite3.Connection) -> None:
    """Carry all recent sales over; for use in a write transaction."""
    connection.execute(
        """INSERT INTO sales (channel_id, cumulative_amount, cost, idempotency_key, fingerprint, answer,
            created_at, repeats, settled)
        SELECT channel_id, cumulative_amount, cost, idempotency_key, fingerprint, answer, created_at, repeats,
            settled
        FROM recent_sales ORDER BY channel_id, cumulative_amount"""
    )
    connection.execute(
        """UPDATE vouchers SET authorized = r.authorized, spent = r.spent, stream = r.stream,
            signature = r.signature, accepted_at = r.created_at
        FROM (SELECT channel_id, max(position), authorized, spent, stream, signature, created_at
            FROM recent_sales GROUP BY channel_id) AS r WHERE r.channel_id = vouchers.channel_id"""
    )
    connection.execute("DELETE FROM recent_sales")
