"""What became of a payment that was answered, refused or lost: served, returned, unknown."""

from __future__ import annotations

import json
import shlex
import time

import pytest
from http402.payee_double import (
    HEADERS_WITHOUT_END,
    PAID_BODY,
    STREAM,
    break_off,
    drip,
    drip_header,
    hang_up,
)
from issuing import issue

from microwallet.http402.wire.credential import Credential
from microwallet.http402.wire.problems import MEDIA_TYPE, Problem, ProblemType
from microwallet.http402.wire.session_payload import TopUpAction, VoucherAction
from microwallet.http402.wire.session_request import INTENT, METHOD


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
