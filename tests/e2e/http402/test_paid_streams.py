"""Streams that are paid as they run: what is signed for them, what they take of it, where they stop."""

from __future__ import annotations

import subprocess
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest
from http402.payee_double import (
    PAID_BODY,
    STREAM,
    hang_up,
)

from microwallet.http402.wire.session_payload import TopUpAction, VoucherAction
from microwallet.wallet import Wallet


def test_stream_is_paid_as_it_runs(alice, payee):
    """The server's own events come byte for byte and nothing else does, vouchers go beside them, and what was
    used is what was paid."""
    payee.events, payee.unit_type = 6, "event"
    done = alice.run("fetch", payee.url + STREAM, "--yes").succeeded()
    assert done.stdout == "".join(f"data: event {number}\n\n" for number in range(6))
    assert "paid 0.006 USDC" in done.stderr
    assert "warning" not in done.stderr
    assert payee.highest() == 6_000


@pytest.mark.parametrize("binds_none", [False, True])
def test_a_stream_for_a_body_is_paid_as_it_runs(fetch, payee, binds_none):
    """Its vouchers go by HEADs: they need a challenge for no body, or for the empty one."""
    payee.unit_type, payee.bind_body = "event", True

    def bind(handler, _action):
        payee.bind_body = binds_none or bool(handler.body)

    payee.before = bind
    done = fetch("POST", "-d", "question", "-H", "Accept: text/event-stream", path=STREAM)
    assert (done.exit_code, done.data["payment"]["amount"]) == (0, "5000")
    assert payee.highest() == 5_000


@pytest.mark.parametrize(("lost", "exit_code"), [(2, 0), (100, 5)])
def test_a_voucher_of_a_stream_that_gets_lost(payee, fetch, lost, exit_code):
    """It is sent again, so often; then the stream is stopped, and what was signed for it counts as spent."""
    channel = fetch().data["payment"]["channelId"]
    payee.unit_type, missing = "event", [None] * lost

    def before(handler, action):
        if action is None or handler.command != "HEAD" or not missing:
            return False
        missing.pop()
        return hang_up(handler, action)

    payee.before = before
    done = fetch(path=STREAM)
    assert done.exit_code == exit_code
    if exit_code:
        assert len(missing) == lost - 3
        assert (done.error["code"], done.error["hint"]) == (
            "outcome-unknown",
            f"microwallet channel show {channel}",
        )
    else:
        assert done.data["payment"]["receiptProblems"] == []


@pytest.mark.parametrize(("times", "exit_code"), [(2, 0), (100, 4)])
def test_a_stream_whose_server_cannot_take_its_voucher_now(payee, fetch, times, exit_code):
    """As while it cannot reach the chain, which takes a moment: the voucher is sent again, so often."""
    fetch()
    payee.unit_type, failing = "event", [None] * times

    def before(handler, action):
        if action is None or handler.command != "HEAD" or not failing:
            return False
        failing.pop()
        handler.answer(503, {})
        return True

    payee.before = before
    done = fetch(path=STREAM)
    assert done.exit_code == exit_code
    if exit_code:
        assert len(failing) == times - 3
        assert "refuses a voucher of its own stream with 503" in done.error["message"]
    else:
        assert (done.data["payment"]["amount"], done.data["payment"]["receiptProblems"]) == ("5000", [])


def test_a_stream_that_ends_before_the_voucher_that_it_asked_for(payee, fetch):
    """Its receipt tells of the vouchers until then, and there is nothing wrong with that."""
    channel = fetch().data["payment"]["channelId"]
    payee.unit_type = "event"

    def before(handler, action):
        if action is None or handler.command == "HEAD":
            return False
        need, receipt = payee.asking_and_telling(channel, spent=2_000)
        handler.stream(b"data: event\n\n", need, receipt)
        return True

    payee.before = before
    payment = fetch(path=STREAM).data["payment"]
    assert payee.highest() == 3_000
    assert (payment["amount"], payment["spent"], payment["receiptProblems"]) == ("1000", "2000", [])
    assert payment["isMost"] is False


def test_stream_takes_what_is_signed_already(payee, fetch, books):
    """A payee meters a stream out of what was signed before and not spent, and asks for nothing: it is
    paid all the same, within the limit, and what is left is used next."""
    payee.price, payee.status = 5_000, 500
    fetch()
    payee.price, payee.status, payee.unit_type, payee.events = 1_000, 200, "event", 4
    payment = fetch(path=STREAM).data["payment"]
    assert (payment["amount"], payment["spent"], payment["authorized"]) == ("4000", "4000", "5000")
    assert payment["receiptProblems"] == []
    payee.price, payee.status = 5_000, 500
    fetch()
    payee.price, payee.status = 1_000, 200
    stopped = fetch("--max-amount", "0.003 USDC", path=STREAM)
    assert (stopped.exit_code, stopped.error["code"]) == (4, "above-limit")
    assert stopped.json["data"]["body"].count("data: event") == 4
    [channel], _ = books()
    assert channel.spent == channel.authorized == payee.highest()


def test_a_stream_takes_what_one_before_it_left(alice, payee, fetch, books):
    """What was counted for a stream that was left, and not charged for it, the payee may charge for the next
    one without asking: what that one is told to have cost at most has it too, and how much that is."""
    payee.price, payee.status = 9_000, 500
    fetch()
    payee.price, payee.status, payee.unit_type, payee.events = 1_000, 200, "event", 3
    words = ("--max-amount", "0.001 USDC")
    first = fetch(*words, path=STREAM).json["data"]["payment"]
    payee.events = 6
    second = fetch(*words, path=STREAM).json["data"]["payment"]
    assert (first["amount"], second["amount"]) == ("9000", "8000")
    assert (first["signedBefore"], second["signedBefore"]) == ("0", "7000")
    [channel], _ = books()
    assert channel.spent == channel.authorized == payee.highest() == 10_000
    said = alice.run("fetch", payee.url + STREAM, *words).stderr
    assert "paid up to 0.007 USDC, 0.006 USDC of it signed before, to 0x" in said


def test_what_a_stream_got_of_one_before_it_was_charged(payee, fetch, alice):
    """It does not count as uncertain any more, and is not told again of a stream after that."""
    payee.price, payee.status = 9_000, 500
    fetch()
    payee.price, payee.status, payee.unit_type, payee.events = 1_000, 200, "event", 3
    words = ("--max-amount", "0.002 USDC")
    assert fetch(*words, path=STREAM).json["data"]["payment"]["amount"] == "9000"
    payee.events = 6
    assert fetch(*words, path=STREAM).json["data"]["payment"]["amount"] == "7000"
    with Wallet.open(environment=alice.environment) as wallet:
        [channel] = wallet.ledger.channels.list(finalized=True)
        assert wallet.ledger.purchases.uncertain(channel.channel_id) == channel.spent - 6_000


def test_a_stream_beside_a_request_without_an_answer(fetch, payee, books):
    """The payee streams out of a voucher beyond that of a request it never heard of: what was received is
    paid, and the request is bought all the same when it is asked for again."""
    fetch("--deposit", "1 USDC")
    payee.before = hang_up
    assert fetch("--idempotency-key", "k").exit_code == 5
    payee.before = lambda _handler, _action: False
    payee.unit_type, payee.events = "event", 3
    payment = fetch(path=STREAM).data["payment"]
    assert (payment["amount"], payment["receiptProblems"]) == ("3000", [])
    payee.unit_type = "request"
    assert fetch("--idempotency-key", "k").data["body"] == PAID_BODY.decode()
    [channel], _ = books()
    assert channel.spent == channel.authorized == payee.highest() == 5_000
    assert payee.channels[channel.channel_id].account.spent == 5_000


def test_what_a_stream_without_an_answer_took(fetch, payee):
    """It may have been charged what was signed for others: that a receipt tells of it later is no problem. Of
    more than was signed it is, and so it is where nothing is uncertain."""
    channel = fetch("--deposit", "1 USDC").data["payment"]["channelId"]

    def take(known, spent):
        known.account = known.account._replace(spent=spent)

    def sign(price):
        payee.price, payee.status = price, 500
        fetch()
        payee.price, payee.status = 1_000, 200

    sign(3_000)
    take(payee.channels[channel], 2_000)
    said = "the receipt's spent is 3000, by our books it is 2000"
    assert fetch().data["payment"]["receiptProblems"] == [said]
    payee.before, payee.unit_type = hang_up, "event"
    assert fetch(path=STREAM).exit_code == 5
    payee.before, payee.unit_type = (lambda _handler, _action: False), "request"
    sign(5_000)
    payment = fetch().data["payment"]
    assert (payment["spent"], payment["receiptProblems"]) == ("5000", [])
    take(payee.channels[channel], 6_000)
    assert fetch().data["payment"]["receiptProblems"] == []
    payee.twist_receipt = lambda receipt: receipt | {"spent": "1000000"}
    [problem] = fetch().data["payment"]["receiptProblems"]
    assert problem.startswith("the receipt's spent is 1000000, by our books it is ")


def test_stream_tops_up(payee, fetch):
    """A stream that needs more than the deposit gets a top-up in mid-stream, inside the rule."""
    payee.events, payee.unit_type, payee.suggested_deposit = 5, "event", 3_000
    payment = fetch("--max-amount", "0.01 USDC", path=STREAM).data["payment"]
    assert payment["amount"] == "5000"
    assert TopUpAction in [type(action) for _, _, action in payee.seen]


@pytest.mark.parametrize(("most", "exit_code"), [("0.003999", 4), ("0.004", 0)])
def test_a_stream_tops_up_to_the_limit_of_deposits(alice, payee, fetch, most, exit_code):
    """In mid-stream by the payee's smallest step: to the limit itself, and not by less than is needed."""
    fetch("--deposit", "0.003 USDC")
    payee.events, payee.unit_type, payee.min_voucher_delta = 3, "event", 1_500
    alice.run("config", "set", "max-deposit", f"{most} USDC").succeeded()
    done = fetch(path=STREAM)
    [known] = payee.channels.values()
    deposit = payee.reader.channel_state(known.account.channel_id).deposit
    assert (done.exit_code, deposit) == (exit_code, 4_000 if exit_code == 0 else 3_000)
    if exit_code:
        assert done.error["code"] == "above-limit"
        assert "max-deposit" in done.error["message"]


def test_a_stream_that_nobody_agreed_to_go_on(payee, fetch):
    """Without a terminal to ask at, it ends where the deposit does, as at the limit; what came is kept."""
    fetch("--deposit", "0.003 USDC")
    payee.events, payee.unit_type = 5, "event"
    stopped = fetch(path=STREAM, yes=False)
    assert (stopped.exit_code, stopped.error["code"]) == (4, "above-limit")
    assert "stopped after 0.002 USDC, as the deposit is used up" in stopped.error["message"]
    assert stopped.error["hint"].startswith("add --yes")
    assert stopped.json["data"]["body"].count("data: event") == 2


@pytest.mark.parametrize("received", [b"data: half\n\n", b"data: ha"], ids=["an event", "none"])
def test_a_stream_that_broke_off_is_looked_up_by_its_channel(alice, fetch, payee, received):
    """It is not repeated under its key: the hint is the command that tells what became of it."""

    def before(handler, action):
        if action is None:
            return False
        handler.send_response(200)
        handler.send_header("Content-Type", "text/event-stream")
        handler.send_header("Content-Length", "1000")
        handler.end_headers()
        handler.wfile.write(received)
        handler.close_connection = True
        return True

    payee.unit_type, payee.before = "event", before
    broken = fetch(path=STREAM)
    assert (broken.exit_code, broken.error["code"]) == (5, "outcome-unknown")
    [(channel, _)] = payee.vouchers
    assert broken.error["hint"] == f"microwallet channel show {channel}"
    assert alice.run(*broken.error["hint"].split()[1:]).succeeded()


def test_a_cut_stream_with_a_step_counts_all_that_was_signed_for_it(alice, payee):
    """What the payee's smallest step raised beyond the events asked for, it may have charged: it is spent."""
    payee.events, payee.unit_type, payee.min_voucher_delta = 10_000, "event", 7_000
    words = ("--max-amount", "1 USDC", "--deposit", "1 USDC", "--yes")
    process = alice.start(
        "fetch", payee.url + STREAM, *words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(timeout=20) == 1
    [channel] = alice.run("channel", "list", "--json").data["channels"]
    assert channel["spent"] == channel["authorized"]
    assert int(channel["spent"]) % 7_000 == 0


def test_a_stream_that_outruns_the_deposit_that_the_payee_knows(alice, fetch, payee):
    """The payee is told of what was added by hand once it refuses a voucher beside its stream."""
    channel = fetch("--deposit", "0.002 USDC").data["payment"]["channelId"]
    alice.run("channel", "top-up", channel, "0.01 USDC", "--yes").succeeded()
    payee.unit_type = "event"
    assert fetch(path=STREAM, yes=False).data["payment"]["amount"] == "5000"
    assert [type(action) for _, _, action in payee.seen].count(TopUpAction) == 1


def test_streams_queue_for_the_only_session(alice, fetch, payee):
    """Streams of several processes on one channel run one after the other: none ends another."""
    fetch()
    payee.events, payee.unit_type = 4, "event"
    with ThreadPoolExecutor(3) as pool:
        runs = list(pool.map(lambda _: alice.run("fetch", payee.url + STREAM, "--yes"), range(3)))
    assert [one.exit_code for one in runs] == [0] * 3
    assert [one.stdout.count("data: event") for one in runs] == [4] * 3
    assert len(payee.channels) == 1


@pytest.mark.parametrize("has_stream", [True, False])
def test_what_was_taken_already(alice, fetch, payee, has_stream):
    """A payee that has taken what a voucher was to pay for is paid once more, within the limit. If a stream
    runs on the channel, that is what has taken it, and is counted with it, not with the request."""
    channel = fetch().data["payment"]["channelId"]

    def before(_handler, action):
        if isinstance(action, VoucherAction) and len(payee.vouchers) == 2:
            known, amount = payee.channels[channel], action.voucher.cumulative_amount
            known.account = known.account._replace(accepted=amount, spent=amount)
        return False

    payee.before = before
    with Wallet.open(environment=alice.environment) as wallet, ExitStack() as stream:
        if has_stream:
            stream.enter_context(wallet.ledger.turns.turn(f"stream {channel}"))
        payment = fetch().data["payment"]
    assert (payment["amount"], payment["spent"]) == (("1000", "2000") if has_stream else ("2000", "3000"))
    assert (payment["authorized"], payment["receiptProblems"]) == ("3000", [])
    assert payee.highest() == payee.channels[channel].account.spent == 3000


@pytest.mark.parametrize(
    ("times", "limit", "exit_code", "signed"), [(5, 10, 0, 7), (99, 99, 4, 10), (99, 3, 4, 4)]
)
def test_what_a_stream_takes_again_and_again(alice, fetch, payee, books, times, limit, exit_code, signed):
    """A request beside a stream is paid for again as often as the stream was faster, within its limit and a
    bounded number of times. It costs its price, or nothing."""
    channel = fetch().data["payment"]["channelId"]

    def before(_handler, action):
        if isinstance(action, VoucherAction) and len(payee.vouchers) < 2 + times:
            known, amount = payee.channels[channel], action.voucher.cumulative_amount
            known.account = known.account._replace(accepted=amount, spent=amount)
        return False

    payee.before = before
    with Wallet.open(environment=alice.environment) as wallet, wallet.ledger.turns.turn(f"stream {channel}"):
        done = fetch("--max-amount", f"0.{limit:03} USDC")
    assert (done.exit_code, payee.highest()) == (exit_code, signed * 1000)
    [ours], _ = books()
    if exit_code == 0:
        assert (done.data["payment"]["amount"], done.data["payment"]["receiptProblems"]) == ("1000", [])
    if limit == 3:
        assert done.error["hint"] == f'--max-amount "0.{limit + 1:03} USDC"'
        assert f"0.{limit:03} USDC was signed for it before; nothing more was" in done.error["message"]
    assert ours.spent == (1000 if exit_code else 2000)
