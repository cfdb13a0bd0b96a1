"""Between client and gateway everything goes wrong, and payer, payee and chain agree to the base unit."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import subprocess
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from http402.fault_proxy import FAULTS, fault_proxy
from http402.gateway_process import MOST_UNITS, PRICE
from waiting import wait_until

import microwallet
from microwallet.errors import OutcomeUnknown, PaymentRefused
from microwallet.escrow.reader import EscrowReader
from microwallet.http402.paying.transport import PayingTransport
from microwallet.paying import limits_of, paying_client
from microwallet.wallet import Wallet

HERE = Path(__file__).parent
STREAMS = 6
"""Each of those that run at once has a channel of its own."""
PATIENCE = 0.9
"""Seconds after which a late answer comes: the programs wait less."""


def start(home, program, *arguments):
    """A program of this folder, with a home's environment."""
    return home.start_program(HERE / program, *arguments, text=True, stdout=subprocess.PIPE)


class GatewayProcess:
    """One of bob's gateways: it may be killed, and started again on its port."""

    def __init__(self, home, log):
        self._home, self._log = home, log
        self.port = 0
        self.start()

    def start(self):
        self._process = start(self._home, "gateway_process.py", self.port, self._log)
        self.port = int(self._process.stdout.readline())

    def end(self, number=signal.SIGTERM):
        self._process.send_signal(number)
        self._process.wait(30)
        self._process.stdout.close()


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


class Programs:
    """Programs of alice's, side by side."""

    def __init__(self, alice, url, count):
        self._alice, self._url, self._count = alice, url, count
        self._running = {}
        self.told = []
        """What became of each request."""

    def start(self, *names, again=()):
        for name in names:
            process = start(self._alice, "paying_program.py", self._url, name, self._count, *again)
            reading = threading.Thread(target=self._read, args=(process,))
            reading.start()
            self._running[name] = process, reading

    def have_ended(self):
        return all(process.poll() is not None for process, _ in self._running.values())

    def _read(self, process):
        for line in process.stdout:
            self.told.append(json.loads(line))

    def end(self, name, number=None):
        process, reading = self._running.pop(name)
        if number is not None:
            process.send_signal(number)
        assert process.wait(900) == (0 if number is None else -number)
        reading.join()
        process.stdout.close()


class Books:
    """What payer and payee have written down, side by side."""

    def __init__(self, alice, bob, log):
        self.channels, self.purchases = _read(alice, "channels", "purchases")
        self.vouchers, sales = _read(bob, "current_vouchers", "sales")
        self.sales = [one for one in sales if not one["returned"]]
        self.served = Counter(log.read_text().splitlines())
        self.by_key = {}
        for one in self.purchases:
            self.by_key.setdefault(one["idempotency_key"], []).append(one)
        self._sale = {_voucher(one): one for one in self.sales}

    def check(self):
        """What is so at any time."""
        for channel_id, voucher in self.vouchers.items():
            channel = self.channels[channel_id]
            assert voucher["spent"] <= voucher["authorized"] <= channel["authorized"] <= channel["deposit"]
            assert voucher["spent"] <= channel["spent"] <= channel["authorized"]
            assert int(voucher["spent"]) == _sum(self.sales, channel_id)
            kept = [one for one in self.purchases if one["status"] != "returned"]
            counted = sum(int(channel[name]) for name in ("spent", "overdrawn", "uncharged"))
            assert counted == _sum(kept, channel_id)
        bought = Counter(_voucher(one) for one in self.purchases)
        assert all(bought[one] == 1 for one in self._sale)

    def differences(self):
        """Each logical request of which the books differ: its purchases, and base units that the payer has
        spent more than the payee."""
        found = []
        for purchases in self.by_key.values():
            sales = [self._sale[_voucher(one)] for one in purchases if _voucher(one) in self._sale]
            kept = [one for one in purchases if one["status"] != "returned"]
            assert len(sales) <= 1, purchases
            assert sales or not any(one["status"] == "paid" for one in kept), purchases
            assert kept or not sales, purchases
            more = sum(int(one["cost"]) for one in kept) - sum(int(one["cost"]) for one in sales)
            if more:
                found.append((kept, more))
        taken_back = sum(int(one["uncharged"]) + int(one["overdrawn"]) for one in self.channels.values())
        assert sum(more for _, more in found) - taken_back == self.spent("channels") - self.spent("vouchers")
        return found

    def spent(self, side):
        return sum(int(one["spent"]) for one in getattr(self, side).values())

    def sold(self):
        """Method, kind and name of everything that was sold."""
        buying = {_voucher(one): one for one in self.purchases}
        return Counter(_words(buying[_voucher(one)]) for one in self.sales)


def _voucher(row):
    return row["channel_id"], row["cumulative_amount"]


def _sum(rows, channel_id):
    return sum(int(one["cost"]) for one in rows if one["channel_id"] == channel_id)


def _words(purchase):
    _, kind, name = urlsplit(purchase["url"]).path.split("/")
    return f"{purchase['method']} {kind} {name}"


def _read(home, channels, rows):
    with Wallet.open(environment=home.environment) as wallet, wallet.ledger.database.read() as connection:

        def table(name):
            cursor = connection.execute(f"SELECT * FROM {name}")
            names = [column[0] for column in cursor.description]
            return [dict(zip(names, row, strict=True)) for row in cursor]

        return {one["channel_id"]: one for one in table(channels)}, table(rows)


def settle(alice, books):
    """Ask again, under its key, for everything that has no answer."""
    waiting = {one["idempotency_key"]: one for one in books.purchases if one["status"] == "in-flight"}
    with Wallet.open(environment=alice.environment) as wallet:
        client = paying_client(wallet, limits_of(wallet), confirm=lambda _account, _plan: None)
        with httpx.Client(transport=PayingTransport(lambda: client, httpx.HTTPTransport())) as http:
            for key, one in waiting.items():
                content = urlsplit(one["url"]).path.encode() if one["method"] == "POST" else None
                with suppress(OutcomeUnknown, PaymentRefused):
                    http.request(
                        one["method"], one["url"], content=content, extensions={"idempotency_key": key}
                    )


@pytest.mark.parametrize(
    ("names", "count", "seed"),
    [("ab", 30, 1), *(pytest.param("abcd", 500, seed, marks=pytest.mark.long) for seed in range(2, 4))],
)
def test_books_agree(alice, bob, chain, gateways, log, names, count, seed):
    """Programs on one channel, two gateways on one ledger, faults between them; a gateway and a program are
    killed. Nothing is served or charged twice, and where the books differ it is known why and by how much."""
    began = _balances(chain, alice, bob)
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
        settle(alice, books)
        books = Books(alice, bob, log)
        books.check()
        _check_differences(books)
        _check_served(books, programs.told)
        [channel_id] = books.channels
        closed = alice.run("channel", "close", channel_id, "--yes", "--json").data
        assert (closed["stage"], closed["settled"]) == ("closed", str(books.spent("vouchers")))
    paid, received = (now - then for now, then in zip(_balances(chain, alice, bob), began, strict=True))
    assert (-paid, received) == (books.spent("vouchers"), books.spent("vouchers"))


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
    began = _balances(chain, alice, bob)

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
    now = _balances(chain, alice, bob)
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
    settle(alice, books)
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


def _check_differences(books):
    """Only what the payer cannot know is counted as spent in full."""
    eaten = stuck = 0
    for kept, more in books.differences():
        method, kind, name = _words(kept[0]).split()
        if kind == "stream":  # broke off without a receipt, charged of vouchers of others as well
            assert abs(more) <= MOST_UNITS * PRICE * 2, (kept, more)
            eaten += max(0, -more)
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
    assert stuck <= eaten


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


def _balances(chain, *homes):
    reader = EscrowReader(chain.rpc, chain.escrow_contract)
    return reader.balances([(chain.token, one.address) for one in homes])
