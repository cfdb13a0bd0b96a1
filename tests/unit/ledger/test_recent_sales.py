"""Recent sales: never more than a few hundred, and found and counted like those carried over."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest
from model import keyed

from microwallet.domain.session import Sale
from microwallet.errors import LedgerError
from microwallet.ledger import opening, recent_sales
from microwallet.ledger.database import to_text
from microwallet.ledger.handed_over import CountedRows
from microwallet.ledger.ledger import Ledger
from microwallet.ledger.recent_sales import MOST_RECENT
from microwallet.ledger.rows import SELECTED, channel_values
from microwallet.ledger.schema import MIGRATIONS

CHANNELS = [keyed(number) for number in (1, 2, 3)]
EACH = MOST_RECENT // 2
"""Sales of a channel: three of them make more than may be recent."""


@pytest.fixture
def ledger(ledger):
    """A ledger with three channels that nothing was bought through."""
    for one in CHANNELS:
        ledger.sessions.add_channel(one.payee_channel(deposit=10_000), now=1)
    return ledger


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
        ledger.sessions.catch_up()
        most = max(most, recent(ledger))
    assert MOST_RECENT // 2 < most < MOST_RECENT
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


def test_catching_up_that_fails(ledger):
    """It leaves everything as it was, and other commits are as durable as ever; the next time it is done."""
    for number in range(1, MOST_RECENT + 1):
        with ledger.sessions.transaction() as rows:
            account = rows.account(CHANNELS[0].channel_id)._replace(accepted=number, spent=number)
            rows.add_first_sale(sale(CHANNELS[0].channel_id, number), account, bytes(65))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recent_sales, "carry_over", lambda connection: connection.execute("SELECT nothing"))
        with pytest.raises(LedgerError):
            ledger.sessions.catch_up()
    with ledger.database.write() as connection:
        assert connection.execute("PRAGMA synchronous").fetchone() == (2,)
    assert recent(ledger) == MOST_RECENT
    with ledger.sessions.transaction() as rows:
        assert rows.account(CHANNELS[0].channel_id).spent == MOST_RECENT
    ledger.sessions.catch_up()
    with ledger.database.write() as connection:
        assert connection.execute("PRAGMA synchronous").fetchone() == (2,)
    assert recent(ledger) == 0
    assert ledger.vouchers.get(CHANNELS[0].channel_id).spent == MOST_RECENT


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


def test_workers_take_turns(ledger):
    """What one of two processes sells, accepts and gives back the other knows, recent or carried over."""
    channel_id = CHANNELS[0].channel_id
    with Ledger.open(ledger.database.path) as other:
        workers = [ledger.sessions, other.sessions]
        for number in range(1, 2 * MOST_RECENT + 10):
            with workers[number % 2].transaction() as rows:
                account = rows.account(channel_id)
                assert (account.accepted, account.spent) == (number - 1, number - 1)
                if number % 3:
                    account = account._replace(accepted=number, spent=number)
                    rows.add_first_sale(sale(channel_id, number), account, bytes(65))
                else:
                    rows.save_voucher(account._replace(accepted=number), bytes(65), now=1)
                    rows.save(rows.account(channel_id)._replace(spent=number))
                    assert rows.add_sale(sale(channel_id, number))
            with workers[(number + number // 7) % 2].transaction() as rows:
                assert not rows.add_sale(sale(channel_id, number))
                if number % 5 == 0:
                    rows.remove_sale(sale(channel_id, number))
                    assert rows.sale(channel_id, number) is None


@pytest.mark.parametrize(
    "change", ["closing = 1", "close_requested_at = 9", "finalized = 1", f"deposit = '{to_text(1)}'"]
)
def test_a_change_by_a_process_of_an_older_version(ledger, change):
    """A worker learns of it, though that process does not know that workers remember accounts."""
    channel_id = CHANNELS[0].channel_id
    with ledger.sessions.transaction() as rows:
        known = rows.account(channel_id)
    with closing(sqlite3.connect(ledger.database.path)) as older, older:
        older.execute(f"UPDATE vouchers SET {change} WHERE channel_id = ?", (channel_id,))
    with ledger.sessions.transaction() as rows:
        assert rows.account(channel_id) != known


def test_positions_are_never_used_again(ledger):
    """A sale that follows one that was given back is not taken for one that is carried over."""
    first, second = (one.channel_id for one in CHANNELS[:2])
    for channel_id in (first, second):
        with ledger.sessions.transaction() as rows:
            account = rows.account(channel_id)._replace(accepted=5, spent=5)
            rows.add_first_sale(sale(channel_id, 5), account, bytes(65))
            if channel_id == first:
                rows.remove_sale(sale(first, 5))
    with Ledger.open(ledger.database.path) as other, other.sessions.transaction() as rows:
        assert rows.sale(second, 5) == sale(second, 5)
        assert rows.account(second).spent == 5
    assert ledger.vouchers.get(second).spent == 5


def test_sales_of_an_older_ledger(tmp_path, monkeypatch):
    """Those that were carried over and those that were recent are found, and counted, as before."""
    path = tmp_path / "ledger.sqlite3"
    monkeypatch.setattr(opening, "MIGRATIONS", MIGRATIONS[:3])
    channel_id = CHANNELS[0].channel_id
    with Ledger.open(path) as older, older.database.write() as connection:
        values = (*channel_values(CHANNELS[0].payee_channel(deposit=10_000)), 1, bytes(65), 1)
        connection.execute(
            f"INSERT INTO vouchers ({SELECTED}, created_at, signature, accepted_at)"
            f" VALUES ({', '.join('?' * len(values))})",
            values,
        )
        connection.execute(
            "INSERT INTO sales VALUES (?, ?, ?, 'k1', x'66', NULL, 1, 0, 1)",
            (channel_id, to_text(1), to_text(1)),
        )
        connection.execute(
            "INSERT INTO recent_sales VALUES (7, ?, ?, ?, 0, x'55', ?, ?, 'k2', x'66', x'61', 2, 1, 0)",
            (channel_id, to_text(2), to_text(2), to_text(2), to_text(1)),
        )
    monkeypatch.undo()
    with Ledger.open(path) as migrated, migrated.sessions.transaction() as rows:
        account = rows.account(channel_id)
        assert (account.accepted, account.spent) == (2, 2)
        assert rows.sale(channel_id, 1) == sale(channel_id, 1)._replace(is_settled=True)
        later = sale(channel_id, 2)._replace(answer=b"a", repeats=1)
        assert rows.sale_by_key(channel_id, "k2") == later
        assert migrated.vouchers.get(channel_id).signature == b"U"
        with migrated.database.read() as connection:
            assert CountedRows(connection, channel_id).gap(0, 2) is None
        rows.add_first_sale(sale(channel_id, 3), account._replace(accepted=3, spent=3), bytes(65))
        assert rows.sale(channel_id, 3) == sale(channel_id, 3)
        assert not rows.add_sale(sale(channel_id, 2))


def recent(ledger):
    """How many sales are not carried over."""
    with ledger.database.read() as connection:
        return connection.execute(
            "SELECT (SELECT count(*) FROM sales) - (SELECT count(*) FROM used_vouchers)"
        ).fetchone()[0]
