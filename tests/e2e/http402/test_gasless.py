"""A payer without gas fetches what has a price: it signs, and the payee brings the deposit onto the chain."""

from __future__ import annotations

import http.client
import json
import shutil
import socket
import threading
from contextlib import ExitStack
from urllib.parse import urlsplit

import pytest
from anybody import done_as
from http402.signing_payer import SigningPayer
from local_server import Handler, LocalServer

from microwallet.domain.deposit import DepositKind
from microwallet.escrow import calls
from microwallet.escrow.reader import EscrowReader
from microwallet.http402.wire.challenge import offered_challenges
from microwallet.http402.wire.credential import Credential
from microwallet.http402.wire.session_payload import payload_object
from microwallet.payer.signed_deposit import signed_again
from microwallet.wallet import Wallet

PAYING = ("--pay-fees-from", "0.1 USDC")


@pytest.fixture
def poor(make_wallet):
    """Somebody with 1000 USDC and nothing for gas."""
    return make_wallet("poor", wei=0)


@pytest.fixture
def reader(chain):
    return EscrowReader(chain.rpc, chain.escrow_contract)


def fetch(home, url, *arguments, **options):
    return home.run("fetch", url, "--yes", "--json", *arguments, **options)


def deposits(home):
    with Wallet.open(environment=home.environment) as wallet, wallet.ledger.database.read() as connection:
        return connection.execute("SELECT kind, status FROM deposits ORDER BY created_at, kind").fetchall()


def test_a_payer_without_gas_opens_pays_and_tops_up(poor, bob, serve, reader):
    """The payee sends one transaction for each deposit; the payer never needs any coin."""
    url = serve(*PAYING).url
    first = fetch(poor, url, "--deposit", "0.1 USDC").data
    assert (first["status"], first["body"], first["payment"]["amount"]) == (200, "you asked for /", "1000")
    channel = first["payment"]["channelId"]
    assert fetch(poor, url).data["payment"]["channelId"] == channel
    assert reader.transaction_count(bob.address) == 1
    poor.run("pay", channel, "0.097 USDC", "--json").data  # noqa: B018
    assert fetch(poor, url).data["payment"]["channelId"] == channel
    again = fetch(poor, url, "--deposit", "0.2 USDC").data
    assert again["payment"]["channelId"] == channel
    assert reader.channel_state(channel).deposit == 300_000
    assert (reader.transaction_count(bob.address), reader.native_balance(poor.address)) == (2, 0)
    assert deposits(poor) == [("open", "done"), ("topUp", "done")]
    assert poor.run("channel", "sync", "--json").data["deposits"] == []


@pytest.mark.parametrize(("who", "flags"), [("poor", ()), ("alice", ("--gasless",))])
def test_a_stream_that_runs_out_of_deposit(request, who, flags, bob, serve, reader):
    """In mid-stream the payer signs a top-up, the payee brings it onto the chain, and the stream goes on; a
    limit that leaves no room for one ends it, and the books agree."""
    payer = request.getfixturevalue(who)
    url = serve(*PAYING, sells=("--price", "0.03 USDC", "--per", "event")).url + "/stream"
    words = (*flags, "--max-amount", "1 USDC")
    first = fetch(payer, url, *words, "--deposit", "0.1 USDC").data
    payment, channel = first["payment"], first["payment"]["channelId"]
    assert [f"data: event {number}\n\n" in first["body"] for number in range(5)] == [True] * 5
    assert (payment["amount"], payment["receiptProblems"]) == ("150000", [])
    assert reader.channel_state(channel).deposit == 200_000
    assert deposits(payer) == [("open", "done"), ("topUp", "done")]
    assert (reader.transaction_count(payer.address), reader.transaction_count(bob.address)) == (0, 2)
    stopped = fetch(payer, url, *words, env={"MICROWALLET_MAX_DEPOSIT": "0.2 USDC"})
    assert stopped.error["code"] == "above-limit"
    assert (stopped.json["data"]["payment"]["spent"], reader.transaction_count(bob.address)) == ("180000", 2)
    assert [one["spent"] for one in bob.run("payee", "list", "--json").data["channels"]] == ["180000"]


def test_who_has_gas_sends_unless_told_otherwise(alice, bob, serve, reader):
    """`--gasless` leaves it to the payee; a gateway that does not do that is paid all the same."""
    url = serve(*PAYING).url
    told = fetch(alice, url, "--gasless", "--deposit", "0.5 USDC").data
    assert reader.channel_state(told["payment"]["channelId"]).deposit == 500_000
    assert (reader.transaction_count(alice.address), reader.transaction_count(bob.address)) == (0, 1)
    url = serve(sells=("--price", "0.6 USDC")).url
    sent = fetch(alice, url, "--max-amount", "1 USDC", "--deposit", "1 USDC")
    assert sent.data["payment"]["channelId"] == told["payment"]["channelId"]
    assert (reader.transaction_count(alice.address), reader.transaction_count(bob.address)) == (1, 1)


def test_a_payee_that_pays_no_gas(poor, serve):
    """A payer without gas is told what is missing, and with --gasless why that does not help."""
    url = serve().url
    assert fetch(poor, url).error["code"] == "insufficient-funds"
    refused = fetch(poor, url, "--gasless")
    assert (refused.exit_code, refused.error["code"]) == (4, "no-payable-challenge")
    assert deposits(poor) == []


def test_many_at_once_open_one_channel(poor, bob, serve, reader):
    """Processes that all find no channel sign one open together, and each pays for its own request."""
    url = serve(*PAYING).url
    words = ("fetch", url, "--deposit", "0.5 USDC", "--yes", "--json")
    started = [poor.start(*words, stdout=-1, stderr=-3) for _ in range(4)]
    told = [json.loads(process.communicate(timeout=120)[0]) for process in started]
    assert [one["ok"] for one in told] == [True] * 4, told
    assert len({one["data"]["payment"]["channelId"] for one in told}) == 1
    assert sorted(int(one["data"]["payment"]["cumulativeAmount"]) for one in told) == [1000, 2000, 3000, 4000]
    assert (reader.transaction_count(bob.address), deposits(poor)) == (1, [("open", "done")])


def test_what_is_signed_counts_against_the_limit(poor, serve, between, reader):
    """A top-up that never arrived is finished, and no second one is signed beside it."""
    proxy = between(serve(*PAYING).url)
    limit = {"MICROWALLET_MAX_DEPOSIT": "0.3 USDC"}
    channel = fetch(poor, proxy.url, env=limit).data["payment"]["channelId"]
    poor.run("pay", channel, "0.099 USDC", "--json").data  # noqa: B018
    proxy.lose, proxy.forward = 1, False
    assert fetch(poor, proxy.url, env=limit).exit_code == 5
    assert fetch(poor, proxy.url, env=limit).data["status"] == 200
    assert reader.channel_state(channel).deposit == 200_000
    assert deposits(poor) == [("open", "done"), ("topUp", "done")]


def test_a_deposit_for_a_request_with_a_body(poor, serve, bob, reader):
    """The challenge is bound to the body, and the deposit is handed over without one."""
    url = serve(*PAYING).url
    told = poor.run("fetch", "POST", url, "-d", "tea", "--deposit", "0.5 USDC", "--yes", "--json", timeout=60)
    assert (told.data["body"], reader.transaction_count(bob.address)) == ("you asked for /", 1)


def test_a_deposit_that_is_not_worth_its_gas(poor, serve):
    """The challenge tells how much is: exit 4, nothing signed; so for an open, a top-up, and a limit."""
    url = serve(*PAYING).url
    refused = fetch(poor, url, "--deposit", "0.05 USDC")
    assert (refused.exit_code, deposits(poor)) == (4, [])
    assert "a deposit of 0.05 USDC is too small: at least 0.1 USDC is needed" in refused.error["message"]
    assert refused.error["hint"] == '--deposit "0.1 USDC"'
    limited = fetch(poor, url, env={"MICROWALLET_MAX_DEPOSIT": "0.05 USDC"})
    assert (limited.exit_code, deposits(poor)) == (4, [])
    dry = poor.run("fetch", url, "--gasless", "--deposit", "0.05 USDC", "--dry-run", "--json")
    assert dry.error["hint"] == '--deposit "0.1 USDC"'
    channel = fetch(poor, url, "--deposit", "0.1 USDC").data["payment"]["channelId"]
    poor.run("pay", channel, "0.099 USDC", "--json").data  # noqa: B018
    assert fetch(poor, url, "--deposit", "0.05 USDC").exit_code == 4
    assert deposits(poor) == [("open", "done")]


class Between(LocalServer):
    """A proxy that does to an answer, or to a request, what a test wants."""

    def __init__(self, url):
        super().__init__(_Between)
        self.target = urlsplit(url)
        self.lose = 0
        """Answers of handed-over deposits that get lost, the deposit having been made or not."""
        self.forward = True
        self.garble = False
        """Whether they are taken for handed over with a 402 that cannot be read."""
        self.handed_over = lambda: None
        """What happens once one was."""

    def pass_on(self, handler):
        is_handing = handler.command == "HEAD" and "authorization" in handler.headers
        lost = is_handing and self.lose > 0
        self.lose -= lost
        if not lost or self.forward:
            connection = http.client.HTTPConnection(self.target.netloc)
            connection.request(handler.command, handler.path, headers=dict(handler.headers))
            answer = connection.getresponse()
            body = answer.read()
            connection.close()
        if is_handing:
            self.handed_over()
        if lost:
            handler.connection.shutdown(socket.SHUT_RDWR)
            handler.close_connection = True
            return
        if is_handing and self.garble:
            handler.send_response(402)
            handler.send_header("www-authenticate", 'Payment id="')
            handler.end_headers()
            return
        handler.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("transfer-encoding", "connection", "date", "server"):
                handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(body)


class _Between(Handler):
    protocol_version = "HTTP/1.1"

    def respond(self):
        self.server.pass_on(self)


@pytest.fixture
def between():
    """Puts a proxy before a gateway."""
    with ExitStack() as started:
        yield lambda url: started.enter_context(Between(url))


def test_an_answer_that_is_lost(poor, bob, serve, between, reader):
    """The chain tells that the deposit was made, and the fetch goes on."""
    proxy = between(serve(*PAYING).url)
    proxy.lose = 1
    told = fetch(poor, proxy.url, "--deposit", "0.5 USDC").data
    assert (told["status"], reader.transaction_count(bob.address)) == (200, 1)


def test_an_answer_that_cannot_be_read(poor, bob, serve, between, reader):
    """A 402 that is none, for a deposit that was made: the chain tells, and the fetch goes on."""
    proxy = between(serve(*PAYING).url)
    proxy.garble = True
    told = fetch(poor, proxy.url, "--deposit", "0.5 USDC").data
    assert (told["status"], reader.transaction_count(bob.address)) == (200, 1)


def test_a_payee_that_closes_what_was_topped_up_just_now(alice, bob, serve, between, tmp_path):
    """It is told, and no second deposit is made for the same request."""
    prices = tmp_path / "prices.toml"
    prices.write_text(
        """[[routes]]
        path = "/**"
        price = "0.05 USDC"
        min-voucher-delta = "0.06 USDC"
        """
    )
    proxy = between(serve(*PAYING, sells=("--config", prices)).url)
    words = ("--gasless", "--deposit", "0.1 USDC", "--max-amount", "0.1 USDC")
    channel = fetch(alice, proxy.url, *words).data["payment"]["channelId"]
    proxy.handed_over = lambda: bob.run("payee", "close", channel, "--yes").succeeded()
    refused = fetch(alice, proxy.url, *words)
    assert (refused.exit_code, refused.error["code"]) == (4, "channel-not-open")
    assert deposits(alice) == [("open", "done"), ("topUp", "done")]


def test_a_deposit_that_never_arrived(poor, bob, serve, between, reader):
    """Exit 5, as it was signed: the ledger keeps it, and the next fetch finishes it and opens no other."""
    proxy = between(serve(*PAYING).url)
    proxy.lose, proxy.forward = 1, False
    unknown = fetch(poor, proxy.url, "--deposit", "0.5 USDC")
    assert (unknown.exit_code, unknown.error["code"]) == (5, "outcome-unknown")
    assert deposits(poor) == [("open", "pending")]
    (pending,) = poor.run("channel", "sync", "--json").data["deposits"]
    assert (pending["status"], pending["expiresAt"] is None) == ("pending", False)
    told = fetch(poor, proxy.url, "--deposit", "0.7 USDC").data
    state = reader.channel_state(told["payment"]["channelId"])
    assert (state.deposit, reader.transaction_count(bob.address)) == (500_000, 1)
    assert deposits(poor) == [("open", "done")]


def test_a_deposit_that_expired(poor, serve, between, reader):
    """Nothing comes of it any more, so another is signed."""
    proxy = between(serve(*PAYING).url)
    proxy.lose, proxy.forward = 1, False
    assert fetch(poor, proxy.url, "--deposit", "0.5 USDC").exit_code == 5
    with Wallet.open(environment=poor.environment) as wallet, wallet.ledger.database.write() as connection:
        connection.execute("UPDATE deposits SET authorization_expires_at = 1000")
    told = fetch(poor, proxy.url, "--deposit", "0.7 USDC").data
    assert reader.channel_state(told["payment"]["channelId"]).deposit == 700_000
    assert sorted(deposits(poor)) == [("open", "abandoned"), ("open", "done")]


def test_a_payee_that_does_not_know_what_others_submitted(poor, bob, serve, between, reader, chain):
    """Somebody else sends the authorization and the payee crashed: it is told again, and serves."""
    proxy = between(serve(*PAYING).url)
    proxy.lose, proxy.forward = 1, False
    assert fetch(poor, proxy.url, "--deposit", "0.5 USDC").exit_code == 5
    with Wallet.open(environment=poor.environment) as wallet:
        (channel,) = wallet.ledger.channels.list(finalized=True)
        signed = signed_again(wallet.ledger, lambda _: wallet.paying_account(), channel, DepositKind.OPEN)
    stranger = "0x" + "77" * 20
    chain.node.add_native(stranger, 10**18)
    call = calls.open_with_authorization(channel.descriptor, 500_000, signed.authorization)
    done_as(stranger, call, chain)
    told = fetch(poor, proxy.url, "--deposit", "0.7 USDC").data
    assert told["payment"]["channelId"] == channel.channel_id
    assert reader.transaction_count(bob.address) == 0
    assert poor.run("channel", "sync", "--json").data["deposits"] == []


def test_two_workers_bring_it_once(bob, serve, chain, reader):
    """The same credential at two gateways of one home at the same time: one transaction."""
    urls = [serve(*PAYING).url, serve(*PAYING).url]
    payer = SigningPayer(chain, bob.address)
    found = []

    def pay(url):
        connection = http.client.HTTPConnection(urlsplit(url).netloc)
        connection.request("GET", "/")
        asked = connection.getresponse()
        asked.read()
        (challenge,) = offered_challenges([asked.getheader("www-authenticate")]).challenges
        field = Credential(challenge=challenge, payload=payload_object(payer.open())).to_field()
        connection.request("HEAD", "/", headers={"Authorization": field})
        found.append(connection.getresponse().status)
        connection.close()

    threads = [threading.Thread(target=pay, args=[url]) for url in urls * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [200] * 4
    assert reader.transaction_count(bob.address) == 1


def test_a_payee_without_gas_serves_and_closes(poor, make_wallet, serve, reader, chain):
    """A relayer of the payee's own pays for everything, and neither end has any coin."""
    payee = make_wallet("payee", wei=0)
    carol = make_wallet("carol", usdc=0)
    shutil.copy(carol.path / "keys/accounts/carol.json", payee.path / "keys/accounts")
    gateway = serve(*PAYING, "--account", "payee", "--relayer", "carol", home=payee)
    paid = fetch(poor, gateway.url, "--deposit", "0.5 USDC").data["payment"]
    assert paid["payee"] == payee.address
    held = reader.token_balance(chain.token, payee.address)
    closed = poor.run("channel", "close", paid["channelId"], "--yes", "--json").data
    assert closed["status"] == "finalized"
    assert reader.token_balance(chain.token, payee.address) - held == 1000
    assert reader.token_balance(chain.token, poor.address) == 10**9 - 1000
    assert (reader.transaction_count(payee.address), reader.transaction_count(carol.address)) == (0, 2)
    assert gateway.end() == 0
    assert "warning" not in [line["event"] for line in gateway.events.seen]
