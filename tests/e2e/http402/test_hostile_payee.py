"""A payee that lies, asks for more, or never says: nothing is signed beyond the limit."""

from __future__ import annotations

import base64
import json
import shlex
import subprocess
import threading
import time

import pytest
from http402.payee_double import STREAM, Payee, payee_address, serving

from microwallet.domain.identifiers import checksum_address
from microwallet.http402.wire.events import NeedVoucher
from microwallet.http402.wire.problems import ProblemType
from microwallet.http402.wire.session_payload import OpenAction, VoucherAction

LIMIT = 10_000
"""The default of `max-amount`: 0.01 USDC."""
OTHER = checksum_address(b"\x77" * 20)


def detailed(request, **details):
    """A challenge's request with other method details."""
    return request | {"methodDetails": request["methodDetails"] | details}


@pytest.mark.parametrize(
    ("twist", "code", "says"),
    [
        (lambda request: request | {"amount": "10001"}, "above-limit", "0.010001 USDC"),
        (lambda request: request | {"amount": str(2**127)}, "above-limit", "at most 0.01 USDC"),
        (lambda request: request | {"amount": "-1"}, "no-payable-challenge", "request.amount"),
        (lambda request: request | {"currency": OTHER}, "no-payable-challenge", "not known here"),
        (
            lambda request: detailed(request, escrowContract=OTHER),
            "no-payable-challenge",
            "no contract at its escrow",
        ),
        (lambda request: detailed(request, chainId=84532), "no-payable-challenge", "on chain 84532"),
        (lambda request: detailed(request, minVoucherDelta="10001"), "above-limit", "more to be authorized"),
        (lambda request: detailed(request, credentialTypes=["permit2"]), "no-payable-challenge", "permit2"),
        (
            lambda request: request | {"recipient": "0x" + "0" * 40},
            "no-payable-challenge",
            "cannot be one",
        ),
    ],
)
def test_offer_that_breaks_the_rules(fetch, payee, books, twist, code, says):
    """More than the limit, another chain, escrow, token: exit 4 and nothing is signed."""
    payee.twist_request = twist
    refused = fetch("--max-amount", "0.01 USDC", "--deposit", "0.5 USDC")
    assert (refused.exit_code, refused.error["code"]) == (4, code)
    assert says in refused.error["message"]
    assert payee.vouchers == []
    assert books() == ([], [])


@pytest.mark.parametrize("flags", [(), ("--dry-run",)])
def test_no_deposit_for_a_voucher_above_the_limit(fetch, payee, books, flags):
    """A channel is topped up no more than one is opened, where the smallest step is more than may be signed
    for a request: with the deposit spent, and nothing to be had for another."""
    fetch("--deposit", "0.001 USDC").data  # noqa: B018
    payee.min_voucher_delta = LIMIT + 1
    refused = fetch("--deposit", "0.5 USDC", *flags)
    assert (refused.exit_code, refused.error["code"]) == (4, "above-limit")
    assert refused.error["hint"] == '--max-amount "0.010001 USDC"'
    [channel] = books()[0]
    assert channel.state.deposit == 1_000
    assert fetch("--deposit", "0.5 USDC", "--max-amount", "0.010001 USDC").data["payment"]["amount"] == "1000"


def test_hints_can_be_typed(fetch, payee):
    """Another chain names the flag with the network's name, a price the flag with the price."""
    payee.twist_request = lambda request: detailed(request, chainId=84532)
    assert fetch().error["hint"] == "--network base-sepolia"
    payee.twist_request = lambda request: request | {"amount": "20000"}
    assert fetch().error["hint"] == '--max-amount "0.02 USDC"'


def test_another_payee_than_last_time(fetch, payee):
    """An origin is paid to whom it was paid to before, until the user accepts another by name."""
    assert fetch().exit_code == 0
    first, payee.address = payee.address, payee_address("another")
    refused = fetch()
    assert (refused.exit_code, refused.error["code"]) == (4, "no-payable-challenge")
    assert first in refused.error["message"]
    assert refused.error["hint"].startswith(f"--payee {payee.address}")
    assert len(payee.vouchers) == 1
    assert fetch("--payee", payee.address).data["payment"]["payee"] == payee.address
    assert fetch().data["payment"]["payee"] == payee.address


@pytest.mark.parametrize(
    "field",
    [
        "",
        "Payment",
        'Payment id="", realm="r", method="evm", intent="session", request="e30"',
        'Payment realm="r", method="evm", intent="session", request="e30"',
        'Payment id="1", realm="r", method="evm", intent="session", request="!"',
        'Payment id="1", realm="r", method="evm", intent="charge", request="e30"',
        'Payment id="1", id="2"',
        "Basic realm=x",
        "Payment " + 'x="' + "a" * 60_000 + '"',
    ],
)
def test_challenge_that_cannot_be_read(fetch, payee, field):
    """No challenge, a malformed or a foreign one: exit 4, and nothing is signed."""

    def before(handler, _action):
        handler.answer(402, {"WWW-Authenticate": field} if field else {}, b"pay!")
        return True

    payee.before = before
    refused = fetch()
    assert refused.exit_code == 4, refused
    assert refused.error["code"] in ("no-payable-challenge", "malformed-message")
    assert payee.vouchers == []


@pytest.mark.parametrize(
    ("fields", "shown"),
    [
        (["Payment id=\x9b31m,"], r"'Payment id=\x9b31m,'"),
        (["Payment id", "Basic \x9b0m"], r"'Payment id, Basic \x9b0m'"),
        (['Payment id="' + "a" * 70_000], "'Payment id=\"" + "a" * 68 + "'..."),
    ],
    ids=["escapes", "two fields", "long"],
)
def test_a_402_that_cannot_be_read_is_shown(alice, payee, fields, shown):
    """What the server sent, shortened and harmless to a terminal, and the command that shows all of it."""

    def before(handler, _action):
        handler.send_response(402)
        for field in fields:
            handler.send_header("WWW-Authenticate", field)
        handler.send_header("Content-Length", "0")
        handler.end_headers()
        return True

    payee.before = before
    refused = alice.run("fetch", f"{payee.url}/a b?c='d'", "--json")
    assert (refused.exit_code, refused.error["code"]) == (4, "malformed-message")
    assert refused.error["message"].endswith(f"; it sent {shown}")
    assert refused.error["message"].startswith(f"{payee.url} wants to be paid, but not in a way that can be")
    hint = refused.error["hint"].partition("  (")[0]
    assert shlex.split(hint) == ["microwallet", "fetch", "-i", "--no-pay", f"{payee.url}/a%20b?c='d'"]
    assert alice.run(*shlex.split(hint)[1:]).succeeded().stdout.startswith("HTTP/1.1 402")


def test_challenge_for_another_body(fetch, payee, monkeypatch):
    """A challenge bound to a body is only answered for that body."""
    payee.bind_body = True
    assert fetch("-d", "question").data["status"] == 200
    honest = Payee.challenge
    monkeypatch.setattr(Payee, "challenge", lambda payee, _body: honest(payee, b"forged"))
    refused = fetch("-d", "another")
    assert (refused.exit_code, refused.error["code"]) == (4, "no-payable-challenge")
    assert len(payee.vouchers) == 1


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        (ProblemType.VERIFICATION_FAILED, 402),
        (ProblemType.CHALLENGE_NOT_FOUND, 402),
        (ProblemType.INSUFFICIENT_BALANCE, 402),
        (ProblemType.DELTA_TOO_SMALL, 402),
        (ProblemType.TRANSACTION_REVERTED, 409),
        (None, 402),
    ],
)
def test_endless_refusal(fetch, payee, books, kind, status):
    """A payee that refuses whatever it is given gets a bounded number of tries, and its words are told."""

    def before(handler, action):
        if action is None:
            return False
        if kind is None:
            handler.answer(402, {"WWW-Authenticate": payee.challenge(b"").to_field()}, b"no")
        else:
            handler.refuse(kind, "because I say so")
        return True

    payee.before = before
    refused = fetch()
    assert (refused.exit_code, refused.error["code"]) == (4, "payment-refused")
    assert str(status) in refused.error["message"]
    assert kind is None or "because I say so" in refused.error["message"]
    assert len(payee.seen) <= 6
    assert payee.highest() <= 2_001
    channels, purchases = books()
    assert {status for *_, status in purchases} == {"returned"}
    assert [channel.spent for channel in channels] == [0]


def test_price_that_grows(fetch, payee):
    """Each time the payee wants more: it is agreed to once, and never above the limit."""
    asked = []

    def before(handler, action):
        if action is None or handler.command == "HEAD":
            return False
        asked.append(action.voucher.cumulative_amount)
        wanted = str(action.voucher.cumulative_amount + 4_000)
        handler.refuse(ProblemType.INSUFFICIENT_BALANCE, "more", requiredCumulative=wanted)
        return True

    payee.before = before
    refused = fetch()
    assert (refused.exit_code, refused.error["code"]) == (4, "payment-refused")
    assert asked == [1_000, 5_000]
    # What was signed is used first: five requests later nothing more has been signed.
    for _ in range(5):
        fetch()
    assert payee.highest() <= LIMIT


def test_price_that_grows_beyond_the_deposit(fetch, payee):
    """Within the limit: the channel is topped up for it, and the payment says that money was deposited."""
    fetch("--deposit", "0.002 USDC").data  # noqa: B018

    def before(handler, action):
        if action is None or handler.command == "HEAD" or action.voucher.cumulative_amount > 2_000:
            return False
        handler.refuse(ProblemType.INSUFFICIENT_BALANCE, "more", requiredCumulative="4000")
        return True

    payee.before = before
    payment = fetch("--deposit", "0.005 USDC").data["payment"]
    assert (payment["cumulativeAmount"], payment["deposit"], payment["deposited"]) == ("4000", "7000", True)


def test_price_that_grows_beyond_the_limit(fetch, payee):
    """What the payee wants after the first voucher is above the limit: nothing more is signed."""

    def before(handler, action):
        if action is None:
            return False
        handler.refuse(ProblemType.INSUFFICIENT_BALANCE, "more", requiredCumulative=str(LIMIT + 1))
        return True

    payee.before = before
    refused = fetch()
    assert (refused.exit_code, refused.error["code"]) == (4, "above-limit")
    assert payee.vouchers[-1][1] == payee.highest() == 1_000


def test_offer_that_changes_in_mid_payment(fetch, payee):
    """A fresh challenge at another price is no go-ahead for what was agreed to."""

    def before(handler, action):
        if action is None:
            return False
        payee.price = 2_000
        handler.refuse(ProblemType.CHALLENGE_NOT_FOUND, "again")
        return True

    payee.before = before
    refused = fetch()
    assert (refused.exit_code, refused.error["code"]) == (4, "payment-refused")
    assert "changed its offer" in refused.error["message"]
    assert payee.highest() == 1_000


@pytest.mark.parametrize("price", [LIMIT + 1, 2_000])
def test_what_was_signed_for_an_offer_that_is_gone_is_not_spent(fetch, payee, books, price):
    """The new price is within the limit or above it: nothing was bought, and the error says so."""

    def before(handler, action):
        if action is None:
            return False
        payee.price = price
        handler.refuse(ProblemType.INVALID_CHALLENGE, "it was issued for something else")
        return True

    payee.before = before
    refused = fetch()
    assert refused.exit_code == 4
    assert "what was signed" in refused.error["message"]
    assert "nothing was signed" not in refused.error["message"]
    [channel], purchases = books()
    assert (channel.spent, channel.authorized) == (0, 1_000)
    assert [one[-1] for one in purchases] == ["returned"]


@pytest.mark.parametrize(
    ("lie", "says"),
    [
        ({"spent": "999999"}, "spent is 999999, by our books it is 1000"),
        ({"spent": "0"}, "spent is 0"),
        ({"acceptedCumulative": "1001"}, "acceptedCumulative is 1001"),
        ({"acceptedCumulative": "999"}, "acceptedCumulative is 999"),
        ({"channelId": "0x" + "ab" * 32, "reference": "0x" + "ab" * 32}, "channelId"),
        ({"chainId": 1}, "chainId"),
        ({"challengeId": "another"}, "challengeId"),
        ({"method": "tempo"}, "method"),
        ({"status": "failed"}, "status"),
        ({"units": 1_000_000}, "cost by units is 1000000000"),
        (None, "no receipt came"),
        ("!!!", "base64url"),
    ],
)
def test_receipt_that_lies(fetch, payee, lie, says):
    """A receipt that cannot be true is told of, and changes nothing that is signed."""
    payee.twist_receipt = lambda receipt: receipt | lie if isinstance(lie, dict) else lie
    paid = fetch()
    payment = paid.data["payment"]
    assert any(says in problem for problem in payment["receiptProblems"]), payment
    assert "warning: " in paid.stderr
    assert (payment["amount"], payment["spent"]) == ("1000", "1000")
    assert fetch().data["payment"]["cumulativeAmount"] == "2000"
    assert payee.highest() == 2_000


def test_stream_that_asks_for_ever_more(fetch, payee):
    """An endless stream ends at the limit with exit 4; what was received stays, and was paid."""
    payee.events, payee.unit_type = 10_000, "event"
    stopped = fetch("--max-amount", "0.005 USDC", path=STREAM)
    assert (stopped.exit_code, stopped.error["code"]) == (4, "above-limit")
    assert stopped.error["hint"] == '--max-amount "0.01 USDC"'
    assert stopped.error["message"] == (
        "the stream goes on for 0.006 USDC, and at most 0.005 USDC may be paid for it: it was stopped after"
        " 0.005 USDC"
    )
    data = stopped.json["data"]
    assert [f"event {number}" in data["body"] for number in range(6)] == [True] * 5 + [False]
    assert (data["payment"]["amount"], data["payment"]["spent"]) == ("5000", "5000")
    assert payee.highest() == 5_000


@pytest.mark.parametrize(
    ("limit", "exit_code", "signed"), [("0.008 USDC", 4, 2_000), ("0.009 USDC", 0, 10_000)]
)
def test_stream_that_asks_for_much_at_once(fetch, payee, limit, exit_code, signed):
    """More than a price, by one voucher: within the limit it is signed, and counts as paid."""
    channel = fetch().data["payment"]["channelId"]

    def before(handler, action):
        if action is None or handler.command == "HEAD":
            return False
        need = NeedVoucher(
            channel_id=channel, required_cumulative=10_000, accepted_cumulative=2_000, deposit=100_000
        )
        handler.stream(need.to_event(), b"data: 0\n\n")
        return True

    payee.unit_type, payee.before = "event", before
    done = fetch("--max-amount", limit, path=STREAM)
    assert (done.exit_code, payee.highest()) == (exit_code, signed)
    if exit_code:
        assert (done.error["code"], done.error["hint"]) == ("above-limit", '--max-amount "0.016 USDC"')
    else:
        assert (done.data["payment"]["amount"], done.data["payment"]["spent"]) == ("9000", "10000")


def test_stream_that_asks_twice_for_a_voucher(fetch, payee):
    """It gets the one that it was given, and no other is signed."""
    channel = fetch().data["payment"]["channelId"]

    def before(handler, action):
        if action is None or handler.command == "HEAD":
            return False
        need, receipt = payee.asking_and_telling(channel, spent=3_000, units=2)
        handler.stream(need, need, b"data: 0\n\ndata: 1\n\n", receipt)
        return True

    payee.unit_type, payee.before = "event", before
    payment = fetch(path=STREAM).data["payment"]
    assert (payment["amount"], payment["spent"], payee.highest()) == ("2000", "3000", 3_000)
    assert [amount for _, amount in payee.vouchers] == [1_000, 2_000, 3_000, 3_000]


def test_stream_that_refuses_what_it_asked_for(fetch, payee):
    """It is stopped, and that is told."""

    def before(handler, action):
        return action is not None and handler.command == "HEAD" and (handler.answer(503, {}) or True)

    payee.unit_type, payee.before = "event", before
    stopped = fetch(path=STREAM)
    assert (stopped.exit_code, stopped.error["code"]) == (4, "payment-refused")
    assert stopped.error["message"] == "the server refuses a voucher of its own stream with 503"
    assert payee.highest() == 2_000


def test_stream_that_repeats_itself(fetch, payee):
    """A payee that asks for the voucher it has, again and again, is left."""

    def before(handler, action):
        if action is None or handler.command == "HEAD":
            return False
        channel_id = action.voucher.channel_id
        document = {
            "channelId": channel_id,
            "requiredCumulative": "1000",
            "acceptedCumulative": "0",
            "deposit": "1",
        }
        event = f"event: payment-need-voucher\ndata: {json.dumps(document)}\n\n".encode()
        handler.stream(event * 1_000)
        return True

    fetch()
    payee.before = before
    stopped = fetch("--max-amount", "0.005 USDC", path=STREAM)
    assert (stopped.exit_code, stopped.error["code"]) == (4, "payment-refused")
    assert len(payee.vouchers) < 8
    assert payee.highest() == 2_000


def test_stream_that_repeats_itself_and_accepts_a_little_more_each_time(fetch, payee):
    """By its word something has come in between, without end: it is left as well."""

    def before(handler, action):
        if action is None or handler.command == "HEAD":
            return False
        asked = {"channel_id": action.voucher.channel_id, "required_cumulative": 1_000, "deposit": 1}
        events = [NeedVoucher(accepted_cumulative=number, **asked).to_event() for number in range(1, 500)]
        handler.stream(*events)
        return True

    fetch()
    payee.before = before
    stopped = fetch("--max-amount", "0.005 USDC", path=STREAM)
    assert (stopped.exit_code, stopped.error["code"]) == (4, "payment-refused")
    assert len(payee.vouchers) < 110
    assert payee.highest() == 2_000


@pytest.mark.parametrize(("name", "value"), [("price", 2_000), ("unit_type", "request")])
def test_stream_that_changes_its_offer(fetch, payee, books, name, value):
    """The fresh challenge for a voucher of a stream is at another price, or would have its events counted no
    more: what was delivered stays paid."""

    def before(handler, action):
        if action is None or handler.command != "HEAD":
            return False
        setattr(payee, name, value)
        handler.refuse(ProblemType.CHALLENGE_NOT_FOUND, "again")
        return True

    payee.unit_type, payee.before = "event", before
    stopped = fetch(path=STREAM)
    assert (stopped.exit_code, stopped.error["code"]) == (4, "payment-refused")
    assert "changed its offer" in stopped.error["message"]
    assert "event 0" in stopped.json["data"]["body"]
    [channel], _ = books()
    assert channel.spent == channel.authorized == payee.highest() == 2_000
    assert stopped.json["data"]["payment"]["spent"] == "2000"


@pytest.mark.parametrize("is_less_spent", [True, False])
def test_stream_whose_receipt_tells_of_less_than_came(fetch, payee, books, is_less_spent):
    """It is told, and what came counts as spent: the payee may charge for it later. Once a later receipt
    shows that it does not, it is spent no more."""
    less = 3_000 if is_less_spent else 0

    def twist(receipt):
        lower = receipt | {"spent": str(int(receipt["spent"]) - less)}
        return lower | {"units": 2} if "units" in receipt else receipt

    payee.unit_type, payee.twist_receipt = "event", twist
    payment = fetch("--deposit", "1 USDC", path=STREAM).data["payment"]
    assert (payment["amount"], payment["spent"], payment["isMost"]) == ("5000", "5000", False)
    assert payment["receiptProblems"] == ["the receipt's cost by units is 2000, by our books it is 5000"]
    [channel], _ = books()
    assert (channel.authorized, channel.spent) == (5_000, 5_000)
    payee.unit_type = "request"
    payee.twist_receipt = lambda receipt: receipt | {"spent": str(int(receipt["spent"]) - less)}
    after = fetch().data["payment"]
    assert (after["spent"], after["receiptProblems"]) == (str(6_000 - less), [])


def test_stream_that_sends_more_than_was_signed(fetch, payee, books):
    """Events that no voucher was there for, and that it did not ask for: it can take no more than was signed,
    and gets no more with the next request than that costs."""

    def before(handler, action):
        if action is None:
            return False
        handler.stream(b"data: x\n\n" * 50)
        return True

    payee.unit_type, payee.before = "event", before
    stopped = fetch(path=STREAM)
    assert (stopped.exit_code, stopped.error["code"]) == (4, "above-limit")
    assert stopped.json["data"]["payment"]["amount"] == "1000"
    payee.unit_type = "request"
    payee.before = lambda handler, action: action is not None and (handler.answer(200, {}, b"x") or True)
    assert fetch("--max-amount", "0.001 USDC").exit_code == 0
    [channel], _ = books()
    assert channel.spent == channel.authorized == payee.highest() == 2_000


def test_stream_that_takes_what_was_signed_beside_it(fetch, payee, books):
    """It has delivered for a request without an answer too, which still counts: what is signed afterwards
    rises by no more than the limit of the request it is for."""

    def silent(handler, action):
        handler.close_connection = True
        return action is not None

    payee.before = silent
    assert fetch().exit_code == 5

    def before(handler, action):
        if action is None:
            return False
        handler.stream(b"data: x\n\n" * 2)
        return True

    payee.unit_type, payee.before = "event", before
    assert fetch("--max-amount", "0.002 USDC", path=STREAM).data["payment"]["amount"] == "2000"
    [channel], _ = books()
    assert channel.spent == channel.authorized == payee.highest() == 2_000
    payee.unit_type = "request"
    payee.before = lambda handler, action: action is not None and (handler.answer(200, {}, b"x") or True)
    assert fetch("--max-amount", "0.001 USDC").exit_code == 0
    assert payee.highest() == 3_000


def test_stream_that_goes_on_after_its_receipt(fetch, payee):
    """What comes after a receipt was not in it: all that was signed counts."""
    channel = fetch().data["payment"]["channelId"]

    def before(handler, action):
        if action is None or handler.command == "HEAD":
            return False
        need, receipt = payee.asking_and_telling(channel, spent=1_000, units=0)
        handler.stream(receipt, b"data: 0\n\n", need, b"data: 1\n\n")
        return True

    payee.unit_type, payee.before = "event", before
    payment = fetch(path=STREAM).data["payment"]
    assert payee.highest() == 3_000
    assert (payment["amount"], payment["spent"], payment["receipt"]) == ("2000", "3000", None)
    assert payment["receiptProblems"] == ["no receipt came"]


def test_stream_that_begins_again_under_its_key(fetch, payee):
    """The same key again, after the stream took all of its limit: nothing is signed beyond that."""
    payee.events, payee.unit_type = 10_000, "event"
    words = ("--max-amount", "0.005 USDC", "--idempotency-key", "k")
    assert fetch(*words, path=STREAM).error["code"] == "above-limit"
    [channel] = payee.channels

    def before(handler, action):
        if action is None or handler.command == "HEAD":
            return False
        need = NeedVoucher(
            channel_id=channel, required_cumulative=6_000, accepted_cumulative=5_000, deposit=100_000
        )
        handler.stream(need.to_event())
        return True

    payee.before = before
    again = fetch(*words, path=STREAM)
    assert (again.exit_code, again.error["code"]) == (4, "above-limit")
    assert payee.highest() == 5_000


@pytest.mark.parametrize(
    ("is_killed", "events", "units"),
    [(False, 1, 2), (False, 2, 1), (True, 10_000, 1)],
    ids=["one event", "two events", "killed"],
)
def test_stream_that_is_sold_again_under_its_key(alice, fetch, payee, books, is_killed, events, units):
    """What the first run bought is no part of what its receipt counts in the second: both are spent."""
    payee.events, payee.unit_type = events, "event"
    words = ("--idempotency-key", "k", "--max-amount", "0.01 USDC")
    asked = threading.Event()

    def third(handler, action):
        if handler.command == "HEAD" and action.voucher.cumulative_amount == 2_000:
            asked.set()
            time.sleep(2)
            return True
        return False

    if is_killed:
        payee.before = third
        running = alice.start("fetch", payee.url + STREAM, *words, "--yes", stdout=subprocess.DEVNULL)
        assert asked.wait(20)
        running.kill()
        running.wait()
    else:
        fetch(*words, path=STREAM)
    [channel] = payee.channels

    def before(handler, action):
        if action is None or handler.command == "HEAD":
            return False
        need, receipt = payee.asking_and_telling(channel, spent=3_000, units=units)
        handler.stream(need, b"data: again\n\n" * units, receipt)
        return True

    payee.before = before
    assert fetch(*words, path=STREAM).exit_code == 0
    [ours], _ = books()
    assert ours.spent == ours.authorized == payee.highest() == 3_000


def test_channel_that_is_gone_with_what_was_signed(fetch, payee):
    """The payee takes a voucher to the chain, all but one base unit of it, and wants to be paid again through
    another channel: what it took is within the limit of the request."""
    payee.price = 8_000
    channel = fetch().data["payment"]["channelId"]

    def before(handler, action):
        if action is None or action.voucher.channel_id != channel:
            return False
        known, amount = payee.channels[channel], action.voucher.cumulative_amount
        known.account = known.account._replace(accepted=amount, spent=amount - 1)
        known.signature = action.voucher.signature
        payee.before = lambda _handler, _action: False
        payee.capture(known)
        handler.refuse(ProblemType.CHANNEL_FINALIZED, "gone")
        return True

    payee.before = before
    refused = fetch()
    assert (refused.exit_code, refused.error["code"]) == (4, "above-limit")
    assert "0.007999 USDC was signed for it before" in refused.error["message"]
    assert payee.highest() == 16_000


def test_channel_that_is_always_gone(fetch, payee, books):
    """A payee that knows no channel gets one more, no third."""

    def before(handler, action):
        if action is None:
            return False
        handler.refuse(ProblemType.CHANNEL_FINALIZED, "gone")
        return True

    payee.before = before
    refused = fetch("--deposit", "0.1 USDC")
    assert (refused.exit_code, refused.error["code"]) == (4, "payment-refused")
    channels, purchases = books()
    assert len(channels) == 2
    assert payee.highest() <= LIMIT
    assert {one[3] for one in purchases} == {"returned"}


def test_suggested_deposit_is_no_cap(fetch, payee, books):
    """What the payee suggests to deposit is bounded by max-deposit; beyond it only a flag goes."""
    payee.suggested_deposit = 10**9
    assert fetch().exit_code == 0
    [channel] = books()[0]
    assert channel.state.deposit == 1_000_000
    payee.price = 1_000_001
    refused = fetch("--max-amount", "2 USDC")
    assert (refused.exit_code, refused.error["code"]) == (4, "above-limit")
    assert "max-deposit" in refused.error["message"]
    assert fetch("--max-amount", "2 USDC", "--deposit", "3 USDC").exit_code == 0
    [channel] = books()[0]
    assert channel.state.deposit == 4_000_000


def test_plain_http_beyond_this_machine(fetch, payee):
    """Nobody is paid over plain http but this machine."""
    refused = fetch(url=payee.url.replace("127.0.0.1", "0.0.0.0"))
    assert (refused.exit_code, refused.error["code"]) == (4, "no-payable-challenge")
    assert "plain http" in refused.error["message"]
    assert payee.vouchers == []


def test_redirect_is_a_new_decision(fetch, payee, chain):
    """The other origin is paid by itself, and never sees the first one's credential."""
    with serving(Payee(chain=chain, address=payee_address("other"))) as other:

        def before(handler, action):
            if action is None:
                return False
            handler.answer(302, {"Location": other.url + "/there"}, b"")
            return True

        payee.before = before
        data = fetch("--follow").data
        assert data["payment"]["payee"] == other.address
        assert other.seen[0][2] is None
        assert {one[0] for one in other.vouchers}.isdisjoint({one[0] for one in payee.vouchers})


def test_redirects_without_end(fetch, payee):
    """Each is paid, and leads to the next: no more is signed for all of them than for one request."""

    def before(handler, action):
        if action is None:
            return False
        handler.answer(302, {"Location": payee.url + f"/{len(payee.vouchers)}"}, b"")
        return True

    payee.before = before
    refused = fetch("--follow", "--max-amount", "0.0025 USDC")
    assert (refused.exit_code, refused.error["code"]) == (4, "above-limit")
    assert payee.highest() == 2_000
    assert refused.json["data"]["payment"]["spent"] == "2000"
    assert refused.stderr.count("0.001 USDC") >= 2


def test_open_is_told_with_a_voucher_over_the_cost(fetch, payee):
    """The first voucher comes with the open and buys; later ones are vouchers alone."""
    fetch()
    fetch()
    actions = [action for _, _, action in payee.seen if action is not None]
    assert [type(action) for action in actions] == [OpenAction, VoucherAction]
    assert actions[0].voucher.cumulative_amount == 1_000


def test_huge_problem_document(fetch, payee):
    """A refusal that never ends is read up to a bound."""

    def before(handler, action):
        if action is None:
            return False
        handler.answer(402, {"Content-Type": "application/problem+json"}, b'{"detail": "' + b"x" * 10_000_000)
        return True

    payee.before = before
    refused = fetch()
    assert (refused.exit_code, refused.error["code"]) == (4, "payment-refused")
    assert len(refused.stdout) < 2_000


def test_body_that_is_not_text(fetch, payee):
    """Bytes that are no UTF-8 come as base64 in JSON."""

    def before(handler, _action):
        handler.answer(200, {"Content-Type": "image/png"}, b"\x89PNG\xff")
        return True

    payee.before = before
    data = fetch().data
    assert data["bodyEncoding"] == "base64"
    assert base64.b64decode(data["body"]) == b"\x89PNG\xff"
    assert data["payment"] is None
