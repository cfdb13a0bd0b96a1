"""A connection's cache of accounts, so that they need not be read for each sale."""

from __future__ import annotations

import sqlite3

from microwallet.domain.identifiers import ChannelId
from microwallet.domain.session import SessionAccount
from microwallet.ledger.database import Generation
from microwallet.ledger.heads import Head

ACCOUNTS_KEPT = 20_000
POSITIONS_KEPT = 2_000


class KnownAccounts:
    """The cache; `refresh` brings it up to date at the beginning of each transaction.

    Sales by other processes are read one by one. If they changed anything else, the cache is emptied.
    """

    def __init__(self) -> None:
        self.accounts: dict[ChannelId, SessionAccount] = {}
        self.heads: dict[ChannelId, Head] = {}
        """Of the same channels."""
        self.positions: dict[tuple[ChannelId, int], int] = {}
        """Where sales are, by channel and cumulative amount: they stay there."""
        self._last = 0
        """Position of the last sale."""
        self._kept: Generation | None = None
        """The generation that the cache is right for; None while it may be wrong."""

    def refresh(self, connection: sqlite3.Connection, generation: Generation) -> None:
        """Learn what others did before the transaction of this generation.

        The cache counts as wrong until `keep`, since the transaction may fail.
        """
        kept, self._kept = self._kept, None
        is_right = kept is not None and kept.changes == generation.changes
        if not is_right or len(self.accounts) > ACCOUNTS_KEPT:
            self.accounts.clear()
            self.heads.clear()
        if not is_right or len(self.positions) > POSITIONS_KEPT:
            self.positions.clear()
        if kept is None or not is_right:
            self._last = connection.execute("SELECT coalesce(max(position), 0) FROM sales").fetchone()[0]
        elif kept.number != generation.number - 1:
            self._learn_sales(connection)

    def keep(self, generation: Generation) -> None:
        """Take the cache for right: the transaction of this generation is committed."""
        self._kept = generation

    def learn(self, account: SessionAccount, head: Head) -> None:
        """Remember an account as it was read."""
        self.accounts[account.channel_id] = account
        self.heads[account.channel_id] = head

    def add(self, channel_id: ChannelId, cumulative_amount: int) -> int:
        """The position of a new sale."""
        self._last += 1
        self.positions[channel_id, cumulative_amount] = self._last
        return self._last

    def _learn_sales(self, connection: sqlite3.Connection) -> None:
        """Learn what others have sold."""
        for position, channel_id, cumulative_amount, spent, stream in connection.execute(
            """SELECT position, channel_id, cumulative_amount, spent, stream FROM sales WHERE position > ?
            ORDER BY position""",
            (self._last,),
        ):
            self._last = position
            account = self.accounts.get(channel_id)
            if account is None or spent is None:
                continue
            head = self.heads[channel_id]
            if head.id is None:  # it has one now, which is read with the account
                del self.accounts[channel_id], self.heads[channel_id]
            else:
                account = account._replace(accepted=int(cumulative_amount), spent=int(spent), stream=stream)
                self.learn(account, head.after(position))
