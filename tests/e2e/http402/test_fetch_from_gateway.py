"""`fetch` and `serve` face to face: a real upstream, a real gateway, a real chain, and books that agree."""

from __future__ import annotations

import asyncio
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event, Semaphore

import httpx
import pytest
from waiting import wait_until

import microwallet
from microwallet.wallet import Wallet


@pytest.fixture
def gateway(serve):
    """The address of bob's gateway, which charges 0.001 USDC a request."""
    return serve().url


def books(home, kind):
    """Spent and authorized of each channel, by one side's ledger."""
    with Wallet.open(environment=home.environment) as wallet:
        channels = getattr(wallet.ledger, kind).list(finalized=True)
        return sorted((one.channel_id, one.spent, one.authorized) for one in channels)


def kept(home, key):
    """What a payee keeps of what it answered under a key."""
    with Wallet.open(environment=home.environment) as wallet, wallet.ledger.database.read() as connection:
        return connection.execute("SELECT answer FROM sales WHERE idempotency_key = ?", (key,)).fetchone()[0]


def test_the_same_command_again_pays_for_no_redirect_and_no_form_twice(alice, bob, gateway, tmp_path):
    """Under its key each hop, and a form with a file, is answered again; both sides' books agree."""
    alice.run("fetch", gateway + "/", "--deposit", "1 USDC", "--yes").succeeded()
    file = tmp_path / "file"
    file.write_bytes(b"--\r\n")
    moved = ("fetch", gateway + "/to/to/here", "-L", "--idempotency-key", "moved", "--json")
    form = (
        "fetch",
        gateway + "/form",
        "-F",
        "a=b",
        "-F",
        f"file=@{file}",
        "--idempotency-key",
        "f",
        "--json",
    )
    for is_again in (False, True):
        hops = alice.run(*moved).data
        assert hops["body"] == "you asked for /here"
        assert [one["paidBefore"] for one in hops["payments"]] == [is_again] * 3
        assert alice.run(*form).data["payment"]["paidBefore"] is is_again
    [(channel, spent, authorized)] = books(alice, "channels")
    assert spent == 5_000
    assert books(bob, "vouchers") == [(channel, spent, authorized)]


def test_one_key_side_by_side_of_which_the_answer_is_lost(alice, bob, gateway, upstream, monkeypatch):
    """Of two runs with one key the first fails, and the second, which is paid, is killed before its answer:
    the first does not take it for free, and its key has the answer."""
    asked, gates = Semaphore(0), [Event(), Event()]

    def respond(handler):
        number = len(upstream.asked)
        upstream.asked.append(handler.path)
        asked.release()
        assert number > 1 or gates[number].wait(20)
        handler.answer(500 if number == 0 else 200, {}, b"served")

    alice.run("fetch", gateway + "/", "--deposit", "1 USDC", "--yes").succeeded()
    upstream.asked.clear()
    monkeypatch.setattr(upstream.RequestHandlerClass, "respond", respond)
    words = ("fetch", gateway + "/", "--idempotency-key", "k", "--json")
    runs = []
    for _ in range(2):
        runs.append(alice.start(*words, stdout=subprocess.PIPE, stderr=subprocess.PIPE))
        assert asked.acquire(timeout=20)
    runs[1].kill()
    gates[1].set()
    runs[1].communicate()
    wait_until(lambda: kept(bob, "k"))
    gates[0].set()
    runs[0].communicate(timeout=20)
    assert runs[0].returncode == 5
    assert books(alice, "channels") == books(bob, "vouchers")
    again = alice.run(*words).succeeded().data
    assert (again["body"], again["payment"]["amount"]) == ("served", "1000")
    assert alice.run("fetch", gateway + "/", "--json").succeeded().data["payment"]["spent"] == "3000"
    assert books(alice, "channels") == books(bob, "vouchers")


def test_side_by_side_errors_and_close(alice, bob, gateway):
    """Thirty at once, errors between them, one key twice; both sides' books agree, and so does the chain."""

    def fetch(path, *flags):
        return alice.run("fetch", gateway + path, *flags, "--json")

    first = fetch("/", "--deposit", "1 USDC", "--yes").data
    assert (first["body"], first["payment"]["receiptProblems"]) == ("you asked for /", [])
    paths = ["/status/503" if number % 5 == 0 else "/" for number in range(30)]
    with ThreadPoolExecutor(8) as pool:
        runs = [one.data for one in pool.map(fetch, paths)]
    assert [one["status"] for one in runs].count(503) == 6
    paid = [one["payment"] for one in runs if one["payment"] is not None]
    assert len(paid) == 24
    assert len({one["cumulativeAmount"] for one in paid}) == 24
    once = [fetch("/", "--idempotency-key", "once").data["payment"]["cumulativeAmount"] for _ in range(2)]
    assert once[0] == once[1]
    missing = fetch("/status/404").data
    assert (missing["status"], missing["payment"]["amount"]) == (404, "1000")
    [(channel, spent, authorized)] = books(alice, "channels")
    assert books(bob, "vouchers") == [(channel, spent, authorized)]
    assert spent == 27_000
    closed = alice.run("channel", "close", channel, "--yes", "--json").data
    assert (closed["stage"], closed["settled"]) == ("closed", "27000")
    assert closed["transactionHash"]
    again = fetch("/", "--yes").data["payment"]
    assert again["channelId"] != channel


def test_channel_without_enough_left_that_the_payee_has_closed(alice, bob, gateway):
    """It takes no more deposits: another one is opened, which pays."""
    words = ("fetch", gateway + "/", "--deposit", "0.001 USDC", "--yes", "--json")
    first = alice.run(*words).data["payment"]["channelId"]
    bob.run("payee", "close", "--all", "--yes", "--json").succeeded()
    again = alice.run(*words).data["payment"]
    assert again["channelId"] != first
    assert (again["spent"], again["deposit"]) == ("1000", "1000")


def test_while_a_close_of_the_payee_is_being_sent(alice, bob, gateway, chain):
    """What is asked for waits until it is done, and is paid from another channel."""
    words = ("fetch", gateway + "/", "--deposit", "0.1 USDC", "--yes", "--json")
    first = alice.run(*words).data["payment"]["channelId"]
    chain.rpc.call("evm_setAutomine", [False])
    try:
        with ThreadPoolExecutor(2) as pool:
            closing = pool.submit(bob.run, "payee", "close", "--all", "--yes", "--json")
            deadline = time.monotonic() + 15
            while chain.rpc.call("txpool_status", [])["pending"] == "0x0" and time.monotonic() < deadline:
                time.sleep(0.05)
            fetching = pool.submit(alice.run, *words)
            time.sleep(1)
            assert not fetching.done()
            chain.rpc.call("evm_setAutomine", [True])
            chain.rpc.call("evm_mine", [])
            closing.result().succeeded()
    finally:
        chain.rpc.call("evm_setAutomine", [True])
    fetched = fetching.result()
    assert "asks to try again: the channel is being closed" in fetched.stderr
    assert fetched.data["payment"]["channelId"] != first


@pytest.fixture
def shop(bob):
    """The address of an application of bob's that sells by the event, by the unit and by the request."""
    program = Path(__file__).with_name("paid_application.py")
    process = bob.start_program(program, stdout=subprocess.PIPE, text=True)
    try:
        yield process.stdout.readline().strip()
    finally:
        process.terminate()
        process.wait(timeout=30)
        process.stdout.close()


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_stream_of_events(alice, bob, shop, method):
    """Events arrive byte for byte between those of the payment; what they cost is what both books say."""
    done = alice.run("fetch", method, shop + "/events/7", "--yes").succeeded()
    for number in range(7):
        assert f"id: {number}\ndata: event {number}\n\n" in done.stdout
    assert "paid 0.007 USDC" in done.stderr
    assert "warning" not in done.stderr
    assert books(alice, "channels") == books(bob, "vouchers")
    assert books(alice, "channels")[0][1] == 7_000


def test_stream_beyond_the_limit(alice, bob, shop):
    """The limit ends a stream; both sides agree on what was delivered until then."""
    stopped = alice.run("fetch", shop + "/events/50", "--max-amount", "0.003 USDC", "--yes", "--json")
    assert (stopped.exit_code, stopped.error["code"]) == (4, "above-limit")
    body = stopped.json["data"]["body"]
    assert ["event 2" in body, "event 3" in body] == [True, False]
    assert books(alice, "channels") == books(bob, "vouchers")


def test_units_within_what_was_reserved(alice, bob, shop):
    """A request by units reserves the maximum and pays what was used; the rest is used by the next one."""
    payment = alice.run("fetch", shop + "/units/3", "--yes", "--json").data["payment"]
    assert (payment["amount"], payment["spent"], payment["authorized"]) == ("3000", "3000", "8000")
    assert payment["receiptProblems"] == []
    payment = alice.run("fetch", shop + "/units/2", "--json").data["payment"]
    assert (payment["amount"], payment["spent"], payment["authorized"]) == ("2000", "5000", "11000")
    assert books(alice, "channels") == books(bob, "vouchers")


def test_steps_larger_than_the_price_side_by_side(alice, bob, shop):
    """Where a voucher must exceed the last one by more than a price, one step pays for many at once."""
    assert alice.run("fetch", shop + "/steps", "--yes", "--json").data["payment"]["authorized"] == "5000"
    with ThreadPoolExecutor(8) as pool:
        runs = list(pool.map(lambda _: alice.run("fetch", shop + "/steps", "--json"), range(16)))
    assert [one.exit_code for one in runs] == [0] * 16, [one.stdout for one in runs if one.exit_code]
    assert books(alice, "channels") == books(bob, "vouchers")
    [(_, spent, authorized)] = books(alice, "channels")
    assert spent == 17_000
    assert authorized <= 30_000


def test_a_head_is_not_paid_for(alice, gateway):
    """By the draft a HEAD hands a voucher over and buys nothing: the 402 is its answer, and books agree."""
    alice.run("fetch", gateway, "--yes").succeeded()
    head = alice.run("fetch", "HEAD", gateway, "--json")
    assert (head.data["status"], head.data["payment"]) == (402, None)
    assert "a HEAD is not paid for" in head.stderr
    payment = alice.run("fetch", gateway, "--json").data["payment"]
    assert (payment["spent"], payment["receiptProblems"]) == ("2000", [])


def test_requests_beside_a_stream(alice, bob, shop):
    """A stream is charged what was authorized for requests that are still on their way: those are paid for
    again, at their price alone, and both sides' books agree."""

    async def program(wallet):
        paying = microwallet.AsyncPayingTransport(wallet=wallet, max_deposit="1 USDC")
        async with httpx.AsyncClient(transport=paying) as client:
            urls = [f"{shop}/events/9", *(f"{shop}/{number}" for number in range(30))]
            return await asyncio.gather(*map(client.get, urls))

    with microwallet.Wallet.open(
        alice.path, rpc_url=alice.settings["MICROWALLET_RPC_URL"], password_file=alice.password_file
    ) as wallet:
        payments = [microwallet.payment_of(answer) for answer in asyncio.run(program(wallet))]
    assert [one.receipt_problems for one in payments] == [()] * 31
    assert [str(one.amount) for one in payments] == ["0.009 USDC", *["0.001 USDC"] * 30]
    [(channel, spent, _)] = books(alice, "channels")
    assert [one[:2] for one in books(bob, "vouchers")] == [(channel, spent)]


def test_requests_side_by_side_beyond_the_deposit(alice, bob, serve):
    """Whoever finds a deposit used up tops it up, and pays from it, whoever else is waiting for it; the payee
    is told of each one before it refuses anybody."""
    url = serve("--suggested-deposit", "0.001 USDC").url

    async def program(wallet):
        paying = microwallet.AsyncPayingTransport(wallet=wallet, max_deposit="1 USDC")
        async with httpx.AsyncClient(transport=paying) as client:
            return await asyncio.gather(*(client.get(f"{url}/{number}") for number in range(12)))

    with microwallet.Wallet.open(
        alice.path, rpc_url=alice.settings["MICROWALLET_RPC_URL"], password_file=alice.password_file
    ) as wallet:
        payments = [microwallet.payment_of(answer) for answer in asyncio.run(program(wallet))]
    assert [one.receipt_problems for one in payments] == [()] * 12
    assert {str(one.amount) for one in payments} == {"0.001 USDC"}
    [(_, spent, _)] = books(alice, "channels")
    assert spent == 12_000
    assert books(alice, "channels") == books(bob, "vouchers")


def test_requests_with_a_body_beyond_the_deposit(alice, bob, gateway):
    """A challenge is bound to the body that was sent: the payee is told of a top-up all the same."""
    words = ("fetch", "POST", gateway, "-d", "tea", "--deposit", "0.002 USDC", "--yes", "--json")
    payments = [alice.run(*words).data["payment"] for _ in range(5)]
    assert [one["deposit"] for one in payments] == ["2000", "2000", "4000", "4000", "6000"]
    assert {one["channelId"] for one in payments} == {payments[0]["channelId"]}
    assert books(alice, "channels") == books(bob, "vouchers")


def test_what_an_error_has_not_cost_is_used_first(alice, bob, serve):
    """Nothing tells a payer what an error costs where events are sold: it counts as spent until a receipt
    shows that it was not charged, and is used before more is signed then."""
    url = serve(sells=("--price", "0.001 USDC", "--per", "event")).url

    def fetch(path="/"):
        payment = alice.run("fetch", url + path, "--deposit", "1 USDC", "--yes", "--json").data["payment"]
        assert payment["receiptProblems"] == []
        return int(payment["spent"]), int(payment["authorized"])

    assert fetch() == (1_000, 1_000)
    assert fetch("/status/404") == (2_000, 2_000)
    assert fetch("/status/404") == (3_000, 3_000)
    assert books(bob, "vouchers")[0][1] == 1_000
    assert fetch() == (2_000, 4_000)
    assert books(alice, "channels") == books(bob, "vouchers")
    assert [fetch(), fetch(), fetch()] == [(3_000, 4_000), (4_000, 4_000), (5_000, 5_000)]
    assert books(alice, "channels") == books(bob, "vouchers")


def test_a_stream_that_uses_up_a_deposit_after_an_error(alice, bob, serve):
    """What the error may have cost is not charged, and the stream took it: both books say so."""
    url = serve(sells=("--price", "0.001 USDC", "--per", "event")).url
    for path, spent in (("/status/404", "1000"), ("/stream", "5000")):
        words = ("--deposit", "0.005 USDC", "--max-amount", "0.01 USDC", "--yes", "--json")
        payment = alice.run("fetch", url + path, *words).data["payment"]
        assert (payment["spent"], payment["receiptProblems"]) == (spent, [])
    assert books(alice, "channels") == books(bob, "vouchers")


def test_a_stream_whose_channel_another_command_tops_up(alice, bob, serve, upstream):
    """The payee has not heard of that deposit when a voucher of the stream needs it: it is told, once."""
    url = serve(sells=("--price", "0.001 USDC", "--per", "event")).url
    with ThreadPoolExecutor(1) as pool:
        words = ("--deposit", "0.001 USDC", "--max-amount", "0.01 USDC", "--yes", "--json")
        stream = pool.submit(alice.run, "fetch", f"{url}/halting", *words)
        while not upstream.asked:
            time.sleep(0.05)
        alice.run("channel", "top-up", "--yes", bob.address, "0.05 USDC").succeeded()
        upstream.slow.set()
        done = stream.result()
    assert done.exit_code == 0, done.stdout
    payment = done.data["payment"]
    assert (payment["spent"], payment["deposit"], payment["receiptProblems"]) == ("5000", "51000", [])
    assert books(alice, "channels") == books(bob, "vouchers")


def test_payments_by_hand_beside_requests(alice, bob, gateway, tmp_path):
    """They are handed over after requests were paid through the channel, and twice: each counts once in both
    books and on the chain."""

    def fetch():
        return alice.run("fetch", gateway, "--deposit", "1 USDC", "--yes", "--json").data["payment"]

    def accept(*files):
        told = bob.run("payee", "accept", *files, "--json").data
        return told["accepted"], told["duplicates"]

    channel = fetch()["channelId"]
    files = []
    for number, words in enumerate([("0.2",), ("0.01", "--count", 10, "--each"), ("0.01", "--count", 10)]):
        files.append(tmp_path / f"{number}.jsonl")
        files[-1].write_text(alice.run("pay", channel, *words).succeeded().stdout)
        fetch()
    assert [accept(files[2]), accept(files[1]), accept(files[0])] == [(1, 0), (10, 0), (1, 0)]
    assert [accept(file) for file in files] == [(0, 1), (0, 10), (0, 1)]
    fetch()
    assert books(alice, "channels") == books(bob, "vouchers")
    closed = alice.run("channel", "close", channel, "--yes", "--json").data
    assert (closed["stage"], closed["settled"]) == ("closed", "405000")


def test_payments_by_hand_that_a_close_would_leave_out_are_told(alice, bob, gateway, tmp_path):
    """Before a payer closes: how much the payee does not count yet, by its word, and what to hand over.
    Asking changes nothing in its books."""

    def close(*words):
        return alice.run("channel", "close", channel, *words, "--yes", "--json").succeeded()

    channel = fetch_once(alice, gateway)
    assert close("--dry-run").data["uncountedPayments"] is None
    vouchers = tmp_path / "vouchers.jsonl"
    paid = alice.run("pay", channel, "0.2", "--idempotency-key", "first").succeeded()
    vouchers.write_text(paid.stdout)
    fetch_once(alice, gateway)
    alice.run("pay", channel, "0.1", "--idempotency-key", "second").succeeded()
    before = books(bob, "vouchers")
    looked = close("--dry-run")
    assert looked.data["uncountedPayments"] == "300000"
    assert books(bob, "vouchers") == before
    (warning,) = [line for line in looked.stderr.splitlines() if line.startswith("warning: ")]
    assert warning.startswith(
        f"warning: channel {channel}: 0.3 USDC of 0.3 USDC paid by hand is not counted by the payee yet"
    )
    assert warning.endswith("microwallet pay --resume second, and the same for 1 more before it")
    bob.run("payee", "accept", vouchers).succeeded()
    assert close("--dry-run", "--on-chain").data["uncountedPayments"] is None
    assert close("--dry-run").data["uncountedPayments"] == "100000"
    assert "0.1 USDC of 0.3 USDC paid by hand is not counted" in (closed := close()).stderr
    assert (closed.data["settled"], closed.data["uncountedPayments"]) == ("202000", "100000")
    again = close("--dry-run")  # nobody is asked to close it
    assert (again.data["uncountedPayments"], "asking" in again.stderr) == (None, False)


def test_payments_by_hand_that_are_counted_are_no_warning(alice, bob, gateway, tmp_path):
    """Their vouchers were handed over: the close leaves nothing out."""
    channel, vouchers = fetch_once(alice, gateway), tmp_path / "vouchers.jsonl"
    vouchers.write_text(alice.run("pay", channel, "0.2").succeeded().stdout)
    bob.run("payee", "accept", vouchers).succeeded()
    looked = alice.run("channel", "close", channel, "--dry-run", "--json").succeeded()
    assert (looked.data["uncountedPayments"], "warning" in looked.stderr) == ("0", False)


def test_payments_by_hand_are_told_where_only_a_post_is_sold(alice, serve, tmp_path):
    """A gateway that knows no HEAD of the path is asked all the same."""
    file = tmp_path / "shop.toml"
    file.write_text('[[routes]]\nmethod = "POST"\npath = "/**"\nprice = "0.001 USDC"\n')
    url = serve("--config", file, sells=()).url
    paid = alice.run("fetch", "POST", url, "--deposit", "1 USDC", "--yes", "--json").data["payment"]
    alice.run("pay", paid["channelId"], "0.2").succeeded()
    looked = alice.run("channel", "close", paid["channelId"], "--dry-run", "--json")
    assert looked.data["uncountedPayments"] == "200000"


def test_a_voucher_above_all_that_the_payee_has_is_told_whatever_else_is_unknown(alice, gateway, upstream):
    """Whether requests without an answer were charged is unknown: that voucher was not handed over anyway."""
    channel = fetch_once(alice, gateway)
    for _ in range(2):
        assert alice.run("fetch", gateway + "/slow", "--timeout", "0.5").exit_code == 5
    upstream.slow.set()
    alice.run("pay", channel, "0.001").succeeded()
    fetch_once(alice, gateway)
    alice.run("pay", channel, "0.001", "--count", "2", "--each").succeeded()
    looked = alice.run("channel", "close", channel, "--dry-run", "--json").succeeded()
    assert looked.data["uncountedPayments"] == "2000"
    assert ": at least 0.002 USDC of 0.003 USDC paid by hand is not counted" in looked.stderr


def fetch_once(alice, gateway):
    """One paid request; its channel."""
    told = alice.run("fetch", gateway, "--deposit", "1 USDC", "--yes", "--json").data
    return told["payment"]["channelId"]


def test_step_beyond_the_deposit_of_a_channel_that_the_payee_has_closed(alice, bob, shop):
    """What is left would pay, the smallest step does not fit: another channel is opened, which pays."""
    words = ("fetch", shop + "/steps", "--deposit", "0.007 USDC", "--yes", "--json")
    payments = [alice.run(*words).data["payment"] for _ in range(5)]
    assert (payments[-1]["spent"], payments[-1]["authorized"]) == ("5000", "5000")
    bob.run("payee", "close", "--all", "--yes", "--json").succeeded()
    again = alice.run(*words).data["payment"]
    assert (again["spent"], again["deposit"]) == ("1000", "7000")
    assert again["channelId"] != payments[-1]["channelId"]


def test_no_payee_is_made_to_wait_for_a_channel_that_the_chain_has_no_more(alice, bob, gateway, chain):
    """As after a chain was started anew: it is said at once what brings the ledger up to date. What was
    signed counts as spent no more."""
    before = chain.rpc.call("evm_snapshot", [])
    alice.run("channel", "open", bob.address, "1 USDC", "--yes").succeeded()
    assert chain.rpc.call("evm_revert", [before])
    begun = time.monotonic()
    failed = alice.run("fetch", gateway + "/", "--yes", "--json")
    assert time.monotonic() - begun < 10
    assert (failed.exit_code, failed.error["code"]) == (4, "channel-not-open")
    assert failed.error["hint"] == "microwallet channel sync"
    assert [spent for _, spent, _ in books(alice, "channels")] == [0]
    alice.run("channel", "sync").succeeded()
    assert alice.run("fetch", gateway + "/", "--yes", "--json").data["payment"]["amount"] == "1000"
