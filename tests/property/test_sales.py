"""Selling against a model: whatever is asked in whatever order, the books are right to the base unit."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from model import keyed

from microwallet.domain.handed_over import HandedOver
from microwallet.http402.charging import sales
from microwallet.http402.charging.refusal import Refused
from microwallet.http402.charging.sales import MOST_REPEATS, Handover, Order, StreamEnded
from microwallet.http402.wire.problems import ProblemType
from microwallet.ledger import heads
from microwallet.ledger.heads import LANDMARK_EVERY, move_accounts
from microwallet.ledger.known_accounts import KnownAccounts
from microwallet.ledger.ledger import Ledger
from microwallet.ledger.sessions import SessionRows

DEPOSIT = 1000
CHANNEL = keyed(1)
AMOUNT = st.integers(0, 1100)
COST = st.integers(0, 120)


def signature(amount):
    """Another one for each amount: the one that is kept must fit the amount that is."""
    return amount.to_bytes(65, "big")


class Selling(RuleBasedStateMachine):
    """One channel in a real ledger, beside what it should hold."""

    @initialize()
    def open(self):
        self.folder = tempfile.TemporaryDirectory()
        self.ledger = Ledger.open(Path(self.folder.name) / "ledger.sqlite3")
        channel = CHANNEL.payee_channel(deposit=DEPOSIT, signature=signature(0))
        self.ledger.sessions.add_channel(channel, now=1)
        self.other = Ledger.open(Path(self.folder.name) / "ledger.sqlite3")
        """What another process has open."""
        self.worker = self.ledger
        """The process that sells."""
        self.is_closing = False
        self.accepted = 0
        self.handed_over = set()
        """Base units of the cumulative amount that were paid for another way than over HTTP."""
        self.sales = {}
        """Sale by cumulative amount."""
        self.reserved = []
        """Those that are being served."""
        self.stream = None

    def teardown(self):
        heads.LANDMARK_EVERY = LANDMARK_EVERY
        if hasattr(self, "ledger"):
            self.other.close()
            self.ledger.close()
            self.folder.cleanup()

    def run_in(self, work, *arguments, **options):
        """The result of work in one transaction of its own; a refusal commits what it did before."""
        refusal = None
        with self.worker.sessions.transaction() as rows:
            try:
                return work(rows, *arguments, **options)
            except (Refused, StreamEnded) as raised:
                refusal = raised
        raise refusal

    @property
    def channel(self):
        return self.ledger.vouchers.get(CHANNEL.channel_id)

    @property
    def spent(self):
        return len(self.handed_over) + sum(sale.cost for sale in self.sales.values())

    def handover(self, amount):
        return Handover(
            channel_id=CHANNEL.channel_id,
            cumulative_amount=amount,
            signature=signature(amount),
            deposit=DEPOSIT,
            min_voucher_delta=0,
            challenge_id="c",
            challenge_expires_at=2,
        )

    @rule(
        amount=AMOUNT,
        cost=COST,
        key=st.none() | st.sampled_from("abc"),
        is_stream=st.booleans(),
        may_repeat=st.booleans(),
    )
    def sell(self, amount, cost, key, is_stream, may_repeat=False):
        earlier = next((sale for sale in self.sales.values() if key and sale.idempotency_key == key), None)
        order = Order(
            handover=self.handover(amount),
            cost=cost,
            idempotency_key=key,
            fingerprint=b"f",
            is_stream=is_stream,
            may_repeat=may_repeat,
        )
        if earlier is not None:
            replay = self.run_in(sales.sell, order, 1)
            is_repeat = may_repeat and earlier.answer is None and earlier.repeats < MOST_REPEATS
            if is_repeat:
                earlier = self.sales[earlier.cumulative_amount] = earlier._replace(
                    repeats=earlier.repeats + 1
                )
                self.reserved.append(earlier.cumulative_amount)
            assert (replay.is_replay, replay.is_repeat, replay.reserved) == (True, is_repeat, 0)
            assert replay.sale == earlier
            if amount <= DEPOSIT and not self.is_closing:
                self.accepted = max(self.accepted, amount)
            assert replay.account.accepted == self.accepted
            return
        if self.is_closing:
            with pytest.raises(Refused) as raised:
                self.run_in(sales.sell, order, 1)
            assert raised.value.problem.type is ProblemType.TRY_AGAIN
            return
        if amount <= DEPOSIT:
            self.accepted = max(self.accepted, amount)
        if amount > DEPOSIT or amount in self.sales or self.spent + cost > self.accepted:
            with pytest.raises(Refused) as raised:
                self.run_in(sales.sell, order, 1)
            expected = (
                ProblemType.AMOUNT_EXCEEDS_DEPOSIT if amount > DEPOSIT else ProblemType.INSUFFICIENT_BALANCE
            )
            assert raised.value.problem.type is expected
            return
        sold = self.run_in(sales.sell, order, 1)
        self.sales[amount] = sold.sale
        self.reserved.append(amount)
        if is_stream:
            self.stream = (amount, sold.account.stream)

    @rule(
        steps=st.lists(st.integers(1, 40), min_size=1, max_size=6),
        less=st.integers(0, 20),
        is_stream=st.booleans(),
    )
    def sell_in_order(self, steps, less, is_stream):
        """As most is sold: by vouchers that are higher each time, for what they add or less."""
        for step in steps:
            self.sell(self.accepted + step, max(0, step - less), None, is_stream)

    @rule(amount=AMOUNT)
    def hand_over(self, amount):
        if amount > DEPOSIT or self.is_closing:
            with pytest.raises(Refused):
                self.run_in(sales.take, self.handover(amount), 1)
            return
        self.accepted = max(self.accepted, amount)
        assert self.run_in(sales.take, self.handover(amount), 1).accepted == self.accepted

    @precondition(lambda self: self.reserved)
    @rule(data=st.data())
    def give_back(self, data):
        """Once, whatever is tried with it afterwards; not what was or is served another time."""
        amount = self.reserved.pop(data.draw(st.integers(0, len(self.reserved) - 1)))
        if repeats := self.sales[amount].repeats:
            assert not self.run_in(sales.undo, self.sales[amount])
            self.sales[amount] = self.sales[amount]._replace(repeats=repeats - 1)
            return
        sale = self.sales.pop(amount)
        assert self.run_in(sales.undo, sale)
        assert self.run_in(sales.undo, sale)
        self.run_in(sales.settle_cost, sale, 0)
        if self.stream and self.stream[0] == amount:
            self.stream = None

    @precondition(lambda self: self.reserved)
    @rule(data=st.data())
    def charge_less(self, data):
        amount = data.draw(st.sampled_from(self.reserved))
        reserved = data.draw(st.sampled_from([self.sales[amount].cost, 120]))  # as its request knows it
        cost = data.draw(st.integers(0, reserved))
        settled = self.run_in(sales.settle_cost, self.sales[amount]._replace(cost=reserved), cost).sale
        if self.sales[amount].is_settled:
            assert settled == self.sales[amount]
        else:
            assert settled.cost == min(cost, self.sales[amount].cost)
            assert settled.is_settled
        self.sales[amount] = settled

    @precondition(lambda self: self.stream is not None)
    @rule(price=st.integers(1, 50), wanted=st.integers(1, 9), is_old=st.booleans())
    def stream_on(self, price, wanted, is_old):
        amount, number = self.stream
        if is_old or self.is_closing:
            with pytest.raises(StreamEnded):
                self.run_in(
                    sales.charge_units, self.sales[amount], price, wanted=wanted, stream=number - is_old
                )
            return
        available = self.accepted - self.spent
        count, sold = self.run_in(sales.charge_units, self.sales[amount], price, wanted=wanted, stream=number)
        assert count == min(wanted, available // price)
        self.sales[amount] = sold.sale

    @precondition(lambda self: self.sales)
    @rule(data=st.data())
    def keep(self, data):
        amount = data.draw(st.sampled_from(sorted(self.sales)))
        self.run_in(SessionRows.keep_answer, self.sales[amount], b"answer")
        self.sales[amount] = self.sales[amount]._replace(answer=b"answer")

    @rule()
    def take_turns(self):
        """From now on the other process sells."""
        self.worker = self.ledger if self.worker is self.other else self.other

    @rule(is_other=st.booleans())
    def close_begins_or_ends(self, is_other):
        """Over the same connection or another one."""
        vouchers = (self.other if is_other else self.ledger).vouchers
        if self.is_closing:
            vouchers.end_closes([CHANNEL.channel_id])
        else:
            vouchers.begin_closes([CHANNEL.channel_id])
        self.is_closing = not self.is_closing

    @rule(amount=AMOUNT, start=AMOUNT, is_other=st.booleans())
    def accept_elsewhere(self, amount, start, is_other):
        """What `payee accept` does, over the same connection or another one."""
        if amount > DEPOSIT:
            return
        first = self.accepted if amount > self.accepted else start
        new = sorted(set(range(first, amount)) - self.handed_over)
        authorized = max(self.accepted, amount)
        new = new[: authorized - self.spent]

        def weigh(accepted, counted):
            held = accepted[CHANNEL.channel_id]
            assert (held.authorized, held.spent) == (self.accepted, self.spent)
            assert held.signature == signature(self.accepted)
            book = HandedOver(
                authorized=held.authorized, spent=held.spent, counted=counted[CHANNEL.channel_id]
            )
            assert book.count(amount, start) == len(new)
            channel = replace(
                self.channel, authorized=authorized, spent=book.spent, signature=signature(authorized)
            )
            return [channel] if new else []

        (self.other if is_other else self.ledger).vouchers.accept([CHANNEL.channel_id], weigh, now=1)
        self.handed_over.update(new)
        self.accepted = authorized

    @rule(is_other=st.booleans())
    def move_accounts(self, is_other):
        """As `payee accept` does before it looks."""
        with (self.other if is_other else self.ledger).database.write() as connection:
            move_accounts(connection, [CHANNEL.channel_id])

    @rule(every=st.integers(1, 4))
    def landmarks(self, every):
        """From now on they are rarer or more frequent."""
        heads.LANDMARK_EVERY = every

    @rule(is_other=st.booleans())
    def start_again(self, is_other):
        """A process that remembers nothing."""
        (self.other if is_other else self.ledger).sessions._known = KnownAccounts()

    @invariant()
    def books_are_right(self):
        if not hasattr(self, "ledger"):
            return
        with self.worker.sessions.transaction() as rows:
            account = rows.account(CHANNEL.channel_id)
            for amount, sale in self.sales.items():
                assert rows.sale(CHANNEL.channel_id, amount) == sale
                assert not rows.add_sale(sale)
        assert (account.accepted, account.spent) == (self.accepted, self.spent)
        assert 0 <= account.spent <= account.accepted <= DEPOSIT
        for channel in (self.channel, *self.ledger.vouchers.live(CHANNEL.descriptor.chain_id)):
            assert (channel.authorized, channel.spent) == (self.accepted, self.spent)
            assert channel.signature == signature(self.accepted)


TestSelling = Selling.TestCase
TestSelling.settings = settings(max_examples=settings.default.max_examples // 4, stateful_step_count=30)
