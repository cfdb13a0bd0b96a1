"""Payers that want more than they pay for, or to be in the way of others."""

from __future__ import annotations

import asyncio
import gc
import sqlite3
import threading
import time
import tracemalloc
from contextlib import closing, nullcontext, suppress
from dataclasses import replace

import pytest
from counter import DEPOSIT, PAYER, Counter, Payer, amounts, credential, only_challenge, problem, receipt

from microwallet.domain.voucher_document import VoucherReader
from microwallet.errors import LedgerBusy, LedgerUnwritable
from microwallet.http402.charging import delivery, opening
from microwallet.http402.charging.asgi import WARNING
from microwallet.http402.charging.channel_book import STATE_SECONDS
from microwallet.http402.charging.desk import QUEUE_LIMIT
from microwallet.http402.charging.opening import MOST_WAITING
from microwallet.http402.charging.request import Request
from microwallet.http402.charging.sales import MOST_REPEATS
from microwallet.http402.serving.request_log import RequestLog
from microwallet.http402.wire.problems import ProblemType
from microwallet.http402.wire.session_payload import payload_object
from microwallet.payee.backup import voucher_lines


def test_what_is_authorized_beyond_the_deposit_buys_nothing(counter):
    """A reorganisation took a top-up back: it could not be captured. Or a node that is behind says so: until
    all have asked again nobody knows, and the same voucher is to come again."""
    assert counter.pay(PAYER, PAYER.pay(10_000)).status_code == 200
    less = {PAYER.channel_id: replace(PAYER.state, deposit=2_000)}
    counter.ledger.vouchers.record_states(less, as_of=counter.now)
    assert counter.pay(PAYER, PAYER.pay(2_000)).status_code == 200
    answer = counter.pay(PAYER, PAYER.pay(3_000))
    assert (answer.status_code, problem(answer)) == (503, ProblemType.TRY_AGAIN.uri)
    assert (counter.account(PAYER).spent, len(counter.app.requests)) == (2_000, 2)
    counter.ledger.vouchers.record_states({PAYER.channel_id: PAYER.state}, as_of=counter.now)
    assert counter.pay(PAYER, PAYER.pay(3_000)).status_code == 200
    counter.chain.channels |= less
    counter.ledger.vouchers.record_states(less, as_of=counter.now)
    counter.now += STATE_SECONDS + 1
    answer = counter.pay(PAYER, PAYER.pay(4_000))
    assert (answer.status_code, problem(answer)) == (402, "session/insufficient-balance")
    assert (counter.account(PAYER).spent, len(counter.app.requests)) == (3_000, 3)


@pytest.mark.parametrize("named", [b"x-payment-payer", b"close, X-Payment-Channel ,x-payment-amount"])
def test_a_client_cannot_take_away_who_paid(counter, named):
    """By naming our fields in its Connection, which would drop them on the way to an upstream."""
    fields = {"connection": named, "x-mine": "1"}
    assert counter.pay(PAYER, PAYER.pay(1000), headers=fields).status_code == 200
    _, _, fields, _ = counter.app.requests[0]
    assert fields[b"x-payment-payer"] == PAYER.address.encode()
    assert b"x-payment" not in fields.get(b"connection", b"").lower()
    assert fields[b"x-mine"] == b"1"


@pytest.mark.parametrize("name", ["X-Original-URL", "x_rewrite_url"])
def test_a_client_cannot_name_another_path_beside_its_own(sold_by, name):
    """Some applications take such a field of a server in front for the path, and what costs would be free."""
    counter = sold_by({"path": "/about", "free": True}, {"path": "/**", "price": "1000"})
    assert counter.ask(path="/about", headers={name: "/article"}).status_code == 200
    assert counter.pay(PAYER, PAYER.pay(1000), headers={name: "/dear"}).status_code == 200
    assert not any(b"url" in field for _, _, fields, _ in counter.app.requests for field in fields)


TOLD = {
    "falls over": {"error": "RuntimeError"},
    500: {"warning": "500, while it was made again under its key"},
    402: {"warning": "what was paid for here asks to be paid itself"},
    502: {"warning": "the upstream is away"},
}
"""What a seller's log tells of a request that failed while it was made again."""


@pytest.mark.parametrize("how", TOLD)
@pytest.mark.parametrize("fails_first", [True, False])
def test_what_is_given_back_is_not_served_by_its_twin(counter, fails_first, how):
    """Two requests with one key side by side, of which the first fails, before the second is served or after:
    one price is paid. Whoever is told of the failure is not told that it was free."""
    asked, fails, tasks, served, logged = asyncio.Event(), asyncio.Event(), [], counter.app, []

    async def app(scope, receive, send):
        if not asked.is_set():
            asked.set()
            await fails.wait()
            if how == "falls over":
                raise RuntimeError("the first one fails")
            why = {WARNING: "the upstream is away"} if how == 502 else {}
            await send({"type": "http.response.start", "status": how, "headers": [], **why})
            await send({"type": "http.response.body", "body": b"no"})
            return
        if fails_first:
            fails.set()
            await asyncio.wait(tasks)
        await served(scope, receive, send)

    counter.application._app = app

    async def scene():
        challenge = only_challenge(await counter.asked())
        fields = {"authorization": credential(PAYER, PAYER.pay(1000), challenge), "idempotency-key": "k"}
        tasks.append(asyncio.create_task(counter.asked(headers=fields)))
        await asked.wait()
        second = await counter.asked(headers=fields)
        fails.set()
        return await tasks[0], second

    counter.application = RequestLog(counter.application, lambda *line: logged.append(line))
    first, second = asyncio.run(scene())
    assert (first.status_code, problem(first)) == (503, "urn:microwallet:problem:outcome-unknown")
    [told] = [one for _, one in logged if one["status"] == 503]
    assert {**told, **TOLD[how]} == told
    assert "www-authenticate" not in first.headers
    assert (second.status_code, second.content) == (200, b"served")
    assert receipt(second).spent == counter.account(PAYER).spent == 1000


@pytest.mark.parametrize(("failing", "is_closing"), [(0, False), (1, False), (0, True)])
def test_what_its_twin_waits_for_is_not_settled(counter, failing, is_closing):
    """One of two requests with one key fails, and the other is being served: nobody knows yet whether it is
    to be paid. Once one is answered that is certain, however long the other takes; and no close waits for, or
    leaves to its payer, what was asked for again after it had begun."""
    begun, gates, price = asyncio.Queue(), [], 1000

    async def app(_scope, _receive, send):
        number, gate = len(gates), asyncio.Event()
        gates.append(gate)
        begun.put_nowait(number)
        await gate.wait()
        status = 500 if number == failing else 200
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": b"x" * 70_000})

    def reserved():
        return counter.in_hand.reserved([PAYER.channel_id])[PAYER.channel_id]

    async def scene():
        challenge = only_challenge(await counter.asked())
        fields = {"authorization": credential(PAYER, PAYER.pay(price), challenge), "idempotency-key": "k"}
        asking = []

        async def ask():
            asking.append(asyncio.create_task(counter.asked(headers=fields)))
            await begun.get()

        async def end(number):
            gates[number].set()
            await asking[number]

        await ask()
        assert reserved() == price
        if is_closing:
            counter.ledger.vouchers.begin_closes([PAYER.channel_id])
        await ask()
        await end(failing)
        await ask()
        assert reserved() == (0 if is_closing else price)
        await end(1 - failing)
        assert reserved() == 0
        await ask()
        assert reserved() == 0
        await end(2)
        await end(3)
        assert reserved() == 0
        return [one.result().status_code for one in asking]

    counter.application._app = app
    assert asyncio.run(scene()) == [[503, 200, 200, 200], [200, 500, 200, 200]][failing]
    assert amounts(counter) == (price, price)


def test_a_twin_that_is_refused_frees_nothing(counter):
    """What is not made again while the first is being served: that may yet be given back."""
    begun, gate = asyncio.Event(), asyncio.Event()

    async def app(_scope, _receive, send):
        begun.set()
        await gate.wait()
        await send({"type": "http.response.start", "status": 500, "headers": []})
        await send({"type": "http.response.body", "body": b"no"})

    async def scene():
        challenge = only_challenge(await counter.asked("POST"))
        fields = {"authorization": credential(PAYER, PAYER.pay(1000), challenge), "idempotency-key": "k"}
        asking = asyncio.create_task(counter.asked("POST", headers=fields))
        await begun.wait()
        twin = await counter.asked("POST", headers=fields)
        assert problem(twin) == "urn:microwallet:problem:outcome-unknown"
        assert counter.in_hand.reserved([PAYER.channel_id]) == {PAYER.channel_id: 1000}
        gate.set()
        await asking
        assert counter.in_hand.reserved([PAYER.channel_id]) == {PAYER.channel_id: 0}

    counter.application._app = app
    asyncio.run(scene())
    assert amounts(counter) == (1000, 0)


def test_what_is_bought_beside_twins_is_none_of_theirs(counter):
    """By a better voucher of their channel, under another key: it waits for itself alone, as they do."""
    begun, gates = asyncio.Queue(), []

    async def app(_scope, _receive, send):
        gates.append(asyncio.Event())
        begun.put_nowait(gates[-1])
        await gates[-1].wait()
        await send({"type": "http.response.start", "status": 500, "headers": []})
        await send({"type": "http.response.body", "body": b"no"})

    def reserved():
        return counter.in_hand.reserved([PAYER.channel_id])[PAYER.channel_id]

    async def scene():
        challenge, asking = only_challenge(await counter.asked()), []
        for key, amount in (("k", 1000), ("beside", 3000), ("k", 1000)):
            fields = {
                "authorization": credential(PAYER, PAYER.pay(amount), challenge),
                "idempotency-key": key,
            }
            asking.append(asyncio.create_task(counter.asked(headers=fields)))
            await begun.get()
        for number, left in ((0, 2000), (1, 1000), (2, 0)):
            gates[number].set()
            await asking[number]
            assert reserved() == left

    counter.application._app = app
    asyncio.run(scene())
    assert amounts(counter) == (3000, 0)


def test_what_fails_with_its_twin_costs_nothing(counter):
    """Nobody was served. The first to fail, who has bought it, does not know that of the others yet."""
    counter.app.fails = True

    async def scene():
        challenge = only_challenge(await counter.asked())
        fields = {"authorization": credential(PAYER, PAYER.pay(1000), challenge), "idempotency-key": "k"}
        return await asyncio.gather(*(counter.asked(headers=fields) for _ in range(3)))

    assert [answer.status_code for answer in asyncio.run(scene())] == [503, 500, 500]
    assert amounts(counter) == (1000, 0)


def test_what_is_cancelled_while_it_is_given_back_gives_no_other_back(counter, monkeypatch):
    """Some servers end a request whose client goes away: its voucher may have bought another by then."""
    till, begun, gate, tasks = counter.gateway.till, asyncio.Event(), asyncio.Event(), []
    give_back, served = till.undo, counter.app

    async def app(scope, receive, send):
        if not tasks:
            await send({"type": "http.response.start", "status": 500, "headers": []})
        begun.set()
        await gate.wait()
        await served(scope, receive, send)

    async def undone(sale):
        await give_back(sale)
        if not tasks:
            tasks.append(asyncio.create_task(counter.asked(headers=fields)))
            await begun.wait()
            raise asyncio.CancelledError

    def undo(sale):
        return asyncio.ensure_future(undone(sale))

    async def scene():
        fields["authorization"] = credential(PAYER, PAYER.pay(1000), only_challenge(await counter.asked()))
        with pytest.raises(asyncio.CancelledError):
            await counter.asked(headers=fields)
        gate.set()
        return await tasks[0]

    fields = {}
    counter.application._app = app
    monkeypatch.setattr(till, "undo", undo)
    assert asyncio.run(scene()).status_code == 200
    assert counter.account(PAYER).spent == 1000


@pytest.mark.parametrize("turns", [0, 1, 2, 3, 50])
@pytest.mark.parametrize("fails", ["answers 500", "falls over"])
def test_what_failed_is_given_back_though_it_is_cancelled(counter, fails, turns):
    """However early: nobody was served, and the voucher can buy again."""
    tasks = []

    async def cancel():
        for _ in range(turns):
            await asyncio.sleep(0)
        tasks[0].cancel()

    async def app(_scope, _receive, send):
        tasks.append(asyncio.create_task(cancel()))
        if fails == "falls over":
            raise RuntimeError("the application fell over")
        await send({"type": "http.response.start", "status": 500, "headers": []})

    async def scene():
        fields = {"authorization": credential(PAYER, PAYER.pay(1000), only_challenge(await counter.asked()))}
        tasks.append(asyncio.create_task(counter.asked(headers=fields)))
        await asyncio.wait(tasks)
        await counter.gateway.till.account(PAYER.channel_id)  # behind what was to be given back

    counter.application._app = app
    asyncio.run(scene())
    assert amounts(counter) == (1000, 0)
    assert not counter.gateway.in_hand.has(PAYER.channel_id)


@pytest.mark.parametrize(
    ("fails", "patience"),
    [("answers 500", 5), ("falls over", 5), ("is cancelled", 5), ("falls over", 0.1), ("tells units", 0.1)],
)
def test_what_fails_while_the_ledger_is_locked_is_given_back_later(sold_by, monkeypatch, fails, patience):
    """By a backup, say: the voucher can buy again once it has ended, and until then no close begins, though
    the client is not kept waiting as long."""
    counter = sold_by(
        {"path": "/**", "price": "1000", "per": "header", "units-header": "x-units", "max-units": 1}
    )
    counter.app.headers = [(b"x-units", b"1")]
    monkeypatch.setattr(counter.ledger.database, "_busy_seconds", 0.05)
    monkeypatch.setattr(delivery, "_UNDO_SECONDS", patience)
    locks, is_locked = sqlite3.connect(counter.ledger.database.path, isolation_level=None), asyncio.Event()

    async def app(_scope, _receive, send):
        is_locked.set()
        locks.execute("BEGIN IMMEDIATE")
        asyncio.get_running_loop().call_later(1.5, locks.execute, "ROLLBACK")
        if fails == "falls over":
            raise RuntimeError("the application fell over")
        if fails == "is cancelled":
            raise asyncio.CancelledError
        status = 200 if fails == "tells units" else 500
        await send({"type": "http.response.start", "status": status, "headers": counter.app.headers})
        await send({"type": "http.response.body"})

    async def scene():
        fields = {"authorization": credential(PAYER, PAYER.pay(1000), only_challenge(await counter.asked()))}
        asking = asyncio.create_task(counter.asked(headers=fields))
        await is_locked.wait()
        await asyncio.sleep(0.5)
        assert counter.gateway.in_hand.has(PAYER.channel_id)
        assert asking.done() == (patience < 0.5)
        await asyncio.wait([asking])
        await asyncio.wait_for(counter.gateway.in_hand.until_none(PAYER.channel_id, within=60), 30)
        counter.application._app = served
        return asking, await counter.asked(headers=fields)

    served, counter.application._app = counter.app, app
    with closing(locks):
        asking, again = asyncio.run(scene())
    assert asking.cancelled() or asking.result().status_code == (503 if fails == "tells units" else 500)
    assert again.status_code == 200
    assert amounts(counter) == (1000, 1000)


@pytest.mark.parametrize("is_given_back", [False, True])
def test_nothing_is_served_for_what_was_given_back(counter, is_given_back):
    """Not by an application either that takes its error back, as nobody takes it for long."""
    paid = counter.application

    async def app(_scope, _receive, send):
        error = {"type": "http.response.start", "status": 500, "headers": []}
        sending = asyncio.create_task(send(error))
        await asyncio.sleep(0)
        if is_given_back:
            await asyncio.wait_for(counter.gateway.in_hand.until_none(PAYER.channel_id, within=60), 5)
        sending.cancel()
        await send({**error, "status": 200})

    async def to_nobody(scope, receive, send):
        async def sent(message):
            if message.get("status") == 500:
                await asyncio.sleep(60)
            await send(message)

        await paid(scope, receive, sent)

    async def scene():
        fields = {"authorization": credential(PAYER, PAYER.pay(1000), only_challenge(await counter.asked()))}
        answer = await counter.asked(headers=fields)
        await asyncio.wait_for(counter.gateway.in_hand.until_none(PAYER.channel_id, within=60), 5)
        return answer

    paid._app, counter.application = app, to_nobody
    assert asyncio.run(scene()).status_code == 500
    assert amounts(counter) == (1000, 0)


@pytest.mark.parametrize("is_whole", [True, False])
def test_an_answer_that_has_begun_stays_paid(counter, is_whole):
    """An application that falls over after that, and answers with a 500 as well, gives nothing back: the
    client has what was paid for, or a part of it, and a receipt. That answer is refused, as servers do."""
    refusals, paid, started = [], counter.application, []

    async def app(_scope, _receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"served", "more_body": not is_whole})
        try:
            await send({"type": "http.response.start", "status": 500, "headers": []})
        except RuntimeError as error:
            refusals.append(str(error))
            raise

    async def server(scope, receive, send):
        async def sent(message):
            started.extend([message["status"]] if message["type"] == "http.response.start" else [])
            await send(message)

        with suppress(RuntimeError):
            await paid(scope, receive, sent)

    paid._app, counter.application = app, server
    with nullcontext() if is_whole else suppress(AssertionError):  # of httpx, for the end that is missing
        counter.pay(PAYER, PAYER.pay(1000))
    assert refusals == ["the application has begun an answer already"]
    assert started[1:] == [200]
    assert (amounts(counter), counter.in_hand.has(PAYER.channel_id)) == ((1000, 1000), False)


@pytest.mark.parametrize("fails_at", ["the sale", "counting units", "giving back", "no answer"])
def test_a_disk_that_fails_leaves_nothing_in_hand(sold_by, monkeypatch, caplog, fails_at):
    """Nothing is told of before it is durable, least of all that it was free, and no error goes unheard."""
    per_unit = {"per": "header", "units-header": "x-units", "max-units": 1}
    counter = sold_by({"path": "/**", "price": "1000", **(per_unit if fails_at == "counting units" else {})})
    sessions = counter.ledger.sessions

    def sync():
        raise LedgerUnwritable("the disk failed")

    async def app(_scope, _receive, send):
        monkeypatch.setattr(sessions, "sync", sync)
        if fails_at == "no answer":
            raise RuntimeError("the application fell over")
        status = 500 if fails_at == "giving back" else 200
        await send({"type": "http.response.start", "status": status, "headers": [(b"x-units", b"1")]})
        await send({"type": "http.response.body", "body": b"not to be had"})

    async def scene():
        fields = {"authorization": credential(PAYER, PAYER.pay(1000), only_challenge(await counter.asked()))}
        if fails_at == "the sale":
            monkeypatch.setattr(sessions, "sync", sync)
        answer = await counter.asked(headers=fields)
        assert (answer.status_code, problem(answer)) == (503, "urn:microwallet:problem:outcome-unknown")
        assert answer.headers.get("www-authenticate") is None
        await asyncio.wait_for(counter.gateway.in_hand.until_none(PAYER.channel_id, within=60), 5)
        await counter.gateway.till.until_sure(within=0)

    counter.application._app = app
    gc.collect()  # what other tests have left tells of itself now
    caplog.clear()
    asyncio.run(scene())
    gc.collect()
    assert [record.getMessage() for record in caplog.records] == []


@pytest.mark.parametrize("catches", [False, True])
def test_units_that_cannot_be_counted_are_given_back(sold_by, monkeypatch, catches):
    """The same key buys it once, as soon as the ledger takes something again; an application that answers
    every error itself is not heard in between, nor after what was answered in its place."""
    counter = sold_by(
        {"path": "/**", "price": "1000", "per": "header", "units-header": "x-units", "max-units": 5}
    )
    sessions, served, paid, told = counter.ledger.sessions, counter.app, counter.application, []
    transaction = sessions.transaction
    served.headers = [(b"x-units", b"2")]

    def busy():
        monkeypatch.setattr(sessions, "transaction", transaction)
        raise LedgerBusy("the ledger is busy")

    async def app(scope, receive, send):
        monkeypatch.setattr(sessions, "transaction", busy)
        try:
            await served(scope, receive, send)
            if catches:
                raise RuntimeError("the application falls over afterwards")
        except Exception:
            await send({"type": "http.response.start", "status": 500, "headers": []})
            await send({"type": "http.response.body", "body": b"Internal Server Error"})
            raise

    async def told_by(scope, receive, send):
        await paid(scope, receive, lambda message: told.append(message["type"]) or send(message))

    key, challenge = {"idempotency-key": "k"}, counter.challenge()
    paid._app, counter.application = app, told_by
    answer = counter.pay(PAYER, PAYER.pay(5000), headers=key, challenge=challenge)
    assert (answer.status_code, problem(answer)) == (503, "urn:microwallet:problem:outcome-unknown")
    assert told == ["http.response.start", "http.response.body"]
    assert (amounts(counter), counter.in_hand.has(PAYER.channel_id)) == ((5000, 0), False)
    paid._app = served
    again = counter.pay(PAYER, PAYER.pay(5000), headers=key)
    assert (again.status_code, receipt(again).units, amounts(counter)) == (200, 2, (5000, 2000))


@pytest.mark.parametrize("headers", [{}, {"idempotency-key": "k"}])
def test_what_is_cancelled_before_it_is_served_costs_nothing(sold_by, monkeypatch, headers):
    """Whenever that is: some servers end a request whose client goes away. A later one may buy it."""
    counter = sold_by({"path": "/**", "price": "1"})
    sessions, answers = counter.ledger.sessions, threading.Event()
    sync = sessions.sync
    monkeypatch.setattr(sessions, "sync", lambda: answers.wait(10) and sync())

    async def scene():
        challenge = only_challenge(await counter.asked())
        for number in range(1, 25):
            fields = {"authorization": credential(PAYER, PAYER.pay(number), challenge), **headers}
            answers.clear()
            asking = asyncio.create_task(counter.asked(headers=fields))
            for _ in range(number // 2):
                await asyncio.sleep(0)
            asking.cancel()
            answers.set()
            await asyncio.wait([asking])
            await counter.gateway.till.account(PAYER.channel_id)  # behind what is to be given back
            assert (counter.account(PAYER).spent, counter.app.requests) == (0, [])
            await asyncio.wait_for(counter.gateway.in_hand.until_none(PAYER.channel_id, within=60), 5)
        return await counter.asked(headers=fields)

    assert asyncio.run(scene()).status_code == 200
    assert counter.account(PAYER).spent == len(counter.app.requests) == 1


def test_a_lower_voucher_takes_no_better_ones_place(counter):
    """Whether it buys, as there is something left, or is refused: the payee could capture less with it."""
    best, lower = PAYER.pay(3000), [PAYER.pay(amount) for amount in (1500, 10, 2999)]
    answers = [counter.pay(PAYER, action) for action in (best, *lower)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 402]
    assert amounts(counter) == (3000, 3000)
    kept = counter.ledger.vouchers.get(PAYER.channel_id)
    assert (kept.authorized, kept.signature) == (3000, best.voucher.signature)
    assert counter.pay(PAYER, lower[0]).status_code == 402  # it has bought


def test_one_price_buys_no_endless_supply(counter):
    """An answer too large to be kept is made again when it got lost, with the same key, but not for ever."""
    counter.app.body = b"x" * 70_000
    key = {"idempotency-key": "k"}
    answers = [counter.pay(PAYER, PAYER.pay(1000), headers=key) for _ in range(2 + MOST_REPEATS)]
    assert [answer.status_code for answer in answers] == [200] * (1 + MOST_REPEATS) + [409]
    assert problem(answers[-1]) == "urn:microwallet:problem:outcome-unknown"
    assert len(counter.app.requests) == 1 + MOST_REPEATS


def test_a_repeat_that_fails_is_none(counter):
    """It counts neither as one that was served nor as more than itself."""
    counter.app.body, key = b"x" * 70_000, {"idempotency-key": "k"}
    statuses = []
    for counter.app.fails in (False, False, True, *[False] * MOST_REPEATS):
        statuses.append(counter.pay(PAYER, PAYER.pay(1000), headers=key).status_code)
    assert statuses == [200, 200, 500, *[200] * (MOST_REPEATS - 1), 409]
    assert amounts(counter) == (1000, 1000)


def test_a_repeat_costs_what_the_first_one_did(sold_by):
    """However few units the application tells the next time."""
    counter = sold_by(
        {"path": "/**", "price": "10", "per": "header", "units-header": "x-units", "max-units": 100}
    )
    counter.app.body, key = b"x" * 70_000, {"idempotency-key": "k"}
    for units in (b"7", b"2", b"0"):
        counter.app.headers = [(b"x-units", units)]
        answer = counter.pay(PAYER, PAYER.pay(1000), headers=key)
        assert (answer.status_code, receipt(answer).units, amounts(counter)) == (200, 7, (1000, 70))


@pytest.mark.parametrize("first", ["200", "404", "at the same time"])
def test_the_price_of_little_does_not_buy_much(sold_by, first):
    """By units that the application counts, and chooses by a field of the request: what is made again under
    one key is not served where it uses more than was charged."""
    counter = sold_by(
        {"path": "/**", "price": "10", "per": "header", "units-header": "x-units", "max-units": 100}
    )
    begun, going_on, logged = asyncio.Event(), asyncio.Event(), []

    async def app(scope, _receive, send):
        much = dict(scope["headers"])[b"x-much"] == b"yes"
        begun.set()
        if first == "at the same time" and much:
            await going_on.wait()
        headers = [(b"x-units", b"90" if much else b"1")]
        status = 404 if first == "404" and not much else 200
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b"x" * 70_000})

    async def scene():
        challenge = only_challenge(await counter.asked())
        fields = {"authorization": credential(PAYER, PAYER.pay(1000), challenge), "idempotency-key": "k"}
        if first != "at the same time":
            return [await counter.asked(headers=fields | {"x-much": much}) for much in ("no", "yes", "no")]
        asking = asyncio.create_task(counter.asked(headers=fields | {"x-much": "yes"}))
        await begun.wait()
        little = await counter.asked(headers=fields | {"x-much": "no"})
        going_on.set()
        return little, await asking, little

    counter.application._app = app
    counter.application = RequestLog(counter.application, lambda *line: logged.append(line))
    little, much, again = asyncio.run(scene())
    assert (little.status_code, again.status_code) == ((404, 404) if first == "404" else (200, 200))
    assert (much.status_code, problem(much)) == (503, "urn:microwallet:problem:outcome-unknown")
    [told] = [one for _, one in logged if one["status"] == 503]
    assert told["warning"] == "90 units told, more than was charged under its key"
    assert (amounts(counter), counter.in_hand.has(PAYER.channel_id)) == ((1000, 10), False)


@pytest.mark.parametrize("size", [10, 70_000])
def test_the_price_of_a_part_does_not_buy_the_whole(sold_by, size):
    """By units that the application counts, under one key: another range is another request, whether the
    answer to the first was kept or would be made again."""
    counter = sold_by(
        {"path": "/**", "price": "10", "per": "header", "units-header": "x-units", "max-units": 100}
    )
    counter.app.body, counter.app.status, counter.app.headers = b"x" * size, 206, [(b"x-units", b"1")]
    part, key = {"range": f"bytes=0-{size - 1}"}, {"idempotency-key": "k"}
    assert counter.pay(PAYER, PAYER.pay(1000), headers=key | part).status_code == 206
    for headers in (key, key | {"range": "bytes=0-"}):
        answer = counter.pay(PAYER, PAYER.pay(1000), headers=headers)
        assert (answer.status_code, problem(answer)) == (409, "urn:microwallet:problem:idempotency-mismatch")
    assert counter.pay(PAYER, PAYER.pay(1000), headers=key | part).status_code == 206
    assert amounts(counter) == (1000, 10)


def test_a_channel_is_closed_once(counter):
    """However often that is asked for at the same time, and not again when it is finalized: each look at the
    chain would keep the payee from others."""
    begun, going_on = asyncio.Event(), asyncio.Event()

    async def close(channel_id):
        counter.closed.append(channel_id)
        begun.set()
        await going_on.wait()
        return await Counter._close(counter, channel_id)

    counter.gateway._close_channel = close

    async def scene():
        challenge = only_challenge(await counter.asked())
        fields = {"authorization": credential(PAYER, PAYER.close(0), challenge)}
        asked = [asyncio.create_task(counter.asked(headers=fields)) for _ in range(20)]
        await begun.wait()
        await asyncio.sleep(0.2)
        counter.chain.channels[PAYER.channel_id] = replace(PAYER.state, finalized=True)
        going_on.set()
        done = await asyncio.gather(*asked)
        return [*done, await counter.asked(headers=fields)]

    answers = asyncio.run(scene())
    assert {answer.status_code for answer in answers} == {200}
    assert len(counter.closed) == 2  # one call, and what the counter notes of it


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"settled": DEPOSIT - 999}, "session/insufficient-balance"),
        ({"close_requested_at": 5}, "verification-failed"),
        ({"finalized": True}, "session/channel-finalized"),
    ],
)
def test_a_channel_that_cannot_pay_is_not_taken(counter, changes, told):
    """An old one that its payee forgot: it has too little left, or is about to end."""
    friend = Payer(3)
    counter.chain.channels[friend.channel_id] = replace(friend.state, **changes)
    assert problem(counter.pay(friend, friend.open(DEPOSIT))) == told
    assert (counter.account(friend), counter.app.requests) == (None, [])


def test_what_was_settled_of_a_forgotten_channel_buys_nothing_again(counter):
    """It was charged before; what is left buys to its last base unit."""
    friend = Payer(3)
    counter.chain.channels[friend.channel_id] = replace(friend.state, settled=DEPOSIT - 1000)
    for amount in (10, DEPOSIT - 1000):
        answer = counter.pay(friend, friend.open(amount))
        assert (answer.status_code, problem(answer)) == (402, "session/insufficient-balance")
        assert amounts(counter, friend) == (DEPOSIT - 1000, DEPOSIT - 1000)
    assert counter.pay(friend, friend.open(DEPOSIT)).status_code == 200
    assert amounts(counter, friend) == (DEPOSIT, DEPOSIT)


def test_opens_that_never_come_keep_nobody_away(counter, monkeypatch):
    """A flood of transactions that nobody sent: payers go on paying, and an open that is there is taken."""
    monkeypatch.setattr(opening, "PATIENCE_SECONDS", 1.0)
    stranger, friend = Payer(2), Payer(3)
    counter.chain.channels[friend.channel_id] = friend.state

    def opened(_transaction_hash, channel_id):
        time.sleep(0.005)  # a chain that is far away
        return counter.chain.channels.get(channel_id)

    counter.chain.opened = opened

    async def scene():
        flood = [asyncio.create_task(counter.paid(stranger, stranger.open(1000))) for _ in range(QUEUE_LIMIT)]
        await asyncio.sleep(0.3)
        counter.now += 3600  # what the chain said of the payer's channel is too old
        known = await counter.paid(PAYER, PAYER.pay(1000))
        new = await counter.paid(friend, friend.open(1000))
        waiting = sum(not one.done() for one in flood)
        return known, new, waiting, await asyncio.gather(*flood)

    known, new, waiting, flood = asyncio.run(scene())
    assert (known.status_code, new.status_code) == (200, 200)
    assert waiting <= MOST_WAITING
    assert {answer.status_code for answer in flood} == {503}


def test_a_full_desk_for_opens_is_not_that_of_payers(counter):
    """Strangers have filled it: whoever has a channel is served."""

    async def scene():
        gate = threading.Event()
        full = [asyncio.create_task(counter.openings.run(lambda _: gate.wait(5))) for _ in range(QUEUE_LIMIT)]
        await asyncio.sleep(0)
        counter.now += 3600
        answers = [await counter.paid(PAYER, action) for action in (PAYER.top_up(1), PAYER.pay(1000))]
        gate.set()
        await asyncio.gather(*full)
        return answers

    assert [answer.status_code for answer in asyncio.run(scene())] == [503, 200]


def test_what_was_settled_before_buys_nothing(counter):
    """The payee has lost its ledger: what the chain paid out of a channel that is told of again was sold."""
    friend = Payer(3)
    counter.chain.channels[friend.channel_id] = replace(friend.state, settled=50_000)
    answer = counter.pay(friend, friend.open(50_000))
    assert (answer.status_code, answer.json()["requiredCumulative"]) == (402, "51000")
    assert counter.pay(friend, friend.pay(51_000)).status_code == 200
    assert counter.account(friend).spent == 51_000
    assert counter.pay(friend, friend.pay(51_001)).status_code == 402


def test_a_channel_of_which_no_voucher_was_accepted_is_in_no_backup(sold_by):
    """What came with its open was refused: a backup with that would be refused as well."""
    counter, friend = sold_by({"path": "/**", "price": "1000", "min-voucher-delta": "5000"}), Payer(3)
    counter.chain.channels[friend.channel_id] = friend.state
    assert problem(counter.pay(friend, friend.open(1000))) == "session/delta-too-small"
    assert list(voucher_lines(counter.ledger.vouchers.list(finalized=True))) == []
    assert counter.pay(friend, friend.pay(5000)).status_code == 200
    (line,) = voucher_lines(counter.ledger.vouchers.list(finalized=True))
    assert VoucherReader().read(line).is_signed()


@pytest.mark.parametrize("length", [8_000, 100_000])
def test_paths_that_nobody_asks_for_twice_fill_no_memory(counter, length):
    """Whether something is sold there or they are too long for that: asking is free."""

    async def ask():
        for number in range(300):
            path = b"/%d" % number + b"a" * length
            scope = {"method": "GET", "raw_path": path, "headers": [], "query_string": b""}
            await counter.gateway.admit(Request(scope, None))

    tracemalloc.start()
    try:
        asyncio.run(ask())
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 1_000_000


def test_credentials_fill_no_memory(counter):
    """What nobody reads may be long, and differ each time: nothing of it is remembered, not even where the
    challenge was paid for."""
    challenge = counter.challenge()
    assert counter.pay(PAYER, PAYER.pay(1000), challenge=challenge).status_code == 200
    tracemalloc.start()
    try:
        for number in range(60):
            payload = payload_object(PAYER.pay(1000)) | {"a": str(number) + "x" * 30_000}
            assert counter.pay(PAYER, payload, challenge=challenge).status_code == 402
        gc.collect()  # errors of requests that are over
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 1_000_000


def test_names_of_fields_fill_no_memory():
    """However many a request has."""
    tracemalloc.start()
    try:
        for number in range(40):
            fields = [(b"x-%d-%d" % (number, one), b"") for one in range(2_000)]
            Request({"method": "GET", "raw_path": b"/", "headers": fields}, None)
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 1_000_000
