"""The till: what is to be given back is, also where the ledger takes nothing for a while."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing

from model import CHAIN, keyed

from microwallet.http402.charging import sales, till
from microwallet.http402.charging.group_commit import Work
from microwallet.http402.charging.sales import Handover, Order
from microwallet.http402.charging.till import Till

CHANNEL = keyed(1)


def test_what_is_to_be_given_back_is_waited_for(ledger, monkeypatch):
    """As the server ends: no longer than is allowed, and until it is done where that is enough."""
    monkeypatch.setattr(ledger.database, "_busy_seconds", 0.01)
    monkeypatch.setattr(till, "_RETRY_SECONDS", 0.01)
    ledger.sessions.add_channel(CHANNEL.payee_channel(deposit=1000), now=1)
    order = Order(Handover(CHANNEL.channel_id, 1000, bytes(65), 1000, 0, "challenge", None), 1000)

    def spent():
        return ledger.vouchers.get(CHANNEL.channel_id).spent

    async def run():
        sells = Till(ledger.sessions, CHAIN, clock=lambda: 1)
        sold = await sells.do(Work(lambda rows: sales.sell(rows, order, 1)))
        locks.execute("BEGIN IMMEDIATE")
        sells.undo(sold.sale)
        await sells.until_sure(within=0.05)
        assert spent() == 1000
        locks.execute("ROLLBACK")
        await sells.until_sure(within=5)
        assert spent() == 0

    with closing(sqlite3.connect(ledger.database.path, isolation_level=None)) as locks:
        asyncio.run(run())
