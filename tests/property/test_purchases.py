"""The payer's books of what it buys over HTTP, against a model: whatever is reserved, paid and returned."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from multiprocessing import get_context
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from memory import folder_in_memory
from model import keyed

from microwallet.domain.payment import next_payment
from microwallet.domain.purchase import PurchaseStatus, VoucherTerms
from microwallet.errors import AboveLimit, AmountExceedsDeposit, IdempotencyMismatch, OutcomeUnknown
from microwallet.http402.paying.receipts import Books, ToldReceipt
from microwallet.http402.wire.receipt import SessionReceipt
from microwallet.ledger.ledger import Ledger
from microwallet.ledger.purchases import Confirmation, HttpRequest, Unconfirmed

ONE = keyed(1)
DEPOSIT = 400
STREAM_SECONDS = 60
"""For how long a payee may go on charging for a stream that was left."""


def request(key, fingerprint=b"f"):
    """A request under a key."""
    return HttpRequest(idempotency_key=key, method="GET", url="http://127.0.0.1/", fingerprint=fingerprint)


def spent_after(ledger, purchases, cost):
    """What the channel has spent once these purchases have cost so much."""
    ledger.purchases.settle(purchases, cost)
    return ledger.channels.get(ONE.channel_id).spent


class PayersBooks(RuleBasedStateMachine):
    """A payer's ledger with one channel."""

    def open_ledger(self, *, deposit):
        """A new one, whose channel has a deposit."""
        self.folder = folder_in_memory()
        self.ledger = Ledger.open(Path(self.folder.name) / "ledger.sqlite3")
        self.ledger.channels.add(ONE.payer_channel(deposit=deposit), now=0)

    def teardown(self):
        """Close and remove the ledger."""
        if hasattr(self, "ledger"):
            self.ledger.close()
            self.folder.cleanup()

    @property
    def channel(self):
        """What the ledger says."""
        return self.ledger.channels.get(ONE.channel_id)

    def check_sums(self):
        """The sum of the purchases is what is spent, and what of it was not charged after all."""
        with self.ledger.database.read() as connection:
            costs = connection.execute("SELECT cost FROM purchases WHERE status <> 'returned'").fetchall()
            books = connection.execute("SELECT spent, uncharged, overdrawn FROM channels").fetchone()
        assert sum(map(int, books)) == sum(int(cost) for (cost,) in costs)


class Buying(PayersBooks):
    """`paid` is what purchases cost, `untold` what of it no receipt told, `direct` what was paid by hand."""

    @initialize()
    def open(self):
        """A channel with a deposit."""
        self.open_ledger(deposit=DEPOSIT)
        self.deposit = DEPOSIT
        self.in_flight, self.paid, self.untold, self.amounts = [], 0, 0, set()
        self.direct = self.authorized = self.count = 0

    @property
    def certain(self):
        """What was charged at least."""
        return min(self.paid + self.direct - self.untold, self.authorized)

    @rule(
        cost=st.integers(0, 60),
        delta=st.just(0) | st.integers(0, 40),
        most=st.integers(0, 80),
        at_least=st.just(0) | st.integers(0, 90),
    )
    def reserve(self, cost, delta, most, at_least):
        """Reserve a purchase; a refusal changes nothing."""
        before = self.channel
        self.count += 1
        terms = VoucherTerms(cost=cost, most=most, min_voucher_delta=delta, at_least=at_least)
        try:
            reserved = self.ledger.purchases.reserve(ONE.channel_id, request(f"k{self.count}"), terms, now=0)
        except (AboveLimit, AmountExceedsDeposit):
            assert self.channel == before
            return
        amount = reserved.purchase.cumulative_amount
        assert amount not in self.amounts
        assert amount >= at_least
        assert reserved.rise <= most
        assert self.channel.authorized == max(before.authorized, amount)
        if amount > before.authorized:
            assert amount - before.authorized >= delta
        if before.spent + cost <= before.authorized and at_least == 0 and before.authorized:
            assert reserved.rise == 0 or len(self.amounts) >= before.authorized
        assert reserved.least_spent == self.paid + self.direct
        self.amounts.add(amount)
        self.authorized = max(self.authorized, amount)
        self.in_flight.append(reserved.purchase)

    @precondition(lambda self: self.in_flight)
    @rule(data=st.data())
    def end(self, data):
        """One that is in flight is so no more."""
        purchase = self.in_flight.pop(data.draw(st.integers(0, len(self.in_flight) - 1)))
        data.draw(st.sampled_from([self.settle, self.leave, self.give_back]))(data, purchase)

    def settle(self, data, purchase):
        """It was served, for its cost, less, or more, as far as what was signed goes, be it reserved for
        others; a second time changes nothing."""
        actual = data.draw(st.just(purchase.cost + 20) | st.integers(0, purchase.cost + 20))
        self.paid += min(actual, self.authorized - self.certain)
        self.ledger.purchases.settle([purchase], actual)
        self.ledger.purchases.settle([purchase], 0)
        self.ledger.purchases.settle([purchase], 100)
        self.ledger.purchases.give_back([purchase])

    def leave(self, data, purchase):
        """A stream was left, which may be charged in full later; what it delivered until then is certain."""
        untold = data.draw(st.just(0) | st.integers(0, purchase.cost))
        self.paid += purchase.cost
        self.untold += untold
        confirmation = Confirmation(untold=untold, charged_until=STREAM_SECONDS)
        self.ledger.purchases.settle([purchase], purchase.cost, confirmation)

    def give_back(self, _, purchase):
        """It was answered without service; a second time changes nothing."""
        self.ledger.purchases.give_back([purchase])
        self.ledger.purchases.give_back([purchase])
        self.ledger.purchases.settle([purchase], purchase.cost)

    @rule(amount=st.integers(1, 60))
    def top_up(self, amount):
        """The chain says that the deposit is larger."""
        self.deposit += amount
        record_deposit(self.ledger, self.deposit)

    @rule(step=st.integers(1, 30))
    def pay_by_hand(self, step):
        """`pay` between the purchases, if the deposit has room."""
        if step <= self.channel.remaining:
            self.count += 1
            self.ledger.payments.record(
                ONE.channel_id,
                f"k{self.count}",
                lambda found: next_payment(
                    found, idempotency_key=f"k{self.count}", step=step, count=1, memo=None, now=0
                ),
            )
            self.direct += step
            self.authorized += step

    @invariant()
    def the_books_agree(self):
        """What is paid, in flight and paid by hand is what is spent, or overdrawn where what was signed does
        not hold it; what is spent is authorized; that is the highest amount that was signed."""
        if hasattr(self, "ledger"):
            channel = self.channel
            in_flight = sum(one.cost for one in self.in_flight)
            with self.ledger.database.read() as connection:
                (overdrawn,) = connection.execute("SELECT overdrawn FROM channels").fetchone()
            assert channel.spent + int(overdrawn) == self.paid + self.direct + in_flight
            assert self.certain <= channel.spent <= channel.authorized <= self.deposit
            assert self.ledger.purchases.uncertain(ONE.channel_id) == channel.spent - self.certain
            assert channel.authorized == self.authorized


def test_books_against_a_model():
    """Amounts are unique, authorized never falls nor rises beyond what was agreed, the sums agree."""
    run_state_machine_as_test(
        Buying,
        settings=settings(
            max_examples=settings.default.max_examples // 4,
            stateful_step_count=40,
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )


@pytest.fixture
def ledger(tmp_path):
    """A ledger with a channel."""
    with Ledger.open(tmp_path / "ledger.sqlite3") as opened:
        opened.channels.add(ONE.payer_channel(deposit=DEPOSIT), now=0)
        yield opened


def record_deposit(ledger, deposit):
    """What the chain says of the channel."""
    state = ONE.payer_channel(deposit=deposit).state
    ledger.channels.record_states({ONE.channel_id: state}, as_of=0)


def _reserve(path, worker):
    with Ledger.open(path) as ledger:
        return [
            ledger.purchases.reserve(
                ONE.channel_id,
                request(f"{worker}-{number}"),
                VoucherTerms(cost=3, most=9, min_voucher_delta=9),
                now=0,
            ).purchase.cumulative_amount
            for number in range(12)
        ]


def test_processes_side_by_side(ledger):
    """Eight processes that buy at once have 96 amounts of their own, in the headroom of 32 steps."""
    with ProcessPoolExecutor(8, mp_context=get_context("spawn")) as pool:
        path = ledger.database.path
        results = [pool.submit(_reserve, path, worker) for worker in range(8)]
        amounts = [amount for result in results for amount in result.result()]
    assert len(set(amounts)) == 96
    channel = ledger.channels.get(ONE.channel_id)
    assert (channel.spent, channel.authorized) == (288, 288)


def test_one_purchase_a_key(ledger):
    """A key has one purchase that was not returned, and only ever means one request."""
    terms = VoucherTerms(cost=3, most=3)
    first = ledger.purchases.reserve(ONE.channel_id, request("k"), terms, now=0).purchase
    with pytest.raises(OutcomeUnknown):
        ledger.purchases.reserve(ONE.channel_id, request("k"), terms, now=0)
    with pytest.raises(IdempotencyMismatch, match="used for another request: GET"):
        ledger.purchases.of_request(request("k", b"other"))
    ledger.purchases.give_back([first])
    second = ledger.purchases.reserve(ONE.channel_id, request("k"), terms, now=0)
    more = ledger.purchases.reserve(ONE.channel_id, request("k"), terms, now=0, continues=True).purchase
    # The amount that was returned is not signed again for something else; one that nobody used is.
    assert (second.purchase.cumulative_amount, more.cumulative_amount) == (2, 6)
    assert [one.status for one in ledger.purchases.of_request(request("k"))] == [
        PurchaseStatus.RETURNED,
        PurchaseStatus.IN_FLIGHT,
        PurchaseStatus.IN_FLIGHT,
    ]
    assert spent_after(ledger, [second.purchase, more], 4) == 4
    costs = [one.cost for one in ledger.purchases.of_request(request("k"))]
    assert costs == [3, 3, 1]
    assert ledger.purchases.newest(ONE.channel_id).id == more.id


def test_purchases_are_of_their_own_channel(ledger):
    """The same requests are bought with the same amounts on another channel, and change nothing of this."""
    channels = [ONE, keyed(2)]
    ledger.channels.add(channels[1].payer_channel(deposit=DEPOSIT), now=0)

    def books(channel_id):
        query = """SELECT authorized, spent, overdrawn, unconfirmed, charged_until, uncharged
            FROM channels WHERE channel_id = ?"""
        with ledger.database.read() as connection:
            found = [int(one) for one in connection.execute(query, (channel_id,)).fetchone()]
        newest = ledger.purchases.newest(channel_id)
        assert newest.channel_id == channel_id
        costs = (ledger.purchases.counted(channel_id), ledger.purchases.uncertain(channel_id))
        return (*found, *costs, newest.cumulative_amount, newest.cost)

    def bought(channel_id):
        def reserve(cost, most=0):
            key = request(f"{channel_id} {cost}")
            terms = VoucherTerms(cost=cost, most=most, min_voucher_delta=most)
            return ledger.purchases.reserve(channel_id, key, terms, now=9, continues=True).purchase

        assert ledger.purchases.newest(channel_id) is None
        left, given_back, paid, last = reserve(10, 50), reserve(5), reserve(4), reserve(6)
        ledger.purchases.give_back([given_back])
        ledger.purchases.settle([left], 9, Confirmation(untold=7, charged_until=60))
        known = Unconfirmed(amount=7, charged_until=60)
        ledger.purchases.settle([paid], 3, Confirmation(uncharged=2, known=known))
        again = reserve(3)
        amounts = [one.cumulative_amount for one in (left, given_back, paid, last, again)]
        return amounts, books(channel_id)

    first, second = (one.channel_id for one in channels)
    amounts = [50, 15, 19, 25, 49]
    sums = (50, 19, 0, 5, 60, 2, 19, 14, 49, 3)
    assert bought(first) == (amounts, sums)
    assert bought(second) == (amounts, sums)
    assert books(first) == sums


def test_what_was_not_charged_after_all_is_taken_back_once(ledger):
    """And no more of it than is unconfirmed, whether two requests learn of it beside each other, or one is
    settled again. What they leave open themselves adds up."""
    left, one, two = (
        ledger.purchases.reserve(ONE.channel_id, request(key), VoucherTerms(cost=10, most=10), now=0).purchase
        for key in ("left", "one", "two")
    )
    learned = Confirmation(uncharged=9, known=Unconfirmed(amount=7), untold=2)
    for purchase, confirmation in ((left, Confirmation(untold=7)), (one, learned), (two, learned)):
        for _ in range(2):
            ledger.purchases.settle([purchase], 10, confirmation)
    assert ledger.channels.get(ONE.channel_id).spent == 23
    assert ledger.purchases.uncertain(ONE.channel_id) == 4


def test_a_stream_whose_first_purchase_another_run_settled(ledger):
    """That part is told already: no more of it stays open than the stream itself was charged."""
    first, second = (
        ledger.purchases.reserve(
            ONE.channel_id, request("k"), VoucherTerms(cost=30, most=30), now=0, continues=more
        ).purchase
        for more in (False, True)
    )
    ledger.purchases.settle([first], 0)
    ledger.purchases.settle([first, second], 60, Confirmation(untold=60, charged_until=60))
    assert ledger.channels.get(ONE.channel_id).spent == 30
    assert ledger.purchases.certain(ONE.channel_id) == 0
    assert ledger.purchases.chargeable(ONE.channel_id) == 60


def test_what_is_unconfirmed_since_is_not_taken_back(ledger):
    """A request learns that the answer before it was not charged. Another did meanwhile, and one more answer
    without a receipt leaves as much open, which may have been charged."""
    terms = VoucherTerms(cost=10, most=10)
    before = ledger.purchases.reserve(ONE.channel_id, request("before"), terms, now=0).purchase
    ledger.purchases.settle([before], 10, Confirmation(untold=10))
    slow, fast, open_ = (
        ledger.purchases.reserve(ONE.channel_id, request(key), terms, now=0)
        for key in ("slow", "fast", "open")
    )
    learned = Confirmation(uncharged=10, known=slow.unconfirmed)
    ledger.purchases.settle([fast.purchase], 10, learned)
    ledger.purchases.settle([open_.purchase], 10, Confirmation(untold=10))
    ledger.purchases.settle([slow.purchase], 10, learned)
    assert ledger.channels.get(ONE.channel_id).spent == 30
    assert ledger.purchases.uncertain(ONE.channel_id) == 10


def test_no_more_is_unconfirmed_than_was_charged(ledger):
    """A stream cost more than was signed: that part was not charged. A later receipt tells of the rest."""
    reserved = [
        ledger.purchases.reserve(ONE.channel_id, request(key), VoucherTerms(cost=10, most=10), now=0).purchase
        for key in ("stream", "told")
    ]
    for purchase, cost, untold, uncertain in zip(reserved, (30, 0), (30, -25), (20, 0), strict=True):
        ledger.purchases.settle([purchase], cost, Confirmation(untold=untold))
        assert ledger.purchases.uncertain(ONE.channel_id) == uncertain


def test_a_stream_is_signed_no_more_for_than_its_limit(ledger):
    """With what was signed before and is not spent, which the payee may charge for it without asking."""
    paid, given_back = (
        ledger.purchases.reserve(ONE.channel_id, request(key), VoucherTerms(cost=cost, most=cost), now=0)
        for key, cost in [("paid", 20), ("before", 30)]
    )
    assert spent_after(ledger, [paid.purchase], 20) == 50
    ledger.purchases.give_back([given_back.purchase])
    for delta in (1, 71):
        terms = VoucherTerms(cost=31, most=29 + delta, min_voucher_delta=delta, takes_headroom=True)
        with pytest.raises(AboveLimit) as refused:
            ledger.purchases.reserve(ONE.channel_id, request("stream"), terms, now=0)
        assert refused.value.hint.startswith("--max-amount")
    terms = VoucherTerms(cost=31, most=101, min_voucher_delta=71, takes_headroom=True)
    reserved = ledger.purchases.reserve(ONE.channel_id, request("stream"), terms, now=0)
    assert (reserved.purchase.cost, reserved.rise) == (101, 71)


def test_a_stream_that_needs_no_more_signed_is_within_its_limit(ledger):
    """However much was signed before and is not spent."""
    terms = VoucherTerms(cost=10, most=100, min_voucher_delta=100)
    given_back = ledger.purchases.reserve(ONE.channel_id, request("before"), terms, now=0)
    ledger.purchases.give_back([given_back.purchase])
    terms = VoucherTerms(cost=10, most=10, takes_headroom=True)
    reserved = ledger.purchases.reserve(ONE.channel_id, request("stream"), terms, now=0)
    assert (reserved.purchase.cumulative_amount, reserved.rise) == (99, 0)


def test_a_stream_takes_what_is_reserved_beside_it(ledger):
    """It cost more than was left of the deposit: that counts as soon as requests beside it are given back."""
    stream, request_ = (
        ledger.purchases.reserve(ONE.channel_id, request(key), VoucherTerms(cost=cost, most=cost), now=0)
        for key, cost in [("stream", 100), ("request", 300)]
    )
    assert spent_after(ledger, [stream.purchase], 350) == DEPOSIT
    assert ledger.purchases.uncertain(ONE.channel_id) == 50
    ledger.purchases.give_back([request_.purchase])
    assert ledger.channels.get(ONE.channel_id).spent == 350
    assert [one.cost for one in ledger.purchases.of_key("stream")] == [350]


def test_a_stream_that_was_left_counts_in_full_beyond_what_was_signed(ledger):
    """Its payee may go on charging it once more is signed, though it could not by then: that is all spent."""
    stream, left = (
        ledger.purchases.reserve(ONE.channel_id, request(key), VoucherTerms(cost=cost, most=cost), now=0)
        for key, cost in [("stream", 100), ("left", 300)]
    )
    ledger.purchases.settle([stream.purchase], 350)
    ledger.purchases.settle([left.purchase], 300, Confirmation(untold=300, charged_until=60))
    assert [one.cost for one in ledger.purchases.of_key("left")] == [300]
    record_deposit(ledger, 1000)
    terms = VoucherTerms(cost=100, most=100)
    after = ledger.purchases.reserve(ONE.channel_id, request("next"), terms, now=0)
    assert spent_after(ledger, [after.purchase], 100) == 500
    terms = VoucherTerms(cost=100, most=450, min_voucher_delta=450)
    much = ledger.purchases.reserve(ONE.channel_id, request("much"), terms, now=0)
    assert much.purchase.cumulative_amount == 950
    assert spent_after(ledger, [much.purchase], 100) == 350 + 300 + 100 + 100


def test_no_more_is_certain_than_was_signed(ledger):
    """Where a payee takes for a request what a stream beside it has brought, both cannot have cost that:
    what comes next is settled all the same."""
    request_, left = (
        ledger.purchases.reserve(ONE.channel_id, request(key), VoucherTerms(cost=cost, most=cost), now=0)
        for key, cost in [("request", 100), ("left", 300)]
    )
    ledger.purchases.settle([request_.purchase], 350)
    ledger.purchases.settle([left.purchase], 300, Confirmation(untold=0, charged_until=60))
    assert ledger.purchases.uncertain(ONE.channel_id) == 0
    record_deposit(ledger, 1000)
    after = ledger.purchases.reserve(ONE.channel_id, request("next"), VoucherTerms(cost=100, most=100), now=0)
    assert spent_after(ledger, [after.purchase], 100) == DEPOSIT + 100
    assert ledger.purchases.uncertain(ONE.channel_id) == 0


@pytest.mark.parametrize(
    ("at_least", "amount"), [(0, 15), (15, 15), (16, 99), (99, 99), (100, 101), (102, 102)]
)
def test_the_payee_gets_as_much_as_it_waits_for(ledger, at_least, amount):
    """Of what was signed before, where that is enough: less would be refused, and more is not signed."""
    first = VoucherTerms(cost=10, most=100, min_voucher_delta=100)
    ledger.purchases.reserve(ONE.channel_id, request("first"), first, now=0)
    terms = VoucherTerms(cost=5, most=2, at_least=at_least)
    reserved = ledger.purchases.reserve(ONE.channel_id, request("next"), terms, now=0)
    assert (reserved.purchase.cumulative_amount, reserved.rise) == (amount, max(0, amount - 100))


def test_a_voucher_may_take_all_of_the_deposit(ledger):
    """For one base unit more it tells the top-up that would be enough, and signs nothing."""
    all_of_it = VoucherTerms(cost=DEPOSIT, most=DEPOSIT)
    reserved = ledger.purchases.reserve(ONE.channel_id, request("all"), all_of_it, now=0)
    assert reserved.purchase.cumulative_amount == DEPOSIT
    with pytest.raises(AmountExceedsDeposit) as caught:
        ledger.purchases.reserve(ONE.channel_id, request("more"), VoucherTerms(cost=1, most=1), now=0)
    assert caught.value.hint == f'microwallet channel top-up {ONE.channel_id} "0.000001 USDC"'
    assert ledger.channels.get(ONE.channel_id).authorized == DEPOSIT


def test_nothing_is_authorized_that_was_not_signed(ledger):
    """A stream took what is reserved for a request beside it: the next voucher rises by its own cost."""
    stream, beside = (
        ledger.purchases.reserve(ONE.channel_id, request(key), VoucherTerms(cost=cost, most=cost), now=0)
        for key, cost in [("stream", 100), ("request", 10)]
    )
    assert spent_after(ledger, [stream.purchase], 110) == 110
    assert ledger.channels.get(ONE.channel_id).authorized == 110
    terms = VoucherTerms(cost=10, most=10)
    after = ledger.purchases.reserve(ONE.channel_id, request("next"), terms, now=0)
    assert (after.purchase.cumulative_amount, after.rise) == (120, 10)
    ledger.purchases.give_back([beside.purchase])
    assert spent_after(ledger, [after.purchase], 10) == 120


def test_a_stream_of_several_purchases_after_one_that_took_more(ledger):
    """What was overdrawn before is not taken off what it costs."""
    costs = {"stream": 100, "0": 100, "1": 100, "2": 100}
    terms = {key: VoucherTerms(cost=cost, most=cost) for key, cost in costs.items()}
    one = {key: ledger.purchases.reserve(ONE.channel_id, request(key), terms[key], now=0) for key in costs}
    assert spent_after(ledger, [one["stream"].purchase], 350) == DEPOSIT
    record_deposit(ledger, 600)
    two = [
        ledger.purchases.reserve(ONE.channel_id, request("t"), terms["0"], now=0, continues=more).purchase
        for more in (False, True)
    ]
    for key in "01":
        ledger.purchases.settle([one[key].purchase], 100)
    ledger.purchases.give_back([one["2"].purchase])
    assert spent_after(ledger, two, 200) == 600
    assert sum(one.cost for one in ledger.purchases.of_key("t")) == 50


def test_a_deposit_that_a_reorganisation_took(ledger):
    """What was spent and authorized stays so, whatever happens until the deposit is there again."""
    paid, given_back, left = (
        ledger.purchases.reserve(ONE.channel_id, request(key), VoucherTerms(cost=50, most=50), now=0).purchase
        for key in ("paid", "given back", "left")
    )
    record_deposit(ledger, 0)
    assert spent_after(ledger, [paid], 60) == 150
    ledger.purchases.give_back([given_back])
    assert ledger.channels.get(ONE.channel_id).spent == 110
    assert ledger.purchases.uncertain(ONE.channel_id) == left.cost
    record_deposit(ledger, DEPOSIT)
    terms = VoucherTerms(cost=60, most=60)
    again = ledger.purchases.reserve(ONE.channel_id, request("again"), terms, now=0)
    assert again.purchase.cumulative_amount == 170


class Confirming(PayersBooks):
    """Requests of which some have no receipt: the payee charges what it likes of them when they end, of what
    is authorized, be it for others; `late` holds what it may charge later of streams that were left, and
    until when."""

    @initialize(deposit=st.sampled_from([20, 50, 10**9]))
    def open(self, deposit):
        """A channel with a deposit that is soon used up, or never."""
        self.open_ledger(deposit=deposit)
        self.in_flight = []
        self.late = []
        self.charged = 0
        self.count = self.settled = self.now = 0

    @rule(cost=st.just(5) | st.integers(1, 9))
    def reserve(self, cost):
        self.count += 1
        terms = VoucherTerms(cost=cost, most=cost)
        key = request(f"k{self.count}")
        try:
            reserved = self.ledger.purchases.reserve(ONE.channel_id, key, terms, now=self.now)
        except AmountExceedsDeposit:
            return
        is_final = all(until <= self.now for _, until in self.late)
        self.in_flight.append((reserved, None if self.in_flight else self.settled, is_final))

    @rule(amount=st.integers(1, 20))
    def top_up(self, amount):
        record_deposit(self.ledger, self.channel.state.deposit + amount)

    @property
    def left(self):
        """What an honest payee can still charge."""
        return self.channel.authorized - self.charged

    @precondition(lambda self: self.in_flight)
    @rule(
        data=st.data(),
        end=st.sampled_from(
            ["receipt", "receipt", "receipt", "no receipt", "no receipt", "left", "returned"]
        ),
        more=st.just(0) | st.integers(0, 30),
    )
    def settle(self, data, end, more):
        reserved, settled, is_final = self.in_flight.pop(data.draw(st.integers(0, len(self.in_flight) - 1)))
        is_alone = settled == self.settled and not self.in_flight
        self.settled += 1
        purchase = reserved.purchase
        if end == "returned":
            self.ledger.purchases.give_back([purchase])
            return
        agreed = purchase.cost + more
        most = min(agreed, self.left)
        units = data.draw(st.just(0) | st.just(most) | st.integers(0, most))
        self.charged += units
        receipt = SessionReceipt(
            timestamp=1,
            challenge_id="c",
            channel_id=ONE.channel_id,
            chain_id=ONE.descriptor.chain_id,
            accepted_cumulative=self.channel.authorized,
            spent=self.charged,
            units=units,
        )
        books = Books(
            channel=self.channel,
            challenge_id=None,
            cumulative_amount=purchase.cumulative_amount,
            reserved=purchase.cost,
            price=1,
            agreed=agreed,
            delivered=units if more else 0,
            least_spent=reserved.least_spent,
            most_spent=self.channel.authorized,
            unconfirmed=reserved.unconfirmed,
            is_final=reserved.is_final,
        )
        told = ToldReceipt(receipt=receipt) if end == "receipt" else ToldReceipt()
        problems = books.problems(told)
        assert problems == []
        charged_until = 0
        if end == "left":
            charged_until = self.now + STREAM_SECONDS
            self.late.append((max(0, purchase.cost - units), charged_until))
        confirmation = books.confirmation(
            told, problems=problems, is_by_use=True, charged_until=charged_until
        )
        self.ledger.purchases.settle([purchase], books.cost(told), confirmation)
        if end == "receipt" and is_alone and is_final:
            assert self.channel.spent == self.charged

    @precondition(lambda self: self.late)
    @rule(seconds=st.sampled_from([1, STREAM_SECONDS]))
    def time_passes(self, seconds):
        self.now += seconds

    @precondition(lambda self: self.late)
    @rule(data=st.data())
    def charge_late(self, data):
        """The payee has not seen yet that the stream was left."""
        rest, until = self.late.pop()
        if self.now < until:
            units = data.draw(st.integers(0, min(rest, self.left)))
            self.charged += units
            self.late.append((rest - units, until))

    @invariant()
    def nothing_that_was_charged_is_forgotten(self):
        if hasattr(self, "ledger"):
            in_flight = sum(one.purchase.cost for one, _, _ in self.in_flight)
            late = sum(rest for rest, until in self.late if self.now < until)
            with self.ledger.database.read() as connection:
                (overdrawn,) = connection.execute("SELECT overdrawn FROM channels").fetchone()
            assert self.charged <= self.channel.spent <= self.channel.authorized
            assert self.charged + in_flight + late <= self.channel.spent + int(overdrawn)
            uncertain = self.ledger.purchases.uncertain(ONE.channel_id)
            assert 0 <= self.channel.spent - uncertain <= self.charged
            assert uncertain >= 0
            assert self.channel.authorized <= self.channel.state.deposit

    @invariant()
    def what_was_taken_back_is_written_down(self):
        """As a sum of its own."""
        if hasattr(self, "ledger"):
            self.check_sums()


TestConfirming = Confirming.TestCase
TestConfirming.settings = settings(max_examples=settings.default.max_examples // 2, stateful_step_count=30)


class Lying(PayersBooks):
    """Whatever a payee makes requests seem to have cost, at the same time as others: the books hold."""

    @initialize(deposit=st.sampled_from([50, 200]))
    def open(self, deposit):
        """A channel with a deposit that is soon used up."""
        self.open_ledger(deposit=deposit)
        self.in_flight = []
        self.count = 0

    @rule(cost=st.integers(1, 30), more=st.just(0) | st.integers(0, 30))
    def reserve(self, cost, more):
        self.count += 1
        terms = VoucherTerms(cost=cost, most=cost + more, takes_headroom=more > 20)
        with suppress(AboveLimit, AmountExceedsDeposit):
            reserved = self.ledger.purchases.reserve(
                ONE.channel_id, request(f"k{self.count}"), terms, now=self.count
            )
            self.in_flight.append(reserved)

    @precondition(lambda self: self.in_flight)
    @rule(
        data=st.data(),
        cost=st.integers(0, 60),
        untold=st.just(0) | st.integers(-20, 60),
        uncharged=st.just(0) | st.integers(0, 60),
        later=st.just(0) | st.integers(0, 5),
        is_served=st.sampled_from([True] * 4 + [False]),
    )
    def end(self, data, cost, untold, uncharged, later, is_served):
        reserved = self.in_flight.pop(data.draw(st.integers(0, len(self.in_flight) - 1)))
        if not is_served:
            self.ledger.purchases.give_back([reserved.purchase])
            return
        confirmation = Confirmation(
            untold=untold,
            uncharged=uncharged,
            known=reserved.unconfirmed,
            charged_until=later and self.count + later,
        )
        self.ledger.purchases.settle([reserved.purchase], cost, confirmation)

    @rule(amount=st.integers(1, 60))
    def top_up(self, amount):
        record_deposit(self.ledger, self.channel.state.deposit + amount)

    @invariant()
    def the_books_hold(self):
        if hasattr(self, "ledger"):
            self.check_sums()
            assert 0 <= self.ledger.purchases.uncertain(ONE.channel_id) <= self.channel.spent
            assert self.channel.spent <= self.channel.authorized <= self.channel.state.deposit


TestLying = Lying.TestCase
TestLying.settings = settings(max_examples=settings.default.max_examples // 4, stateful_step_count=30)
