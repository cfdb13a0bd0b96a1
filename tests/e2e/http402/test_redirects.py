"""Redirects that have a price, or lead to one: a key for all of them, one limit, and each payment told."""

from __future__ import annotations

import asyncio
import json
import shlex
import signal
import subprocess
import threading
import time

import httpx
import pytest
from http402.payee_double import PAID_BODY

import microwallet

TARGET = "/target"


@pytest.fixture
def leads_to(payee):
    """Makes the first page send on to a path, paid as everything or free."""

    def lead(*, free, to=TARGET):
        place = to if "://" in to else payee.url + to

        def before(handler, action):
            if handler.path != "/" or (action is None and not free):
                return False
            if free:
                handler.answer(302, {"Location": place}, b"")
                return True

            def answer(status, headers, body):
                del handler.answer
                status = 302 if status == 200 else status
                handler.answer(status, {**headers, "Location": place}, body)

            handler.answer = answer
            return False

        payee.before = before

    return lead


@pytest.mark.parametrize(("to", "sent"), [(TARGET, "a=1; b=2"), (None, None)])
def test_cookies_go_with_a_redirect_to_the_same_origin(fetch, payee, leads_to, to, sent):
    """As curl does it: those that were typed, to nobody else, and none twice."""
    leads_to(free=True, to=to or payee.url.replace("127.0.0.1", "localhost") + TARGET)
    before, came = payee.before, []

    def telling(handler, action):
        came.append((handler.path, handler.headers.get_all("Cookie")))
        return before(handler, action)

    payee.before = telling
    fetch("--follow", "-H", "Cookie: a=1", "-H", "cookie: b=2").succeeded()
    assert came == [("/", ["a=1", "b=2"]), *[(TARGET, sent and [sent])] * 2]


@pytest.mark.parametrize("key", ["rk", "k" * 128])
def test_a_key_buys_every_hop_once(fetch, payee, books, leads_to, key):
    """The whole command again repeats the answer of each hop, and pays nothing new."""
    leads_to(free=False)
    words = ("--follow", "--idempotency-key", key)
    first, again = fetch(*words).data, fetch(*words).data
    assert (first["status"], first["body"]) == (200, PAID_BODY.decode())
    assert (again["status"], again["body"]) == (200, PAID_BODY.decode())
    assert [one["paidBefore"] for one in first["payments"]] == [False, False]
    assert [one["paidBefore"] for one in again["payments"]] == [True, True]
    assert {one["idempotencyKey"] for one in [*first["payments"], *again["payments"]]} == {key}
    assert payee.highest() == 2_000
    assert [one[1:] for one in books()[1]] == [(1000, 1000, "paid"), (2000, 1000, "paid")]


@pytest.mark.parametrize("free", [True, False])
def test_interrupted_at_the_target_of_a_redirect(alice, fetch, payee, books, leads_to, free):
    """Ctrl-C once a voucher for it has left: what may have been paid is told, and asked for again it is paid
    once."""
    fetch(path="/first")
    leads_to(free=free)
    lead, arrived = payee.before, threading.Event()

    def keep(handler, action):
        if handler.path != TARGET or action is None:
            return lead(handler, action)
        arrived.set()
        time.sleep(1.5)
        return True

    payee.before = keep
    process = alice.start("fetch", "-L", payee.url + "/", "--json", stdout=subprocess.PIPE)
    assert arrived.wait(20)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=20)
    error = json.loads(output)["error"]
    assert (process.returncode, error["code"]) == (130, "interrupted")
    assert error["message"].startswith("interrupted: 0.001 USDC may have been paid to 0x")
    payee.before = lead
    again = alice.run(*shlex.split(error["hint"])[1:]).succeeded()
    assert again.data["body"] == PAID_BODY.decode()
    assert payee.highest() == (2_000 if free else 3_000)
    assert {one[3] for one in books()[1]} == {"paid"}


def test_a_key_buys_the_target_of_a_free_redirect_once(fetch, payee, leads_to):
    """A redirect that costs nothing does not take the key's purchase for its own."""
    leads_to(free=True)
    words = ("--follow", "--idempotency-key", "rk")
    assert fetch(*words).data["body"] == PAID_BODY.decode()
    again = fetch(*words)
    assert (again.data["body"], again.data["payment"]["paidBefore"]) == (PAID_BODY.decode(), True)
    assert payee.highest() == 1_000


@pytest.mark.parametrize("free", [True, False])
def test_a_target_that_changes_is_not_paid_for_again(fetch, alice, payee, leads_to, free):
    """What was bought under the key is at the address of then: the hint has it again, and pays nothing."""
    words = ("--follow", "--idempotency-key", "rk")
    leads_to(free=free, to="/target?signed=1&for=a")
    fetch(*words).succeeded()
    paid = payee.highest()
    leads_to(free=free, to="/target?signed=2&for=a")
    refused = fetch(*words)
    assert (refused.exit_code, refused.error["code"]) == (2, "idempotency-mismatch")
    assert refused.error["message"] == (
        f"the redirect leads to {payee.url}/target?signed=2&for=a now, and led to"
        f" {payee.url}/target?signed=1&for=a when it was paid for under the idempotency key 'rk'; nothing new"
        " was paid for it"
    )
    again = shlex.split(refused.error["hint"], comments=True)
    assert again[:3] == ["microwallet", "fetch", f"{payee.url}/target?signed=1&for=a"]
    answer = alice.run(*again[1:], "--json").data
    assert (answer["body"], answer["payment"]["paidBefore"]) == (PAID_BODY.decode(), True)
    assert payee.highest() == paid


@pytest.mark.parametrize("free", [True, False])
def test_the_key_that_was_made_repeats_every_hop(fetch, payee, leads_to, free):
    """Without a key of the user's one is made for all hops, and named once."""
    leads_to(free=free)
    first = fetch("--follow")
    [said] = [line for line in first.stderr.splitlines() if line.startswith("idempotency key: ")]
    paid = payee.highest()
    again = fetch("--follow", "--idempotency-key", said.removeprefix("idempotency key: "))
    assert (again.data["body"], payee.highest()) == (PAID_BODY.decode(), paid)


def test_every_payment_is_told(fetch, leads_to, payee):
    """`payment` is that of the answer, `payments` has all in order; stderr has a line for each."""
    leads_to(free=False)
    done = fetch("--follow")
    assert [one["cumulativeAmount"] for one in done.data["payments"]] == ["1000", "2000"]
    assert done.data["payment"] == done.data["payments"][-1]
    assert done.stderr.count("paid 0.001 USDC to ") == 2
    payee.before = lambda handler, _: handler.answer(200, {}, b"") or True
    free = fetch().data
    assert (free["payment"], free["payments"]) == (None, [])


def test_a_redirect_that_was_paid_for_is_told_of(fetch, leads_to, payee):
    """Who does not follow it learns where it leads; one that cost nothing is as it is."""
    leads_to(free=False)
    assert f"\nwhat was paid for leads to {payee.url}{TARGET}: --follow goes there\n" in fetch().stderr
    assert "leads to" not in fetch("--follow").stderr
    leads_to(free=True)
    assert "leads to" not in fetch().stderr


@pytest.mark.parametrize("free", [True, False])
@pytest.mark.parametrize(
    ("to", "why"),
    [
        ("ftp://elsewhere/", "'ftp://elsewhere/' is no http or https URL"),
        ("http://me@elsewhere/", "no URL with a user name in it is paid"),
    ],
)
def test_a_redirect_that_cannot_be_followed_is_the_servers(fetch, payee, leads_to, free, to, why):
    """What was typed is right: the server that leads there is named, and what was paid until then told."""
    leads_to(free=free, to=to)
    failed = fetch("--follow")
    assert (failed.exit_code, failed.error["code"]) == (3, "network")
    assert failed.error["message"] == f"the redirect of {payee.url}/ cannot be followed: {why}"
    assert failed.error["hint"] == "without --follow the answer that leads there is printed"
    assert len(failed.json["data"]["payments"]) == (not free)
    assert "--follow goes there" not in fetch().stderr


@pytest.mark.parametrize(("status", "kind"), [(302, None), (303, None), (307, "text/csv")])
def test_a_target_that_gets_no_body_gets_no_type_of_one(fetch, payee, status, kind):
    """RFC 9110, section 15.4: fields that tell of the content go with it; all others stay."""
    headers = []

    def before(handler, _action):
        headers.append(handler.headers)
        handler.answer(status if handler.path == "/" else 200, {"Location": payee.url + TARGET}, b"")
        return True

    payee.before = before
    fetch("-d", "a,b", "-H", "Content-Type: text/csv", "-H", "X-Own: 1", "--follow").succeeded()
    assert [sent["Content-Type"] for sent in headers] == ["text/csv", kind]
    assert [sent["X-Own"] for sent in headers] == ["1", "1"]


def test_a_lost_answer_of_a_target_is_had_by_the_whole_command(fetch, alice, payee, leads_to):
    """The hint repeats the request from its start, under the one key."""
    leads_to(free=False)
    leading = payee.before

    def hang_up(handler, action):
        if handler.path == TARGET and action is not None:
            handler.close_connection = True
            return True
        return leading(handler, action)

    payee.before = hang_up
    lost = fetch("--follow", "--idempotency-key", "rk")
    assert lost.exit_code == 5
    assert lost.error["hint"] == f"microwallet fetch {payee.url}/ -L --yes --json --idempotency-key rk"
    payee.before = leading
    assert alice.run(*lost.error["hint"].split()[1:]).data["body"] == PAID_BODY.decode()
    assert payee.highest() == 2_000


def test_all_hops_together_keep_to_the_limit(fetch, payee, books, leads_to):
    """What they cost counts, also where it was signed before for something else and needs no more."""
    payee.status = 500
    fetch(path="/one")
    payee.price = 4_000
    fetch(path="/two")  # 0.004 USDC are signed now, and nothing is spent
    payee.status, payee.price = 200, 1_000
    leads_to(free=False)
    refused = fetch("--follow", "--max-amount", "0.0015 USDC")
    assert (refused.exit_code, refused.error["code"]) == (4, "above-limit")
    assert "what led to it has taken 0.001 USDC of the limit" in refused.error["message"]
    assert [one["amount"] for one in refused.json["data"]["payments"]] == ["1000"]
    assert books()[0][0].spent == 1_000
    assert fetch("--follow", "--max-amount", "0.002 USDC").data["status"] == 200
    assert payee.highest() == 4_000


def test_a_deposit_that_a_target_needs_is_hinted_at(fetch, alice, leads_to):
    """It is not the price that is above the limit."""
    alice.run("config", "set", "max-deposit", "0.0015 USDC").succeeded()
    leads_to(free=False)
    refused = fetch("--follow")
    assert (refused.error["code"], refused.error["hint"]) == ("above-limit", '--deposit "0.0005 USDC"')


def test_programs_follow_with_one_key_and_one_limit(alice, payee, leads_to, monkeypatch):
    """As on the command line: a key is for the request and its redirects, and so is `max_amount`."""
    leads_to(free=False)
    monkeypatch.setenv("PYTHON_KEYRING_BACKEND", "keyring.backends.fail.Keyring")
    rpc_url, password_file = alice.settings["MICROWALLET_RPC_URL"], alice.password_file
    with microwallet.Wallet.open(alice.path, rpc_url=rpc_url, password_file=password_file) as wallet:
        options = {"max_deposit": "1 USDC", "follow_redirects": True, "idempotency_key": "rk"}
        for before in (False, True):
            answer = wallet.request("GET", payee.url + "/", **options)
            paid = [microwallet.payment_of(one) for one in (*answer.history, answer)]
            assert [one.paid_before for one in paid] == [before, before]
        assert payee.highest() == 2_000
        with pytest.raises(microwallet.AboveLimit):
            wallet.request("GET", payee.url + "/", max_amount="0.0015 USDC", follow_redirects=True)
        paying = microwallet.PayingTransport(wallet=wallet)
        with httpx.Client(transport=paying, follow_redirects=True) as client:
            request = client.build_request("GET", payee.url + "/", extensions={"idempotency_key": "again"})
            assert [client.send(request).content for _ in range(2)] == [PAID_BODY] * 2
        assert payee.highest() == 5_000

        async def follow():
            paying = microwallet.AsyncPayingTransport(wallet=wallet, max_amount="0.002 USDC")
            async with httpx.AsyncClient(transport=paying, follow_redirects=True) as client:
                await client.get(payee.url + "/", extensions={"idempotency_key": "more"})
                return await client.get(payee.url + "/", extensions={"idempotency_key": "more"})

        assert asyncio.run(follow()).content == PAID_BODY
    assert payee.highest() == 7_000
