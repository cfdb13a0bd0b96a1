"""Between client and gateway everything goes wrong, and payer, payee and chain agree to the base unit."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import httpx
import pytest
from http402.both_sides import (
    Books,
    GatewayProcess,
    Programs,
    ask_again,
    ask_later,
    balances,
    eaten_by_streams,
    words_of,
)
from http402.fault_proxy import FAULTS, fault_proxy
from http402.gateway_process import MOST_UNITS, PRICE
from waiting import wait_until

import microwallet
from microwallet.domain.channel import CLOSE_GRACE_PERIOD
from microwallet.errors import OutcomeUnknown
from microwallet.escrow.authorizations import EXPIRY_MARGIN

STREAMS = 6
"""Each of those that run at once has a channel of its own."""
PATIENCE = 0.9
"""Seconds after which a late answer comes: the programs wait less."""


@pytest.fixture
def log(tmp_path):
    """What bob's application wrote down."""
    return tmp_path / "served"


@pytest.fixture
def gateways(bob, log):
    """Two gateways of bob's, with one ledger."""
    with ThreadPoolExecutor(2) as pool:
        opened = list(pool.map(lambda _: GatewayProcess(bob, log), range(2)))
    yield opened
    for one in opened:
        one.end()


@pytest.mark.parametrize(
    ("names", "count", "seed"),
    [("ab", 30, 1), *(pytest.param("abcd", 500, seed, marks=pytest.mark.long) for seed in range(2, 4))],
)
def test_books_agree(alice, bob, chain, gateways, log, names, count, seed):
    """Programs on one channel, two gateways on one ledger, faults between them; a gateway and a program are
    killed. Nothing is served or charged twice, and where the books differ it is known why and by how much: a
    receipt tells all that was not charged, but for what has no answer."""
    began = balances(chain, alice, bob)
    with fault_proxy([one.port for one in gateways], seed=seed, share=0.25, patience=PATIENCE) as proxy:
        programs = Programs(alice, proxy.url, count)
        programs.start(*names)
        wait_until(lambda: len(programs.told) >= count or programs.have_ended(), 600)
        gateways[0].end(signal.SIGKILL)
        gateways[0].start()
        programs.end(names[-1], signal.SIGKILL)
        programs.start(names[-1], again=["again"])
        for name in names:
            programs.end(name)
        assert set(proxy.done) >= {"none"} if count < 100 else {"none", *FAULTS}
        books = Books(alice, bob, log)
        books.check()
        proxy.share = 0
        ask_again(alice, books)
        ask_later(alice, proxy.url)
        books = Books(alice, bob, log)
        books.check()
        _check_differences(books)
        waiting = sum(int(one["cost"]) for one in books.purchases if one["status"] == "in-flight")
        assert books.spent("channels") <= books.spent("vouchers") + waiting
        _check_served(books, programs.told)
        [channel_id] = books.channels
        closed = alice.run("channel", "close", channel_id, "--yes", "--json").data
        assert (closed["stage"], closed["settled"]) == ("closed", str(books.spent("vouchers")))
    paid, received = (now - then for now, then in zip(balances(chain, alice, bob), began, strict=True))
    assert (-paid, received) == (books.spent("vouchers"), books.spent("vouchers"))


@pytest.mark.parametrize(
    ("rounds", "seed"), [pytest.param(4, seed, marks=pytest.mark.long) for seed in range(1, 5)]
)
def test_channels_come_and_go(alice, bob, chain, gateways, log, rounds, seed):
    """Channels are opened, topped up, settled and closed by either side while programs pay over them through
    faults, and gateways and programs are killed: each channel's end pays what the payee has charged, to the
    base unit, nothing is bought twice, and nothing is served that was not sold."""
    began, chance = balances(chain, alice, bob), random.Random(seed)
    with fault_proxy([one.port for one in gateways], seed=seed, share=0.1, patience=PATIENCE) as proxy:
        programs = Programs(alice, proxy.url, 100_000, "0.004 USDC")
        programs.start("a", "b")
        wait_until(lambda: len(programs.told) >= 10, 60)
        for _ in range(rounds):
            for meddle in chance.sample(MEDDLING, len(MEDDLING)):
                meddle(alice, bob, gateways, programs)
                time.sleep(chance.uniform(0, 1))
        for name in ("a", "b"):
            programs.end(name, signal.SIGKILL)
        proxy.share = 0
        ask_again(alice, Books(alice, bob, log))
        _close_in_turn(alice, bob, chain)
    books = Books(alice, bob, log)
    books.check()
    books.differences()
    assert set(books.served) <= set(sold := books.sold())
    assert set(sold.values()) == {1}
    assert alice.run("channel", "list", "--json").data["channels"] == []
    told = alice.run("channel", "list", "--all", "--json").data["channels"]
    taken = {one["channelId"]: int(one["settled"]) for one in told}
    for channel_id, voucher in books.vouchers.items():
        assert taken[channel_id] == int(voucher["spent"])
    paid, received = (now - then for now, then in zip(balances(chain, alice, bob), began, strict=True))
    assert (-paid, received) == (sum(taken.values()), sum(taken.values()))


def _close_in_turn(alice, bob, chain):
    """What is open, or was being opened, is closed by its payer through the payee; what is left by the payee;
    what the payee never heard of is withdrawn; and an open that was never sent is given up in time."""
    alice.run("channel", "sync", "--json").succeeded()
    for channel_id in _in_state(alice, "open"):
        alice.run("channel", "close", channel_id, "--yes", "--json").succeeded()
    bob.run("payee", "close", "--all", "--yes", "--json").succeeded()
    # What was signed ends by the later of two clocks, and other tests may leave the chain's behind ours.
    behind = max(0, int(time.time()) - chain.node.advance(0).timestamp)
    chain.node.advance(behind + CLOSE_GRACE_PERIOD + EXPIRY_MARGIN)
    for channel_id in _in_state(alice, "withdrawable"):
        alice.run("channel", "withdraw", channel_id, "--yes", "--json").succeeded()
    alice.run("channel", "sync", "--json").succeeded()


def _in_state(alice, status):
    channels = alice.run("channel", "list", "--json").data["channels"]
    return [one["channelId"] for one in channels if one["status"] == status]


def _restart(number):
    def restart(_alice, _bob, gateways, _programs):
        gateways[0].end(number)
        gateways[0].start()
        gateways.reverse()

    return restart


def _close(side, *words):
    """One of the sides closes a channel that is open."""

    def close(alice, bob, _gateways, _programs):
        for channel_id in _in_state(alice, "open")[-1:]:
            home = alice if side == "channel" else bob
            home.run(side, "close", channel_id, *words, "--yes", "--json")

    return close


def _settle_all(_alice, bob, _gateways, _programs):
    bob.run("payee", "settle", "--all", "--yes", "--json")


def _close_all(_alice, bob, _gateways, _programs):
    bob.run("payee", "close", "--all", "--yes", "--json")


def _kill_program(_alice, _bob, _gateways, programs):
    programs.end("b", signal.SIGKILL)
    programs.start("b", again=["again"])


MEDDLING = (
    _restart(signal.SIGKILL),
    _restart(signal.SIGTERM),
    _close("channel"),
    _close("channel", "--on-chain"),
    _close("payee"),
    _settle_all,
    _close_all,
    _kill_program,
)
"""What is done to channels, gateways and programs while requests are paid."""


@pytest.mark.parametrize("count", [6, pytest.param(50, marks=pytest.mark.long)])
def test_many_find_no_channel(alice, bob, gateways, log, count):
    """Processes that pay one payee at once, by two gateways, open one channel, and all are served."""

    def fetch(number):
        url = f"http://127.0.0.1:{gateways[number % 2].port}/fixed/{number}"
        return alice.run("fetch", "POST", url, "-d", "x", "--yes", "--json")

    would = alice.run("fetch", f"http://127.0.0.1:{gateways[0].port}/fixed/0", "--dry-run", "--json").data
    assert would["wouldPay"]["way"] == "open"
    with ThreadPoolExecutor(count) as pool:
        runs = list(pool.map(fetch, range(count)))
    assert [one.data["status"] for one in runs] == [200] * count
    assert [one.data["payment"]["receiptProblems"] for one in runs] == [[]] * count
    books = Books(alice, bob, log)
    books.check()
    assert books.differences() == []
    assert len(books.channels) == 1
    assert books.spent("vouchers") == count * PRICE
    assert books.served == books.sold()


@pytest.mark.parametrize("count", [8, pytest.param(200, marks=pytest.mark.long)])
def test_many_share_a_channel(alice, bob, chain, gateways, log, count):
    """Processes, sixteen at a time, pay one payee by two gateways from the channel that is open: each by a
    voucher of its own, none signed twice, and the close pays what they cost, to the base unit."""
    began = balances(chain, alice, bob)

    def fetch(number):
        url = f"http://127.0.0.1:{gateways[number % 2].port}/fixed/{number}"
        return alice.run("fetch", "POST", url, "-d", "x", "--yes", "--json").data

    opened = fetch(0)["payment"]["channelId"]
    with ThreadPoolExecutor(16) as pool:
        payments = [told["payment"] for told in pool.map(fetch, range(1, count + 1))]
    assert {one["channelId"] for one in payments} == {opened}
    assert [one["receiptProblems"] for one in payments] == [[]] * count
    amounts = sorted(int(one["cumulativeAmount"]) for one in payments)
    assert amounts == [PRICE * number for number in range(2, count + 2)]
    books = Books(alice, bob, log)
    books.check()
    assert books.differences() == []
    assert books.served == books.sold()
    total = books.spent("vouchers")
    assert total == books.spent("channels") == (count + 1) * PRICE
    closed = alice.run("channel", "close", opened, "--yes", "--json").data
    assert (closed["stage"], closed["settled"]) == ("closed", str(total))
    now = balances(chain, alice, bob)
    assert [after - before for after, before in zip(now, began, strict=True)] == [-total, total]


@pytest.mark.parametrize("kinds", [("fixed", "metered"), ("stream",)])
@pytest.mark.parametrize(
    ("count", "seed"), [(40, 1), *(pytest.param(400, seed, marks=pytest.mark.long) for seed in range(2, 5))]
)
def test_tasks_that_are_cancelled(alice, bob, gateways, log, kinds, count, seed):
    """A program gives requests up at any moment, some of them again and again: nothing is bought twice,
    nothing that was charged is forgotten, no channel stays taken, and asking again under their keys tells
    what became of them."""
    chance = random.Random(seed)
    beside = asyncio.Semaphore(STREAMS)

    async def give_up(client, number):
        port, kind = gateways[number % 2].port, kinds[number // 2 % len(kinds)]
        url = f"http://127.0.0.1:{port}/{kind}/{number}"
        async with beside:
            asking = asyncio.create_task(client.get(url, extensions={"idempotency_key": f"task-{number}"}))
            await asyncio.sleep(chance.expovariate(1 / 0.06))
            for _ in range(chance.choice([1, 1, 2, 4])):
                asking.cancel()
                await asyncio.sleep(chance.choice([0, 0.001]))
            with suppress(asyncio.CancelledError, OutcomeUnknown):
                await asking

    async def program():
        with pytest.MonkeyPatch.context() as patch:
            for name, value in alice.environment.items():
                patch.setenv(name, value)
            async with microwallet.AsyncWallet.open() as wallet:
                paying = microwallet.AsyncPayingTransport(wallet=wallet, max_deposit="1 USDC")
                async with httpx.AsyncClient(transport=paying) as client:
                    await client.get(f"http://127.0.0.1:{gateways[0].port}/{kinds[0]}/first")
                    await asyncio.gather(*(give_up(client, number) for number in range(count)))

    asyncio.run(program())
    books = Books(alice, bob, log)
    books.check()
    ask_again(alice, books)
    books = Books(alice, bob, log)
    books.check()
    _check_differences(books)
    assert set(books.served) <= set(books.sold())
    assert len(books.channels) <= STREAMS
    closes = [alice.run("channel", "close", one, "--yes", "--json").data for one in books.vouchers]
    assert {one["stage"] for one in closes} == {"closed"}
    assert sum(int(one["settled"]) for one in closes) == books.spent("vouchers")


def test_a_channel_that_was_closed(alice, bob, gateways, log):
    """The payee has closed: the same request, under its key, is paid from another channel, once."""
    url = f"http://127.0.0.1:{gateways[0].port}/fixed/"
    first = alice.run("fetch", url + "a", "--yes", "--json").data["payment"]["channelId"]
    bob.run("payee", "close", "--all", "--yes", "--json").succeeded()
    for _ in range(2):
        payment = alice.run("fetch", "POST", url + "b", "--idempotency-key", "k", "--yes", "--json").data[
            "payment"
        ]
        assert (payment["amount"], payment["spent"]) == ("100", "100")
        assert payment["channelId"] != first
    books = Books(alice, bob, log)
    books.check()
    assert books.differences() == []
    assert books.served == {"GET fixed a": 1, "POST fixed b": 1}


def test_what_streams_have_eaten():
    """What they were charged above what the payer counts for each, whatever it counts too much for others."""

    def purchase(name, amount, cost, status="paid"):
        url = f"http://127.0.0.1/{name.split('-')[0]}/{name}"
        bought = {"idempotency_key": name, "channel_id": "0x", "cumulative_amount": amount, "cost": cost}
        return {**bought, "method": "GET", "url": url, "status": status}

    purchases = [
        purchase("stream-a", 1, 100),
        purchase("stream-a", 2, 100),
        purchase("stream-b", 3, 200),
        purchase("stream-c", 4, 100, "in-flight"),
        purchase("stream-d", 5, 100, "returned"),
        purchase("stream-d", 6, 100),
        purchase("fixed-e", 7, 100),
    ]
    charged = {1: 300, 3: 100, 4: 200, 6: 100, 7: 200}
    sales = [{"channel_id": "0x", "cumulative_amount": at, "cost": cost} for at, cost in charged.items()]
    assert eaten_by_streams(purchases, sales) == (300 - 200) + (200 - 100)


def _check_differences(books):
    """Only what the payer cannot know is counted as spent in full."""
    eaten = stuck = 0
    differences = books.differences()
    for kept, more in differences:
        method, kind, name = words_of(kept[0]).split()
        if kind == "stream":  # broke off without a receipt, charged of vouchers of others as well
            assert abs(more) <= MOST_UNITS * PRICE * 2, (kept, more)
            eaten += max(0, -more)
        elif len(kept) > 1:  # signed for again; sold is what was signed first, all the same
            assert len({one["status"] for one in kept}) == 1, (kept, more)
            assert 0 < more >= sum(int(one["cost"]) for one in kept[1:]), (kept, more)
        elif kind == "metered" and kept[0]["status"] == "paid":  # no receipt said how much was used
            assert 0 < more <= MOST_UNITS * PRICE, (kept, more)
        elif [one["status"] for one in kept] == ["paid"] or (method == "GET" and not name.endswith("broken")):
            # The payee had told that more was spent, or its money is what a stream took.
            stuck += more
        else:  # it failed after an answer was lost, or was begun by the gateway that was killed
            first = kept[0]
            assert {one["status"] for one in kept} == {"in-flight"}, (kept, more)
            assert more == sum(int(one["cost"]) for one in kept), (kept, more)
            # A voucher that was signed beside the first makes up for what a stream took.
            stuck += more - int(first["cost"])
    assert stuck <= eaten, [
        (more, [(words_of(one), one["status"], int(one["cost"]), one["cumulative_amount"]) for one in kept])
        for kept, more in differences
    ]


def _check_served(books, told):
    """What was served was sold, once; what was sold was served, but for what the killed gateway had begun."""
    sold = books.sold()
    assert set(books.served) <= set(sold)
    assert set(sold.values()) == {1}
    assert len(set(sold) - set(books.served)) <= 6
    for words, times in books.served.items():
        method, kind, _ = words.split()
        if kind == "stream":
            assert times <= MOST_UNITS
        elif method == "POST":
            assert times == 1, words
    for one in told:
        outcome, words = one["outcomes"][-1], f"{one['method']}{one['path'].replace('/', ' ')}"
        assert not outcome.startswith("odd"), one
        if outcome in ("served", "missing"):
            assert words in sold
        elif one["key"] is not None and outcome not in ("broken", "cut off"):
            assert {"outcome-unknown", "payment-refused"} & set(one["outcomes"]), one
