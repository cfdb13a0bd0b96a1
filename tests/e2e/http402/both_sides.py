"""Programs that pay, the gateways that they pay, and what both sides have written down."""

from __future__ import annotations

import json
import signal
import subprocess
import threading
import time
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from microwallet.errors import OutcomeUnknown, PaymentRefused
from microwallet.escrow.reader import EscrowReader
from microwallet.http402.paying.transport import PayingTransport
from microwallet.paying import limits_of, paying_client
from microwallet.wallet import Wallet

HERE = Path(__file__).parent
LEAVING_SECONDS = 60
"""For how long a payee may go on charging for a stream that was left."""


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


class Programs:
    """Programs of alice's, side by side; each makes `count` requests, and deposits so much at once."""

    def __init__(self, alice, url, count, deposit="10 USDC"):
        self._alice = alice
        self._arguments = url, count, deposit
        self._running = {}
        self.told = []
        """What became of each request."""

    def start(self, *names, again=()):
        url, *rest = self._arguments
        for name in names:
            process = start(self._alice, "paying_program.py", url, name, *rest, *again)
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
            purchases = [one for one in self.purchases if one["channel_id"] == channel_id]
            sales = [one for one in self.sales if one["channel_id"] == channel_id]
            assert int(voucher["spent"]) <= int(channel["spent"]) + eaten_by_streams(purchases, sales)
            assert channel["spent"] <= channel["authorized"]
            assert int(voucher["spent"]) == _cost(sales)
            counted = sum(int(channel[name]) for name in ("spent", "overdrawn", "uncharged"))
            assert counted == _cost(_kept(purchases))
        bought = Counter(_voucher(one) for one in self.purchases)
        assert all(bought[one] == 1 for one in self._sale)

    def differences(self):
        """Each logical request of which the books differ: its purchases, and base units that the payer has
        spent more than the payee."""
        found = []
        for purchases in self.by_key.values():
            sales = [self._sale[_voucher(one)] for one in purchases if _voucher(one) in self._sale]
            kept = _kept(purchases)
            assert len(sales) <= 1, purchases
            assert sales or not any(one["status"] == "paid" for one in kept), purchases
            assert kept or not sales, purchases
            if more := _cost(kept) - _cost(sales):
                found.append((kept, more))
        taken_back = sum(int(one["uncharged"]) + int(one["overdrawn"]) for one in self.channels.values())
        assert sum(more for _, more in found) - taken_back == self.spent("channels") - self.spent("vouchers")
        return found

    def spent(self, side):
        return sum(int(one["spent"]) for one in getattr(self, side).values())

    def sold(self):
        """Method, kind and name of everything that was sold."""
        buying = {_voucher(one): one for one in self.purchases}
        return Counter(words_of(buying[_voucher(one)]) for one in self.sales)


def _voucher(row):
    return row["channel_id"], row["cumulative_amount"]


def _cost(rows):
    return sum(int(one["cost"]) for one in rows)


def _kept(purchases):
    return [one for one in purchases if one["status"] != "returned"]


def eaten_by_streams(purchases, sales):
    """Base units that streams of a channel were charged and the payer does not count for them: one that broke
    off was charged for what was on its way, of what was signed for other requests."""
    streams = {}
    for one in purchases:
        if " stream " in words_of(one):
            streams.setdefault(one["idempotency_key"], []).append(one)
    charged = {_voucher(one): int(one["cost"]) for one in sales}
    return sum(
        max(0, sum(charged.get(_voucher(one), 0) for one in bought) - _cost(_kept(bought)))
        for bought in streams.values()
    )


def words_of(purchase):
    _, kind, name = urlsplit(purchase["url"]).path.split("/")
    return f"{purchase['method']} {kind} {name}"


def _read(home, channels, rows):
    with Wallet.open(environment=home.environment) as wallet, wallet.ledger.database.read() as connection:

        def table(name):
            cursor = connection.execute(f"SELECT * FROM {name}")
            names = [column[0] for column in cursor.description]
            return [dict(zip(names, row, strict=True)) for row in cursor]

        return {one["channel_id"]: one for one in table(channels)}, table(rows)


def ask_again(alice, books):
    """Ask again, under its key, for everything that has no answer."""
    waiting = {one["idempotency_key"]: one for one in books.purchases if one["status"] == "in-flight"}
    with Wallet.open(environment=alice.environment) as wallet:
        client = paying_client(wallet, limits_of(wallet), confirm=lambda *_: None)
        with httpx.Client(transport=PayingTransport(lambda: client, httpx.HTTPTransport())) as http:
            for key, one in waiting.items():
                content = urlsplit(one["url"]).path.encode() if one["method"] == "POST" else None
                with suppress(OutcomeUnknown, PaymentRefused):
                    http.request(
                        one["method"], one["url"], content=content, extensions={"idempotency_key": key}
                    )


def ask_later(alice, url):
    """One more request, once no stream that was left can be charged any more."""
    with Wallet.open(environment=alice.environment) as wallet:
        client = paying_client(wallet, limits_of(wallet), confirm=lambda *_: None)
        later = replace(client, clock=lambda: int(time.time()) + LEAVING_SECONDS + 1)
        with httpx.Client(transport=PayingTransport(lambda: later, httpx.HTTPTransport())) as http:
            assert http.get(f"{url}/fixed/last").status_code == 200


def balances(chain, *homes):
    reader = EscrowReader(chain.rpc, chain.escrow_contract)
    return reader.balances([(chain.token, one.address) for one in homes])
