"""The paying client against servers that answer whatever they like: what it signs stays within the limit."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from functools import partial
from itertools import chain, cycle
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from issuing import issue
from memory import folder_in_memory
from model import CHAIN, ESCROW, PAYEE, PAYER, TOKEN, USDC, keyed

from microwallet.domain.identifiers import NATIVE_TOKEN, ChainId
from microwallet.domain.payment import next_payment
from microwallet.domain.ports import Quiet
from microwallet.domain.purchase import VoucherTerms
from microwallet.domain.voucher import VoucherKey
from microwallet.errors import (
    AboveLimit,
    AmountExceedsDeposit,
    IdempotencyMismatch,
    LedgerBusy,
    MicrowalletError,
    NetworkError,
    NoPayableChallenge,
    OutcomeUnknown,
    PaymentRefused,
    UsageError,
)
from microwallet.http402.paying.asking import Asking
from microwallet.http402.paying.booking import book
from microwallet.http402.paying.client import Limits, PayingClient
from microwallet.http402.paying.exchange import NO_WORD, Asked, NoAnswer, NotSent, Pause, ServerAnswer
from microwallet.http402.paying.funding import Funded, Funding
from microwallet.http402.paying.handshake import Handshake, Streaming
from microwallet.http402.paying.metering import MeteredStream
from microwallet.http402.paying.remedies import Remedies
from microwallet.http402.paying.spending import Spending
from microwallet.http402.wire.body_digest import body_digest
from microwallet.http402.wire.challenge import ChallengeSecrets
from microwallet.http402.wire.credential import Credential
from microwallet.http402.wire.encoding import encode_object
from microwallet.http402.wire.events import encode_event
from microwallet.http402.wire.problems import Problem, ProblemType, read_problem
from microwallet.http402.wire.receipt import SessionReceipt
from microwallet.http402.wire.session_payload import TopUpAction, parse_payload
from microwallet.http402.wire.session_request import SessionRequest
from microwallet.ledger.ledger import Ledger
from microwallet.ledger.purchases import Purchases

ONE = keyed(1)
LIMIT, DEPOSIT = 100, 1_000
URL = "http://127.0.0.1/"
MOST_EXCHANGES = 50
BY_ITSELF = [1, 1, 1, 1, 2, 3, 4, 6]
"""Seconds between the tries of what the server asks for again."""
SECRETS = ChallengeSecrets([b"s" * 32])

FREQUENT = (
    ProblemType.INSUFFICIENT_BALANCE,
    ProblemType.DELTA_TOO_SMALL,
    ProblemType.CHALLENGE_NOT_FOUND,
)

amounts = st.one_of(st.integers(0, 150), st.sampled_from([2**127, DEPOSIT, DEPOSIT + 1]))


@st.composite
def challenges(draw):
    """An offer, honest more often than not."""
    request = SessionRequest(
        amount=draw(st.one_of(st.just(30), st.just(30), amounts)),
        currency=TOKEN,
        recipient=draw(st.sampled_from([PAYEE] * 9 + [PAYER])),
        chain_id=CHAIN,
        escrow_contract=ESCROW,
        min_voucher_delta=draw(st.one_of(st.just(0), st.sampled_from([60, 90]), amounts)),
        unit_type=draw(st.sampled_from(["request", "event"])),
    )
    return issue(
        SECRETS,
        request.to_object(),
        realm="r",
        method="evm",
        intent="session",
        expires_at=draw(st.sampled_from([9, 10, 11, 50, 50, 50, 50])),
    ).to_field()


@st.composite
def receipts(draw):
    """A receipt in which anything may be wrong."""
    return {
        "method": "evm",
        "intent": "session",
        "status": "success",
        "timestamp": "2026-01-01T00:00:00Z",
        "reference": ONE.channel_id,
        "challengeId": draw(st.text(max_size=3)),
        "channelId": draw(st.sampled_from([ONE.channel_id, "0x" + "ab" * 32])),
        "chainId": CHAIN,
        "acceptedCumulative": str(draw(amounts)),
        "spent": str(draw(amounts)),
        "units": draw(st.one_of(st.none(), st.integers(0, 10**9))),
    }


def honest(*, amount=30, unit="request", delta=0, **bound):
    """An offer, for 30 base units unless told otherwise."""
    request = SessionRequest(
        amount=amount,
        currency=TOKEN,
        recipient=PAYEE,
        chain_id=CHAIN,
        escrow_contract=ESCROW,
        unit_type=unit,
        min_voucher_delta=delta,
    )
    parameters = {"realm": "r", "method": "evm", "intent": "session", **bound}
    return issue(SECRETS, request.to_object(), expires_at=50, **parameters).to_field()


HONEST = honest()
offers = st.one_of(st.just(HONEST), challenges())


@st.composite
def answers(draw):
    """What a server may say to a credential."""
    kind = draw(st.sampled_from([None, None, *FREQUENT, *FREQUENT, *ProblemType]))
    fields = draw(st.one_of(st.just([HONEST]), st.lists(challenges(), max_size=2)))
    if kind is None:
        return ServerAnswer(
            status=draw(st.sampled_from([200, 200, 204, 302, 402, 404, 500])),
            challenges=fields,
            receipt=draw(st.one_of(st.none(), st.text(max_size=9), receipts().map(encode_object))),
            is_stream=draw(st.booleans()),
        )
    extensions = {"requiredCumulative": str(draw(amounts))} if draw(st.booleans()) else {}
    body = Problem(type=kind, detail="no", extensions=extensions).to_body()
    return ServerAnswer(
        status=kind.status,
        challenges=fields,
        problem=read_problem(body),
    )


@st.composite
def streamed(draw):
    """Pieces of a stream of events."""
    needs = st.builds(
        lambda required, deposit: encode_event(
            "payment-need-voucher",
            {
                "channelId": ONE.channel_id,
                "requiredCumulative": str(required),
                "acceptedCumulative": "0",
                "deposit": str(deposit),
            },
        ),
        amounts,
        amounts,
    )
    last = receipts().map(lambda receipt: encode_event("payment-receipt", receipt))
    return draw(st.lists(st.one_of(needs, needs, last, st.binary(max_size=9)), max_size=12))


class Server:
    """Answers from a script without an end; remembers the highest voucher of each channel."""

    def __init__(self, script: Iterator) -> None:
        self._script = script
        self.highest = 0
        self.exchanges = 0

    def answer(self, sending):
        """The next line of the script."""
        if isinstance(sending, Pause):
            return NO_WORD
        self.exchanges += 1
        if sending.authorization is not None:
            action = parse_payload(Credential.parse(sending.authorization).payload)
            if not isinstance(action, TopUpAction):
                self.highest = max(self.highest, action.voucher.cumulative_amount)
        assert self.exchanges <= MOST_EXCHANGES, "it never ends"
        return next(self._script)

    def drive(self, steps):
        """Carry steps out; what they return."""
        try:
            sending = next(steps)
            while True:
                answer = self.answer(sending)
                sending = steps.throw(answer) if isinstance(answer, Exception) else steps.send(answer)
        except StopIteration as ended:
            return ended.value


def refusing(kind, **told):
    """A refusal with a challenge."""
    body = Problem(type=kind, detail="no", extensions=told).to_body()
    return ServerAnswer(status=402, problem=read_problem(body), challenges=[HONEST])


def wanting(required):
    """A refusal of too little, by a payee that says how much it waits for, or does not."""
    told = {} if required is None else {"requiredCumulative": str(required)}
    return refusing(ProblemType.INSUFFICIENT_BALANCE, **told)


def no_chain(_escrow):
    """The chain is not there: nothing can be deposited."""
    raise NetworkError("no chain")


class Told(Quiet):
    """Keeps what a person would read."""

    def __init__(self):
        self.told = []

    def say(self, message):
        """Keep it."""
        self.told.append(message)


def client(ledger):
    """A client with one channel and a limit."""
    return PayingClient(
        ledger=ledger,
        payer=PAYER,
        chain_id=CHAIN,
        networks={},
        escrow_contracts={ESCROW},
        assets={TOKEN: USDC},
        limits=Limits(max_amounts={TOKEN: LIMIT}, max_deposits={}),
        key_of=lambda _channel: VoucherKey(b"\x11" * 32),
        account=no_chain,
        confirm=lambda *_: None,
        reporter=Quiet(),
        clock=lambda: 10,
    )


@pytest.mark.parametrize(
    "other",
    [{"chain_id": ChainId(1)}, {"payee": ESCROW}, {"token": NATIVE_TOKEN}, {"escrow_contract": PAYEE}],
)
def test_a_purchase_on_a_channel_that_no_longer_fits(tmp_path, other):
    """It was bought on another chain, from another payee and so on: nothing is handed over."""
    channel = keyed(2, **other)
    with Ledger.open(tmp_path / "ledger.sqlite3") as ledger:
        ledger.channels.add(channel.payer_channel(deposit=DEPOSIT), now=0)
        handshake = Handshake(
            lambda: client(ledger), Asked(method="GET", url="http://127.0.0.1/", idempotency_key="k")
        )
        terms = VoucherTerms(cost=30, most=LIMIT, min_voucher_delta=0)
        ledger.purchases.reserve(channel.channel_id, handshake.spending.request, terms, now=0)
        server = Server(iter([ServerAnswer(status=402, challenges=[HONEST])]))
        with pytest.raises(PaymentRefused, match="nothing was signed"):
            server.drive(handshake.run())
        assert server.highest == 0


@pytest.mark.parametrize(
    ("retry_after", "waits"),
    [(None, BY_ITSELF), (0, BY_ITSELF), (3, [3, 3, 3, 4, 6]), (20, [20]), (21, [])],
)
def test_a_server_that_asks_to_try_again_for_ever(tmp_path, retry_after, waits):
    """It is given up after twenty seconds, at once if it asks for more, or when nobody waits for it. Nothing
    counts as spent then."""
    problem = read_problem(Problem(type=ProblemType.TRY_AGAIN, detail="not yet").to_body())
    not_yet = ServerAnswer(status=503, problem=problem, retry_after=retry_after)
    with Ledger.open(tmp_path / "ledger.sqlite3") as ledger:
        ledger.channels.add(ONE.payer_channel(deposit=DEPOSIT), now=0)
        for is_given_up in (False, True):
            asked = Asked(method="GET", url="http://127.0.0.1/")
            reporter = Told()
            handshake = Handshake(partial(replace, client(ledger), reporter=reporter), asked)
            server = Server(chain([ServerAnswer(status=402, challenges=[HONEST])], cycle([not_yet])))
            steps, waited, answer = handshake.run(), [], None
            with suppress(StopIteration):
                while True:
                    asking = steps.send(answer)
                    if isinstance(asking, Pause):
                        waited.append(asking.seconds)
                        if is_given_up:
                            steps.close()
                    answer = server.answer(asking)
            assert waited == (waits[:1] if is_given_up else waits)
            assert sum("asks to try again" in one for one in reporter.told) == bool(waits)
            [purchase] = ledger.purchases.of_request(handshake.spending.request)
            channel = ledger.channels.get(ONE.channel_id)
            assert (purchase.status, channel.authorized, channel.spent) == ("returned", 30, 0)


@pytest.mark.parametrize(
    ("status", "cost", "owes_receipt"),
    [(200, 30, True), (399, 30, True), (400, 30, False), (499, 30, False), (500, 0, False)],
)
def test_what_an_answer_without_a_receipt_costs(tmp_path, status, cost, owes_receipt):
    """A payee charges for the program's errors and not for its own; for what it serves it owes a receipt."""
    with Ledger.open(tmp_path / "ledger.sqlite3") as ledger:
        ledger.channels.add(ONE.payer_channel(deposit=DEPOSIT), now=0)
        handshake = Handshake(lambda: client(ledger), Asked(method="GET", url=URL))
        server = Server(iter([ServerAnswer(status=402, challenges=[HONEST]), ServerAnswer(status=status)]))
        payment = server.drive(handshake.run())
        assert ledger.channels.get(ONE.channel_id).spent == cost
        assert bool(payment and payment.receipt_problems) == owes_receipt


@pytest.mark.parametrize(("status", "problems"), [(204, ["no receipt came"]), (400, [])])
def test_an_answer_that_is_no_stream_though_its_type_says_so(tmp_path, status, problems):
    """One without a body has its receipt in a field. The events of an error are not sold."""
    with Ledger.open(tmp_path / "ledger.sqlite3") as ledger:
        ledger.channels.add(ONE.payer_channel(deposit=DEPOSIT), now=0)
        handshake = Handshake(lambda: client(ledger), Asked(method="GET", url=URL))
        offer = ServerAnswer(status=402, challenges=[honest(unit="event")])
        payment = Server(iter([offer, ServerAnswer(status=status, is_stream=True)])).drive(handshake.run())
        handshake.close()
        assert (payment.amount, payment.is_most, payment.receipt_problems) == (30, True, problems)
        assert ledger.purchases.certain(ONE.channel_id) == 0


@pytest.mark.parametrize(
    ("lost", "error", "spent"), [(NotSent("gone"), NetworkError, 0), (NoAnswer("gone"), OutcomeUnknown, 30)]
)
def test_a_payee_that_is_gone_once_it_is_to_be_paid(tmp_path, lost, error, spent):
    """What certainly did not reach it is not spent; what may have is."""
    with Ledger.open(tmp_path / "ledger.sqlite3") as ledger:
        ledger.channels.add(ONE.payer_channel(deposit=DEPOSIT), now=0)
        handshake = Handshake(lambda: client(ledger), Asked(method="GET", url=URL))
        server = Server(iter([ServerAnswer(status=402, challenges=[HONEST]), lost]))
        with pytest.raises(error):
            server.drive(handshake.run())
        assert ledger.channels.get(ONE.channel_id).spent == spent


def test_a_key_that_the_server_knows_from_another_request(tmp_path):
    """Nothing was bought: what was signed counts as spent no more."""
    problem = read_problem(Problem(type=ProblemType.IDEMPOTENCY_MISMATCH, detail="no").to_body())
    server = Server(
        iter(
            [ServerAnswer(status=402, challenges=[HONEST]), ServerAnswer(status=409, problem=problem)],
        )
    )
    with Ledger.open(tmp_path / "ledger.sqlite3") as ledger:
        ledger.channels.add(ONE.payer_channel(deposit=DEPOSIT), now=0)
        asked = Asked(method="GET", url="http://127.0.0.1/", idempotency_key="k")
        handshake = Handshake(lambda: client(ledger), asked)
        with pytest.raises(IdempotencyMismatch, match="'k' from another request"):
            server.drive(handshake.run())
        channel = ledger.channels.get(ONE.channel_id)
        assert (channel.authorized, channel.spent) == (30, 0)


@pytest.mark.parametrize(
    ("kind", "is_begun", "spent"),
    [
        (ProblemType.VERIFICATION_FAILED, True, 30),
        (ProblemType.VERIFICATION_FAILED, False, 0),
        (ProblemType.INSUFFICIENT_BALANCE, True, 30),
    ],
)
def test_a_refusal_that_nothing_helps(tmp_path, kind, is_begun, spent):
    """What an earlier run sent stays counted as spent, and what this one sent does not count; the chain could
    prove neither, and is not asked."""
    problem = read_problem(Problem(type=kind, detail="no").to_body())
    refused = ServerAnswer(status=402, problem=problem, challenges=[HONEST])
    with Ledger.open(tmp_path / "ledger.sqlite3") as ledger:
        ledger.channels.add(ONE.payer_channel(deposit=DEPOSIT), now=0)
        asked = Asked(method="GET", url="http://127.0.0.1/", idempotency_key="k")
        handshake = Handshake(lambda: client(ledger), asked)
        if is_begun:
            terms = VoucherTerms(cost=30, most=LIMIT)
            ledger.purchases.reserve(ONE.channel_id, handshake.spending.request, terms, now=0)
        server = Server(iter([ServerAnswer(status=402, challenges=[HONEST]), refused]))
        says = "it stays counted as spent" if is_begun else "it does not count as spent"
        with pytest.raises(PaymentRefused, match=says):
            server.drive(handshake.run())
        assert ledger.channels.get(ONE.channel_id).spent == spent


@pytest.mark.parametrize(
    ("kind", "told", "fields"),
    [
        (ProblemType.CHALLENGE_NOT_FOUND, {}, ()),
        (ProblemType.INSUFFICIENT_BALANCE, {}, [HONEST]),
        (ProblemType.INSUFFICIENT_BALANCE, {"requiredCumulative": "90"}, ()),
    ],
)
def test_a_refused_payment_that_is_given_up(tmp_path, kind, told, fields):
    """While its payee is asked or told of something, as nothing was bought: it counts as spent no more."""
    with Ledger.open(tmp_path / "ledger.sqlite3") as ledger:
        channel = ONE.payer_channel(deposit=DEPOSIT, authorized=40)
        ledger.channels.add(replace(channel, spent=0), now=0)
        steps = Handshake(lambda: client(ledger), Asked(method="GET", url=URL)).run()
        next(steps)
        steps.send(ServerAnswer(status=402, challenges=[HONEST]))
        assert ledger.channels.get(ONE.channel_id).spent == 30
        steps.send(replace(refusing(kind, **told), challenges=fields))
        steps.close()
        assert ledger.channels.get(ONE.channel_id).spent == 0


def test_a_payee_that_sees_less_than_the_deposit(tmp_path, monkeypatch):
    """Where there was no top-up it is told of none: it is asked again, and then the chain. If that has all of
    it, nothing more is signed."""
    refused = refusing(ProblemType.AMOUNT_EXCEEDS_DEPOSIT)
    with Ledger.open(tmp_path / "ledger.sqlite3") as ledger:
        ledger.channels.add(ONE.payer_channel(deposit=DEPOSIT), now=0)
        for error in (NetworkError, PaymentRefused):
            handshake = Handshake(lambda: client(ledger), Asked(method="GET", url=URL))
            server = Server(chain([ServerAnswer(status=402, challenges=[HONEST])], cycle([refused])))
            with pytest.raises(error):
                server.drive(handshake.run())
            channel = ledger.channels.get(ONE.channel_id)
            assert (server.exchanges, channel.authorized, channel.spent) == (3, 30, 0)
            monkeypatch.setattr(Remedies, "_refreshed", lambda _remedies, channel: channel)


@pytest.mark.parametrize("is_begun", [False, True])
@pytest.mark.parametrize("is_finalized", [False, True])
def test_a_payee_that_does_not_know_the_channel(tmp_path, monkeypatch, is_begun, is_finalized):
    """Only where the chain says that it is finalized, and nothing was taken, what was signed is free to be
    paid from another. On one that is open it counts against the limit, or as what an earlier run paid."""
    other = keyed(2)

    def refreshed(_remedies, channel):
        return replace(channel, state=replace(channel.state, finalized=is_finalized))

    monkeypatch.setattr(Remedies, "_refreshed", refreshed)
    refused = refusing(ProblemType.CHANNEL_FINALIZED)
    with Ledger.open(tmp_path / "ledger.sqlite3") as ledger:
        ledger.channels.add(ONE.payer_channel(deposit=DEPOSIT), now=0)
        ledger.channels.add(other.payer_channel(deposit=DEPOSIT), now=1)
        limits = Limits(max_amounts={TOKEN: 59}, max_deposits={})
        asked = Asked(method="GET", url=URL, idempotency_key="k")
        handshake = Handshake(lambda: replace(client(ledger), limits=limits), asked)
        first = ONE.channel_id
        if is_begun:
            terms = VoucherTerms(cost=30, most=LIMIT)
            ledger.purchases.reserve(first, handshake.spending.request, terms, now=0)
        offer = ServerAnswer(status=402, challenges=[HONEST])
        server = Server(iter([offer, refused, offer, ServerAnswer(status=200)]))
        if is_finalized:
            assert server.drive(handshake.run()).channel.channel_id == other.channel_id
        else:
            with pytest.raises(PaymentRefused if is_begun else AboveLimit):
                server.drive(handshake.run())
        spent = [ledger.channels.get(one.channel_id).spent for one in (ONE, other)]
        assert spent == ([0, 30] if is_finalized else [30 * is_begun, 0])


@pytest.mark.parametrize(
    ("url", "bound", "error"),
    [
        ("http://me@127.0.0.1/", {}, UsageError),
        ("http://shop.example/", {}, NoPayableChallenge),
        (URL, {"digest": body_digest(b"coffee")}, NoPayableChallenge),
    ],
)
def test_an_offer_that_is_not_taken(tmp_path, url, bound, error):
    """To a URL with a user name in it, over a connection that others read, or for another body: nothing is
    signed."""
    with Ledger.open(tmp_path / "ledger.sqlite3") as ledger:
        ledger.channels.add(ONE.payer_channel(deposit=DEPOSIT), now=0)
        handshake = Handshake(lambda: client(ledger), Asked(method="POST", url=url, body=b"tea"))
        with pytest.raises(error):
            Server(iter([ServerAnswer(status=402, challenges=[honest(**bound)])])).drive(handshake.run())
        assert ledger.channels.get(ONE.channel_id).authorized == 0


def test_an_offer_to_a_head_is_for_no_body(spending):
    """Whatever body the request has: that did not go with it."""
    asking = Asking(lambda: spending.client, replace(spending.asked, body=b"tea"))
    answer = ServerAnswer(status=402, challenges=[honest(digest=body_digest(b""))])
    assert asking.choose(answer, is_head=True)
    with pytest.raises(NoPayableChallenge):
        asking.choose(answer)


def test_a_fresh_challenge_is_for_the_whole_request(tmp_path):
    """Where a payee does not know its own any more, and gives no other, it is asked again with the body."""
    body = b"tea"
    asking = ServerAnswer(status=402, challenges=[honest(digest=body_digest(body))])
    forgot = replace(refusing(ProblemType.CHALLENGE_NOT_FOUND), challenges=())
    with Ledger.open(tmp_path / "ledger.sqlite3") as ledger:
        ledger.channels.add(ONE.payer_channel(deposit=DEPOSIT), now=0)
        handshake = Handshake(lambda: client(ledger), Asked(method="POST", url=URL, body=body))
        server = Server(iter([asking, forgot, asking, ServerAnswer(status=200)]))
        assert server.drive(handshake.run()).amount == 30
        assert server.highest == 30


@pytest.mark.parametrize(
    ("beside_cost", "required", "exchanges"), [(30, None, 6), (1, None, 6), (1, 31, 6), (1, 32, 3)]
)
def test_a_payee_that_never_sees_the_highest_voucher(tmp_path, beside_cost, required, exchanges):
    """What a request beside it signed is told once where it is enough, and more is signed once; then it is
    given up."""
    with Ledger.open(tmp_path / "ledger.sqlite3") as ledger:
        ledger.channels.add(ONE.payer_channel(deposit=DEPOSIT), now=0)
        handshake, beside = (
            Handshake(lambda: client(ledger), Asked(method="GET", url=URL)) for _ in range(2)
        )

        def script():
            yield ServerAnswer(status=402, challenges=[HONEST])
            terms = VoucherTerms(cost=beside_cost, most=LIMIT)
            ledger.purchases.reserve(ONE.channel_id, beside.spending.request, terms, now=0)
            while True:
                yield wanting(required)

        server = Server(script())
        with pytest.raises(PaymentRefused):
            server.drive(handshake.run())
        highest = 30 + beside_cost + 1
        channel = ledger.channels.get(ONE.channel_id)
        assert (server.highest, channel.authorized, channel.spent) == (highest, highest, beside_cost)
        assert server.exchanges == exchanges


@pytest.mark.parametrize(
    ("required", "signed", "cost"), [(10, 30, 30), (LIMIT, LIMIT, LIMIT), (LIMIT + 1, 30, None)]
)
def test_a_payee_that_wants_another_sum_than_it_offered(tmp_path, required, signed, cost):
    """More is paid up to the limit, and counts as the cost; less is not believed."""
    with Ledger.open(tmp_path / "ledger.sqlite3") as ledger:
        ledger.channels.add(ONE.payer_channel(deposit=DEPOSIT), now=0)
        handshake = Handshake(lambda: client(ledger), Asked(method="GET", url=URL))
        server = Server(iter([wanting(None), wanting(required), ServerAnswer(status=200)]))
        if cost is None:
            with pytest.raises(AboveLimit, match="nothing more was signed") as above:
                server.drive(handshake.run())
            assert above.value.hint == '--max-amount "0.000101 USDC"'
        else:
            assert server.drive(handshake.run()).amount == cost
        channel = ledger.channels.get(ONE.channel_id)
        assert (server.highest, channel.authorized, channel.spent) == (signed, signed, cost or 0)


@pytest.mark.parametrize(("required", "signed"), [(10, 60), (75, 75)])
def test_a_stream_that_took_what_a_request_was_to_cost(tmp_path, monkeypatch, required, signed):
    """It is signed for above all that was signed, whatever the payee waits for. It costs what was offered."""
    monkeypatch.setattr(Spending, "has_stream", lambda *_: True)
    with Ledger.open(tmp_path / "ledger.sqlite3") as ledger:
        ledger.channels.add(ONE.payer_channel(deposit=DEPOSIT), now=0)
        handshake = Handshake(lambda: client(ledger), Asked(method="GET", url=URL))
        server = Server(iter([wanting(None), wanting(required), ServerAnswer(status=200)]))
        assert server.drive(handshake.run()).amount == 30
        assert server.highest == ledger.channels.get(ONE.channel_id).authorized == signed


def test_a_payee_that_knows_all_that_was_signed_and_wants_more(tmp_path):
    """It does not say how much: it is told of a voucher signed by hand, and then gets a higher one."""
    with Ledger.open(tmp_path / "ledger.sqlite3") as ledger:
        ledger.channels.add(replace(ONE.payer_channel(deposit=DEPOSIT, authorized=40), spent=0), now=0)
        handshake = Handshake(lambda: client(ledger), Asked(method="GET", url=URL))
        served = ServerAnswer(status=200)
        server = Server(iter([wanting(None), wanting(None), served, wanting(None), served]))
        assert server.drive(handshake.run()).amount == 30
        assert server.highest == ledger.channels.get(ONE.channel_id).authorized == 41


def test_a_payee_that_never_finds_the_channel(tmp_path, monkeypatch):
    """It is handed what was signed for the open once more, and no more often; then the chain is asked."""
    told = []

    def tell_again(_remedies, _held, kind):
        told.append(kind)
        return True
        yield

    monkeypatch.setattr(Remedies, "_tell_again", tell_again)
    problem = read_problem(Problem(type=ProblemType.CHANNEL_NOT_FOUND, detail="no").to_body())
    refused = ServerAnswer(status=402, problem=problem, challenges=[HONEST])
    with Ledger.open(tmp_path / "ledger.sqlite3") as ledger:
        ledger.channels.add(ONE.payer_channel(deposit=DEPOSIT), now=0)
        handshake = Handshake(lambda: client(ledger), Asked(method="GET", url="http://127.0.0.1/"))
        server = Server(chain([ServerAnswer(status=402, challenges=[HONEST])], cycle([refused])))
        with pytest.raises(NetworkError, match="no chain"):
            server.drive(handshake.run())
    assert told == ["open"]


def test_a_stream_holds_the_session_of_the_channel_that_pays_it(tmp_path):
    """Also where that is another one than was chosen first, which has been closed meanwhile. Other requests
    see that a stream runs there, and it sees no other."""
    other = keyed(2)
    with Ledger.open(tmp_path / "ledger.sqlite3") as ledger:
        for one in (ONE, other):
            ledger.channels.add(one.payer_channel(deposit=DEPOSIT), now=0)

        def closing(channel):
            closed = replace(channel.state, finalized=channel.channel_id == ONE.channel_id)
            ledger.channels.record_states({channel.channel_id: closed}, as_of=1)
            return VoucherKey(b"\x11" * 32)

        paying = replace(client(ledger), key_of=closing)
        asked = Asked(method="GET", url="http://127.0.0.1/", is_stream=True)
        server = Server(
            iter([ServerAnswer(status=402, challenges=[HONEST]), ServerAnswer(status=200, is_stream=True)])
        )
        handshake = Handshake(lambda: paying, asked)
        beside = Handshake(lambda: paying, replace(asked, is_stream=False))
        outcome = server.drive(handshake.run())
        channel = outcome.held.channel
        assert channel.channel_id == other.channel_id
        assert [one.spending.has_stream(channel) for one in (handshake, beside)] == [False, True]
        with pytest.raises(LedgerBusy), ledger.turns.turn(f"stream {other.channel_id}", seconds=0):
            pass
        assert other.channel_id in paying.sessions
        handshake.close()
        assert not beside.spending.has_stream(channel)
        with ledger.turns.turn(f"stream {other.channel_id}", seconds=0):
            assert paying.sessions == set()
            assert beside.spending.has_stream(channel)


def test_a_stream_takes_a_session_that_is_free_or_waits_for_one(tmp_path, monkeypatch):
    """Another process's streams hold them: it says once that it waits, and gives up after a while."""
    other = keyed(2)
    offer, begun = ServerAnswer(status=402, challenges=[HONEST]), ServerAnswer(status=200, is_stream=True)
    with Ledger.open(tmp_path / "ledger.sqlite3") as ledger, ExitStack() as streams:
        ledger.channels.add(ONE.payer_channel(deposit=DEPOSIT), now=0)
        reporter = Told()

        def request():
            asked = Asked(method="GET", url=URL, is_stream=True)
            return Handshake(partial(replace, client(ledger), reporter=reporter), asked)

        streams.enter_context(ledger.turns.turn(f"stream {ONE.channel_id}"))
        steps = request().run()
        asking = [next(steps), steps.send(offer), steps.send(NO_WORD)]
        assert [isinstance(one, Pause) for one in asking] == [False, True, True]
        assert [one.split(" channel ")[0] for one in reporter.told] == ["waiting for the stream that holds"]
        with monkeypatch.context() as patched, pytest.raises(LedgerBusy):
            patched.setattr("microwallet.http402.paying.stream_session._SESSION_SECONDS", -1)
            Server(iter([offer])).drive(request().run())
        ledger.channels.add(other.payer_channel(deposit=DEPOSIT), now=1)
        outcome = Server(iter([offer, begun])).drive(request().run())
        assert outcome.held.channel.channel_id == other.channel_id
        streams.close()
        assert not isinstance(steps.send(NO_WORD), Pause)


@pytest.fixture
def spending(tmp_path):
    """What a request spends from a channel."""
    with Ledger.open(tmp_path / "ledger.sqlite3") as ledger:
        ledger.channels.add(ONE.payer_channel(deposit=DEPOSIT), now=0)
        handshake = Handshake(lambda: client(ledger), Asked(method="GET", url="http://127.0.0.1/"))
        yield handshake.spending


def offered(spending):
    """What an honest server offers."""
    return Asking(lambda: spending.client, spending.asked).choose(
        ServerAnswer(status=402, challenges=[HONEST])
    )


def test_what_was_signed_is_taken_of_the_limit(spending):
    """All vouchers of a request together. What a closed channel leaves is free again, and no more: not what
    was signed before for other requests."""
    choice, server = offered(spending), Server(iter(()))
    held = server.drive(spending.buy(choice))
    more = replace(spending.terms(choice), cost=30)
    assert more.most == LIMIT - 30
    held = server.drive(spending.buy_more(held, more, continues=True))
    assert spending.terms(choice).most == LIMIT - 60
    for untaken, left in ((-5, LIMIT - 60), (20, LIMIT - 40), (500, LIMIT)):
        spending.forget_risen(held.channel, untaken)
        assert spending.terms(choice).most == left


def test_an_earlier_run_counts_against_the_limit(spending):
    """All that was bought under the key: what a stream bought beyond its first purchase is told apart."""
    choice, server = offered(spending), Server(iter(()))
    held = server.drive(spending.buy(choice))
    assert spending.resumed(choice, held.purchase).earlier == 0
    more = server.drive(spending.buy_more(held, replace(spending.terms(choice), cost=20), continues=True))
    again = spending.resumed(choice, held.purchase)
    assert (again.earlier, again.is_resumed, again.deposited) == (20, True, False)
    handshake = Handshake(lambda: spending.client, spending.asked)
    assert MeteredStream(handshake, Streaming(held=again)).reserved == 50
    assert spending.terms(choice).most == LIMIT - 50
    spending.client.ledger.purchases.give_back([more.purchase])
    assert spending.resumed(choice, held.purchase).earlier == 0


def test_nothing_is_signed_beside_what_is_enough(spending):
    """A payee that wants no more than was signed gets no other voucher, and nothing more counts as spent."""
    choice, server = offered(spending), Server(iter(()))
    server.drive(spending.buy(choice))
    held = spending.resumed(choice, spending.begun())
    for required in (0, 29, 30):
        assert server.drive(spending.signed_beside(held, required)) is None
    signed = server.drive(spending.signed_beside(held, 31))
    assert (signed.beside.cumulative_amount, signed.beside.cost) == (31, 1)
    channel = spending.newest(held.channel)
    assert (channel.spent, channel.authorized) == (31, 31)


@pytest.mark.parametrize("required", [70, 71])
def test_what_counts_already_is_signed_beside_for_nothing(spending, required):
    """A stream took ten of what was signed for a request without an answer. To have that at last the payee
    needs as much as counts for both already, or more: that is bought besides, and told with its cost."""
    choice, server, purchases = offered(spending), Server(iter(())), spending.client.ledger.purchases
    server.drive(spending.buy(choice))
    stream = Handshake(lambda: spending.client, Asked(method="GET", url="http://127.0.0.1/stream")).spending
    purchases.settle([server.drive(stream.buy(choice)).purchase], 40)
    held = spending.resumed(choice, spending.begun())
    signed = server.drive(spending.signed_beside(held, required))
    assert (signed.beside is None) == (required == 70)
    receipt = SessionReceipt(
        timestamp=1,
        challenge_id="c",
        channel_id=ONE.channel_id,
        chain_id=CHAIN,
        accepted_cumulative=required,
        spent=required,
    )
    payment = book(spending, [held.purchase], signed, receipt.to_object(), owes_receipt=True)
    assert (payment.amount, payment.receipt_problems) == (required - 40, [])
    assert (payment.channel.authorized, payment.channel.spent) == (required, required)
    assert purchases.counted(held.channel.channel_id) == required


@pytest.mark.parametrize("is_late", [False, True])
@pytest.mark.parametrize("counted", [60, 30])
def test_what_was_signed_beside_is_found_out_by_the_next_receipt(tmp_path, counted, is_late):
    """A stream took 60, also what was signed for a request, which is signed for again; the answer to that is
    lost. Once the request is known to be bought, by its first voucher, the other one is no longer waited for:
    it is not spent if the stream counted all that it took, and all of it is if the stream counted less. So
    too where it `is_late`, and is known to whoever sent the first voucher."""
    with Ledger.open(tmp_path / "ledger.sqlite3") as ledger:
        ledger.channels.add(ONE.payer_channel(deposit=DEPOSIT), now=0)
        purchases, offer = ledger.purchases, ServerAnswer(status=402, challenges=[HONEST])

        def handshake(key):
            asked = Asked(method="GET", url=f"{URL}{key}", idempotency_key=key)
            return Handshake(lambda: client(ledger), asked)

        def request(key, *script):
            return Server(iter([offer, *script])).drive(handshake(key).run())

        def served(spent):
            told = SessionReceipt(
                timestamp=1,
                challenge_id=offered(stream).challenge.id,
                channel_id=ONE.channel_id,
                chain_id=CHAIN,
                accepted_cumulative=spent,
                spent=spent,
            )
            return ServerAnswer(status=200, receipt=told.to_field())

        stream = handshake("stream").spending
        taken = Server(iter(())).drive(stream.buy(offered(stream))).purchase
        first = handshake("k").run()
        next(first)
        first.send(offer)
        with pytest.raises(OutcomeUnknown):
            request("k", wanting(90), ServerAnswer(status=200), NoAnswer("gone"))
        if is_late:
            with pytest.raises(StopIteration) as ended:
                first.send(served(90))
            payment = ended.value.value
        else:
            payment = request("k", served(90))
        assert (payment.amount, payment.receipt_problems) == (30 + 30, [])
        assert [one.status for one in purchases.of_key("k")] == ["paid", "paid"]
        again = request("k", served(90))
        assert (again.amount, again.taken, again.paid_before) == (payment.amount, payment.taken, True)
        purchases.settle([taken], counted)
        assert purchases.counted(ONE.channel_id) == counted + 30 + 30
        assert request("next", served(120)).receipt_problems == []
        assert purchases.counted(ONE.channel_id) == ledger.channels.get(ONE.channel_id).spent == 60 + 30 + 30


def by_event(spending):
    """What a server offers that charges each event of a stream."""
    choice = offered(spending)
    request = SessionRequest.parse(choice.request.to_object() | {"unitType": "event"})
    return replace(choice, request=request)


def test_a_stream_costs_no_more_than_was_signed(spending):
    """What came beyond that was for nothing."""
    held = Server(iter(())).drive(spending.buy(by_event(spending)))
    payment = book(spending, [held.purchase], held, None, owes_receipt=False, delivered=90)
    assert (payment.amount, spending.newest(held.channel).spent) == (30, 30)


def told_by(choice, spent, units=None, **changed):
    """A receipt that fits what an offer has cost."""
    receipt = SessionReceipt(
        timestamp=1,
        challenge_id=choice.challenge.id,
        channel_id=ONE.channel_id,
        chain_id=CHAIN,
        accepted_cumulative=60,
        spent=spent,
        units=units,
    )
    return receipt._replace(**changed).to_object()


@pytest.mark.parametrize("is_stream", [True, False])
def test_what_was_signed_beside_is_charged_for_a_stream_alone(spending, is_stream):
    """For a request that was not served. Its payee need not ask for that; of any other receipt it is told."""
    choice, server = (by_event if is_stream else offered)(spending), Server(iter(()))
    held = server.drive(spending.buy(choice))
    beside = Handshake(lambda: spending.client, Asked(method="GET", url=URL)).spending
    beside.give_back(server.drive(beside.buy(offered(beside))))
    receipt = told_by(choice, 60, 2 if is_stream else None)
    delivered = 60 if is_stream else 0
    told = book(spending, [held.purchase], held, receipt, owes_receipt=True, delivered=delivered)
    problems = [] if is_stream else ["the receipt's spent is 60, by our books it is 30"]
    assert (told.amount, told.receipt_problems) == (delivered or 30, problems)


def test_what_was_signed_for_a_request_is_taken_of_a_limit_for_several(spending):
    """All of it where it is more than the request cost: the payee may take it."""
    choice, server = offered(spending), Server(iter(()))
    choice = replace(choice, request=replace(choice.request, min_voucher_delta=60))
    held = server.drive(spending.buy(choice))
    told = book(spending, [held.purchase], held, told_by(choice, 30), owes_receipt=True)
    assert (told.amount, told.taken, told.receipt_problems) == (30, 60, [])


@pytest.mark.parametrize("said", [30, 35])
def test_what_is_paid_by_hand_its_payee_may_not_know_of_yet(spending, said):
    """A receipt that leaves it out is right, and so is one that has it."""
    choice, server = offered(spending), Server(iter(()))
    options = {"idempotency_key": "by hand", "step": 5, "count": 1, "memo": None, "now": 0}
    spending.client.ledger.payments.record(
        ONE.channel_id, "by hand", lambda found: next_payment(found, **options)
    )
    held = server.drive(spending.buy(choice))
    receipt = told_by(choice, said, accepted_cumulative=35)
    told = book(spending, [held.purchase], held, receipt, owes_receipt=True)
    assert (told.amount, told.receipt_problems) == (30, [])


@pytest.mark.parametrize("count", [1, 2])
def test_a_receipt_names_the_challenge_of_the_one_voucher_that_bought(spending, count):
    """A stream that needs more than one may have got a fresh challenge in between."""
    choice, server = by_event(spending), Server(iter(()))
    held = server.drive(spending.buy(choice))
    more = server.drive(spending.buy_more(held, spending.terms(choice), continues=True))
    receipt = told_by(choice, 30 * count, count, challenge_id="another")
    bought = [held.purchase, more.purchase][:count]
    told = book(spending, bought, held, receipt, owes_receipt=True)
    assert any("challengeId" in one for one in told.receipt_problems) is (count == 1)


def test_a_stream_costs_no_more_than_the_limit_where_the_payee_wants_large_steps(tmp_path):
    """It has what a request that failed left signed; a step that the limit alone would allow is too much
    beside that, and the hint is the limit with which it goes on."""
    with Ledger.open(tmp_path / "ledger.sqlite3") as ledger:
        ledger.channels.add(ONE.payer_channel(deposit=DEPOSIT), now=0)

        def handshake():
            return Handshake(lambda: client(ledger), Asked(method="GET", url=URL))

        offer = ServerAnswer(status=402, challenges=[HONEST])
        Server(iter([offer, ServerAnswer(status=500)])).drive(handshake().run())
        offer = replace(offer, challenges=[honest(amount=10, unit="event", delta=LIMIT)])
        stream, server = handshake(), Server(iter([offer, ServerAnswer(status=200, is_stream=True)]))
        stream = MeteredStream(stream, server.drive(stream.run()))
        assert stream.reserved == 30
        told = {"channelId": ONE.channel_id, "acceptedCumulative": "30", "deposit": str(DEPOSIT)}
        need = encode_event("payment-need-voucher", told | {"requiredCumulative": "40"})
        with pytest.raises(AboveLimit) as above:
            server.drive(stream.feed(b"data: x\n\n" * 3 + need))
        assert above.value.hint == '--max-amount "0.00013 USDC"'
        assert stream.settle(was_left=True).amount == ledger.channels.get(ONE.channel_id).authorized == 30


def test_what_was_signed_beside_a_stream_counts_against_its_limit(tmp_path):
    """Begun again under its key, it is signed for anew with what a failed request left: the server, which
    asks again and again, gets no more than the limit for all of it."""
    with Ledger.open(tmp_path / "ledger.sqlite3") as ledger:
        ledger.channels.add(ONE.payer_channel(deposit=DEPOSIT), now=0)
        offer = ServerAnswer(status=402, challenges=[honest(amount=10, unit="event")])
        begun = ServerAnswer(status=200, is_stream=True)

        def handshake(key):
            return Handshake(lambda: client(ledger), Asked(method="GET", url=URL, idempotency_key=key))

        with pytest.raises(OutcomeUnknown):
            Server(iter([offer, NoAnswer("gone")])).drive(handshake("k").run())
        failing = [replace(offer, challenges=[honest(amount=60)]), ServerAnswer(status=500)]
        Server(iter(failing)).drive(handshake("other").run())
        wanted = replace(wanting(80), challenges=offer.challenges)
        again, server = handshake("k"), Server(chain([offer, wanted], cycle([begun])))
        stream = MeteredStream(again, server.drive(again.run()))
        assert stream.reserved == 80
        told = {"channelId": ONE.channel_id, "acceptedCumulative": "80", "deposit": str(DEPOSIT)}
        with pytest.raises(AboveLimit):
            for required in range(90, DEPOSIT, 10):
                need = encode_event("payment-need-voucher", told | {"requiredCumulative": str(required)})
                server.drive(stream.feed(need))
        assert server.highest == stream.reserved == LIMIT


@pytest.mark.parametrize("is_told", [True, False])
def test_what_may_still_be_charged_for_a_stream_that_is_over(tmp_path, is_told):
    """Nothing once its receipt has come, though it is left then; where it broke off without one, the payee
    may not have seen that yet. What came beyond what was signed was for nothing."""
    with Ledger.open(tmp_path / "ledger.sqlite3") as ledger:
        ledger.channels.add(ONE.payer_channel(deposit=DEPOSIT), now=0)
        handshake = Handshake(lambda: client(ledger), Asked(method="GET", url=URL))
        offer = ServerAnswer(status=402, challenges=[honest(amount=10, unit="event")])
        server = Server(iter([offer, ServerAnswer(status=200, is_stream=True)]))
        streaming = server.drive(handshake.run())
        stream = MeteredStream(handshake, streaming)
        receipt = SessionReceipt(
            timestamp=1,
            challenge_id=streaming.held.choice.challenge.id,
            channel_id=ONE.channel_id,
            chain_id=CHAIN,
            accepted_cumulative=10,
            spent=10,
            units=1,
        )
        told = encode_event("payment-receipt", receipt.to_object()) if is_told else b""
        server.drive(stream.feed(b"data: x\n\n" * 3 + told))
        payment = stream.settle(was_left=is_told)
        assert (payment.amount, payment.receipt_problems) == (10, [] if is_told else ["no receipt came"])
        with ledger.database.read() as connection:
            [(charged_until,)] = connection.execute("SELECT charged_until FROM channels").fetchall()
        assert (charged_until == 0) is is_told


def test_what_an_earlier_run_of_a_stream_bought_is_waited_for(spending):
    """It was for what came of the stream then, of which no receipt tells now. What this run signed beside it
    is known to have bought."""
    choice, server = by_event(spending), Server(iter(()))
    held = server.drive(spending.buy(choice))
    more = server.drive(spending.buy_more(held, spending.terms(choice), continues=True))
    again = spending.resumed(choice, held.purchase)
    signed = server.drive(spending.signed_beside(again, 90))
    book(spending, [held.purchase], signed, None, owes_receipt=False)
    told = {
        one.id: one.status for one in spending.client.ledger.purchases.of_key(held.purchase.idempotency_key)
    }
    assert told == {held.purchase.id: "paid", more.purchase.id: "in-flight", signed.beside.id: "paid"}


def test_what_a_stream_can_have_taken_is_told_of_one_moment(spending, monkeypatch):
    """A request beside it is given back, once the books have been looked at: all that was signed for both
    could be taken before that, and can be after it."""
    choice, server = offered(spending), Server(iter(()))
    channel = server.drive(spending.buy(choice)).channel
    beside = Handshake(lambda: spending.client, Asked(method="GET", url=URL)).spending
    held = server.drive(beside.buy(choice))
    database = spending.client.ledger.database
    read = database.read

    @contextmanager
    def read_once():
        with read() as connection:
            yield connection
        beside.give_back(held)

    monkeypatch.setattr(database, "read", read_once)
    assert spending.chargeable(channel) == 60
    monkeypatch.undo()
    assert spending.chargeable(channel) == 60


@pytest.mark.parametrize(("cost", "fits"), [(DEPOSIT, True), (DEPOSIT + 1, False)])
def test_a_channel_is_enough_to_its_last_base_unit(spending, cost, fits):
    """Nothing is deposited for what its deposit just pays."""
    funding = Funding(spending.client, offered(spending))
    found = funding.fitting(VoucherTerms(cost=cost, most=cost), ())
    assert [one.channel_id for one in found] == [ONE.channel_id] * fits


def test_a_deposit_that_others_use_up_again_and_again(spending, monkeypatch):
    """It is topped up a bounded number of times."""
    made = []

    def top_up(_funding, channel, _terms):
        made.append(channel)
        return Funded(channel=channel, is_new=True)

    def used_up(*_arguments, **_named):
        raise AmountExceedsDeposit("used up")

    monkeypatch.setattr(Funding, "top_up", top_up)
    monkeypatch.setattr(Purchases, "reserve", used_up)
    with pytest.raises(AmountExceedsDeposit):
        Server(iter(())).drive(spending.buy(offered(spending)))
    assert len(made) == 4


@settings(
    max_examples=settings.default.max_examples // 2,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(data=st.data())
def test_never_more_than_the_limit_a_request(data):
    """Whatever a server answers, each request raises what is authorized by at most the limit, and ends. It
    costs no more than that either, or than what a stream could take before it."""
    first = offers.map(lambda field: ServerAnswer(status=402, challenges=[field]))
    told = st.one_of(answers(), answers(), st.sampled_from([NoAnswer("gone"), NotSent("gone")]))
    with (
        folder_in_memory() as folder,
        Ledger.open(Path(folder) / "ledger.sqlite3") as ledger,
    ):
        ledger.channels.add(ONE.payer_channel(deposit=DEPOSIT), now=0)
        paying, authorized = client(ledger), 0
        for number in range(data.draw(st.integers(1, 3))):
            script = data.draw(st.lists(told, min_size=1, max_size=6))
            server = Server(chain([data.draw(first)], cycle(script)))
            asked = Asked(method="GET", url="http://127.0.0.1/", idempotency_key=f"k{number}")
            handshake = Handshake(lambda: paying, asked)
            before = ledger.channels.get(ONE.channel_id)
            try:
                outcome = server.drive(handshake.run())
                if isinstance(outcome, Streaming):
                    stream = MeteredStream(handshake, outcome)
                    try:
                        for chunk in data.draw(streamed()):
                            server.drive(stream.feed(chunk))
                    finally:
                        stream.settle()
            except MicrowalletError:
                pass
            finally:
                handshake.close()
            channel = ledger.channels.get(ONE.channel_id)
            assert server.highest <= channel.authorized <= authorized + LIMIT
            assert 0 <= channel.spent <= channel.authorized
            live = [
                one.cost
                for one in ledger.purchases.of_request(handshake.spending.request)
                if one.status != "returned"
            ]
            assert sum(live) <= max(LIMIT, before.authorized - before.spent)
            authorized = channel.authorized
