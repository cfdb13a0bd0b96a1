"""A payee that answers whatever it likes, to requests and streams of two processes side by side: the payer's
books hold, and no more is signed than was agreed to."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from issuing import issue
from memory import folder_in_memory
from model import CHAIN, ESCROW, PAYEE, TOKEN, keyed
from test_handshake import LIMIT, SECRETS, client

from microwallet.errors import LedgerError, MicrowalletError, OutcomeUnknown
from microwallet.http402.paying.exchange import NO_WORD, Asked, NoAnswer, NotSent, Pause, ServerAnswer
from microwallet.http402.paying.handshake import Handshake, Streaming
from microwallet.http402.paying.metering import MeteredStream
from microwallet.http402.wire.credential import Credential
from microwallet.http402.wire.events import encode_event
from microwallet.http402.wire.problems import Problem, ProblemType, read_problem
from microwallet.http402.wire.receipt import SessionReceipt
from microwallet.http402.wire.session_payload import parse_payload
from microwallet.http402.wire.session_request import SessionRequest
from microwallet.ledger.ledger import Ledger

CHANNELS = {one.channel_id: one for one in (keyed(1), keyed(2), keyed(3))}
FIRST, SECOND, LAST = CHANNELS
PRICE = 30
REFUSALS = (
    [ProblemType.INSUFFICIENT_BALANCE] * 4
    + [ProblemType.CHALLENGE_NOT_FOUND, ProblemType.AMOUNT_EXCEEDS_DEPOSIT, ProblemType.CHANNEL_FINALIZED]
    + [ProblemType.CHANNEL_FINALIZED]
    + [ProblemType.TRY_AGAIN, ProblemType.IDEMPOTENCY_MISMATCH, ProblemType.PAYMENT_REQUIRED]
)
some = st.integers(-3, 70)
seldom = st.sampled_from([False] * 4 + [True])


@dataclass
class Live:
    """A request that is under way, and after that its stream."""

    handshake: Handshake
    rises: Counter = field(default_factory=Counter)
    """By how much each channel's `authorized` rose for it."""
    steps: object = None
    sending: object = None
    """What waits for an answer."""
    stream: MeteredStream | None = None
    credential: Credential | None = None
    """The last one that handed a voucher over."""
    is_paying: bool = False
    """Whether a credential that buys has left, and no answer to it came."""

    @property
    def key(self):
        """Under which it is paid."""
        return self.handshake.asked.own_key


def offer(amount=PRICE, delta=0, unit="request", units=1):
    """An offer of units at this price."""
    request = SessionRequest(
        amount=amount,
        currency=TOKEN,
        recipient=PAYEE,
        chain_id=CHAIN,
        escrow_contract=ESCROW,
        min_voucher_delta=delta,
        unit_type=unit,
        max_units=units,
    )
    return issue(
        SECRETS, request.to_object(), realm="r", method="evm", intent="session", expires_at=10**6
    ).to_field()


BY_EVENT = offer(amount=10, unit="event")
OFFERS = [
    offer(),
    offer(),
    offer(delta=60),
    BY_EVENT,
    offer(amount=10, unit="event", delta=40),
    offer(amount=10, unit="token"),
    offer(amount=10, unit="token", units=5),
]


class HostilePayee(RuleBasedStateMachine):
    """Each request is a generator: the machine goes on with any of them by an answer of its choice."""

    @initialize(
        deposits=st.tuples(st.sampled_from([60, 150, 10**4]), st.sampled_from([0, 0, 150])),
        has_stream=st.booleans(),
    )
    def open(self, deposits, has_stream):
        self.folder = folder_in_memory()
        path = Path(self.folder.name) / "ledger.sqlite3"
        self.ledgers = [Ledger.open(path), Ledger.open(path)]
        self.ledger = self.ledgers[0]
        self.deposits = {}
        self.states = {}
        for channel_id, deposit in zip(CHANNELS, deposits, strict=False):
            if deposit:
                self.add(channel_id, deposit)
        self.now = 10
        account = SimpleNamespace(
            reader=SimpleNamespace(
                head=lambda: SimpleNamespace(timestamp=self.now),
                channel_states=lambda ids: {one: self.states[one] for one in ids},
            ),
            reporter=SimpleNamespace(say=lambda _: None),
            clock=lambda: self.now,
            ledger=self.ledger,
        )
        self.clients = [
            replace(client(one), clock=lambda: self.now, account=lambda _escrow: account)
            for one in self.ledgers
        ]
        self.live = []
        self.killed = []
        self.unknown = set()
        self.keys = {}
        self.rises = []
        self.authorized = Counter()
        if has_stream:
            self.begin_stream()

    def add(self, channel_id, deposit):
        """A channel that was opened."""
        channel = CHANNELS[channel_id].payer_channel(deposit=deposit)
        self.ledger.channels.add(channel, now=0)
        self.states[channel_id] = channel.state
        self.deposits[channel_id] = deposit

    def teardown(self):
        """When all is over, an honest payee is paid, in the channels that are open or in another one."""
        if not hasattr(self, "ledgers"):
            return
        try:
            for live in list(self.live):
                self.cancel(live)
            for channel_id, state in self.states.items():
                self.record(channel_id, replace(state, deposit=10**6), is_heard=True)
            self.add(LAST, 10**6)
            self.now += 100
            for unit in ("request", "event"):
                self.is_paid_honestly(unit)
            self.the_books_hold()
        finally:
            for live in self.killed:
                if live.steps is not None:
                    live.steps.close()  # before it is collected
            for ledger in self.ledgers:
                ledger.close()
            self.folder.cleanup()

    def is_paid_honestly(self, unit):
        """It asks for its price and gets it, out of one voucher."""
        offered = offer(unit=unit)
        asked = Asked(method="GET", url="http://127.0.0.1/", idempotency_key=f"honest {unit}")
        handshake = Handshake(lambda: self.clients[0], asked)
        steps = handshake.run()
        next(steps)
        sending = steps.send(ServerAnswer(status=402, challenges=[offered]))
        credential = Credential.parse(sending.authorization)
        voucher = parse_payload(credential.payload).voucher
        receipt = SessionReceipt(
            timestamp=1,
            challenge_id=credential.challenge.id,
            channel_id=voucher.channel_id,
            chain_id=CHAIN,
            accepted_cumulative=voucher.cumulative_amount,
            spent=voucher.cumulative_amount,
            units=1,
        )
        try:
            steps.send(ServerAnswer(status=200, receipt=receipt.to_field(), is_stream=unit == "event"))
        except StopIteration as ended:
            payment = ended.value
        if unit == "event":
            stream = MeteredStream(handshake, payment)
            assert list(stream.feed(b"data: one\n\n")) == []
            assert list(stream.feed(encode_event("payment-receipt", receipt.to_object()))) == []
            payment = stream.settle()
        assert payment.amount == PRICE
        assert self.ledger.purchases.newest(voucher.channel_id).is_paid

    # The payer

    def ask(self, data):
        """A request of one of the processes, or one that was made before under the same key."""
        keys = list(self.keys)
        key = data.draw(st.sampled_from(keys)) if keys and data.draw(seldom) else f"k{len(keys)}"
        live = self.begin(key, data.draw(st.integers(0, 1)), is_stream=data.draw(seldom))
        if live in self.live and not data.draw(seldom):
            self.go_on(live, ServerAnswer(status=402, challenges=[data.draw(st.sampled_from(OFFERS))]))

    def begin(self, key, process, *, is_stream=False):
        """A request that goes out."""
        asked = Asked(method="GET", url="http://127.0.0.1/", idempotency_key=key, is_stream=is_stream)
        live = Live(handshake=Handshake(lambda: self.clients[process], asked))
        live.steps = live.handshake.run()
        if any(one.status == "in-flight" for one in self.ledger.purchases.of_key(key)):
            self.unknown.add(key)  # it is bought in two runs
        self.keys[key] = True
        self.rises.append(live.rises)
        self.live.append(live)
        self.go_on(live, None)
        return live

    def begin_stream(self):
        """One that goes on while requests are made beside it."""
        live = self.begin("stream", 0)
        for answer in (
            ServerAnswer(status=402, challenges=[BY_EVENT]),
            ServerAnswer(status=200, is_stream=True),
        ):
            self.go_on(live, answer)

    def go_on(self, live, answer):
        """Let a request do its next step; what it signs is counted as its own."""
        before = {one: self.ledger.channels.get(one).authorized for one in self.states}
        try:
            try:
                if isinstance(answer, Exception):
                    live.sending = live.steps.throw(answer)
                else:
                    live.sending = live.steps.send(answer)
                self.sent(live)
            except StopIteration as ended:
                live.sending = live.steps = None
                live.is_paying = False
                if isinstance(ended.value, Streaming):
                    live.stream = MeteredStream(live.handshake, ended.value)
                elif live.stream is None:
                    self.ended(live)
            except LedgerError:
                raise
            except MicrowalletError as error:
                live.sending = live.steps = None
                self.ended(live, is_unknown=isinstance(error, OutcomeUnknown))
        finally:
            for channel_id, was in before.items():
                rise = self.ledger.channels.get(channel_id).authorized - was
                live.rises[channel_id] += rise

    def sent(self, live):
        """No voucher leaves above what is authorized."""
        if isinstance(live.sending, Pause):
            return
        live.is_paying = live.sending.idempotency_key is not None
        if live.sending.authorization is None:
            return
        live.credential = Credential.parse(live.sending.authorization)
        voucher = parse_payload(live.credential.payload).voucher
        assert voucher.cumulative_amount <= self.ledger.channels.get(voucher.channel_id).authorized

    def ended(self, live, *, is_unknown=False):
        """Nothing stays reserved for a request whose outcome is known."""
        self.live.remove(live)
        if live.stream is not None:
            live.stream.settle(was_left=True)
        live.handshake.close()
        if is_unknown or live.is_paying:
            self.unknown.add(live.key)
        if live.key not in self.unknown and all(one.key != live.key for one in self.live):
            purchases = self.ledger.purchases.of_key(live.key)
            assert not [one for one in purchases if one.status == "in-flight"]

    @precondition(lambda self: len(self.live) > 1)
    @rule(data=st.data(), is_killed=st.booleans())
    def leave(self, data, is_killed):
        """Nobody waits for it any more, or its process is killed."""
        live = data.draw(st.sampled_from(self.live))
        if is_killed:
            self.live.remove(live)
            self.killed.append(live)
            self.unknown.add(live.key)
            live.handshake.close()
        else:
            self.cancel(live)

    def cancel(self, live):
        """Close what it does."""
        if live.steps is not None:
            live.steps.close()
        self.ended(live)

    # The payee

    def figure(self, data):
        """Any, or one that is close to the payer's own."""
        channel_id = data.draw(st.sampled_from(sorted(self.states)))
        channel, purchases = self.ledger.channels.get(channel_id), self.ledger.purchases
        near = [0, channel.authorized, channel.spent, channel.state.deposit]
        near += [purchases.certain(channel_id), purchases.counted(channel_id), 2**128 - 100]
        return max(0, data.draw(st.sampled_from(near)) + data.draw(st.just(0) | some))

    def receipt(self, data, live):
        """One in which anything may be untrue, or little."""
        channel_id = parse_payload(live.credential.payload).voucher.channel_id
        if data.draw(seldom):
            channel_id = data.draw(st.sampled_from(sorted(self.states)))
        channel, purchases = self.ledger.channels.get(channel_id), self.ledger.purchases
        least = purchases.certain(channel_id) + purchases.of_key(live.key)[-1].cost
        return SessionReceipt(
            timestamp=1,
            challenge_id=live.credential.challenge.id,
            channel_id=channel_id,
            chain_id=CHAIN,
            accepted_cumulative=data.draw(st.just(channel.authorized) | st.just(self.figure(data))),
            spent=data.draw(st.just(least) | st.just(self.figure(data))),
            units=data.draw(st.none() | st.integers(0, 9) | st.just(2**53 - 1)),
        )

    @rule(data=st.data(), how=st.sampled_from(["refuse", "refuse", "serve", "serve", "serve", "break off"]))
    def answer(self, data, how):
        """It refuses what is asked or paid, or serves it, or does not answer; after a pause it goes on."""
        waiting = [live for live in self.live if live.sending is not None]
        if len(waiting) < 2 or (len(waiting) < 5 and data.draw(st.booleans())):
            self.ask(data)
            return
        live = data.draw(st.sampled_from(waiting))
        if isinstance(live.sending, Pause):
            self.go_on(live, NO_WORD)
        elif how == "refuse":
            self.go_on(live, self.refusal(data))
        elif how == "serve":
            has_receipt = live.credential is not None and data.draw(st.booleans())
            receipt = self.receipt(data, live).to_field() if has_receipt else None
            status = data.draw(st.sampled_from([200] * 6 + [404, 500]))
            is_stream = live.sending.may_be_stream or data.draw(seldom)
            self.go_on(live, ServerAnswer(status=status, receipt=receipt, is_stream=is_stream))
        else:
            self.go_on(live, data.draw(st.sampled_from([NoAnswer("gone"), NotSent("gone")])))

    def refusal(self, data):
        """It wants more, or does not take it; with an offer or without."""
        kind = data.draw(st.sampled_from(REFUSALS))
        extensions = {"requiredCumulative": str(self.figure(data))} if data.draw(st.booleans()) else {}
        problem = read_problem(Problem(type=kind, detail="no", extensions=extensions).to_body())
        challenges = data.draw(st.lists(st.sampled_from(OFFERS), max_size=1))
        return ServerAnswer(status=kind.status, challenges=challenges, problem=problem)

    def streams(self):
        """Those that wait for what comes next."""
        return [live for live in self.live if live.stream is not None and live.steps is None]

    @precondition(lambda self: self.streams())
    @rule(data=st.data(), events=st.integers(0, 9), is_last=seldom, wants_more=seldom, is_over=seldom)
    def stream_on(self, data, events, is_last, wants_more, is_over):
        """Events are delivered, and more is asked for, or a receipt told; or it is at its end."""
        live = data.draw(st.sampled_from(self.streams()))
        if is_over:
            live.stream.settle()
            self.ended(live)
            return
        chunk = b"data: one\n\n" * events
        if is_last:
            chunk += encode_event("payment-receipt", self.receipt(data, live).to_object())
        if wants_more:
            asked = {"channelId": live.stream.channel.channel_id, "deposit": str(self.figure(data))}
            asked["requiredCumulative"] = str(self.figure(data))
            asked["acceptedCumulative"] = str(self.figure(data))
            chunk += encode_event("payment-need-voucher", asked)
        live.steps = live.stream.feed(chunk)
        self.go_on(live, None)

    # The chain

    def record(self, channel_id, state, *, is_heard):
        """What the chain says, and whether the payer hears it."""
        self.states[channel_id] = state
        self.deposits[channel_id] = max(self.deposits[channel_id], state.deposit)
        if is_heard:
            self.ledger.channels.record_states({channel_id: state}, as_of=self.now)

    @rule(
        data=st.data(),
        deposit=st.none() | st.sampled_from([1, 60, 150, 300]),
        is_closed=seldom,
        is_heard=st.booleans(),
        seconds=st.sampled_from([0, 1, 61]),
    )
    def time_passes(self, data, deposit, is_closed, is_heard, seconds):
        """A channel is topped up, or a reorganisation takes what came last; or the payee takes what it likes
        of what was signed. The payer may not hear of it."""
        self.now += seconds
        channel_id = data.draw(st.sampled_from(sorted(self.states)))
        state, channel = self.states[channel_id], self.ledger.channels.get(channel_id)
        if state.finalized:
            return
        if deposit is not None:
            state = replace(state, deposit=max(state.settled, deposit))
        elif is_closed:
            most = max(state.settled, min(channel.authorized, state.deposit))
            state = replace(state, settled=data.draw(st.integers(state.settled, most)), finalized=True)
        self.record(channel_id, state, is_heard=is_heard and not state.finalized)

    # What holds

    @invariant()
    def the_books_hold(self):
        if not hasattr(self, "ledgers"):
            return
        for channel_id in self.states:
            channel = self.ledger.channels.get(channel_id)
            with self.ledger.database.read() as connection:
                costs = connection.execute(
                    "SELECT cost FROM purchases WHERE status <> 'returned' AND channel_id = ?", (channel_id,)
                ).fetchall()
                books = connection.execute(
                    "SELECT spent, uncharged, overdrawn FROM channels WHERE channel_id = ?", (channel_id,)
                ).fetchone()
            assert sum(map(int, books)) == sum(int(cost) for (cost,) in costs)
            assert 0 <= self.ledger.purchases.uncertain(channel_id) <= channel.spent
            assert channel.spent <= channel.authorized <= self.deposits[channel_id]
            assert channel.authorized >= self.authorized[channel_id]
            self.authorized[channel_id] = channel.authorized

    @invariant()
    def no_more_is_signed_than_agreed(self):
        """For each request, in all channels that are not closed. One that was refused is another when it is
        made again, and then what it signed is there for any."""
        for rises in getattr(self, "rises", []):
            open_ones = [one for one in rises if not self.states[one].finalized]
            assert sum(rises[one] for one in open_ones) <= LIMIT


TestHostilePayee = HostilePayee.TestCase
TestHostilePayee.settings = settings(
    max_examples=settings.default.max_examples // 2,
    stateful_step_count=40,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)
