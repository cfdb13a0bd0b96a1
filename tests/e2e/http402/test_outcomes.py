"""What became of a payment: served, returned, unknown; alone, side by side, and after a crash."""

from __future__ import annotations

import itertools
import json
import resource
import shlex
import signal
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import replace

import pytest
from http402.payee_double import HEADERS_WITHOUT_END, PAID_BODY, STREAM, break_off, drip, drip_header
from issuing import issue

from microwallet.errors import PaymentRefused
from microwallet.http402.paying.closing import ask
from microwallet.http402.wire.credential import Credential
from microwallet.http402.wire.problems import MEDIA_TYPE, Problem, ProblemType
from microwallet.http402.wire.session_payload import OpenAction, TopUpAction, VoucherAction
from microwallet.http402.wire.session_request import INTENT, METHOD
from microwallet.wallet import Wallet


def hang_up(handler, action):
    """The credential arrives, no answer goes back."""
    if action is None:
        return False
    handler.close_connection = True
    return True


def charge_and_hang_up(handler, action):
    """The credential arrives and is charged for, no answer goes back."""
    if action is not None:
        handler.answer = lambda *_: setattr(handler, "close_connection", True)
    return False


def test_an_answer_that_breaks_off_is_had_again_under_its_key(fetch, payee, books):
    """It was paid for: exit 5, what came of it, and the hint is the command that pays nothing more."""
    payee.before = break_off
    broken = fetch("--idempotency-key", "order-7")
    assert (broken.exit_code, broken.error["code"]) == (5, "outcome-unknown")
    assert "broke off" in broken.error["message"]
    assert broken.error["hint"].endswith("--idempotency-key order-7")
    assert broken.json["data"]["body"] == PAID_BODY[:10].decode()
    assert broken.json["data"]["payment"]["amount"] == "1000"
    payee.before = lambda _handler, _action: False
    assert fetch("--idempotency-key", "order-7").data["body"] == PAID_BODY.decode()
    assert [one[1:] for one in books()[1]] == [(1000, 1000, "paid")]
    assert payee.highest() == 1000


def test_no_answer_and_the_same_key_again(fetch, payee, books):
    """No answer after the credential: exit 5. The same key sends the same voucher again and settles it."""
    payee.before = hang_up
    unknown = fetch("--idempotency-key", "order-7")
    assert (unknown.exit_code, unknown.error["code"]) == (5, "outcome-unknown")
    assert unknown.error["hint"].endswith("--idempotency-key order-7")
    data = unknown.json["data"]
    assert (data.pop("idempotencyKey"), [one["kind"] for one in data.pop("deposits")], data) == (
        "order-7",
        ["open"],
        {},
    )
    assert [one[1:] for one in books()[1]] == [(1000, 1000, "in-flight")]
    payee.before = lambda _handler, _action: False
    payment = fetch("--idempotency-key", "order-7").data["payment"]
    assert (payment["cumulativeAmount"], payment["spent"]) == ("1000", "1000")
    assert [one[1:] for one in books()[1]] == [(1000, 1000, "paid")]
    # A third time, the payee gives its answer again, and nothing is bought.
    assert fetch("--idempotency-key", "order-7").data["body"] == PAID_BODY.decode()
    assert payee.highest() == 1000
    assert fetch().data["payment"]["cumulativeAmount"] == "2000"


@pytest.mark.parametrize(
    ("words", "comment"),
    [
        (["-H", "X-Of: it's ours", "-i", "-f"], ""),
        (["PUT", "-d", "a b", "-d", "@data", "--max-amount", "0.002 USDC", "--timeout", "20"], ""),
        (["-F", "name=value", "-F", "file=@data", "-o", "answer"], ""),
        (["-d", "-"], "  # with the same data on stdin"),
        (["-F", "file=@-"], "  # with the same data on stdin"),
    ],
)
def test_the_hint_after_a_lost_answer_is_the_whole_command(fetch, alice, payee, words, comment):
    """Pasted into a shell it makes the same request, and pays nothing new; what came on stdin is named."""
    (alice.path.parent / "data").write_bytes(b"of a file")
    payee.before = hang_up
    method = [word for word in words[:1] if word == "PUT"]
    unknown = fetch(*words, "--idempotency-key", "order 7", input="from stdin")
    assert unknown.exit_code == 5
    hint = unknown.error["hint"]
    assert hint.endswith(f" --idempotency-key 'order 7'{comment}")
    again = shlex.split(hint, comments=True)
    assert again[: 2 + len(method)] == ["microwallet", "fetch", *method]
    assert set(words) < set(again)
    payee.before = lambda _handler, _action: False
    alice.run(*again[1:], input="from stdin").succeeded()
    assert payee.highest() == 1_000


@pytest.mark.parametrize(
    ("arguments", "path"), [(["POST"], "/"), ([], "/other"), (["-d", "x"], "/"), (["GET", "-F", "a=b"], "/")]
)
def test_same_key_other_request(fetch, payee, arguments, path):
    """A key that comes again with another method, URL or body is exit 2, and nothing is sent."""
    assert fetch("--idempotency-key", "k").exit_code == 0
    seen = len(payee.seen)
    refused = fetch(*arguments, "--idempotency-key", "k", path=path)
    assert (refused.exit_code, refused.error["code"]) == (2, "idempotency-mismatch")
    assert refused.error["hint"].endswith("another key, or none, pays again")
    assert len(payee.seen) == seen


def test_unknown_stays_unknown_without_an_answer(fetch, payee, books):
    """What an earlier run may have bought stays counted as spent when the payee refuses it later."""
    payee.before = hang_up
    fetch("--idempotency-key", "k")
    payee.before = lambda handler, action: (
        action is not None and (handler.refuse(ProblemType.VERIFICATION_FAILED, "bought before") or True)
    )
    refused = fetch("--idempotency-key", "k")
    assert (refused.exit_code, refused.error["code"]) == (4, "payment-refused")
    assert "stays counted as spent" in refused.error["message"]
    channels, purchases = books()
    assert purchases[0][3] == "in-flight"
    assert channels[0].spent == 1000


def test_nothing_left_this_machine(fetch):
    """A server that is not there is exit 3."""
    refused = fetch(url="http://127.0.0.1:9")
    assert (refused.exit_code, refused.error["code"]) == (3, "network")


def test_slow_server(fetch, payee):
    """A server that does not answer in time: exit 3 before a credential left, 5 after it."""
    fetch()
    payee.before = lambda _handler, _action: bool(time.sleep(1.5)) or True
    assert fetch("--timeout", "0.3").exit_code == 3
    payee.before = lambda _handler, action: action is not None and (bool(time.sleep(1.5)) or True)
    assert fetch("--timeout", "0.3").exit_code == 5


def test_a_refusal_that_drips(fetch, payee):
    """Byte by byte, without end: it has the timeout as a whole. What is paid for may take longer."""
    fetch()
    problem = {"Content-Type": MEDIA_TYPE}
    payee.before = lambda handler, _action: drip(handler, 402, problem, most=200)
    before = time.monotonic()
    refused = fetch("--timeout", "1")
    assert (refused.exit_code, refused.error["code"]) == (3, "network")
    assert "1 seconds" in refused.error["message"]
    for status in (402, 410):
        payee.before = lambda handler, action, status=status: (
            action is not None and drip(handler, status, problem, most=200)
        )
        assert fetch("--timeout", "1").exit_code == 5
    assert time.monotonic() - before < 15
    payee.before = lambda handler, action: action is not None and drip(handler, 200, {}, most=20)
    assert fetch("--timeout", "1").data["body"] == "x" * 20


@pytest.mark.parametrize("is_free", [True, False])
@pytest.mark.parametrize("sent", HEADERS_WITHOUT_END, ids=["100", "103", "bytes"])
def test_a_header_without_end(fetch, payee, sent, is_free):
    """It has the timeout as a whole, as what comes before it: exit 3 before a credential left, 5 after it."""
    fetch()
    payee.before = lambda handler, action: (is_free or action is not None) and drip_header(handler, sent)
    before = time.monotonic()
    ended = fetch("--timeout", "1")
    assert time.monotonic() - before < 10
    assert "timed out" in ended.error["message"]
    if is_free:
        assert (ended.exit_code, ended.error["code"]) == (3, "network")
    else:
        assert (ended.exit_code, ended.error["code"]) == (5, "outcome-unknown")
        assert ended.error["hint"].startswith(f"microwallet fetch {payee.url}/ --timeout 1 ")


def test_a_header_that_takes_its_time(fetch, payee):
    """Within the timeout it is waited for, and the answer after it may take longer."""
    fetch()

    def before(handler, action):
        if action is None:
            return False
        for part in (b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"):
            time.sleep(0.3)
            handler.wfile.write(part)
        return drip(handler, 200, {}, most=20)

    payee.before = before
    assert fetch("--timeout", "1.5").data["body"] == "x" * 20


def test_upstream_errors(fetch, payee, books):
    """A 404 that was charged is paid, exit 0 unless --fail; a 500 is given back and its headroom used."""
    payee.status = 404
    missing = fetch().data
    assert (missing["status"], missing["payment"]["spent"]) == (404, "1000")
    assert missing["payment"]["receiptProblems"] == []  # an error carries no receipt
    failed = fetch("--fail")
    assert (failed.exit_code, failed.error["code"]) == (4, "http-status")
    assert failed.json["data"]["payment"]["spent"] == "2000"
    payee.status = 500
    broken = fetch().data
    assert (broken["status"], broken["payment"]) == (500, None)
    [channel] = books()[0]
    assert (channel.spent, channel.authorized) == (2000, 3000)
    payee.status = 200
    paid = fetch().data["payment"]
    assert (paid["spent"], paid["authorized"]) == ("3000", "3000")
    amounts = [amount for _, amount in payee.vouchers]
    assert len(set(amounts)) == len(amounts)


def test_a_deposit_is_told_whatever_comes_of_the_request(fetch, payee, books):
    """The document has each one that was made, where the payee fails, refuses or says nothing too."""
    told = []

    def took(amount, kind="topUp"):
        [deposit] = told[-1]["deposits"]
        [channel] = books()[0]
        assert deposit.pop("idempotencyKey").startswith("open-" if kind == "open" else "top-up-")
        assert deposit == {
            "kind": kind,
            "channelId": channel.channel_id,
            "amount": amount,
            "asset": "USDC",
            "decimals": 6,
            "status": "done",
            "expiresAt": None,
        }

    payee.status = 500
    told.append(fetch("--deposit", "0.001 USDC").data)
    assert told[-1]["payment"] is None
    took("1000", "open")
    payee.status, payee.price = 200, 2_000
    refusing = iter(range(9))
    payee.before = lambda handler, action: (
        isinstance(action, VoucherAction)
        and next(refusing) >= 0
        and (handler.refuse(ProblemType.VERIFICATION_FAILED, "no") or True)
    )
    refused = fetch("--deposit", "0.002 USDC")
    assert (refused.exit_code, refused.error["code"]) == (4, "payment-refused")
    told.append(refused.json["data"])
    took("2000")
    payee.price, payee.before = (
        5_000,
        lambda handler, action: isinstance(action, VoucherAction) and hang_up(handler, action),
    )
    unknown = fetch("--deposit", "0.003 USDC", "--idempotency-key", "k")
    assert unknown.exit_code == 5
    told.append(unknown.json["data"])
    assert told[-1]["idempotencyKey"] == "k"
    took("3000")
    payee.before = lambda _handler, _action: False
    told.append(fetch("--deposit", "0.004 USDC").data)
    assert told[-1]["payment"]["deposited"]
    took("4000")
    assert fetch("--no-pay").data["deposits"] == []


def test_an_error_after_signing_says_what_became_of_the_money(fetch, payee, books):
    """What was signed for a 500 does not count as spent; what an earlier run sent stays as it was."""
    payee.status = 500
    failed = fetch("--idempotency-key", "k")
    assert failed.data["payment"] is None
    assert failed.stderr.splitlines()[-1] == (
        f"500 after 0.001 USDC was signed for {payee.address}: it does not count as spent, and the next"
        " request to this payee uses it first"
    )
    payee.status, payee.before = 200, hang_up
    assert fetch("--idempotency-key", "k").exit_code == 5
    payee.status, payee.before = 500, lambda _handler, _action: False
    again = fetch("--idempotency-key", "k")
    assert again.stderr.splitlines()[-1] == (
        f"500 after 0.001 USDC was signed for {payee.address}; it stays counted as spent, since an earlier"
        " run sent it, and may have been charged"
    )
    assert [one[3] for one in books()[1]] == ["returned", "in-flight"]
    payee.before = lambda handler, action: (
        action is not None and (handler.refuse(ProblemType.VERIFICATION_FAILED, "no") or True)
    )
    refused = fetch("--idempotency-key", "other")
    assert refused.error["message"].endswith(": no; it does not count as spent")


def test_the_same_key_after_it_was_paid(fetch, alice, payee, books):
    """Nothing new is paid, which is said, and marked in the document; nothing is left on a channel that is
    closed."""
    assert fetch("--idempotency-key", "k").data["payment"]["paidBefore"] is False
    again = fetch("--idempotency-key", "k")
    [channel] = books()[0]
    assert again.data["payment"]["paidBefore"] is True
    paid_before = (
        f"paid 0.001 USDC to {payee.address} before, under this idempotency key; nothing new was paid"
    )
    assert again.stderr.splitlines()[-1] == f"{paid_before}; 0.099 USDC left on {channel.name}"
    alice.run("channel", "close", channel.name, "--yes").succeeded()
    assert fetch("--idempotency-key", "k").stderr.splitlines()[-1] == paid_before
    fetch("--idempotency-key", "new").succeeded()
    assert "left on" in fetch("--idempotency-key", "new").stderr


def test_what_is_left_of_a_deposit_that_a_node_does_not_know(fetch, alice, books):
    """What was paid for comes, though another command has heard meanwhile, of a node that is behind, that
    there is no such channel."""
    fetch("--idempotency-key", "k").succeeded()
    [channel] = books()[0]
    behind = replace(channel.state, deposit=0)
    with Wallet.open(environment=alice.environment) as wallet:
        wallet.ledger.channels.record_states({channel.channel_id: behind}, as_of=channel.as_of)
    again = fetch("--idempotency-key", "k")
    assert again.data["body"] == PAID_BODY.decode()
    assert again.stderr.splitlines()[-1].endswith(f"; 0 USDC left on {channel.name}")


def test_what_the_resource_refuses_is_paid(fetch, payee, books):
    """A 404 of the resource itself is charged, and has no receipt, as errors have none."""
    payee.status, payee.twist_receipt = 404, lambda _: None
    missing = fetch().data
    assert (missing["status"], missing["payment"]["amount"]) == (404, "1000")
    assert [one[1:] for one in books()[1]] == [(1000, 1000, "paid")]


@pytest.mark.parametrize("status", [502, 503, 504, 524])
def test_error_on_the_way(fetch, payee, books, status):
    """Who answers so may have lost the payee's answer: exit 5, until the same key settles it. With a
    challenge it is the payee's own, who gave the cost back."""
    payee.status = status
    unknown = fetch("--idempotency-key", "k")
    assert (unknown.exit_code, unknown.error["code"]) == (5, "outcome-unknown")
    assert [one[1:] for one in books()[1]] == [(1000, 1000, "in-flight")]
    payee.status = 200
    assert fetch("--idempotency-key", "k").data["payment"]["cumulativeAmount"] == "1000"
    assert [one[1:] for one in books()[1]] == [(1000, 1000, "paid")]
    payee.before = lambda handler, action: (
        action is not None
        and (handler.answer(status, {"WWW-Authenticate": payee.challenge(b"").to_field()}, b"") or True)
    )
    failed = fetch().data
    assert (failed["status"], failed["payment"]) == (status, None)
    assert books()[1][1][1:] == (2000, 1000, "returned")


def test_a_payee_that_ends_says_so(fetch, payee, books):
    """Its 503 has no challenge, but a problem document, which no proxy makes up: the cost is given back."""
    ends = json.dumps({"type": "about:blank", "title": "Service Unavailable", "detail": "the server ends"})
    payee.before = lambda handler, action: (
        action is not None and (handler.answer(503, {"Content-Type": MEDIA_TYPE}, ends.encode()) or True)
    )
    failed = fetch().data
    assert (failed["status"], failed["payment"]) == (503, None)
    assert [one[1:] for one in books()[1]] == [(1000, 1000, "returned")]


def test_begun_before(fetch, payee, books):
    """A payee that began this before and kept no answer is not taken for one that was not paid."""
    payee.before = lambda handler, action: (
        action is not None and (handler.refuse(ProblemType.OUTCOME_UNKNOWN, "begun before") or True)
    )
    for _ in range(2):
        assert fetch("POST", "--idempotency-key", "k").exit_code == 5
        assert [one[1:] for one in books()[1]] == [(1000, 1000, "in-flight")]


def test_a_payee_that_could_not_record_it(fetch, payee, books):
    """What its failing disk may have is not taken for free: the same key has it later."""
    unknown = Problem(type=ProblemType.OUTCOME_UNKNOWN, detail="the disk failed", other_status=503)
    payee.before = lambda handler, action: (
        action is not None and (handler.answer(503, {"Content-Type": MEDIA_TYPE}, unknown.to_body()) or True)
    )
    lost = fetch("--idempotency-key", "k")
    assert (lost.exit_code, "the disk failed" in lost.error["message"]) == (5, True)
    assert [one[1:] for one in books()[1]] == [(1000, 1000, "in-flight")]
    payee.before = lambda *_: False
    assert fetch("--idempotency-key", "k").data["payment"]["spent"] == "1000"
    assert [one[1:] for one in books()[1]] == [(1000, 1000, "paid")]


def test_units_that_were_used(fetch, payee):
    """Of a request by units the maximum is reserved and what was used is paid; the rest is used next."""
    payee.units, payee.price = 3, 1000
    payment = fetch().data["payment"]
    assert (payment["amount"], payment["spent"], payment["authorized"]) == ("3000", "3000", "3000")


def test_top_up_within_the_rule(fetch, payee, books):
    """A channel that is used up is topped up, the payee is told before the voucher, and served."""
    fetch("--deposit", "0.001 USDC")
    assert fetch("--deposit", "0.002 USDC").data["payment"]["deposited"] is True
    actions = [action for _, _, action in payee.seen if action is not None]
    assert [type(action) for action in actions] == [OpenAction, TopUpAction, VoucherAction]
    [channel] = books()[0]
    assert (channel.state.deposit, channel.spent) == (3000, 2000)


def test_top_up_for_a_body_where_each_offer_has_its_own_reference(fetch, payee):
    """The payee is told of it under a fresh challenge for no body, the same in all that was agreed to."""
    numbers = itertools.count()
    payee.twist_request = lambda request: request | {"externalId": f"order {next(numbers)}"}

    def bind(handler, _action):
        payee.bind_body = bool(handler.body)

    payee.before = bind
    for _ in range(3):
        assert fetch("-d", "question", "--deposit", "0.001 USDC").exit_code == 0


def test_a_fresh_challenge_that_may_not_be_answered(fetch, payee):
    """Of what is offered anew for a top-up, what has expired or is another way to pay is passed over."""
    answered = []

    def bind(handler, action):
        payee.bind_body = bool(handler.body)
        if not isinstance(action, TopUpAction):
            return False
        answered.append(Credential.parse(handler.headers["Authorization"]).challenge)
        if len(answered) > 1:
            return False
        good, words = payee.challenge(b""), {"realm": "test", "method": METHOD, "intent": INTENT}
        late = issue(payee.secrets, payee.request(), **words, expires_at=1)
        other = issue(payee.secrets, payee.request(), **words | {"intent": "charge"}, expires_at=2**33)
        offers = ", ".join(one.to_field() for one in (late, other, good))
        handler.answer(402, {"WWW-Authenticate": offers}, b"")
        return True

    payee.before = bind
    for _ in range(2):
        assert fetch("-d", "question", "--deposit", "0.001 USDC").exit_code == 0
    assert len(answered) == 2
    assert {(one.intent, one.has_expired(int(time.time()))) for one in answered} == {(INTENT, False)}


def test_deposit_asks(fetch, payee, books):
    """Without --yes and a terminal nothing is opened: exit 2 with all that matters; paying asks nothing."""
    refused = fetch(yes=False)
    assert (refused.exit_code, refused.error["code"]) == (2, "confirmation-required")
    for part in ("0.1 USDC", payee.address, "anvil", "fee"):
        assert part in refused.error["message"]
    assert books() == ([], [])
    assert fetch().exit_code == 0
    assert fetch(yes=False).exit_code == 0


def test_channel_opened_by_hand(alice, fetch, payee, books):
    """A channel that the payee was never told of is told to it, and pays."""
    opened = alice.run("channel", "open", payee.address, "1 USDC", "--yes", "--json").data
    payment = fetch(yes=False).data["payment"]
    assert payment["channelId"] == opened["channelId"]
    assert len(books()[0]) == 1


def test_a_payee_that_cannot_tell_yet(fetch, payee, books):
    """The same voucher is sent again, and buys once."""
    told = []

    def not_yet(handler, action):
        if action is None or len(told) == 2:
            return False
        told.append(action.voucher.cumulative_amount)
        handler.refuse(ProblemType.TRY_AGAIN, "not yet")
        return True

    payee.before = not_yet
    ran = fetch()
    assert ran.data["payment"]["cumulativeAmount"] == "1000"
    assert (told, ran.stderr.count("asks to try again: not yet")) == ([1000, 1000], 1)
    assert [one[1:] for one in books()[1]] == [(1000, 1000, "paid")]


def test_channel_that_the_payee_closed(fetch, payee, books):
    """A channel that is finalized on chain is marked, and a new one pays, once."""
    first = fetch().data["payment"]["channelId"]
    with payee.changed:
        known = payee.channels.pop(first)
    payee.capture(known)
    payment = fetch().data["payment"]
    finalized = {channel.channel_id: channel.state.finalized for channel in books()[0]}
    assert finalized == {first: True, payment["channelId"]: False}


def test_without_an_answer_on_a_channel_that_was_closed(fetch, payee, books):
    """The same key buys from another channel where the chain shows that nothing was taken for it: all that
    was settled is for what was answered."""
    first = fetch().data["payment"]["channelId"]
    payee.before = hang_up
    assert fetch("--idempotency-key", "k").exit_code == 5
    payee.before = lambda _handler, _action: False
    payee.capture(payee.channels.pop(first))
    words = ("--idempotency-key", "k", "--max-amount", "0.001 USDC")
    payment = fetch(*words).data["payment"]
    assert payment["channelId"] != first
    assert [(one.spent, one.state.settled) for one in books()[0]] == [(1000, 1000), (1000, 0)]
    assert books()[1] == [
        (first, 1000, 1000, "paid"),
        (first, 2000, 1000, "returned"),
        (payment["channelId"], 1000, 1000, "paid"),
    ]
    assert fetch(*words).data["payment"]["channelId"] == payment["channelId"]


@pytest.mark.parametrize("by_hand", [0, 500])
def test_without_an_answer_on_a_channel_that_was_closed_with_it(alice, fetch, payee, books, by_hand):
    """The same key buys nothing where more was settled than for what was answered: that may be for it, and
    need not be for what was paid by hand."""
    first = fetch().data["payment"]["channelId"]
    if by_hand:
        alice.run("pay", first, "0.0005").succeeded()
    payee.before = charge_and_hang_up
    assert fetch("--idempotency-key", "k").exit_code == 5
    payee.before = lambda _handler, _action: False
    payee.capture(payee.channels.pop(first))
    refused = fetch("--idempotency-key", "k")
    assert (refused.exit_code, refused.error["code"]) == (4, "payment-refused")
    assert "stays counted as spent" in refused.error["message"]
    assert [(one.spent, one.state.settled) for one in books()[0]] == [(2000 + by_hand, 2000)]
    assert books()[1] == [(first, 1000, 1000, "paid"), (first, 2000 + by_hand, 1000, "in-flight")]


def test_what_was_paid_is_not_bought_again_once_its_channel_is_closed(fetch, payee, books):
    """The same key after its answer: the payee that does not know it any more is paid no second time."""
    first = fetch("--idempotency-key", "k").data["payment"]["channelId"]
    payee.capture(payee.channels.pop(first))
    refused = fetch("--idempotency-key", "k")
    assert (refused.exit_code, refused.error["code"]) == (4, "payment-refused")
    assert "stays counted as spent" in refused.error["message"]
    assert books()[1] == [(first, 1000, 1000, "paid")]


def test_dry_run_and_no_pay(fetch, payee, books):
    """--dry-run says what it would pay and how; --no-pay takes the 402 for an answer; nothing is signed."""
    would = fetch("--dry-run", yes=False).data["wouldPay"]
    assert (would["way"], would["amount"], would["deposit"]) == ("open", "1000", "100000")
    assert (would["payee"], would["asset"], would["network"]) == (payee.address, "USDC", "anvil")
    assert (would["maxAmount"], would["maxUnits"], would["description"]) == ("10000", 1, None)
    assert fetch("--no-pay", yes=False).data["status"] == 402
    assert (payee.vouchers, books()) == ([], ([], []))
    channel = fetch().data["payment"]["channelId"]
    would = fetch("--dry-run", yes=False).data["wouldPay"]
    assert (would["way"], would["channelId"], would["deposit"]) == ("channel", channel, None)
    assert len(payee.vouchers) == 1


def test_dry_run_in_words(alice, payee, fetch):
    """The price, what it is for, to whom, from what, and the most that it can come to; no word of the payee
    does anything to a terminal."""
    payee.twist_request = lambda request: {**request, "description": "An\x1b[1m article"}
    words = ("fetch", payee.url + "/", "--dry-run", "--max-amount", "0.05 USDC")
    lines = [
        "would pay  0.001 USDC for each request",
        "for        An [1m article",
        f"to         {payee.address}",
        "from       a channel that is opened with 0.1 USDC",
        "at most    0.05 USDC, whatever the server asks for (--max-amount)",
    ]
    assert alice.run(*words).succeeded().stdout.splitlines() == lines
    channel = fetch().data["payment"]["channelId"]
    lines[3] = f"from       channel {channel}"
    assert alice.run(*words).succeeded().stdout.splitlines() == lines


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


def test_a_request_is_signed_for_again_within_its_limit(fetch, payee):
    """A stream took what was signed for it: to sign for it again may need a higher limit, which is named."""
    fetch("--deposit", "1 USDC")
    payee.before = hang_up
    words = ("--idempotency-key", "k", "--max-amount")
    assert fetch(*words, "0.001 USDC").exit_code == 5
    payee.before = lambda _handler, _action: False
    payee.unit_type, payee.events = "event", 3
    fetch(path=STREAM).data  # noqa: B018
    assert payee.highest() == 4_000
    payee.unit_type = "request"
    refused = fetch(*words, "0.001 USDC")
    assert (refused.exit_code, refused.error["code"]) == (4, "above-limit")
    assert refused.error["hint"] == '--max-amount "0.002 USDC"'
    assert payee.highest() == 4_000
    assert fetch(*words, "0.002 USDC").data["body"] == PAID_BODY.decode()
    assert payee.highest() == 5_000


def test_a_request_is_signed_for_again_beyond_what_counts_as_spent(fetch, payee, books):
    """The payee says that more was charged than is counted, as by a stream that was never answered: that is
    counted with the request, within its limit."""
    channel = fetch().data["payment"]["channelId"]
    payee.before = hang_up
    words = ("--idempotency-key", "k", "--max-amount")
    assert fetch(*words, "0.001 USDC").exit_code == 5
    payee.before = lambda _handler, _action: False
    payee.price, payee.status = 2_000, 500
    fetch()
    payee.price, payee.status = 1_000, 200
    known = payee.channels[channel]
    known.account = known.account._replace(spent=known.account.accepted)
    refused = fetch(*words, "0.003 USDC")
    assert (refused.exit_code, refused.error["code"]) == (4, "above-limit")
    assert refused.error["hint"] == '--max-amount "0.004 USDC"'
    assert payee.highest() == 4_000
    served = fetch(*words, "0.004 USDC")
    assert served.data["body"] == PAID_BODY.decode()
    assert (served.data["payment"]["amount"], served.data["payment"]["receiptProblems"]) == ("4000", [])
    [ours], purchases = books()
    assert ours.spent == ours.authorized == payee.highest() == known.account.spent == 5_000
    assert [one[1:] for one in purchases if one[3] == "paid"] == [
        (1_000, 1_000, "paid"), (2_000, 1_000, "paid"), (5_000, 3_000, "paid"),
    ]  # fmt: skip
    known.answers.clear()
    known.bought.clear()
    assert fetch(*words, "0.009 USDC").exit_code == 4  # it was paid: nothing more is
    assert payee.highest() == 5_000


def test_a_request_is_signed_for_again_beyond_the_deposit(fetch, payee, books):
    """A stream took what was signed for it, and all that was deposited: the channel is topped up for it."""
    fetch("--deposit", "0.004 USDC")
    payee.before = hang_up
    words = ("--idempotency-key", "k", "--max-amount", "0.002 USDC")
    assert fetch(*words).exit_code == 5
    payee.before = lambda _handler, _action: False
    payee.unit_type, payee.events = "event", 3
    fetch(path=STREAM).data  # noqa: B018
    assert payee.highest() == 4_000
    payee.unit_type = "request"
    assert fetch(*words, "--deposit", "0.004 USDC").data["body"] == PAID_BODY.decode()
    [channel], _ = books()
    assert channel.spent == channel.authorized == payee.highest() == 5_000
    assert channel.state.deposit == 8_000


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


def test_no_channel_is_opened_that_could_not_pay(alice, payee, fetch, books):
    """Where what may be deposited is less than the payee's smallest step, nothing is locked."""
    payee.min_voucher_delta = 1_500
    alice.run("config", "set", "max-deposit", "0.001499 USDC").succeeded()
    refused = fetch()
    assert (refused.error["code"], "at least 0.0015 USDC" in refused.error["message"]) == (
        "above-limit",
        True,
    )
    assert books() == ([], [])
    alice.run("config", "set", "max-deposit", "0.0015 USDC").succeeded()
    assert fetch().data["payment"]["deposit"] == "1500"


def test_a_top_up_is_of_what_is_missing(alice, payee, fetch):
    """What was signed for a request that was not served is not deposited twice."""
    fetch("--deposit", "0.003 USDC")
    fetch()
    payee.status = 500
    assert fetch().data["status"] == 500
    payee.status, payee.price = 200, 1_500
    alice.run("config", "set", "max-deposit", "0.0035 USDC").succeeded()
    payment = fetch().data["payment"]
    assert (payment["deposit"], payment["cumulativeAmount"]) == ("3500", "3500")


def test_a_stream_that_nobody_agreed_to_go_on(payee, fetch):
    """Without a terminal to ask at, it ends where the deposit does, as at the limit; what came is kept."""
    fetch("--deposit", "0.003 USDC")
    payee.events, payee.unit_type = 5, "event"
    stopped = fetch(path=STREAM, yes=False)
    assert (stopped.exit_code, stopped.error["code"]) == (4, "above-limit")
    assert "stopped after 0.002 USDC, as the deposit is used up" in stopped.error["message"]
    assert stopped.error["hint"].startswith("add --yes")
    assert stopped.json["data"]["body"].count("data: event") == 2


def test_open_once_side_by_side(alice, payee, books):
    """Many that find no channel at the same time open one; each has an amount of its own."""
    with ThreadPoolExecutor(12) as pool:
        runs = list(pool.map(lambda _: alice.run("fetch", payee.url + "/", "--yes", "--json"), range(12)))
    assert [one.exit_code for one in runs] == [0] * 12, [one for one in runs if one.exit_code]
    channels, purchases = books()
    assert len(channels) == 1
    assert channels[0].spent == channels[0].authorized == 12_000
    assert len({amount for _, amount, *_ in purchases}) == 12
    assert all(one.data["payment"]["receiptProblems"] == [] for one in runs)


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="limits another process on Linux alone")
def test_a_disk_that_is_full_once_it_was_paid(alice, payee, fetch, books):
    """What was bought cannot be written down: exit 5 with its key, under which it is had again."""
    fetch()
    started = threading.Event()

    def fill(_handler, action):
        if action is not None:
            assert started.wait(10)
            resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (16, 16))
        return False

    payee.before = fill
    process = alice.start("fetch", payee.url + "/", "--json", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    started.set()
    out, err = process.communicate(timeout=30)
    error = json.loads(out)["error"]
    assert (process.returncode, error["code"]) == (5, "outcome-unknown")
    assert "0.001 USDC may have been paid" in error["message"]
    key = json.loads(out)["data"]["idempotencyKey"]
    assert error["hint"].endswith(f"--idempotency-key {key}")
    assert f"idempotency key: {key}" in err.decode()
    payee.before = lambda _handler, _action: False
    assert fetch("--idempotency-key", key).data["body"] == PAID_BODY.decode()
    assert [one[1:] for one in books()[1]] == [(1_000, 1_000, "paid"), (2_000, 1_000, "paid")]


def test_killed_between_signing_and_answer(alice, payee, books):
    """kill -9 after the voucher left: the same key finds it, and it is paid once."""
    arrived = threading.Event()

    def before(_handler, action):
        if action is None:
            return False
        arrived.set()
        time.sleep(3)
        return True

    payee.before = before
    process = alice.start(
        "fetch", payee.url + "/", "--yes", "--idempotency-key", "k", stdout=subprocess.DEVNULL
    )
    assert arrived.wait(20)
    process.kill()
    process.wait()
    payee.before = lambda _handler, _action: False
    payment = alice.run("fetch", payee.url + "/", "--idempotency-key", "k", "--json").data["payment"]
    assert (payment["cumulativeAmount"], payment["spent"]) == ("1000", "1000")
    assert len(books()[1]) == 1


@pytest.mark.parametrize("stage", ["offer", "paid"])
def test_interrupted_before_the_answer(alice, payee, books, stage):
    """Ctrl-C once a voucher has left: the error says what may have been paid, and the hint asks for the
    answer, which is paid once. Before that it says nothing of it."""
    arrived = threading.Event()

    def before(_handler, action):
        if action is None and stage == "paid":
            return False
        arrived.set()
        time.sleep(1.5)
        return True

    payee.before = before
    process = alice.start(
        "fetch", payee.url + "/", "--yes", "--json", stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert arrived.wait(20)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=20)
    told = json.loads(output)
    error = told["error"]
    assert (process.returncode, error["code"]) == (130, "interrupted")
    payee.before = lambda _handler, _action: False
    if stage == "offer":
        assert (error["message"], error["hint"], books()[1]) == ("interrupted", None, [])
        return
    said = f"interrupted: 0.001 USDC may have been paid to {payee.address}, but no answer came"
    assert error["message"] == said
    assert error["hint"].endswith(f"--idempotency-key {told['data']['idempotencyKey']}")
    again = alice.run(*shlex.split(error["hint"])[1:]).succeeded()
    assert (again.data["payment"]["spent"], len(books()[1])) == ("1000", 1)


def test_interrupted_while_the_answer_is_recorded(alice, payee, fetch, books):
    """Ctrl-C between the answer and the books, as where another process keeps the ledger: the hint asks for
    the answer again, which is paid once."""
    fetch()
    with Wallet.open(environment=alice.environment) as wallet:
        answered, kept = threading.Event(), threading.Event()

        def keep(_handler, action):
            if action is not None:
                answered.set()
                assert kept.wait(10)
            return False

        payee.before = keep
        process = alice.start(
            "fetch", payee.url + "/", "--json", stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        assert answered.wait(20)
        with wallet.ledger.database.write():
            kept.set()
            time.sleep(0.5)
            process.send_signal(signal.SIGINT)
            time.sleep(0.2)
        output, _ = process.communicate(timeout=20)
    error = json.loads(output)["error"]
    assert (process.returncode, error["code"]) == (130, "interrupted")
    assert "0.001 USDC may have been paid" in error["message"]
    payee.before = lambda _handler, _action: False
    again = alice.run(*shlex.split(error["hint"])[1:]).succeeded()
    assert (again.data["payment"]["spent"], len(books()[1])) == ("2000", 2)


def test_interrupted_in_the_middle_of_an_answer(alice, payee, fetch, books):
    """What was paid for and has not come whole is told, with the command that asks for it again."""
    fetch()
    payee.before = lambda handler, action: action is not None and drip(handler, 200, {}, most=100)
    process = alice.start("fetch", payee.url + "/", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout.read(2) == b"xx"
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=20)
    assert process.returncode == 130
    lines = said.decode().splitlines()
    assert any(line.startswith("paid 0.001 USDC to ") for line in lines)
    payee.before = lambda _handler, _action: False
    [hint] = [line.removeprefix("hint: ") for line in lines if line.startswith("hint: ")]
    assert alice.run(*shlex.split(hint)[1:]).stdout == PAID_BODY.decode()
    assert [one[1:] for one in books()[1]] == [(1_000, 1_000, "paid"), (2_000, 1_000, "paid")]


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_interrupted_stream(alice, payee, fetch, ending):
    """Ctrl-C, `kill` or a terminal that goes away ends a stream with exit 130, and says what it has cost: its
    books are closed."""
    fetch()
    payee.events, payee.unit_type = 10_000, "event"
    process = alice.start(
        "fetch",
        payee.url + STREAM,
        "--max-amount",
        "1 USDC",
        "--deposit",
        "1 USDC",
        "--yes",
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    while b"event 5" not in process.stdout.readline():
        pass
    process.send_signal(ending)
    _, said = process.communicate(timeout=20)
    assert process.returncode == 130
    assert b"paid up to 0." in said
    assert said.endswith(b"error: interrupted\n")


def test_interrupted_stream_in_json(alice, payee, fetch):
    """With --json Ctrl-C leaves one document: the error, what was received, and what it cost."""
    fetch()
    payee.events, payee.unit_type = 10_000, "event"
    metered = threading.Event()

    def before(handler, _action):
        if handler.command == "HEAD":
            metered.set()
        return False

    payee.before = before
    words = ("--max-amount", "1 USDC", "--deposit", "1 USDC", "--yes", "--json")
    process = alice.start("fetch", payee.url + STREAM, *words, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert metered.wait(20)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=20)
    document = json.loads(output)
    assert (process.returncode, document["error"]["code"]) == (130, "interrupted")
    assert document["data"]["body"].startswith("data: event 0")
    payment = document["data"]["payment"]
    assert int(payment["amount"]) > 0
    assert (payment["isMost"], payment["receiptProblems"]) == (True, [])


def test_a_stream_into_a_pipe_that_closes(alice, payee, fetch):
    """Where nobody reads on, the stream is ended, and what it has cost is told: exit 1."""
    fetch()
    payee.events, payee.unit_type = 10_000, "event"
    words = ("--max-amount", "1 USDC", "--deposit", "1 USDC", "--yes")
    process = alice.start("fetch", payee.url + STREAM, *words, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.readline()
    process.stdout.close()
    with process.stderr as stderr:
        said = stderr.read()
    assert process.wait(timeout=20) == 1
    assert b"paid up to 0." in said
    assert said.endswith(b"error: what reads the output has gone away\n")


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


def test_step_larger_than_the_price_side_by_side(alice, payee, books, fetch):
    """Where the payee's smallest step is more than a price, those that run side by side share one step."""
    payee.min_voucher_delta = 8_000
    fetch("--deposit", "1 USDC")
    with ThreadPoolExecutor(10) as pool:
        runs = list(pool.map(lambda _: alice.run("fetch", payee.url + "/", "--json"), range(10)))
    assert [one.exit_code for one in runs] == [0] * 10, [one for one in runs if one.exit_code]
    [channel], purchases = books()
    assert (channel.spent, channel.authorized) == (11_000, 16_000)
    assert len({amount for _, amount, *_ in purchases}) == len(purchases) == 11


def test_free_things_need_no_wallet(home, payee):
    """What costs nothing is fetched without an account, and leaves no ledger."""
    payee.before = lambda handler, _: bool(handler.answer(200, {"X": "1"}, b"free")) or True
    done = home.run("fetch", payee.url + "/", "-i").succeeded()
    assert done.stdout.startswith("HTTP/1.1 200 OK")
    assert done.stdout.endswith("free")
    assert not home.path.exists()


@pytest.mark.long
def test_fifty_side_by_side(alice, payee, books, fetch):
    """Fifty processes on one channel: fifty amounts, the sum is exact."""
    fetch("--deposit", "1 USDC")
    with ThreadPoolExecutor(50) as pool:
        runs = list(pool.map(lambda _: alice.run("fetch", payee.url + "/", "--json"), range(50)))
    assert [one.exit_code for one in runs] == [0] * 50
    channels, purchases = books()
    assert channels[0].spent == 51_000
    assert len({amount for _, amount, *_ in purchases}) == 51


def test_close_through_the_payee(alice, fetch, payee):
    """`channel close` asks the payee over HTTP: paid and refunded in one transaction, with its hash."""
    channel = fetch().data["payment"]["channelId"]
    fetch()
    closed = alice.run("channel", "close", channel, "--yes", "--json").data
    assert (closed["stage"], closed["status"], closed["settled"]) == ("closed", "finalized", "2000")
    receipt = payee.chain.rpc.call("eth_getTransactionReceipt", [closed["transactionHash"]])
    assert receipt["status"] == "0x1"
    # The voucher is over what was spent, whatever more was signed.
    assert payee.vouchers[-1] == (channel, 2_000)


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("refuses", "the payee does not close the channel, it answers 402: no reason; closing on the chain"),
        ("is gone", "the payee does not answer: "),
        ("hangs up", "the payee does not answer: "),
        ("lies", "the payee says that it closed, the chain does not: requesting the close"),
        ("other payee", "no longer offers to be paid through this channel; closing on the chain"),
    ],
)
def test_close_when_the_payee_does_not(alice, fetch, payee, fault, says):
    """A payee that does not close, is not there, or only says so: the close is requested on the chain, and
    that is told."""
    channel = fetch().data["payment"]["channelId"]
    if fault == "refuses":
        payee.before = lambda handler, action: (
            action is not None and (handler.refuse(ProblemType.VERIFICATION_FAILED, "never") or True)
        )
    elif fault == "is gone":
        payee.before = lambda handler, _action: setattr(handler, "close_connection", True) or True
    elif fault == "hangs up":
        payee.before = hang_up
    elif fault == "lies":
        payee.before = lambda handler, action: action is not None and (handler.answer(200, {}, b"") or True)
    else:
        payee.address = payee.chain.token
    closed = alice.run("channel", "close", channel, "--yes", "--json")
    assert closed.data["stage"] == "requested"
    assert payee.highest() == 1_000
    assert says in closed.stderr


def test_a_close_does_nothing_else_at_the_payee(alice, fetch, payee):
    """It is asked for by HEADs, whatever the method of the purchase was."""
    channel = fetch("DELETE").data["payment"]["channelId"]
    payee.seen.clear()
    closed = alice.run("channel", "close", channel, "--yes", "--json")
    assert closed.data["stage"] == "closed"
    assert [method for method, _, _ in payee.seen] == ["HEAD", "HEAD"]


def test_a_payee_that_keeps_a_close_waiting(alice, fetch, payee):
    """Byte after byte of an answer that never ends: it is given up after what one waits at most."""
    channel = fetch().data["payment"]["channelId"]

    def drip(handler, _action):
        with suppress(OSError):
            for byte in b"HTTP/1.1 402 Payment Required\r\nX-Drip: " + b"x" * 200:
                handler.wfile.write(bytes([byte]))
                time.sleep(0.1)
        return True

    payee.before = drip
    begun = time.monotonic()
    closed = alice.run("channel", "close", channel, "--yes", "--json", env={"MICROWALLET_WAIT_SECONDS": "1"})
    assert time.monotonic() - begun < 10
    assert closed.data["stage"] == "requested"
    assert "has not answered within 1 seconds" in closed.stderr


def test_a_payee_that_makes_no_offer_is_not_waited_for_like_a_transaction(alice, fetch, payee, monkeypatch):
    """It takes the request and says nothing: the chain closes the channel soon, not minutes later."""
    channel_id, silent = fetch().data["payment"]["channelId"], threading.Event()
    payee.before = lambda _handler, _action: silent.wait(30) or True
    monkeypatch.setattr("microwallet.http402.paying.closing._OFFER_SECONDS", 0.2)
    with Wallet.open(environment=alice.environment) as wallet:
        channel, purchase = (
            rows(channel_id) for rows in (wallet.ledger.channels.get, wallet.ledger.purchases.newest)
        )
        key = wallet.voucher_key(channel)
        with pytest.raises(PaymentRefused, match=r"within 0\.2 seconds"):
            ask(channel, purchase, key, to_close=True, clock=wallet.now, timeout=180)
    silent.set()


def test_no_payee_is_asked_where_others_could_read_along(alice, fetch):
    """A purchase by plain http that went through a way of its own, as within a process, has no other."""
    channel_id = fetch().data["payment"]["channelId"]
    with Wallet.open(environment=alice.environment) as wallet:
        channel, purchase = (
            rows(channel_id) for rows in (wallet.ledger.channels.get, wallet.ledger.purchases.newest)
        )
        key, elsewhere = wallet.voucher_key(channel), replace(purchase, url="http://payee.example/")
        with pytest.raises(PaymentRefused, match="where others could read along"):
            ask(channel, elsewhere, key, to_close=True, clock=wallet.now, timeout=1)


def test_close_on_chain_only(alice, fetch, payee):
    """--on-chain asks nobody."""
    channel = fetch().data["payment"]["channelId"]
    seen = len(payee.seen)
    assert (
        alice.run("channel", "close", channel, "--yes", "--on-chain", "--json").data["stage"] == "requested"
    )
    assert len(payee.seen) == seen


def test_top_up_that_the_payee_was_not_told_of(alice, fetch, payee):
    """A deposit that was added by hand is told to the payee when it refuses what goes beyond the old one."""
    channel = fetch("--deposit", "0.001 USDC").data["payment"]["channelId"]
    alice.run("channel", "top-up", channel, "0.005 USDC", "--yes").succeeded()
    paid = fetch(yes=False)
    assert paid.data["payment"]["spent"] == "2000"
    assert [type(action) for _, _, action in payee.seen if action is not None][2] is TopUpAction


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


def test_a_payee_that_has_not_heard_of_a_top_up_is_told_for_each_voucher(fetch, payee):
    """Others may have topped the channel up once more by the time that a request is paid for again."""
    fetch("--deposit", "0.001 USDC")
    assert fetch("--deposit", "0.009 USDC").data["payment"]["deposit"] == "10000"
    answers = [ProblemType.AMOUNT_EXCEEDS_DEPOSIT, ProblemType.INSUFFICIENT_BALANCE] * 2
    answers.pop()

    def before(handler, action):
        if not isinstance(action, VoucherAction) or not answers:
            return False
        handler.refuse(
            answers.pop(0), "not yet", requiredCumulative=str(action.voucher.cumulative_amount + 1000)
        )
        return True

    payee.before = before
    payment = fetch().data["payment"]
    assert (payment["authorized"], answers) == ("4000", [])
    assert [type(action) for _, _, action in payee.seen[-7:]].count(TopUpAction) == 2


def test_channel_whose_top_up_a_reorganisation_undid(fetch, alice, books, chain):
    """The payee sees less than this ledger has: the chain is asked, and the channel topped up once more."""
    words = ("--deposit", "0.002 USDC")
    channel = fetch(*words).data["payment"]["channelId"]
    before = chain.rpc.call("evm_snapshot")
    alice.run("channel", "top-up", channel, "0.005 USDC", "--yes").succeeded()
    assert chain.rpc.call("evm_revert", [before])
    assert fetch(*words).data["payment"]["deposit"] == "7000"
    again = fetch(*words)
    payment = again.data["payment"]
    assert (payment["channelId"], payment["spent"], payment["deposit"]) == (channel, "3000", "4000")
    assert f"the chain has 0.002 USDC on channel {channel}, not 0.007 USDC" in again.stderr
    assert sum(cost for _, _, cost, status in books()[1] if status == "paid") == 3000


@pytest.mark.parametrize(
    ("knows_head", "offered_by"), [(True, ["HEAD"]), (False, ["HEAD", "DELETE"])], ids=["head", "no head"]
)
def test_a_close_that_is_only_looked_at_does_nothing_at_the_payee(
    alice, fetch, payee, knows_head, offered_by
):
    """What it counts of payments by hand is asked for by a HEAD with a voucher over nothing, whatever the
    method of the purchase was; that is said before, and a key that is locked does not keep from looking."""

    def unknown(handler, action):
        is_unknown = not knows_head and handler.command == "HEAD" and action is None
        return is_unknown and (handler.answer(405, {}) or True)

    payee.before = unknown
    channel = fetch("DELETE").data["payment"]["channelId"]
    alice.run("pay", channel, "0.01").succeeded()
    look = ("channel", "close", channel, "--dry-run", "--json")
    payee.seen.clear()
    looked = alice.run(*look)
    assert looked.data["uncountedPayments"] == "10000"
    assert looked.stderr.startswith(f"asking {payee.url} what it counts of the payments by hand\n")
    *offers, (method, _, asked) = payee.seen
    assert [(method, action) for method, _, action in offers] == [(method, None) for method in offered_by]
    assert (method, type(asked), asked.voucher.cumulative_amount) == ("HEAD", VoucherAction, 0)
    locked = alice.run(*look, env={"MICROWALLET_PASSWORD_FILE": "/nowhere"})
    assert locked.data["uncountedPayments"] is None
