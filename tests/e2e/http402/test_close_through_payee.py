"""Closes that the payee is asked for first, and the chain where that does not help."""

from __future__ import annotations

import shutil
import threading
import time
from contextlib import suppress
from dataclasses import replace

import pytest
from http402.payee_double import (
    hang_up,
)

from microwallet.errors import PaymentRefused
from microwallet.http402.paying.closing import ask
from microwallet.http402.wire.problems import ProblemType
from microwallet.http402.wire.session_payload import VoucherAction
from microwallet.wallet import Wallet


@pytest.mark.parametrize("wait", [(), ("--wait",)])
def test_close_through_the_payee(alice, fetch, payee, wait):
    """`channel close` asks the payee over HTTP: paid and refunded in one transaction, with its hash. There is
    nothing to wait for then."""
    channel = fetch().data["payment"]["channelId"]
    fetch()
    closed = alice.run("channel", "close", channel, *wait, "--yes", "--json").data
    assert (closed["stage"], closed["status"], closed["settled"]) == ("closed", "finalized", "2000")
    receipt = payee.chain.rpc.call("eth_getTransactionReceipt", [closed["transactionHash"]])
    assert receipt["status"] == "0x1"
    # The voucher is over what was spent, whatever more was signed.
    assert payee.vouchers[-1] == (channel, 2_000)


def test_all_are_closed_each_in_its_way(alice, bob, fetch, payee):
    """`channel close --all` asks the payee of one, and requests the close of another, paid by hand alone."""
    channel = fetch().data["payment"]["channelId"]
    alice.run("channel", "open", bob.address, "1 USDC", "--label", "coffee", "--yes").succeeded()
    told = alice.run("channel", "close", "--all", "--dry-run").stdout
    assert told.count("; asked of http://127.0.0.1:") == 1
    assert "fee         none if the payee closes; else at most" in told
    for which in ("--all", channel):
        on_chain = alice.run("channel", "close", which, "--dry-run", "--on-chain").stdout
        assert ("asked of" in on_chain, "if the payee closes" in on_chain) == (False, False)
    closed = alice.run("channel", "close", "--all", "--yes", "--json").data["channels"]
    assert [(one["label"], one["stage"]) for one in closed] == [(None, "closed"), ("coffee", "requested")]
    assert payee.vouchers[-1] == (closed[0]["channelId"], 1_000)


def test_a_channel_found_again_is_closed_through_its_payee(alice, make_home, chain, serve, pay):
    """Whose gateway is known from a purchase through another channel. The voucher that asks is over nothing,
    and the payee gets what it has charged."""
    url = serve().url
    lost = pay(f"{url}/a").data["payment"]["channelId"]
    pay(f"{url}/b").succeeded()
    fresh = make_home("fresh", chain)
    shutil.copytree(alice.path / "keys" / "accounts", fresh.path / "keys" / "accounts")
    fresh.run("channel", "sync").succeeded()
    other = fresh.run("fetch", f"{url}/c", "--deposit", "0.1 USDC", "--yes", "--json").data["payment"]
    assert other["channelId"] != lost
    assert f"asked of {url}; else requested now" in fresh.run("channel", "close", lost, "--dry-run").stdout
    closed = fresh.run("channel", "close", lost, "--yes", "--json").data
    assert (closed["stage"], closed["settled"], closed["deposit"]) == ("closed", "2000", "1000000")


def test_a_payee_that_does_not_know_a_channel_has_the_grace_period(alice, bob, serve, pay):
    """It sells over HTTP, and was paid through this channel by hand: it can still take what it is given."""
    pay(f"{serve().url}/a").succeeded()
    alice.run("channel", "open", bob.address, "1 USDC", "--label", "coffee", "--yes").succeeded()
    alice.run("pay", "coffee", "0.01").succeeded()
    closed = alice.run("channel", "close", "coffee", "--yes", "--json")
    assert closed.data["stage"] == "requested"
    assert "the payee does not close the channel, it answers 410: " in closed.stderr


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
