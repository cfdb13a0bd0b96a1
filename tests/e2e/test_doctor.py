"""`doctor`: each line is ok, or the command that mends it; nothing is changed by looking."""

from __future__ import annotations

import pytest

NOWHERE = {"MICROWALLET_RPC_URL": "http://127.0.0.1:9", "MICROWALLET_RPC_TIMEOUT": "1"}


def checks(done):
    """What was found, by name."""
    return {one["name"]: one for one in done.json["data"]["checks"]}


def test_a_sound_wallet(alice, bob):
    """Every check is ok, and the exit status 0."""
    alice.run("channel", "open", bob.address, "1 USDC", "--yes").succeeded()
    found = checks(alice.run("doctor", "--json").succeeded())
    assert list(found) == ["python", "packages", "files", "keys", "ledger", "network", "escrow", "clock"]
    assert all(one["ok"] and one["mend"] is None for one in found.values()), found


def test_an_empty_home(home):
    """Nothing is there yet, which is no fault; and nothing is there afterwards."""
    found = checks(home.run("doctor", "--offline", "--json").succeeded())
    assert list(found) == ["python", "packages", "files", "keys", "ledger"]
    assert not home.path.exists()


def test_what_others_can_read(alice):
    """The command that is named makes it private."""
    (alice.path / "keys" / "accounts" / "alice.json").chmod(0o644)
    done = alice.run("doctor", "--offline", "--json")
    assert (done.exit_code, done.error["hint"]) == (2, f"chmod -R go-rwx {alice.path}")
    assert not checks(done)["files"]["ok"]


def test_a_damaged_ledger(alice, bob):
    """Said beside the other checks, which go on."""
    alice.run("channel", "open", bob.address, "1 USDC", "--yes").succeeded()
    with (alice.path / "ledger.sqlite3").open("r+b") as file:
        file.write(b"no ledger at all")
    found = checks(alice.run("doctor", "--json"))
    assert [name for name, one in found.items() if not one["ok"]] == ["ledger"]
    assert "microwallet channel sync" in found["ledger"]["mend"]


def test_a_lost_ledger(alice, bob):
    """The voucher keys are there still, so there was one; what is named finds its channels again."""
    channel_id = alice.run("channel", "open", bob.address, "1 USDC", "--yes", "--json").data["channelId"]
    for lost in alice.path.glob("ledger.*"):
        lost.unlink()
    found = checks(alice.run("doctor", "--json"))
    assert [name for name, one in found.items() if not one["ok"]] == ["ledger"]
    assert "microwallet channel sync" in found["ledger"]["mend"]
    assert alice.run("channel", "sync", "--json").data["added"] == [channel_id]


def test_no_chain_at_all(alice):
    """What the chain was to be asked fails, with a command; the rest is told."""
    found = checks(alice.run("doctor", "--json", env=NOWHERE))
    assert [name for name, one in found.items() if not one["ok"]] == ["network", "escrow", "clock"]
    assert found["network"]["mend"] == "microwallet devnet up --port 9"


@pytest.mark.parametrize("name", ["anvil", "mychain"])
def test_a_local_chain_keeps_its_own_time(alice, chain, name):
    """Its clock may be moved, under whatever name it is known: that is no fault of this machine's."""
    if name != "anvil":
        add = ("network", "add", name, "--chain-id", chain.chain_id, "--rpc-url", chain.rpc_url, "--testnet")
        alice.run(*add).succeeded()
    chain.node.advance(1000)
    assert checks(alice.run("doctor", "--network", name, "--json").succeeded())["clock"]["ok"]
