"""`serve` settles and closes: when it starts, every few seconds, for payers, and beside other processes."""

from __future__ import annotations

import asyncio
import json
import resource
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress

import pytest
from http402.running import channels
from http402.signing_payer import PayingShop

from microwallet import selling
from microwallet.domain.identifiers import hexed
from microwallet.escrow.reader import EscrowReader
from microwallet.escrow.rpc import RpcError
from microwallet.payee.exclusive import is_held, settling_lock
from microwallet.wallet import Wallet


def test_above_a_sum_it_settles(serve, pay, bob, chain):
    """Without anybody asking, what was charged and no more; the channel stays open."""
    gateway = serve()
    channel_id = pay(gateway.url + "/1").data["payment"]["channelId"]
    pay(gateway.url + "/2").data  # noqa: B018
    gateway.end()
    gateway = serve("--settle-above", "0.002001 USDC")
    assert gateway.end() == 0
    gateway = serve("--settle-above", "0.002 USDC")
    settled = gateway.events.next("settled")
    assert (settled["channelId"], settled["captured"]) == (channel_id, "2000")
    assert EscrowReader(chain.rpc, chain.escrow_contract).token_balance(chain.token, bob.address) == (
        10**9 + 2000
    )
    assert pay(gateway.url + "/3").data["payment"]["channelId"] == channel_id
    assert gateway.end() == 0
    assert len([line for line in gateway.events.seen if line["event"] == "settled"]) == 1


def test_while_it_runs_it_settles(serve, pay):
    """What was not paid from for so long."""
    gateway = serve("--settle-idle", "1s")
    pay(gateway.url).data  # noqa: B018
    assert gateway.events.next("settled")["captured"] == "1000"


def test_a_payer_closes_through_it(serve, pay, alice):
    """Paid and refunded in one transaction, which the gateway sends and tells of."""
    gateway = serve("--workers", "2")
    channel_id = pay(gateway.url).data["payment"]["channelId"]
    closed = alice.run("channel", "close", channel_id, "--yes", "--json").data
    told = gateway.events.next("closed")
    assert (told["channelId"], told["captured"], told["refunded"]) == (channel_id, "1000", "999000")
    assert closed["transactionHash"] == told["transactionHash"]
    assert pay(gateway.url).data["payment"]["channelId"] != channel_id
    assert gateway.end() == 0


def test_a_password_that_is_changed_while_it_runs(serve, pay, alice, bob, tmp_path):
    """Its key was unlocked as it started: what payers owe is taken all the same."""
    gateway = serve()
    channel_id = pay(gateway.url).data["payment"]["channelId"]
    another = tmp_path / "another"
    another.write_text("another password\n")
    another.chmod(0o600)
    bob.run("account", "password", "bob", "--new-password-file", another).succeeded()
    alice.run("channel", "close", channel_id, "--yes").succeeded()
    assert gateway.events.next("closed", "failed")["event"] == "closed"
    assert gateway.end() == 0


def test_a_requested_close_is_answered(serve, pay, alice):
    """The payer goes to the chain: what it owes is taken before the grace period ends."""
    gateway = serve()
    channel_id = pay(gateway.url).data["payment"]["channelId"]
    gateway.end()
    alice.run("channel", "close", channel_id, "--yes").succeeded()
    again = serve()
    assert again.events.next("closed")["captured"] == "1000"


def test_a_withdrawal_that_a_list_saw_first_is_told(serve, pay, alice, bob, chain):
    """While no gateway ran: the next one tells what was lost, and the one after it does not."""
    gateway = serve()
    channel_id = pay(gateway.url).data["payment"]["channelId"]
    gateway.end()
    alice.run("channel", "close", channel_id, "--yes").succeeded()
    chain.node.advance(900)
    alice.run("channel", "withdraw", channel_id, "--yes").succeeded()
    [listed] = bob.run("payee", "list", "--all", "--json").data["channels"]
    assert listed["status"] == "finalized"
    again = serve()
    lost = again.events.next("finalized")
    assert (lost["channelId"], lost["unsettled"]) == (channel_id, "1000")
    again.end()
    third = serve()
    time.sleep(2)
    third.end()
    assert [line["event"] for line in third.events.end()] == ["listening", "stopped"]


def test_a_close_that_a_reorganisation_undid(serve, pay, alice, bob, chain):
    """Anybody can have it mined again: the gateway does, and sells nothing on the channel until then."""
    gateway = serve()
    channel_id = pay(gateway.url).data["payment"]["channelId"]
    alice.run("channel", "close", channel_id, "--yes").succeeded()
    first = gateway.events.next("closed")
    with Wallet.open(environment=bob.environment) as wallet:
        [closing] = wallet.ledger.journal.beginning_with("close-")
    chain.rpc.call("evm_setAutomine", [False])
    try:
        chain.rpc.call("anvil_reorg", [1, []])
        gateway.events.next("reorganised")
        alice.run("channel", "list").succeeded()
        pay(gateway.url + "/2", "--timeout", "5", env={"MICROWALLET_WAIT_SECONDS": "1"})
        with suppress(RpcError):  # a node that has it
            chain.rpc.call("eth_sendRawTransaction", [hexed(closing.transaction.raw)])
    finally:
        chain.rpc.call("evm_setAutomine", [True])
    chain.rpc.call("evm_mine")
    state = EscrowReader(chain.rpc, chain.escrow_contract).channel_state(channel_id)
    spent = {one.channel_id: one.spent for one in channels(bob)}
    assert (state.finalized, state.settled, spent[channel_id]) == (True, 1000, 1000)
    again = gateway.events.next("closed")
    assert [again[one] for one in ("transactionHash", "captured")] == [first["transactionHash"], "1000"]


def test_a_purse_without_coin_is_told(serve, pay, bob, chain):
    """Before anything is owed, as no close can be answered; it goes on selling, and what is owed is kept."""
    gateway = serve()
    pay(gateway.url).data  # noqa: B018
    gateway.end()
    assert "warning" not in [line["event"] for line in gateway.events.seen]
    chain.rpc.call("anvil_setBalance", [bob.address, hex(10**12)])
    gateway = serve("--settle-above", "0.001 USDC")
    said = gateway.events.next("warning")["message"]
    assert said.startswith(f"{bob.address} holds 0.000001 ETH on anvil, too little for the gas of a close: ")
    assert gateway.events.next("failed")["code"] == "insufficient-funds"
    pay(gateway.url).data  # noqa: B018
    assert gateway.end() == 0
    assert gateway.events.next("stopped")["unsettled"][0]["unsettled"] == "2000"


def test_a_key_of_another_account_that_cannot_be_used(serve, pay, bob, tmp_path):
    """It is paid to another account than before: what the former is owed is named at the start, not only once
    its payers leave; nothing is said of a key that can be used."""
    gateway = serve("--account", "bob")
    pay(gateway.url).data  # noqa: B018
    gateway.end()
    bob.with_account("other")
    gateway = serve("--account", "other", "--relayer", "bob")
    time.sleep(2)
    gateway.end()
    assert [line["event"] for line in gateway.events.seen] == ["listening", "stopped"]
    another = tmp_path / "another"
    another.write_text("another password\n")
    another.chmod(0o600)
    bob.run("account", "password", "bob", "--new-password-file", another).succeeded()
    gateway = serve("--account", "other", env={"MICROWALLET_PASSWORD_FILE": str(bob.password_file)})
    while True:
        message = gateway.events.next("warning")["message"]
        if bob.address in message:
            break
    assert message.startswith("the password of the key of account bob is wrong: what payers owe")


def test_another_process_of_the_payee(serve, pay, bob):
    """`payee list`, `settle` and `close` beside a running gateway; a closed channel sells no more."""
    gateway = serve()
    channel_id = pay(gateway.url).data["payment"]["channelId"]
    listed = bob.run("payee", "list", "--json")
    assert [one["channelId"] for one in listed.data["channels"]] == [channel_id]
    assert "unwatched" not in listed.stderr
    assert bob.run("payee", "settle", channel_id, "--yes", "--json").data["channels"][0]["captured"] == "1000"
    pay(gateway.url + "/2").data  # noqa: B018
    closed = bob.run("payee", "close", "--all", "--yes", "--json").data
    assert closed["channels"][0]["captured"] == "1000"
    other = pay(gateway.url + "/3").data["payment"]["channelId"]
    assert other != channel_id


def test_an_imported_channel_pays_at_once(serve, pay, bob, tmp_path):
    """The import could not ask the chain; a gateway that runs does, when the first request comes."""
    gateway = serve()
    channel_id = pay(gateway.url).data["payment"]["channelId"]
    assert gateway.end() == 0
    backup = tmp_path / "vouchers.jsonl"
    bob.run("payee", "export", backup).succeeded()
    for file in bob.path.glob("ledger*"):
        file.unlink()
    gateway = serve()
    away = {"MICROWALLET_RPC_URL": "http://127.0.0.1:9", "MICROWALLET_RPC_TIMEOUT": "1"}
    assert "was not asked" in bob.run("payee", "import", backup, env=away).succeeded().stderr
    paid = pay(gateway.url).data["payment"]
    assert (paid["channelId"], paid["deposited"], paid["receiptProblems"]) == (channel_id, False, [])
    assert gateway.end() == 0
    assert [line["status"] for line in gateway.requests.end()] == [402, 200]


def test_whoever_watches_last_is_seen(serve, pay, bob, chain):
    """Of two gateways with an account each in one home both watch: what is owed is watched until both end."""
    other = bob.with_account("other").address
    gateways = [serve("--account", name) for name in ("bob", "other")]
    for address in (bob.address, other):
        while not is_held(settling_lock(bob.path, chain.chain_id, address)):
            time.sleep(0.01)
    pay(gateways[0].url).data  # noqa: B018
    for gateway in gateways:
        assert "nobody watches" not in bob.run("payee", "list").succeeded().stderr
        assert bob.run("payee", "watch", "--once").exit_code == 2
        assert gateway.end() == 0
    assert "nobody watches" in bob.run("payee", "list").succeeded().stderr


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_second_gateway_says_whose_settings_count(serve, bob, chain, workers):
    """One of a home settles; of several workers of one gateway nothing is said."""
    first, lock = serve("--workers", workers), settling_lock(bob.path, chain.chain_id, bob.address)
    while not is_held(lock):
        time.sleep(0.01)
    second = serve()
    assert [one["event"] for one in first.events.seen] == ["listening"]
    [warning, _listening] = second.events.seen
    assert warning["message"].startswith("another gateway with this account")


def test_a_gateway_takes_over_without_the_key(serve, pay, bob, chain):
    """Its file is gone: no close can be made, which is told once there is one to make; it goes on selling."""
    first, lock = serve(), settling_lock(bob.path, chain.chain_id, bob.address)
    while not is_held(lock):
        time.sleep(0.01)
    second = serve()
    file = bob.path / "keys" / "accounts" / "bob.json"
    key = file.read_bytes()
    file.unlink()
    assert first.end() == 0
    while not is_held(lock):
        time.sleep(0.01)
    assert pay(second.url).data["status"] == 200
    file.write_bytes(key)
    assert second.end() == 0


def test_the_account_that_it_is_paid_to_is_not_removed(serve, pay, bob, chain):
    """Not while it runs, though nothing is owed yet: nobody could take what it sells for then."""
    gateway, lock = serve(), settling_lock(bob.path, chain.chain_id, bob.address)
    while not is_held(lock):
        time.sleep(0.01)
    remove = ("account", "remove", bob.address, "--confirm", "bob", "--json")
    refused = bob.run(*remove)
    assert refused.exit_code == 2
    assert "a gateway that runs is paid to it" in refused.error["message"]
    bob.run("account", "create", "other").succeeded()
    bob.run("account", "remove", "other", "--confirm", "other").succeeded()
    assert pay(gateway.url).data["status"] == 200
    assert gateway.end() == 0
    assert bob.run("payee", "close", "--all", "--yes", "--json").data["channels"][0]["captured"] == "1000"
    bob.run(*remove).succeeded()


@pytest.mark.parametrize("workers", [1, 2])
def test_a_close_beside_it_waits_for_what_is_being_served(serve, pay, bob, upstream, workers):
    """What is given back in the end is not taken, though it was reserved when `payee close` began."""
    gateway = serve("--workers", workers)
    channel_id = pay(gateway.url).data["payment"]["channelId"]
    with ThreadPoolExecutor() as pool:
        failing = pool.submit(pay, gateway.url + "/slow/status/500")
        while not any(path.startswith("/slow") for path, _ in upstream.asked):
            time.sleep(0.01)
        assert channels(bob)[0].spent == 2000
        assert (
            bob.run("payee", "settle", channel_id, "--yes", "--json").data["channels"][0]["captured"]
            == "1000"
        )
        close = bob.start("payee", "close", channel_id, "--yes", "--json", stdout=subprocess.PIPE)
        time.sleep(2)
        assert close.poll() is None
        upstream.slow.set()
        assert failing.result().data["status"] == 500
    told = json.loads(close.communicate(timeout=60)[0])["data"]["channels"]
    assert [one["captured"] for one in told] == ["0"]
    assert (channels(bob)[0].state.settled, channels(bob)[0].spent) == (1000, 1000)
    assert gateway.end() == 0
    assert not list(bob.path.glob("payee-in-hand-*"))


def test_it_watches_again_once_files_can_be_opened(bob, chain, monkeypatch):
    """Clients may take all that a process may have open: payers do not withdraw unseen after that."""
    monkeypatch.setattr(selling, "LOOK_SECONDS", 0.05)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)

    async def scene(shop, lock):
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
        looking = asyncio.create_task(shop.shop.look())
        await asyncio.sleep(0.3)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for _ in range(200):
            if looking.done() or is_held(lock):
                break
            await asyncio.sleep(0.05)
        assert is_held(lock)
        looking.cancel()

    with closing(PayingShop(bob, chain)) as shop:
        try:
            asyncio.run(scene(shop, settling_lock(bob.path, chain.chain_id, shop.payee)))
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        told = [(event, details.get("code")) for event, details in shop.events]
    assert told == [("interrupted", "ledger-unwritable"), ("resumed", None)]
