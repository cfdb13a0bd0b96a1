"""Sales that are not yet counted and found where those of their channel are.

A commit costs as much as the pages it changes. What is sold is appended, to pages that it shares with what
others bought; hundreds of sales at once are then carried over: counted in `vouchers`, by channel, and found
in `used_vouchers`, by voucher.
"""

from __future__ import annotations

import sqlite3

from microwallet.domain.identifiers import ChannelId
from microwallet.domain.session import SessionAccount
from microwallet.ledger.database import Generation

MOST_RECENT = 512
"""Sales that are recent at most before it is time to carry them over."""
MOST_CHANNELS = 128
"""Channels with recent sales at most before that: each takes its time, for which everybody waits."""
ACCOUNTS_KEPT = 20_000
"""Accounts that need not be read again while nobody changes them elsewhere."""


def carry_over(connection: sqlite3.Connection) -> None:
    """Carry all recent sales over; for use in a write transaction."""
    connection.execute(
        """INSERT INTO used_vouchers SELECT channel_id, cumulative_amount, position FROM sales
        WHERE position > (SELECT carried_over FROM generation) ORDER BY channel_id, cumulative_amount"""
    )
    connection.execute(
        """UPDATE vouchers SET authorized = r.authorized, spent = r.spent, stream = r.stream,
            signature = r.signature, accepted_at = r.accepted_at
        FROM recent_accounts AS r WHERE r.channel_id = vouchers.channel_id"""
    )
    connection.execute(
        """UPDATE generation
        SET carried_over = max(carried_over, coalesce((SELECT max(position) FROM sales), 0))"""
    )


class RecentSales:
    """What one connection knows of accounts and recent sales, brought up to date in each transaction.

    What others have sold since is read, a row a sale; if they changed anything else, all is read again.
    """

    def __init__(self) -> None:
        self.accounts: dict[ChannelId, SessionAccount] = {}
        """As the rows are, as far as they are known."""
        self.heads: dict[ChannelId, int] = {}
        """Where a channel's last recent sale by its best voucher is, which holds its account."""
        self.positions: dict[tuple[ChannelId, int], int] = {}
        """Where recent sales are, by channel and cumulative amount."""
        self._last = 0
        self._carried_over = 0
        self._kept: Generation | None = None
        """What is known is right for; None where it may be wrong."""

    @property
    def are_many(self) -> bool:
        """Whether it is time to carry them over."""
        return len(self.positions) >= MOST_RECENT or len(self.heads) >= MOST_CHANNELS

    def refresh(self, connection: sqlite3.Connection, generation: Generation) -> None:
        """Learn what others did before a transaction of this generation.

        Until `keep`, what is known counts as wrong: the transaction may fail.
        """
        kept, self._kept = self._kept, None
        if len(self.accounts) > ACCOUNTS_KEPT:
            self.accounts.clear()
        if kept == generation._replace(number=generation.number - 1):  # nobody did anything
            return
        is_right = kept is not None and kept.changes == generation.changes
        known_until = self._last if is_right else generation.carried_over
        if not is_right:
            self.accounts.clear()
        if not is_right or generation.carried_over != self._carried_over:
            known_until = min(known_until, generation.carried_over)
            self._forget_recent(generation.carried_over)
        self._last = max(known_until, generation.carried_over)
        for row in connection.execute(
            """SELECT position, channel_id, cumulative_amount, spent, stream FROM sales
            WHERE position > ? ORDER BY position""",
            (known_until,),
        ):
            self._learn(*row)

    def keep(self, generation: Generation) -> None:
        """What is known is right after a transaction of this generation: it is committed."""
        self._kept = generation._replace(carried_over=self._carried_over)

    def add(self, channel_id: ChannelId, cumulative_amount: int, *, is_head: bool) -> int:
        """The position of a new sale."""
        self._last += 1
        if is_head:
            self.heads[channel_id] = self._last
        self.positions[channel_id, cumulative_amount] = self._last
        return self._last

    def carry_over(self, connection: sqlite3.Connection) -> None:
        """Carry all of them over."""
        if self._last > self._carried_over:
            carry_over(connection)
            self._forget_recent(self._last)

    def _forget_recent(self, carried_over: int) -> None:
        self.heads.clear()
        self.positions.clear()
        self._carried_over = carried_over

    def _learn(
        self, position: int, channel_id: ChannelId, cumulative_amount: str, spent: str | None, stream: int
    ) -> None:
        amount = int(cumulative_amount)
        account = self.accounts.get(channel_id)
        if account is not None and spent is not None:
            self.accounts[channel_id] = account._replace(accepted=amount, spent=int(spent), stream=stream)
        if position > self._carried_over:
            self._last = position - 1
            self.add(channel_id, amount, is_head=spent is not None)
