"""Two gateways on one ledger, against payers who ask for anything at any moment: the books are right.

The loop has a clock of its own, and nothing waits for a disk or a thread. A step may end before what it began
has: so each comes between any two stages of others, and all happens the same way again.
"""

from __future__ import annotations

import asyncio
import tempfile
from dataclasses import replace
from pathlib import Path

from counter import CHAIN_ID, ESCROW, PAYEE, USDC, Counter, Payer, credential
from hypothesis import event, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from microwallet.domain.identifiers import TxHash
from microwallet.domain.ports import Quiet
from microwallet.domain.voucher import SignerCheck, VoucherDigest
from microwallet.domain.voucher_document import voucher_writer
from microwallet.errors import NetworkError
from microwallet.http402.charging import gateway
from microwallet.http402.charging.middleware import PaymentMiddleware
from microwallet.http402.charging.sales import MOST_REPEATS
from microwallet.http402.wire.challenge import offered_challenges
from microwallet.ledger.known_accounts import KnownAccounts
from microwallet.ledger.ledger import Ledger
from microwallet.payee.accept import Acceptance, AcceptancePolicy
from microwallet.payee.captures import whole_capture
from microwallet.payee.settle import Settlement

DEPOSIT = 4000
REQUEST, UNIT, MOST_UNITS, EVENT = 100, 10, 9, 20
SHOWN = {"/request": REQUEST, "/units": UNIT * MOST_UNITS, "/events": 6 * EVENT}
"""What a voucher usually adds for a request."""
RESERVED = {"/request": REQUEST, "/units": UNIT * MOST_UNITS, "/events": EVENT}
ROUTES = (
    {"path": "/request", "price": str(REQUEST)},
    {
        "path": "/units",
        "price": str(UNIT),
        "per": "header",
        "units-header": "x-units",
        "max-units": MOST_UNITS,
    },
    {"path": "/events", "price": str(EVENT), "per": "event"},
)
OF_KEY = {"a": "/request", "b": "/units"}
"""For what a key is used, if not for anything."""
REST = 80
"""Turns of the loop after which nothing goes on by itself."""
TURNS = st.sampled_from([REST, REST, REST, 1, 2, 3, 4, 5, 6, 8])
SAID = {200, 402, 404, 409, 410, 422, 500, 503}


class Loop(asyncio.SelectorEventLoop):
    """Its time passes when it is told to."""

    now = 0.0

    def time(self):
        return self.now


class Fell(Exception):
    """What an application raises."""


class Asked:
    """A request of a payer, from its credential to its end."""

    def __init__(self, number, payer, path, key, worker=None):
        self.number, self.payer, self.path, self.key, self.worker = number, payer, path, key, worker
        self.orders = asyncio.Queue()
        """What the application is to do next."""
        self.left = asyncio.Event()
        self.is_begun = False
        """Whether the application was asked."""
        self.units = None
        """What it told that was used."""
        self.events = 0
        """What it was told to send."""
        self.status, self.fields, self.body = None, {}, b""
        self.task = None

    @property
    def is_over(self):
        return self.task.done()

    @property
    def is_served(self):
        return self.is_begun and self.status in (200, 404)

    @property
    def cost(self):
        """What it is to be charged, by what its client got."""
        if self.path == "/events":
            is_plain = self.is_served and self.units is not None
            return EVENT * (self.status == 200) if is_plain else self.body.count(b"data: x") * EVENT
        if not self.is_served:
            return 0
        return REQUEST if self.path == "/request" else min(self.units, MOST_UNITS) * UNIT

    async def serve(self, send):
        """What the application does."""
        self.is_begun = True
        while await (await self.orders.get())(send):
            pass

    def answer(self, status, units):
        """Have it answer."""

        async def do(send):
            self.units = units
            headers = [(b"content-type", b"text/plain"), (b"x-units", b"%d" % units)]
            await send({"type": "http.response.start", "status": status, "headers": headers})
            await send({"type": "http.response.body", "body": b"served"})

        self.orders.put_nowait(do)

    def stream(self, count, *, goes_on):
        """Have it send so many events."""
        self.events += count
        headers = [(b"content-type", b"text/event-stream")]

        async def do(send):
            if self.status is None:
                await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": b"data: x\n\n" * count, "more_body": goes_on})
            return goes_on

        self.orders.put_nowait(do)

    def fail(self):
        """Have it raise something."""

        async def do(_send):
            raise Fell

        self.orders.put_nowait(do)

    async def receive(self):
        """It has no body; nothing comes but its end."""
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def told(self, message):
        """What comes to its client."""
        if message["type"] == "http.response.start":
            assert self.status is None
            self.status, self.fields = message["status"], dict(message["headers"])
        else:
            self.body += message.get("body", b"")


class Closing:
    """A close of a channel that has begun."""

    def __init__(self, payer, *, by_payer):
        self.payer, self.by_payer = payer, by_payer
        self.is_done = asyncio.Event()


class Serving(RuleBasedStateMachine):
    """Two channels, two workers, and the chain, of which each worker has its own view."""

    @initialize()
    def open(self):
        self.waited, gateway.IN_HAND_SECONDS = gateway.IN_HAND_SECONDS, 0.0
        self.folder = tempfile.TemporaryDirectory()
        home = Path(self.folder.name)
        self.loop, self.failures = Loop(), []
        self.loop.set_exception_handler(lambda _, context: self.failures.append(context))
        self.payers = [Payer(1, deposit=DEPOSIT), Payer(2, deposit=DEPOSIT)]
        self.escrow = {one.channel_id: one.state for one in self.payers}
        self.most_deposited = dict.fromkeys(self.escrow, DEPOSIT)
        self.workers = [self.worker(home), self.worker(home)]
        self.workers[0].know(self.payers[0])
        self.elsewhere = Ledger.open(home / "ledger.sqlite3")
        """What another process has open, which settles, closes and accepts."""
        self.settlement = Settlement(
            home=home,
            chain_id=CHAIN_ID,
            vouchers=self.elsewhere.vouchers,
            reader_of=None,
            journal=self.elsewhere.journal,
            sender_of=None,
            wait_seconds=0.0,
            clock=self.clock,
            reporter=Quiet(),
        )
        self.asked, self.closings, self.ends = [], {}, set()
        self.challenges, self.steps, self.is_at_rest = {}, 0, True
        self.amounts = {one.channel_id: [] for one in self.payers}
        """Of vouchers that were shown."""

    def worker(self, home):
        counter = Counter(home, ROUTES)

        async def chain(work):
            await asyncio.sleep(0)
            return work(counter.chain)

        async def close(channel_id):
            payer = next(one for one in self.payers if one.channel_id == channel_id)
            if payer.channel_id in self.closings:
                raise NetworkError("somebody else closes it")
            await self.begin_close(payer, by_payer=True).is_done.wait()
            return TxHash("0x" + "99" * 32)

        counter.desk.run = counter.openings.run = chain
        counter.gateway.till._commit._syncer = self  # see `begin`
        counter.gateway._close_channel = close
        counter.application = PaymentMiddleware(self.shelf, counter.gateway)
        counter.chain.channels = dict(self.escrow)
        counter.chain.topped_up = lambda _hash, channel_id, _amount: counter.chain.channels[channel_id]
        return counter

    def begin(self, tell):
        """What a store is synced by: it takes a turn of the loop."""
        self.loop.call_soon(tell, None)

    def clock(self):
        return self.workers[0].now

    async def shelf(self, scope, _receive, send):
        await self.asked[int(dict(scope["headers"])[b"x-number"])].serve(send)

    def teardown(self):
        gateway.IN_HAND_SECONDS = getattr(self, "waited", gateway.IN_HAND_SECONDS)
        if not hasattr(self, "amounts"):
            return
        for task in asyncio.all_tasks(self.loop):
            task.cancel()
        self.turn()
        for counter in self.workers:
            counter.close()
        self.elsewhere.close()
        self.loop.close()
        self.folder.cleanup()

    def turn(self, turns=REST):
        """Let what was begun go on."""

        async def on():
            for _ in range(turns):
                await asyncio.sleep(0)

        self.loop.run_until_complete(on())
        self.is_at_rest = turns == REST

    def channel(self, payer):
        return self.elsewhere.vouchers.get(payer.channel_id)

    def amount(self, payer, mode, plus):
        """Of a voucher: what buys something next, one from before, or any."""
        channel, shown = self.channel(payer), self.amounts[payer.channel_id]
        spent = channel.spent if channel else 0
        best = max([channel.authorized if channel else 0, *shown])
        if mode == "old" and shown:
            amount = shown[plus % len(shown)]
        elif mode == "any":
            amount = plus * 10
        else:
            amount = max(best, spent) + plus
        shown.append(amount)
        return amount

    async def connect(self, counter, one, method, action, *, challenge=None):
        """A request over a connection of its own."""
        headers = [(b"x-number", b"%d" % one.number)]
        if action is not None:
            headers.append((b"authorization", credential(one.payer, action, challenge).encode()))
        if one.key is not None:
            headers.append((b"idempotency-key", one.key.encode()))
        scope = {
            "type": "http", "method": method, "raw_path": one.path.encode(), "path": one.path,
            "query_string": b"", "headers": headers, "scheme": "http",
        }  # fmt: skip
        try:
            await counter.application(scope, one.receive, one.told)
        except Fell:
            one.status = one.status or 500

    def asks(self, worker, payer, path, action, *, method="GET", key=None):
        """Begin a request with a credential, for a challenge that is good for it."""
        counter = self.workers[worker]

        async def ask(one):
            expires_at, challenge = self.challenges.get((payer.channel_id, path), (0, None))
            if expires_at <= counter.now:
                bare = Asked(0, payer, path, None)
                await self.connect(counter, bare, "GET", None)
                (challenge,) = offered_challenges([bare.fields[b"www-authenticate"].decode()]).challenges
                self.challenges[payer.channel_id, path] = counter.now + 200, challenge
            await self.connect(counter, one, method, action, challenge=challenge)
            assert one.status in SAID
            if one.status == 200 and not one.is_begun:
                assert key is not None or method == "HEAD"

        one = Asked(len(self.asked), payer, path, key, worker)
        self.asked.append(one)
        one.task = self.loop.create_task(ask(one))
        return one

    # What payers do

    @rule(
        payer=st.integers(0, 1),
        worker=st.integers(0, 1),
        path=st.sampled_from([*RESERVED, *RESERVED, "/request"]),
        mode=st.sampled_from(["next"] * 6 + ["old", "any"]),
        plus=st.sampled_from([None] * 6 + [0, 1, 7, 50, 130]),
        key=st.none() | st.none() | st.sampled_from("abc"),
        turns=TURNS,
    )
    def buy(self, payer, worker, path, mode, plus, key, turns):
        """With a voucher that covers it, or with any other."""
        payer, path = self.payers[payer], OF_KEY.get(key, path)
        amount = self.amount(payer, mode, SHOWN[path] if plus is None else plus)
        action = payer.pay(amount) if self.channel(payer) else payer.open(amount)
        self.asks(worker, payer, path, action, key=key)
        self.turn(turns)

    @rule(
        worker=st.integers(0, 1),
        paths=st.lists(st.sampled_from([*RESERVED]), min_size=2, max_size=5),
        key=st.sampled_from([None, None, None, "a", "b"]),
        turns=TURNS,
    )
    def buy_in_order(self, worker, paths, key, turns):
        """As most is sold: by vouchers that are higher each time."""
        for path in paths:
            self.buy(0, worker, path, "next", None, key, turns)

    @rule(
        payer=st.integers(0, 1),
        worker=st.integers(0, 1),
        mode=st.sampled_from(["next", "next", "old", "any"]),
        plus=st.sampled_from([0, 20, 100, 300]),
        turns=TURNS,
    )
    def hand_over(self, payer, worker, mode, plus, turns):
        """A voucher beside requests."""
        payer = self.payers[payer]
        self.asks(worker, payer, "/events", payer.pay(self.amount(payer, mode, plus)), method="HEAD")
        self.turn(turns)

    @property
    def live(self):
        return [one for one in self.asked if not one.is_over]

    @property
    def served(self):
        """Requests that the application is to answer yet."""
        return [one for one in self.live if one.is_begun and one.orders.empty() and one.units is None]

    @precondition(lambda self: self.live)
    @rule(data=st.data(), turns=TURNS)
    def leave(self, data, turns):
        """A client goes away, of which its server learns; or the server ends, mostly at once."""
        one = data.draw(st.sampled_from(self.live if self.is_at_rest else self.live[-1:]))
        if data.draw(st.booleans()):
            event("left")
            one.left.set()
        else:
            event("cancelled")
            one.task.cancel()
        self.turn(turns)

    @rule(payer=st.integers(0, 1), worker=st.none() | st.integers(0, 1), turns=TURNS)
    def top_up(self, payer, worker, turns):
        """It cancels a close that was requested. Its payee is told, or is not."""
        payer = self.payers[payer]
        state = self.escrow[payer.channel_id]
        if state.finalized:
            return
        self.put(payer, deposit=state.deposit + 300, close_requested_at=0)
        if worker is not None:
            self.see(worker)
            self.tell_of_top_up(worker, payer)
        self.turn(turns)

    def tell_of_top_up_again(self, payer, worker):
        """Or of one that never was."""
        self.tell_of_top_up(worker, payer)

    def tell_of_top_up(self, worker, payer):
        self.asks(worker, payer, "/request", payer.top_up(300), method="HEAD")

    def request_close(self, payer, _worker):
        """On the chain; the next time it is withdrawn, or a reorganisation undoes one or the other."""
        state = self.escrow[payer.channel_id]
        self.ends.add(payer.channel_id)
        if state.finalized:
            self.put(payer, finalized=False)
        else:
            self.put(payer, close_requested_at=0 if state.close_requested_at else self.clock())

    def ask_for_close(self, payer, worker):
        """Over HTTP, with any voucher."""
        self.asks(worker, payer, "/request", payer.close(self.amount(payer, "old", 0)), method="HEAD")

    # What the application does

    @precondition(lambda self: self.served)
    @rule(
        data=st.data(),
        status=st.sampled_from([200, 200, 200, 404, 500, 402]),
        units=st.integers(0, 12),
        turns=TURNS,
    )
    def answer(self, data, status, units, turns):
        """One that is being served; streams end, or never begin, or fail."""
        one = data.draw(st.sampled_from(self.served))
        if one.path == "/events" and one.status is not None:
            one.stream(units // 3, goes_on=False)
        elif status == 500 and units > 6:
            one.fail()
        else:
            one.answer(status, units)
        self.turn(turns)

    @precondition(lambda self: any(one.path == "/events" for one in self.served))
    @rule(data=st.data(), count=st.sampled_from([1, 2, 3, 8]), turns=TURNS)
    def stream(self, data, count, turns):
        """Events, for as long as they are paid."""
        one = data.draw(st.sampled_from([one for one in self.served if one.path == "/events"]))
        one.stream(count, goes_on=True)
        self.turn(turns)

    # What else happens

    @rule(
        what=st.sampled_from(
            ["tell_of_top_up_again", "request_close", "ask_for_close", "close", "sees_chain", "forget"]
        ),
        payer=st.integers(0, 1),
        worker=st.integers(0, 1),
        turns=TURNS,
    )
    def beside(self, what, payer, worker, turns):
        """Something that comes less often than what is sold."""
        getattr(self, what)(self.payers[payer], worker)
        self.turn(turns)

    @rule(seconds=st.sampled_from([0.3, 1.0, 16.0, 31.0, 61.0]), turns=TURNS)
    def time_passes(self, seconds, turns):
        self.loop.now += seconds
        for counter in self.workers:
            counter.now += int(seconds)
        self.turn(turns)

    def sees_chain(self, _payer, worker):
        """A worker's node, which was behind, is so no more."""
        self.see(worker)

    def see(self, worker):
        self.workers[worker].chain.channels = dict(self.escrow)

    def put(self, payer, **change):
        """Change a channel on the chain."""
        state = self.escrow[payer.channel_id] = replace(self.escrow[payer.channel_id], **change)
        self.most_deposited[payer.channel_id] = max(self.most_deposited[payer.channel_id], state.deposit)

    @rule(is_heard=st.booleans())
    def look(self, is_heard):
        """What whoever settles does now and then."""
        known = [channel for payer in self.payers if (channel := self.channel(payer))]
        states = {one.channel_id: self.escrow[one.channel_id] for one in known}
        news = {
            one.channel_id: states[one.channel_id] for one in known if one.state != states[one.channel_id]
        }
        self.elsewhere.vouchers.record_states(news, as_of=self.clock())
        if is_heard:
            self.workers[0].gateway.hear(states, at=self.clock())

    @rule(payer=st.integers(0, 1), amount=st.integers(0, 60), start=st.integers(0, 60))
    def accept_elsewhere(self, payer, amount, start):
        """A voucher for something else than a request."""
        payer = self.payers[payer]
        amount = self.amount(payer, "next" if amount % 2 else "any", amount)
        write = voucher_writer(payer.descriptor, payer.channel_id, USDC, payment_start=start * 10)
        line = write(amount, 1, max(1, amount), payer.voucher(amount).signature)
        policy = AcceptancePolicy(
            chain_id=CHAIN_ID,
            escrow_contracts=frozenset({ESCROW}),
            payees=frozenset({PAYEE}),
            assets={USDC.token: USDC},
        )
        Acceptance(self.elsewhere.vouchers, self, policy, clock=self.clock).take([line.encode()])

    def states(self, _escrow_contract, channel_ids):
        return {one: self.escrow[one] for one in channel_ids}

    @rule(payer=st.integers(0, 1))
    def settle(self, payer):
        """What is certain is captured."""
        payer = self.payers[payer]
        if (channel := self.channel(payer)) is not None and not self.escrow[payer.channel_id].finalized:
            self.capture(payer, channel, is_certain=True)

    def capture(self, payer, channel, *, is_certain):
        state = self.escrow[payer.channel_id]
        channel = replace(channel, state=state)
        if is_certain:
            (channel,) = self.settlement.certain([channel])
        captured = whole_capture(channel).capture_amount
        assert state.settled <= captured <= max(state.settled, min(channel.authorized, state.deposit))
        if is_certain:
            assert captured <= max(state.settled, self.handed_over(payer) + self.most_certain(payer))
        if captured > state.settled:
            event("captured")
            self.check_signed(channel)
        mine = [one for one in self.live if one.payer is payer]
        if self.is_at_rest and not mine:
            assert captured == max(state.settled, min(self.channel(payer).spent, state.deposit))
        self.put(payer, settled=captured)

    def begin_close(self, payer, *, by_payer):
        event("close begun")
        self.ends.add(payer.channel_id)
        self.elsewhere.vouchers.begin_closes([payer.channel_id])
        closing = self.closings[payer.channel_id] = Closing(payer, by_payer=by_payer)
        return closing

    def close(self, payer, _worker):
        """As `payee close` begins it."""
        if self.channel(payer) and not self.closings:
            self.begin_close(payer, by_payer=False)

    @precondition(lambda self: self.closings)
    @rule(data=st.data(), is_mined=st.sampled_from([False, False, True]), turns=TURNS)
    def close_ends(self, data, is_mined, turns):
        self.end_close(data.draw(st.sampled_from(sorted(self.closings))), is_mined=is_mined)
        self.turn(turns)

    def end_close(self, channel_id, *, is_mined):
        closing = self.closings.pop(channel_id)
        vouchers = self.elsewhere.vouchers
        if is_mined and not self.escrow[channel_id].finalized:
            event("closed")
            self.capture(closing.payer, self.channel(closing.payer), is_certain=not closing.by_payer)
            self.put(closing.payer, finalized=True, close_requested_at=0)
            vouchers.record_states({channel_id: self.escrow[channel_id]}, as_of=self.clock())
        vouchers.end_closes([channel_id])
        closing.is_done.set()

    def forget(self, _payer, worker):
        """A worker remembers nothing of accounts."""
        self.workers[worker].ledger.sessions._known = KnownAccounts()

    @precondition(lambda self: self.steps > 15)
    @rule(worker=st.integers(0, 1))
    def honest(self, worker):
        """Once all that was begun has ended and the chain is quiet, who pays is served."""
        for _ in range(30):
            for channel_id in list(self.closings):
                self.end_close(channel_id, is_mined=False)
            for one in self.live:
                if one.is_begun and one.path == "/events" and one.status is not None:
                    one.left.set()
                    one.stream(1, goes_on=False)
                elif one.is_begun:
                    one.answer(200, 1)
            self.turn()
            self.loop.now += 61
            if not self.live:
                break
        assert not self.live
        open_ = [
            one for one in self.payers if self.channel(one) and not self.escrow[one.channel_id].finalized
        ]
        for payer in open_:
            deposit = max(self.escrow[payer.channel_id].deposit, *self.amounts[payer.channel_id], 0) + REQUEST
            self.put(payer, deposit=deposit, close_requested_at=0)
        for number in (0, 1):
            self.see(number)
            self.workers[number].now += 31
        self.look(is_heard=False)
        for payer in open_:
            one = self.asks(worker, payer, "/request", payer.pay(self.amount(payer, "next", REQUEST)))
            self.turn()
            assert one.is_begun, (one.status, one.body)
            one.answer(200, 0)
            self.turn()
            assert one.is_served
            event("honest")

    # What holds

    def handed_over(self, payer):
        query = "SELECT above, up_to FROM handed_over WHERE channel_id = ?"
        with self.elsewhere.database.read() as connection:
            rows = connection.execute(query, (payer.channel_id,)).fetchall()
        return sum(int(up_to) - int(above) for above, up_to in rows)

    def sold(self, payer):
        query = "SELECT cost FROM sales WHERE channel_id = ? AND returned = 0"
        with self.elsewhere.database.read() as connection:
            return sum(int(cost) for (cost,) in connection.execute(query, (payer.channel_id,)))

    def purchases(self, payer):
        """Requests that are charged once, however often they were asked: those of one key."""
        found = {}
        for one in self.asked:
            if one.payer is payer and one.is_begun:
                found.setdefault(one.number if one.key is None else (one.key, one.path), []).append(one)
        return found.values()

    def most_certain(self, payer):
        """What can be certain by now: events that are charged before they are sent, and what somebody still
        waits for although it was given up by who asked first, at the other worker or before the channel was
        to end."""
        total = 0
        for group in self.purchases(payer):
            is_awaited = len(group) > 1 and not all(one.is_over for one in group)
            is_awaited &= payer.channel_id in self.ends or len({one.worker for one in group}) > 1
            total += max(
                RESERVED[one.path] if is_awaited else max(one.cost, one.events * EVENT) for one in group
            )
        return total

    def charged(self, group):
        """What requests are charged together, at least and at most."""
        path, served = group[0].path, [one for one in group if one.is_served]
        assert len(served) <= 1 + MOST_REPEATS
        costs = [one.cost for one in served]
        if path == "/units" and served:  # what was told first counts, also to one that left then
            costs = [min(one.units, MOST_UNITS) * UNIT for one in group if one.units is not None]
        is_live = any(not one.is_over for one in group)
        return min(costs, default=0), max([RESERVED[path] * is_live, *costs])

    def check_signed(self, channel):
        digest = VoucherDigest(CHAIN_ID, ESCROW, channel.channel_id)(channel.authorized)
        assert SignerCheck(channel.descriptor.voucher_signer)(digest, channel.signature)

    @invariant()
    def books_are_right(self):
        if not hasattr(self, "amounts"):
            return
        self.steps += 1
        assert self.failures == []
        for one in self.asked:
            if one.is_over and not one.task.cancelled():
                one.task.result()
        for payer in self.payers:
            if (channel := self.channel(payer)) is None:
                continue
            assert channel.spent == self.sold(payer) + self.handed_over(payer)
            assert channel.spent <= channel.authorized <= self.most_deposited[payer.channel_id]
            if channel.authorized:
                self.check_signed(channel)
            if self.is_at_rest:
                self.check_charged(payer, channel)

    def check_charged(self, payer, channel):
        """Each request is charged what it cost, once."""
        charged = [self.charged(group) for group in self.purchases(payer)]
        least, most = (sum(side) for side in zip(*charged, strict=True)) if charged else (0, 0)
        assert least <= channel.spent - self.handed_over(payer) <= most
        if not any(one.payer is payer for one in self.live):
            event("at rest")
            for counter in self.workers:
                assert not counter.in_hand.has(payer.channel_id)
        else:
            event("in flight")


TestServing = Serving.TestCase
TestServing.settings = settings(max_examples=settings.default.max_examples // 4, stateful_step_count=30)
