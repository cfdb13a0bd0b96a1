"""Recent sales: never more than a few hundred, and found and counted like those carried over."""

from __future__ import annotations

from dataclasses import replace

import pytest
from model import USDC, keyed

from microwallet.domain.channel import NO_CHANNEL, PayeeChannel
from microwallet.domain.session import Sale
from microwallet.ledger.ledger import Ledger
from microwallet.ledger.recent_sales import MOST_RECENT

CHANNELS = [keyed(number) for number in (1, 2, 3)]
EACH = MOST_RECENT // 2
"""Sales of a channel: three of them make more than may be recent."""


@pytest.fixture
def ledger(tmp_path):
    """A ledger with three channels that nothing was bought through."""
    with Ledger.open(tmp_path / "ledger.sqlite3") as opened:
        for one in CHANNELS:
            channel = PayeeChannel(
                channel_id=one.channel_id,
                descriptor=one.descriptor,
                asset=USDC,
                state=replace(NO_CHANNEL, deposit=10_000),
                authorized=0,
                spent=0,
                as_of=None,
                signature=bytes(65),
            )
            opened.sessions.add_channel(channel, now=1)
        yield opened


def sale(channel_id, number):
    """The sale of a channel's voucher over so many units."""
    return Sale(
        channel_id,
        number,
        cost=1,
        idempotency_key=f"k{number}",
        fingerprint=b"f",
        answer=None,
        created_at=number,
    )


def test_many_sales(ledger):
    """All are found, whether recent or carried over; the channels hold the last voucher of each."""
    most = 0
    for number in range(1, EACH + 1):
        with ledger.sessions.transaction() as rows:
            for one in CHANNELS:
                account = rows.account(one.channel_id)._replace(accepted=number, spent=number)
                rows.add_first_sale(sale(one.channel_id, number), account, number.to_bytes(65, "big"))
        most = max(most, recent(ledger))
    assert most < MOST_RECENT
    with ledger.sessions.transaction() as rows:
        for one in CHANNELS:
            for number in range(1, EACH + 1):
                expected = sale(one.channel_id, number)
                assert rows.sale(one.channel_id, number) == expected
                assert rows.sale_by_key(one.channel_id, f"k{number}") == expected
    for channel in ledger.vouchers.list(finalized=False):
        assert (channel.authorized, channel.spent) == (EACH, EACH)
        assert channel.signature == EACH.to_bytes(65, "big")
    assert set(ledger.vouchers.accepted_at().values()) == {EACH}


def test_a_recent_sale_changes_where_it_is(ledger):
    """Its cost, its answer and the account after it, without carrying anything over."""
    channel_id = CHANNELS[0].channel_id
    with ledger.sessions.transaction() as rows:
        account = rows.account(channel_id)._replace(accepted=9, spent=5)
        rows.add_first_sale(sale(channel_id, 9)._replace(cost=5), account, bytes(65))
        rows.update_sale(sale(channel_id, 9)._replace(cost=2))
        rows.save(account._replace(spent=2))
        rows.keep_answer(sale(channel_id, 9), b"answer")
    assert recent(ledger) == 1
    with ledger.sessions.transaction() as rows:
        assert rows.sale(channel_id, 9) == sale(channel_id, 9)._replace(cost=2, answer=b"answer")
        assert rows.account(channel_id).spent == 2


def recent(ledger):
    """How many sales are not carried over."""
    with ledger.database.read() as connection:
        return connection.execute("SELECT count(*) FROM recent_sales").fetchone()[0]
