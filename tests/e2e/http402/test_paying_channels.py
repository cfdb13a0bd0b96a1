"""Which channel pays for a request: opened, topped up, closed under way, one for many side by side."""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from http402.payee_double import (
    PAID_BODY,
    STREAM,
    charge_and_hang_up,
    hang_up,
)

from microwallet.http402.wire.problems import ProblemType
from microwallet.http402.wire.session_payload import OpenAction, TopUpAction, VoucherAction
from microwallet.wallet import Wallet


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


def test_top_up_that_the_payee_was_not_told_of(alice, fetch, payee):
    """A deposit that was added by hand is told to the payee when it refuses what goes beyond the old one."""
    channel = fetch("--deposit", "0.001 USDC").data["payment"]["channelId"]
    alice.run("channel", "top-up", channel, "0.005 USDC", "--yes").succeeded()
    paid = fetch(yes=False)
    assert paid.data["payment"]["spent"] == "2000"
    assert [type(action) for _, _, action in payee.seen if action is not None][2] is TopUpAction


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
