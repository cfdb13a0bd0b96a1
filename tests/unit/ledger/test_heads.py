"""Heads and landmarks: whatever was sold is found by its voucher, and accounts are where they should be."""

from __future__ import annotations

import sqlite3
from contextlib import closing, nullcontext, suppress
from dataclasses import replace

import pytest
from model import keyed

from microwallet.domain.session import Sale
from microwallet.ledger.database import to_text
from microwallet.ledger.heads import LANDMARK_EVERY, find
from microwallet.ledger.ledger import Ledger
from microwallet.ledger.sessions import SessionRows

CHANNELS = [keyed(number) for number in (1, 2, 3)]
EACH = 3 * LANDMARK_EVERY + 5
"""Sales of a channel."""


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


def sell(rows, channel_id, number):
    """Sell by the voucher over so many units, as the channel's best."""
    account = rows.account(channel_id)._replace(accepted=number, spent=number)
    rows.add_first_sale(sale(channel_id, number), account, number.to_bytes(65, "big"))


def test_many_sales(ledger):
    """All are found, by who sold them and by who remembers nothing; each channel holds its last voucher."""
    for number in range(1, EACH + 1):
        with ledger.sessions.transaction() as rows:
            for one in CHANNELS:
                sell(rows, one.channel_id, number)
    with Ledger.open(ledger.database.path) as other:
        for sessions in (ledger.sessions, other.sessions):
            with sessions.transaction() as rows:
                for one in CHANNELS:
                    for number in range(1, EACH + 1):
                        expected = sale(one.channel_id, number)
                        assert rows.sale(one.channel_id, number) == expected
                        assert rows.sale_by_key(one.channel_id, f"k{number}") == expected
                    assert rows.sale(one.channel_id, EACH + 1) is None
    for channel in ledger.vouchers.list(finalized=False):
        assert (channel.authorized, channel.spent) == (EACH, EACH)
        assert channel.signature == EACH.to_bytes(65, "big")
    assert set(ledger.vouchers.accepted_at().values()) == {EACH}


def test_few_rows_are_read_to_find_a_sale(ledger):
    """However many there are, and whoever asks for them."""
    channel_id = CHANNELS[0].channel_id
    with ledger.sessions.transaction() as rows:
        for number in range(2, 60 * LANDMARK_EVERY, 2):
            sell(rows, channel_id, number)
    with ledger.database.read() as connection:
        (head,) = connection.execute("SELECT position FROM heads").fetchone()
        steps = []
        connection.set_progress_handler(lambda: steps.append(1) and None, 10)
        for number in (1, 2, 30 * LANDMARK_EVERY, 30 * LANDMARK_EVERY + 1, 60 * LANDMARK_EVERY - 2):
            steps.clear()
            assert (find(connection, channel_id, number, head).position is None) is bool(number % 2)
            assert len(steps) < 10 * LANDMARK_EVERY
        connection.set_progress_handler(None, 0)


@pytest.mark.parametrize("bought", [(3, 5, 4, 7), (9, 1, 8, 2, 7, 3), (40, 20, 10, 30, 50, 25, 45)])
def test_vouchers_that_buy_in_any_order(ledger, bought):
    """Each is found, none that has not bought is, and each buys again once it was given back."""
    channel_id = CHANNELS[0].channel_id
    best = 0
    with ledger.sessions.transaction() as rows:
        for number in bought:
            if number > best:
                best = number
                sell(rows, channel_id, number)
            else:
                assert rows.add_sale(sale(channel_id, number))
    with Ledger.open(ledger.database.path) as other:
        for given_back in (None, *bought):
            with other.sessions.transaction() as rows:
                if given_back is not None:
                    rows.remove_sale(sale(channel_id, given_back))
                found = {one for one in range(60) if rows.sale(channel_id, one)}
                assert found == {*bought} - {given_back}
                assert given_back is None or rows.add_sale(sale(channel_id, given_back)._replace(cost=7))
            with ledger.sessions.transaction() as rows:
                assert not any(rows.add_sale(sale(channel_id, one)) for one in bought)
                assert given_back is None or rows.sale(channel_id, given_back).cost == 7
                assert rows.account(channel_id).accepted == best


def test_a_sale_changes_where_it_is(ledger):
    """Its cost, its answer and the account after it; nothing is put elsewhere."""
    channel_id = CHANNELS[0].channel_id
    with ledger.sessions.transaction() as rows:
        account = rows.account(channel_id)._replace(accepted=9, spent=5)
        rows.add_first_sale(sale(channel_id, 9)._replace(cost=5), account, bytes(65))
        rows.update_sale(sale(channel_id, 9)._replace(cost=2))
        rows.save(account._replace(spent=2))
        rows.keep_answer(sale(channel_id, 9), b"answer")
    with ledger.database.read() as connection:
        assert connection.execute("SELECT authorized FROM vouchers WHERE head").fetchone() == (to_text(0),)
    with ledger.sessions.transaction() as rows:
        assert rows.sale(channel_id, 9) == sale(channel_id, 9)._replace(cost=2, answer=b"answer")
        assert rows.account(channel_id).spent == 2


def test_a_transaction_that_fails(ledger):
    """What it sold is not remembered: neither the sale, nor the head, nor the account."""
    channel_id = CHANNELS[0].channel_id
    with pytest.raises(ZeroDivisionError), ledger.sessions.transaction() as rows:
        sell(rows, channel_id, 5)
        assert rows.sale(channel_id, 5)
        raise ZeroDivisionError
    with ledger.sessions.transaction() as rows:
        assert rows.account(channel_id).accepted == 0
        assert rows.sale(channel_id, 5) is None
        sell(rows, channel_id, 4)
    assert ledger.vouchers.get(channel_id).authorized == 4


def test_accepting_beside_sales_moves_the_account(ledger):
    """A worker that remembers where it was learns that it is elsewhere, even if nothing else was changed.
    Those of other channels stay where they are."""
    channel_id, other_id, _ = [one.channel_id for one in CHANNELS]
    with ledger.sessions.transaction() as rows:
        sell(rows, channel_id, 5)
        sell(rows, other_id, 7)
    with Ledger.open(ledger.database.path) as other:
        other.vouchers.accept([channel_id], lambda *_: [], now=1)
    with ledger.sessions.transaction() as rows:
        rows.save(rows.account(channel_id)._replace(spent=3))
    assert ledger.vouchers.get(channel_id).spent == 3
    assert ledger.vouchers.get(other_id).spent == 7


@pytest.mark.parametrize("remembers", [True, False])
def test_what_is_stored_of_an_account_changes_no_other(ledger, remembers):
    """Wherever it is: in its channel's last sale, or beside it. Who remembers nothing reads the same, and
    stores it in the same place."""
    ids = [one.channel_id for one in CHANNELS]
    first, second, _ = ids

    def store(save, channel_id, **values):
        with (
            nullcontext(ledger) if remembers else Ledger.open(ledger.database.path) as one,
            one.sessions.transaction() as rows,
        ):
            save(rows, rows.account(channel_id)._replace(**values))

    def voucher(rows, account):
        rows.save_voucher(account, bytes(65), now=7)

    def books():
        with Ledger.open(ledger.database.path) as other, other.sessions.transaction() as rows:
            accounts = [rows.account(one) for one in ids]
            times = [other.vouchers.accepted_at()[one] for one in ids]
        return [
            (one.accepted, one.spent, one.stream, time) for one, time in zip(accounts, times, strict=True)
        ]

    with ledger.sessions.transaction() as rows:
        sell(rows, second, 5)
    store(voucher, first, accepted=9, spent=3, stream=2)
    assert books() == [(9, 3, 2, 7), (5, 5, 0, 5), (0, 0, 0, 1)]
    store(SessionRows.save, first, spent=4, stream=3)
    store(SessionRows.save, second, spent=4, stream=6)
    assert books() == [(9, 4, 3, 7), (5, 4, 6, 5), (0, 0, 0, 1)]
    with ledger.sessions.transaction() as rows:
        sell(rows, first, 10)
    store(SessionRows.save, second, spent=2, stream=7)
    assert books() == [(10, 10, 3, 10), (5, 2, 7, 5), (0, 0, 0, 1)]
    store(voucher, first, accepted=11)
    assert books() == [(11, 10, 3, 7), (5, 2, 7, 5), (0, 0, 0, 1)]
    with ledger.sessions.transaction() as rows:
        sell(rows, first, 12)
    assert books() == [(12, 12, 3, 12), (5, 2, 7, 5), (0, 0, 0, 1)]


def test_a_sale_and_a_better_voucher_in_one_transaction(ledger):
    """As requests at one time are committed together: the voucher that was taken last is kept."""
    first, second, _ = (one.channel_id for one in CHANNELS)
    with ledger.sessions.transaction() as rows:
        for channel_id in (second, first):
            sell(rows, channel_id, 5)
        rows.save_voucher(rows.account(first)._replace(accepted=9), bytes(65), now=7)
        assert rows.add_sale(sale(first, 4))
    with Ledger.open(ledger.database.path) as other, other.sessions.transaction() as rows:
        held = [rows.account(one) for one in (first, second)]
    assert [(one.accepted, one.spent) for one in held] == [(9, 5), (5, 5)]


def test_a_channel_that_is_known_is_not_added_again(ledger):
    """As by a process that hears of its open late: what was bought through it stays charged."""
    channel_id = CHANNELS[0].channel_id
    with ledger.sessions.transaction() as rows:
        sell(rows, channel_id, 5)
    again = replace(CHANNELS[0].payee_channel(deposit=10_000), authorized=9)
    ledger.sessions.add_channel(again, now=2)
    with ledger.sessions.transaction() as rows:
        account = rows.account(channel_id)
    assert (account.accepted, account.spent) == (5, 5)


def test_what_a_worker_remembers_is_bounded(ledger, monkeypatch):
    """However much it sells through however many channels; what it forgot it finds again."""
    monkeypatch.setattr("microwallet.ledger.known_accounts.ACCOUNTS_KEPT", 1)
    monkeypatch.setattr("microwallet.ledger.known_accounts.POSITIONS_KEPT", 2)
    known = ledger.sessions._known
    for number in range(1, 10):
        for one in CHANNELS:
            with ledger.sessions.transaction() as rows:
                assert rows.account(one.channel_id).accepted == number - 1
                sell(rows, one.channel_id, number)
                assert rows.sale(one.channel_id, 1)
                assert max(len(known.accounts), len(known.heads)) <= 2
                assert len(known.positions) <= 4


def test_what_expires(ledger):
    """A challenge serves one channel until then, and an answer is kept until then; neither goes earlier."""
    first, second, _ = [one.channel_id for one in CHANNELS]
    with ledger.sessions.transaction() as rows:
        for expires_at in (5, 6):
            assert rows.claim_challenge(f"until {expires_at}", first, expires_at=expires_at)
            sell(rows, first, expires_at)
            rows.keep_answer(sale(first, expires_at), b"answer")
    ledger.sessions.forget_expired(now=6, answers_before=6)
    with ledger.sessions.transaction() as rows:
        assert not rows.claim_challenge("until 6", second, expires_at=9)
        assert rows.claim_challenge("until 5", second, expires_at=9)
        assert rows.claim_challenge("until 6", first, expires_at=9)
        assert [rows.sale(first, one).answer for one in (5, 6)] == [None, b"answer"]


def test_workers_take_turns(ledger):
    """What one of two processes sells, accepts and gives back the other knows."""
    channel_id = CHANNELS[0].channel_id
    with Ledger.open(ledger.database.path) as other:
        workers = [ledger.sessions, other.sessions]
        for number in range(1, 4 * LANDMARK_EVERY + 10):
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


def test_what_another_worker_sells(ledger):
    """It is learned of channels that are known, with a sale or without, and read of others; a sale by an
    older voucher changes no account. The other worker learns of a voucher that is taken after it."""
    ids = first, second, third = [one.channel_id for one in CHANNELS]

    def accepted(sessions):
        with sessions.transaction() as rows:
            return [rows.account(one).accepted for one in ids]

    with Ledger.open(ledger.database.path) as other:
        with ledger.sessions.transaction() as rows:
            assert rows.account(first).accepted == 0
            sell(rows, second, 5)
        with other.sessions.transaction() as rows:
            for channel_id, number in ((first, 3), (second, 7), (third, 9)):
                sell(rows, channel_id, number)
            assert rows.add_sale(sale(second, 4))
        assert accepted(ledger.sessions) == [3, 7, 9]
        with ledger.sessions.transaction() as rows:
            rows.save_voucher(rows.account(first)._replace(accepted=4), bytes(65), now=1)
        assert accepted(other.sessions) == [4, 7, 9]
        for worker, number in ((ledger, 6), (other, 8)):
            with worker.sessions.transaction() as rows:
                sell(rows, first, number)
        assert accepted(ledger.sessions) == [8, 7, 9]
    with Ledger.open(ledger.database.path) as fresh:
        assert accepted(fresh.sessions) == [8, 7, 9]


def test_a_sale_of_a_transaction_that_failed(ledger):
    """It was none: the next sale is where it would have been, and is not taken for it."""
    first, second, _ = (one.channel_id for one in CHANNELS)
    with suppress(KeyError), ledger.sessions.transaction() as rows:
        sell(rows, first, 5)
        raise KeyError
    with ledger.sessions.transaction() as rows:
        sell(rows, second, 6)
        assert rows.sale(first, 5) is None
    with ledger.sessions.transaction() as rows:
        assert rows.sale(first, 5) is None
        assert rows.account(first).accepted == 0
        assert rows.sale(second, 6) == sale(second, 6)


@pytest.mark.parametrize(
    "change", ["closing = 1", "close_requested_at = 9", "finalized = 1", f"deposit = '{to_text(1)}'"]
)
def test_a_change_that_is_no_sale(ledger, change):
    """A worker learns of it, though whoever makes it need not know that workers remember accounts."""
    channel_id = CHANNELS[0].channel_id
    with ledger.sessions.transaction() as rows:
        known = rows.account(channel_id)
    with closing(sqlite3.connect(ledger.database.path)) as other, other:
        other.execute(f"UPDATE vouchers SET {change} WHERE channel_id = ?", (channel_id,))
    with ledger.sessions.transaction() as rows:
        assert rows.account(channel_id) != known
