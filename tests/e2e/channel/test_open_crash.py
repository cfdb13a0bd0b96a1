"""Opens that die, get lost or are undone: always finished by the next run, never made twice."""

from __future__ import annotations

import random
import sqlite3
import subprocess
import time

import pytest
from anybody import send_as

from microwallet.escrow.calls import Call

IMPATIENT = {"MICROWALLET_WAIT_SECONDS": "1"}
TEN = ("10 USDC", 10_000_000)
LONG = pytest.mark.long


def begin(home, payee: str, amount: str, *more: object, **options):
    """`channel open` to its end, whatever that is."""
    return home.run("channel", "open", payee, amount, *more, "--yes", "--json", **options)


def finish(home, witness, payee: str, amount: str, *more: object, base_units: int, **options) -> str:
    """Run the same open again: it succeeds, and the chain has exactly one such channel; its id."""
    channel = begin(home, payee, amount, *more, **options).data
    seen = witness.of(home.address)
    assert seen.opened == [channel["channelId"]]
    assert seen.deposit == base_units
    assert channel["status"] == "open"
    assert home.run("pay", channel["channelId"], "0.0001", "--json").exit_code == 0
    return channel["channelId"]


def rows(home, table: str) -> int:
    """How many rows a table of a home's ledger has; 0 before there is one."""
    path = home.path / "ledger.sqlite3"
    if not path.exists():
        return 0
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    try:
        return connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
    except sqlite3.Error:
        return 0
    finally:
        connection.close()


def kill_when(home, arguments: tuple[object, ...], condition, *, patience: float = 20) -> bool:
    """Start `channel open` and kill it as soon as `condition()` holds; whether it was still running."""
    process = home.start(
        "channel", "open", *arguments, "--yes", "--json", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + patience
    while process.poll() is None and not condition() and time.monotonic() < deadline:
        time.sleep(0.001)
    running = process.poll() is None
    if running:
        process.kill()
    process.wait()
    return running


@pytest.mark.parametrize(("amount", "base_units"), [TEN, pytest.param("0.1 ETH", 10**17, marks=LONG)])
@pytest.mark.parametrize("table", ["deposits", "transactions"])
def test_killed_after_a_commit(alice, bob, witness, amount, base_units, table):
    """Killed as soon as the deposit, or its transaction, is committed: the next run finishes it."""
    arguments = (bob.address, amount, "--label", "coffee")
    assert kill_when(alice, arguments, lambda: rows(alice, table) > 0)
    finish(alice, witness, *arguments, base_units=base_units)


@pytest.mark.parametrize("via", ["authorization", pytest.param("permit", marks=LONG), "approve"])
def test_killed_while_the_transaction_waits(alice, bob, chain, witness, via):
    """Killed when the transaction is out and not mined: resumed without a key, and by its key."""
    arguments = (bob.address, "10 USDC", "--via", via, "--idempotency-key", "k1")
    chain.rpc.call("evm_setAutomine", [False])
    try:
        assert kill_when(alice, arguments, lambda: bool(witness.pooled()))
    finally:
        chain.rpc.call("evm_setAutomine", [True])
    said = begin(alice, bob.address, "10 USDC")
    assert "resuming the open begun as k1" in said.stderr
    witness.mine()
    assert finish(alice, witness, *arguments, base_units=TEN[1]) == said.data["channelId"]
    assert witness.of(alice.address).transactions == (2 if via == "approve" else 1)


def kill_at_random(alice, bob, witness, seeds: range) -> None:
    """Kill opens anywhere, in all ways, each some times before it may end."""
    for seed in seeds:
        chance = random.Random(seed)
        via = chance.choice(["auto", "authorization", "permit", "approve"])
        arguments = (bob.address, "1 USDC", "--via", via, "--idempotency-key", f"k{seed}")
        for _ in range(chance.randint(1, 3)):
            ends = time.monotonic() + chance.uniform(0.1, 1.6)
            kill_when(alice, arguments, lambda ends=ends: time.monotonic() > ends)
        assert begin(alice, *arguments).data["status"] == "open"
    seen = witness.of(alice.address)
    assert (len(seen.opened), seen.deposit) == (len(seeds), len(seeds) * 1_000_000)
    listed = alice.run("channel", "list", "--all", "--json").data["channels"]
    assert sorted(one["channelId"] for one in listed) == sorted(seen.opened)


def test_killed_anywhere(alice, bob, witness):
    """Killed at a random moment, again and again: one channel a key, and no other."""
    kill_at_random(alice, bob, witness, range(3))


@LONG
@pytest.mark.parametrize("part", range(10))
def test_killed_anywhere_long(alice, bob, witness, part):
    """The same, some hundred kills."""
    kill_at_random(alice, bob, witness, range(part * 15, part * 15 + 15))


def test_not_mined_in_time(alice, bob, chain, witness):
    """A transaction that is not mined in time is exit 5 with the command that resolves it."""
    chain.rpc.call("evm_setAutomine", [False])
    unknown = begin(alice, bob.address, "10 USDC", "--label", "coffee", env=IMPATIENT)
    assert (unknown.exit_code, unknown.error["code"]) == (5, "outcome-unknown")
    assert "--idempotency-key" in unknown.error["hint"]
    listed = alice.run("channel", "list", "--json").data["channels"]
    assert [(one["status"], one["deposit"], one["label"]) for one in listed] == [("opening", "0", "coffee")]
    refused = alice.run("pay", "coffee", "1")
    assert refused.exit_code == 4
    again = begin(alice, bob.address, "10 USDC", "--label", "coffee", env=IMPATIENT)
    assert again.exit_code == 5
    assert len(witness.pooled()) == 1
    chain.rpc.call("evm_setAutomine", [True])
    witness.mine()
    finish(alice, witness, bob.address, "10 USDC", "--label", "coffee", base_units=TEN[1])


@pytest.mark.parametrize(("amount", "base_units"), [TEN, pytest.param("0.1 ETH", 10**17, marks=LONG)])
def test_dropped_by_the_node(alice, bob, chain, witness, amount, base_units):
    """A transaction that the node forgot is sent again, the same one."""
    chain.rpc.call("evm_setAutomine", [False])
    assert begin(alice, bob.address, amount, env=IMPATIENT).exit_code == 5
    (sent,) = witness.pooled()
    chain.rpc.call("anvil_dropTransaction", [sent])
    assert witness.pooled() == []
    chain.rpc.call("evm_setAutomine", [True])
    finish(alice, witness, bob.address, amount, base_units=base_units)
    assert witness.of(alice.address).transactions == 1


def replace_pooled(alice, chain, witness):
    """Another wallet with the same key takes the nonce of what waits in the pool."""
    chain.rpc.call("anvil_dropTransaction", [witness.pooled()[0]])
    send_as(alice.address, Call(to=alice.address), chain)
    witness.mine()
    chain.rpc.call("evm_setAutomine", [True])


def test_replaced_by_another_wallet(alice, bob, chain, witness):
    """Another wallet with the same key takes the nonce: the open is signed anew, for the same channel."""
    chain.rpc.call("evm_setAutomine", [False])
    unknown = begin(alice, bob.address, "0.1 ETH", "--label", "eth", env=IMPATIENT)
    assert unknown.exit_code == 5
    replace_pooled(alice, chain, witness)
    (known,) = alice.run("channel", "list", "--json").data["channels"]
    channel_id = finish(alice, witness, bob.address, "0.1 ETH", "--label", "eth", base_units=10**17)
    assert channel_id == known["channelId"]


def test_an_authorization_that_expired(alice, bob, chain, witness):
    """What was signed and never mined expires; the retry signs anew, for the same channel."""
    chain.rpc.call("evm_setAutomine", [False])
    assert begin(alice, bob.address, "10 USDC", "--label", "coffee", env=IMPATIENT).exit_code == 5
    (known,) = alice.run("channel", "list", "--json").data["channels"]
    chain.rpc.call("anvil_dropTransaction", [witness.pooled()[0]])
    chain.rpc.call("evm_setAutomine", [True])
    chain.node.advance(7200)
    channel_id = finish(alice, witness, bob.address, "10 USDC", "--label", "coffee", base_units=TEN[1])
    assert channel_id == known["channelId"]


def test_an_answer_that_never_came(alice, bob, faults, witness):
    """The chain took the transaction, its answer was lost: exit 5, and the next run finds it done."""
    faults.drop_answer_of = "eth_sendRawTransaction"
    lost = begin(
        alice,
        bob.address,
        "10 USDC",
        "--rpc-url",
        faults.url,
        env=IMPATIENT | {"MICROWALLET_RPC_TIMEOUT": "1"},
    )
    assert lost.exit_code == 5
    finish(alice, witness, bob.address, "10 USDC", base_units=TEN[1])
    assert witness.of(alice.address).transactions == 1


@pytest.mark.parametrize(
    "method",
    [
        pytest.param("eth_maxPriorityFeePerGas", marks=LONG),
        pytest.param("eth_estimateGas", marks=LONG),
        "eth_getTransactionReceipt",
    ],
)
def test_the_chain_goes_away_midway(alice, bob, faults, witness, method):
    """The chain falls silent at some point: exit 3 or 5, and the next run makes one channel of it."""
    faults.drop_answer_of = method
    gone = begin(
        alice,
        bob.address,
        "10 USDC",
        "--rpc-url",
        faults.url,
        env=IMPATIENT | {"MICROWALLET_RPC_TIMEOUT": "1"},
    )
    assert gone.exit_code in (3, 5)
    finish(alice, witness, bob.address, "10 USDC", base_units=TEN[1])


def test_a_reorganisation_of_the_open(alice, bob, chain, witness):
    """An open that a reorganisation undid is `opening` again and does not pay; sync repairs it."""
    witness.mine()
    begin(alice, bob.address, "10 USDC", "--label", "coffee")
    chain.rpc.call("anvil_reorg", [1, []])
    assert witness.of(alice.address).opened == []
    listed = alice.run("channel", "list", "--json")
    assert [one["status"] for one in listed.data["channels"]] == ["opening"]
    assert "no longer on the chain" in listed.stderr
    assert alice.run("pay", "coffee", "1").exit_code == 4
    alice.run("channel", "sync", "--json")
    synced = alice.run("channel", "sync", "--json").data
    assert [(one["label"], one["status"]) for one in synced["channels"]] == [("coffee", "open")]
    seen = witness.of(alice.address)
    assert (len(seen.opened), seen.deposit) == (1, 10_000_000)
    assert alice.run("pay", "coffee", "1").exit_code == 0


def test_sync_finishes_an_open_that_was_killed(alice, bob, witness):
    """`sync` alone sends what was signed and says what became of it."""
    arguments = (bob.address, "0.1 ETH", "--label", "eth", "--idempotency-key", "k1")
    kill_when(alice, arguments, lambda: rows(alice, "transactions") > 0)
    synced = alice.run("channel", "sync", "--json").data
    (deposit,) = synced["deposits"] or [{"idempotencyKey": "k1", "status": "done"}]
    assert (deposit["idempotencyKey"], deposit["status"]) == ("k1", "done")
    assert [one["status"] for one in synced["channels"]] == ["open"]
    assert witness.of(alice.address).deposit == 10**17


def test_sync_abandons_only_what_is_dead(alice, bob, chain, witness, monkeypatch):
    """Nonce gone and authorization expired: only then is an open abandoned. Its key still works."""
    monkeypatch.setattr("microwallet.payer.sync.LAG_SECONDS", 1)
    arguments = (bob.address, "10 USDC", "--label", "coffee", "--idempotency-key", "k1")
    chain.rpc.call("evm_setAutomine", [False])
    assert begin(alice, *arguments, env=IMPATIENT).exit_code == 5
    replace_pooled(alice, chain, witness)
    (deposit,) = alice.run("channel", "sync", "--json").data["deposits"]
    assert deposit["status"] == "pending"
    assert deposit["expiresAt"] is not None
    chain.node.advance(7200)
    (deposit,) = alice.run("channel", "sync", "--json").data["deposits"]
    assert (deposit["idempotencyKey"], deposit["status"]) == ("k1", "abandoned")
    assert alice.run("channel", "list", "--json").data["channels"] == []
    [abandoned] = alice.run("channel", "list", "--all", "--json").data["channels"]
    assert abandoned["status"] == "abandoned"
    refused = alice.run("pay", abandoned["channelId"], "1 USDC", "--json")
    assert (refused.exit_code, refused.error["code"]) == (4, "channel-not-open")
    assert refused.error["hint"] == f"microwallet channel open {bob.address} DEPOSIT"
    finish(alice, witness, *arguments, base_units=TEN[1])
    assert [one["label"] for one in alice.run("channel", "list", "--json").data["channels"]] == ["coffee"]


@LONG
def test_gas_became_dearer(alice, bob, chain, witness):
    """A transaction that offers too little by now gets a higher fee at its own nonce."""
    chain.rpc.call("evm_setAutomine", [False])
    assert begin(alice, bob.address, "10 USDC", env=IMPATIENT).exit_code == 5
    chain.rpc.call("anvil_setNextBlockBaseFeePerGas", [hex(20 * 10**9)])
    witness.mine()
    chain.rpc.call("anvil_setNextBlockBaseFeePerGas", [hex(20 * 10**9)])
    assert witness.of(alice.address).transactions == 0
    chain.rpc.call("evm_setIntervalMining", [1])
    try:
        finish(alice, witness, bob.address, "10 USDC", base_units=TEN[1])
    finally:
        chain.rpc.call("evm_setIntervalMining", [0])
        chain.rpc.call("evm_setAutomine", [True])
    assert witness.of(alice.address).transactions == 1
