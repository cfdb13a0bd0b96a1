"""The payee's side by the real command on a real chain: whatever happens, what is owed stays owed."""

from __future__ import annotations

import json
import os
import random
import stat
import time

import pytest
from anybody import pooled
from waiting import wait_until

from microwallet.escrow import calls
from microwallet.ledger.ledger import Ledger

WEI = 10**18


def test_a_close_pays_refunds_and_happens_once(payee, payers):
    """The voucher's amount arrives, the rest goes back, and closing again finds nothing to do."""
    opened = payers.open(payee.address, 10_000_000)
    payee.accept(opened.voucher(1_500_000))
    closed = payee.run("close", opened.channel_id, "--yes")
    (channel,) = closed.data["channels"]
    (transaction,) = closed.data["transactions"]
    assert closed.stderr.startswith("sending a transaction to close a channel\n")  # waits for nobody
    assert channel == {
        "channelId": opened.channel_id,
        "captured": "1500000",
        "refunded": "8500000",
        "asset": "USDC",
        "decimals": 6,
        "status": "finalized",
        "transactionHash": transaction["transactionHash"],
        "gasUsed": transaction["gasUsed"],
    }
    assert transaction["channels"] == [opened.channel_id]
    assert payee.holds() == 1_500_000
    assert payers.reader.token_balance(payee.token, opened.descriptor.payer) == 8_500_000
    assert payee.run("close", "--all", "--yes").data == {"channels": [], "transactions": []}
    assert payee.run("close", opened.channel_id, "--yes").data == {"channels": [], "transactions": []}
    assert payee.run("list").data == {"channels": []}
    assert [row["status"] for row in payee.run("list", "--all").data["channels"]] == ["finalized"]
    with Ledger.open(payee.home.path / "ledger.sqlite3") as ledger:
        assert ledger.vouchers.untold_ends(31337) == []  # whoever watches need not tell it


def test_without_a_name_the_only_channel_is_meant(payee, payers):
    """`payee close` closes the one channel there is, names the candidates of several, and none is fine."""
    assert payee.run("close", "--yes").data == {"channels": [], "transactions": []}
    first, second = payers.open(payee.address), payers.open(payee.address)
    payee.accept(first.voucher(5), second.voucher(6))
    refused = payee.run("close", "--yes")
    assert refused.error["code"] == "ambiguous"
    assert first.channel_id in refused.error["message"]
    assert second.channel_id in refused.error["message"]
    payee.run("close", first.channel_id[:12], "--yes").data  # noqa: B018
    assert [row["channelId"] for row in payee.run("close", "--yes").data["channels"]] == [second.channel_id]


def test_a_settle_leaves_the_channel_open(payee, payers):
    """Settling takes what is owed; a later voucher is worth the difference; nothing owed is nothing done."""
    opened = payers.open(payee.address, 10_000_000)
    payee.accept(opened.voucher(1_000_000))
    (settled,) = payee.run("settle", "--all", "--yes").data["channels"]
    assert (settled["captured"], settled["refunded"], settled["status"]) == ("1000000", "0", "open")
    assert payee.run("settle", "--all", "--yes").data == {"channels": [], "transactions": []}
    payee.accept(opened.voucher(1_200_000))
    (shown,) = payee.run("list").data["channels"]
    assert (shown["settled"], shown["authorized"], shown["unsettled"]) == ("1000000", "1200000", "200000")
    assert shown["label"] is None
    assert payee.run("show", opened.channel_id[:10]).data == shown
    (closed,) = payee.run("close", "--all", "--yes").data["channels"]
    assert (closed["captured"], closed["refunded"]) == ("200000", "8800000")
    assert payee.holds() == 1_200_000


def test_a_payee_may_capture_less(payee, payers):
    """--capture takes exactly that total; outside what the voucher and the chain allow nothing happens."""
    opened, other = payers.open(payee.address, 10_000_000), payers.open(payee.address)
    payee.accept(opened.voucher(3_000_000), other.voucher(1))
    for verb, amount, code, exit_code in (
        ("settle", "10.000001 USDC", "amount-exceeds-deposit", 4),
        ("settle", "3.000001 USDC", "payment-refused", 4),
        ("close", "0", "invalid-amount", 2),
        ("close", "1.0000001 USDC", "invalid-amount", 2),
        ("close", "1 ETH", "invalid-amount", 2),
    ):
        refused = payee.run(verb, opened.channel_id, "--capture", amount, "--yes")
        assert (refused.error["code"], refused.exit_code) == (code, exit_code)
    for verb in ("settle", "close"):
        refused = payee.run(verb, "--all", "--capture", "1 USDC", "--yes")
        assert (refused.exit_code, refused.error["hint"]) == (
            2,
            f"microwallet payee {verb} CHANNEL --capture AMOUNT",
        )
    assert payee.sent() == 0
    (settled,) = payee.run("settle", opened.channel_id, "--capture", "1 USDC", "--yes").data["channels"]
    assert settled["captured"] == "1000000"
    below = payee.run("close", opened.channel_id, "--capture", "0.999999", "--yes")
    assert (below.error["code"], below.exit_code) == ("payment-refused", 4)
    (closed,) = payee.run("close", opened.channel_id, "--capture", "1 USDC", "--yes").data["channels"]
    assert (closed["captured"], closed["refunded"]) == ("0", "9000000")
    assert payee.holds() == 1_000_000


def test_small_sums_can_wait(payee, payers):
    """--min leaves out channels that owe less, or another asset than the one named."""
    small, large = payers.open(payee.address), payers.open(payee.address)
    native = payers.open(payee.address, WEI, native=True)
    payee.accept(small.voucher(999_999), large.voucher(1_000_000), native.voucher(WEI // 2))
    closed = payee.run("close", "--all", "--min", "1 USDC", "--yes").data["channels"]
    assert [row["channelId"] for row in closed] == [large.channel_id]
    assert payee.run("close", "--all", "--min", "-1 USDC", "--yes").exit_code == 2
    closed = payee.run("settle", "--all", "--min", "0.5", "--yes").data["channels"]
    assert {row["channelId"] for row in closed} == {small.channel_id, native.channel_id}


def test_many_channels_take_one_transaction(payee, payers):
    """Channels of two assets are closed together, those with nothing owed too, and cheaply."""
    opened = [payers.open(payee.address, native=index == 3) for index in range(6)]
    payee.accept(*(channel.voucher(100 + index) for index, channel in enumerate(opened)))
    payee.run("settle", opened[0].channel_id, "--yes").data  # noqa: B018
    before = payee.holds()
    planned = payee.run("close", "--all", "--dry-run").data
    assert {row["channelId"] for row in planned["channels"]} == {one.channel_id for one in opened}
    assert all(row["transactionHash"] is None for row in planned["channels"])
    assert payee.sent() == 1
    data = payee.run("close", "--all", "--yes").data
    (transaction,) = data["transactions"]
    assert len(data["channels"]) == len(transaction["channels"]) == 6
    assert transaction["gasUsed"] < 6 * 60_000
    assert payee.holds() - before == 101 + 102 + 104 + 105
    assert {row["captured"] for row in data["channels"]} == {"0", "101", "102", "103", "104", "105"}
    looked = payee.run("close", "--all", "--dry-run").data
    assert (planned["dryRun"], looked["dryRun"], looked["channels"]) == (True, True, [])


@pytest.mark.long
def test_more_channels_than_fit_take_as_few_transactions_as_they_need(payee, payers):
    """A hundred and twenty channels: two transactions, each channel once, hostile ones left out of both."""
    hostile = [payers.open(payee.address, WEI, native=True) for _ in range(2)]
    good = [payers.open(payee.address) for _ in range(118)]
    payee.accept(*(channel.voucher(1_000) for channel in [*hostile, *good]))
    for channel in hostile:
        payers.become(channel)
    done = payee.run("close", "--all", "--yes")
    assert done.exit_code == 8
    data = done.json["data"]
    assert [len(row["channels"]) for row in data["transactions"]] == [98, 20, 2]
    assert {row["code"] for row in data["failed"]} == {"refund-undeliverable"}
    assert len({row["channelId"] for row in data["channels"]}) == 120
    assert payee.holds() == 118_000


@pytest.mark.parametrize(
    "code",
    ["0x60006000fd", "0x5b600056", "0x6200ffff5b600190038060045700"],
    ids=["refuses", "burns-gas", "burns-some"],
)
def test_a_payer_that_refuses_its_refund_harms_nobody(payee, payers, code):
    """In a batch the others close; the hostile payer's channel is settled, stays open, and is named."""
    hostile = payers.open(payee.address, WEI, native=True)
    owes_nothing = payers.open(payee.address, WEI, native=True)
    good = [payers.open(payee.address), payers.open(payee.address, WEI, native=True)]
    payee.accept(hostile.voucher(WEI // 4), *(one.voucher(700) for one in [*good, owes_nothing]))
    payee.run("settle", owes_nothing.channel_id, "--yes").data  # noqa: B018
    payers.become(hostile, code)
    payers.become(owes_nothing, code)
    done = payee.run("close", "--all", "--yes")
    assert (done.exit_code, done.error["exitCode"]) == (8, 8)
    rows = {row["channelId"]: row for row in done.json["data"]["channels"]}
    assert set(rows) == {hostile.channel_id, *(one.channel_id for one in good)}
    row = rows[hostile.channel_id]
    assert (row["status"], row["captured"]) == ("open", str(WEI // 4))
    assert {rows[one.channel_id]["status"] for one in good} == {"finalized"}
    failed = {row["channelId"]: row["code"] for row in done.json["data"]["failed"]}
    assert failed == dict.fromkeys((hostile.channel_id, owes_nothing.channel_id), "refund-undeliverable")
    assert sum(row["gasUsed"] for row in done.json["data"]["transactions"]) < 400_000
    sent = payee.sent()
    again = payee.run("close", "--all", "--yes")
    assert again.exit_code == 8
    assert again.json["data"]["channels"] == []
    assert payee.sent() == sent


@pytest.mark.parametrize("others", [0, 1, 2])
def test_a_payer_that_turns_hostile_in_the_same_block_harms_nobody(payee, payers, chain, others):
    """A close that passes every check and reverts when it is mined leaves the voucher: it is settled, and
    others that were in the same transaction are closed."""
    hostile = payers.open(payee.address, WEI, native=True)
    good = [payers.open(payee.address) for _ in range(others)]
    payee.accept(hostile.voucher(WEI // 4), *(one.voucher(700) for one in good))
    chain.rpc.call("evm_setAutomine", [False])
    closing = payee.home.start("payee", "close", "--all", "--yes", "--json", stdout=-1)
    try:
        wait_until(lambda: pooled(chain))
        payers.become(hostile)
        chain.rpc.call("evm_mine")
        chain.rpc.call("evm_setAutomine", [True])
        document = json.loads(closing.communicate(timeout=60)[0])
    finally:
        chain.rpc.call("evm_setAutomine", [True])
        closing.kill()
    assert closing.returncode == 8
    rows = {row["channelId"]: row for row in document["data"]["channels"]}
    row = rows.pop(hostile.channel_id)
    assert (row["captured"], row["status"]) == (str(WEI // 4), "open")
    assert {one: row["status"] for one, row in rows.items()} == {one.channel_id: "finalized" for one in good}
    assert [row["channelId"] for row in document["data"]["failed"]] == [hostile.channel_id]
    assert (payee.holds(), payee.sent() <= 2 + others) == (700 * others, True)


def test_a_settle_that_reverts_when_it_is_mined_is_told(payee, payers, chain):
    """As nobody expects it to: it is no refund that fails, and the voucher is settled another time."""
    opened = payers.open(payee.address)
    payee.accept(opened.voucher(700))
    code = chain.rpc.call("eth_getCode", [chain.escrow_contract, "latest"])
    chain.rpc.call("evm_setAutomine", [False])
    settling = payee.home.start("payee", "settle", "--all", "--yes", "--json", stdout=-1)
    try:
        wait_until(lambda: pooled(chain))
        chain.rpc.call("anvil_setCode", [chain.escrow_contract, "0x60006000fd"])
        chain.rpc.call("evm_mine")
        document = json.loads(settling.communicate(timeout=60)[0])
    finally:
        chain.rpc.call("anvil_setCode", [chain.escrow_contract, code])
        chain.rpc.call("evm_setAutomine", [True])
        settling.kill()
    assert [row["code"] for row in document["data"]["failed"]] == ["transaction-reverted"]
    assert settling.returncode == 8
    assert [row["captured"] for row in payee.run("settle", "--all", "--yes").data["channels"]] == ["700"]


def test_each_account_of_a_wallet_uses_its_own_key(payee, payers, chain):
    """Channels of two accounts are closed by two transactions, or by one with --account."""
    second = payee.home.run("account", "create", "second", "--json").data["address"]
    chain.node.add_native(second, WEI)
    opened = [payers.open(payee.address), payers.open(second), payers.open(second)]
    payee.accept(*(channel.voucher(9) for channel in opened))
    data = payee.run("close", "--all", "--account", "bob", "--yes").data
    assert [row["channelId"] for row in data["channels"]] == [opened[0].channel_id]
    data = payee.run("settle", opened[1].channel_id, "--yes").data
    assert len(data["channels"]) == 1
    data = payee.run("close", "--all", "--yes").data
    assert len(data["channels"]) == 2
    assert payee.holds() == 9
    assert payers.reader.token_balance(payee.token, second) == 18


def test_a_close_undone_by_a_reorganisation_is_done_again(payee, payers, chain):
    """The voucher outlives the block with its close: the channel is seen open again and closed again."""
    opened = payers.open(payee.address)
    payee.accept(opened.voucher(2_000_000))
    snapshot = chain.rpc.call("evm_snapshot")
    payee.run("close", "--all", "--yes").data  # noqa: B018
    assert payee.run("list", "--all", "--offline").data["channels"][0]["status"] == "finalized"
    chain.rpc.call("evm_revert", [snapshot])
    assert payee.holds() == 0
    (row,) = payee.run("list").data["channels"]
    assert (row["status"], row["unsettled"]) == ("open", "2000000")
    (closed,) = payee.run("close", "--all", "--yes").data["channels"]
    assert closed["captured"] == "2000000"
    assert payee.holds() == 2_000_000


def test_nothing_is_accepted_behind_a_close_that_a_reorganisation_undid(payee, payers, chain):
    """Anybody can have the same transaction mined once more, and what was paid since would be lost."""
    opened = payers.open(payee.address)
    payee.accept(opened.voucher(2_000_000))
    snapshot = chain.rpc.call("evm_snapshot")
    payee.run("close", "--all", "--yes").data  # noqa: B018
    chain.rpc.call("evm_revert", [snapshot])
    late = payee.run("accept", "-", input=opened.voucher(2_500_000))
    assert late.json["data"]["rejectedByReason"] == {"close-pending": 1}


@pytest.mark.parametrize("is_named", [False, True])
def test_a_batch_that_a_reorganisation_undid_is_sent_again(payee, payers, chain, is_named):
    """It can be mined again, for what it took then: once that is known, no voucher is accepted. For whichever
    of its channels is closed next, nothing else is sent."""
    opened = [payers.open(payee.address) for _ in range(2)]
    payee.accept(*(channel.voucher(1_000) for channel in opened))
    snapshot = chain.rpc.call("evm_snapshot")
    [first] = payee.run("close", "--all", "--yes").data["transactions"]
    chain.rpc.call("evm_revert", [snapshot])
    assert {row["status"] for row in payee.run("list").data["channels"]} == {"open"}
    late = payee.run("accept", "-", input=opened[0].voucher(1_500))
    assert late.exit_code == 4
    assert "close" in late.stdout
    data = payee.run("close", opened[0].channel_id if is_named else "--all", "--yes").data
    assert [row["transactionHash"] for row in data["transactions"]] == [first["transactionHash"]]
    assert {row["captured"] for row in data["channels"]} == {"1000"}
    assert (payee.holds(), payee.sent()) == (2_000, 1)


def test_a_voucher_right_after_a_close_was_undone(payee, payers, chain):
    """Nobody has looked since: what accepts asks the chain, and knows as much."""
    opened = payers.open(payee.address)
    payee.accept(opened.voucher(1_000))
    snapshot = chain.rpc.call("evm_snapshot")
    [first] = payee.run("close", "--all", "--yes").data["transactions"]
    chain.rpc.call("evm_revert", [snapshot])
    for amount in (1_500, 1_600):
        late = payee.run("accept", "-", input=opened.voucher(amount))
        assert late.exit_code == 4
        assert "close" in late.stdout
    data = payee.run("close", "--all", "--yes").data
    assert [row["transactionHash"] for row in data["transactions"]] == [first["transactionHash"]]
    assert (payee.holds(), payee.sent()) == (1_000, 1)
    assert payee.run("list").data["channels"] == []


@pytest.mark.parametrize("is_undone", [False, True])
def test_a_batch_that_closed_others_keeps_no_voucher_out(payee, payers, chain, is_undone):
    """Of a channel that was imported, or whose open a reorganisation had taken back for a while."""
    others = [payers.open(payee.address) for _ in range(2)]
    payee.accept(*(channel.voucher(1_000) for channel in others))
    payee.run("close", "--all", "--yes").data  # noqa: B018
    if is_undone:
        snapshot = chain.rpc.call("evm_snapshot")
        opened = payers.open(payee.address)
        payee.accept(opened.voucher(5))
        chain.rpc.call("evm_revert", [snapshot])
        assert payee.run("list").data["channels"][0]["status"] == "opening"
        payers.open_again(opened)
    else:
        opened = payers.open(payee.address)
        payee.run("import", "-", input=opened.voucher(5)).data  # noqa: B018
    assert payee.run("accept", "-", input=opened.voucher(7)).exit_code == 0
    assert payee.run("accept", "-", input=opened.voucher(8)).exit_code == 0


def test_a_close_that_is_buried_is_not_asked_about_again(payee, payers, chain):
    """Sixty-four blocks later a finalized channel needs no chain any more."""
    opened = payers.open(payee.address)
    payee.accept(opened.voucher(1))
    payee.run("close", "--all", "--yes").data  # noqa: B018
    before_the_escrow = 64 - payers.reader.head().number
    chain.rpc.call("anvil_mine", [hex(before_the_escrow)])
    assert len(payee.run("list", "--all").data["channels"]) == 1
    chain.rpc.call("anvil_mine", [hex(70)])
    payee.run("list").data  # noqa: B018
    without = {"MICROWALLET_RPC_URL": "http://127.0.0.1:9", "MICROWALLET_RPC_TIMEOUT": "2"}
    assert len(payee.run("list", "--all", env=without).data["channels"]) == 1


def test_a_close_whose_fate_is_unknown_is_resolved_by_the_next_run(payee, payers, chain):
    """Exit 5 while it is not mined; afterwards the next run tells what it did, and sends nothing more."""
    opened = payers.open(payee.address)
    payee.accept(opened.voucher(1_000_000))
    chain.rpc.call("evm_setAutomine", [False])
    try:
        hasty = {"MICROWALLET_WAIT_SECONDS": "1"}
        unknown = payee.run("close", "--all", "--yes", env=hasty)
        assert (unknown.exit_code, unknown.error["code"]) == (5, "outcome-unknown")
        assert unknown.json["data"]["failed"][0]["code"] == "outcome-unknown"
        assert payee.run("close", "--all", "--yes", env=hasty).exit_code == 5
        for hash in pooled(chain):
            chain.rpc.call("anvil_dropTransaction", [hash])
        assert not pooled(chain)
    finally:
        chain.rpc.call("evm_setAutomine", [True])
    data = payee.run("close", "--all", "--yes").data
    assert [row["captured"] for row in data["channels"]] == ["1000000"]
    assert len(data["transactions"]) == 1
    assert payee.sent() == 1
    assert payee.holds() == 1_000_000


@pytest.fixture
def left_unfinished(payee, payers, chain):
    """An account of the wallet was removed before its close, which was to take nothing, was mined."""
    second = payee.home.run("account", "create", "second", "--json").data["address"]
    chain.node.add_native(second, WEI)
    left = payers.open(second)
    payee.accept(left.voucher(1_000))
    payee.run("settle", left.channel_id, "--yes").data  # noqa: B018
    chain.rpc.call("evm_setAutomine", [False])
    try:
        unknown = payee.run("close", left.channel_id, "--yes", env={"MICROWALLET_WAIT_SECONDS": "1"})
        assert (unknown.exit_code, unknown.error["code"]) == (5, "outcome-unknown")
        for hash in pooled(chain):
            chain.rpc.call("anvil_dropTransaction", [hash])
    finally:
        chain.rpc.call("evm_setAutomine", [True])
    payee.home.run("account", "remove", "second", "--confirm", "second").succeeded()
    return left


@pytest.mark.usefixtures("left_unfinished")
def test_what_a_removed_account_has_left_unfinished_keeps_nobody_else(payee, payers):
    """What a payer wants back from another account is closed in time."""
    opened = payers.open(payee.address)
    payee.accept(opened.voucher(1_000))
    payers.request_close(opened)
    payee.run("watch", "--once").succeeded()
    assert (payee.holds(), payers.closes(opened)) == (1_000, 1)


def test_an_unfinished_close_keeps_vouchers_out_of_its_own_channel_alone(payee, payers, left_unfinished):
    """Another one that stays open, as its close fails, takes them again."""
    opened = payers.open(payee.address, WEI, native=True)
    payee.accept(opened.voucher(1_000))
    payers.become(opened, "0x60006000fd")
    assert payee.run("close", opened.channel_id, "--yes").error["code"] == "refund-undeliverable"
    payee.accept(opened.voucher(2_000))
    [channel] = [row for row in payee.run("list").data["channels"] if row["channelId"] == opened.channel_id]
    assert channel["unsettled"] == "1000"
    with Ledger.open(payee.home.path / "ledger.sqlite3") as ledger:
        assert ledger.vouchers.accepted([left_unfinished.channel_id])[left_unfinished.channel_id].is_closing


def test_nobody_is_asked_without_a_terminal(payee, payers):
    """A close needs --yes where nobody can answer; the amounts are in the message."""
    opened = payers.open(payee.address)
    payee.accept(opened.voucher(1_000_000))
    refused = payee.run("close", "--all")
    assert (refused.exit_code, refused.error["code"]) == (2, "confirmation-required")
    assert "pays 1 USDC" in refused.error["message"]
    assert "refunds 9 USDC" in refused.error["message"]
    assert payee.sent() == 0


def test_a_chain_that_cannot_be_asked_changes_nothing(payee, payers):
    """Exit 3, and the vouchers are still there; --offline tells what was known."""
    opened = payers.open(payee.address)
    payee.accept(opened.voucher(77))
    without = {"MICROWALLET_RPC_URL": "http://127.0.0.1:9", "MICROWALLET_RPC_TIMEOUT": "2"}
    for arguments in (["list"], ["close", "--all", "--yes"], ["settle", "--all", "--yes"]):
        assert payee.run(*arguments, env=without).exit_code == 3
    for arguments in (["list"], ["show", opened.channel_id]):
        hint = payee.run(*arguments, env=without).error["hint"]
        assert hint == "microwallet devnet up --port 9  (or add --offline)"
        known = payee.run(*arguments, "--offline", env=without).data
        (row,) = known.get("channels", [known])
        assert (row["authorized"], row["status"]) == ("77", "open")


def test_unwatched_money_is_warned_about(payee, payers):
    """`payee list` says on stderr what is unsettled, and that a close was requested."""
    opened = payers.open(payee.address)
    payee.accept(opened.voucher(1_000_000))
    listed = payee.run("list")
    assert "1 USDC is unsettled" in listed.stderr
    assert "microwallet payee watch" in listed.stderr
    payers.request_close(opened)
    assert f"microwallet payee close {opened.channel_id}" in payee.run("list").stderr
    payee.run("close", "--all", "--yes").data  # noqa: B018
    assert "warning" not in payee.run("list", "--all").stderr


def test_vouchers_are_exported_and_imported(payee, payers, tmp_path):
    """A backup restores what is owed to an empty home, while a close is pending and offline too."""
    first, second = payers.open(payee.address), payers.open(payee.address, WEI, native=True)
    payee.accept(first.voucher(5_000_000), second.voucher(12))
    backup = tmp_path / "vouchers.jsonl"
    assert payee.run("export", backup).data == {"file": str(backup), "vouchers": 2}
    assert stat.S_IMODE(backup.stat().st_mode) == 0o600
    again = payee.run("export", backup)
    assert again.exit_code == 2
    assert "--force" in again.error["hint"]
    payee.run("export", backup, "--force").data  # noqa: B018
    exported = payee.run("export", "-")
    assert exported.stdout == backup.read_text()
    lines = {line["channelId"]: line for line in exported.lines}
    assert lines[first.channel_id]["cumulativeAmount"] == "5000000"
    assert lines[first.channel_id]["remaining"] == "5000000"

    payers.request_close(first)
    (payee.home.path / "ledger.sqlite3").rename(tmp_path / "lost.sqlite3")
    (payee.home.path / "ledger.mark").unlink()
    without = {"MICROWALLET_RPC_URL": "http://127.0.0.1:9", "MICROWALLET_RPC_TIMEOUT": "2"}
    taken = payee.run("import", backup, env=without)
    assert taken.data["accepted"] == 2
    assert "the chain was not asked" in taken.stderr
    assert payee.run("import", "-", input=backup.read_text()).data["duplicates"] == 2
    closed = payee.run("close", first.channel_id, "--yes").data["channels"]
    assert [row["captured"] for row in closed] == ["5000000"]


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_an_export_takes_the_place_of_a_file_alone(payee, tmp_path, make):
    """A pipe, such as a shell makes, and a folder stay what they are, whatever is forced."""
    make(tmp_path / "there")
    for force in ((), ("--force",)):
        refused = payee.run("export", tmp_path / "there", *force)
        assert (refused.exit_code, "is no regular file" in refused.error["message"]) == (2, True)
    assert not (tmp_path / "there").is_file()


def test_an_import_takes_only_what_is_rightly_signed_and_ours(payee, payers):
    """Each bad line is rejected with its reason; the others are taken."""
    opened, other = payers.open(payee.address), payers.open(payers.open(payee.address).descriptor.payer)
    good = json.loads(opened.voucher(5))
    bad = {
        "malformed": good | {"salt": "0x" + "00" * 32},
        "signer-mismatch": good | {"cumulativeAmount": "6"},
        "wrong-escrow": good | {"escrowContract": opened.descriptor.payer},
        "invalid-signature": good | {"signature": good["signature"][:-2]},
        "wrong-payee": json.loads(other.voucher(5)),
    }
    lines = [json.dumps(document) for document in [*bad.values(), good]]
    done = payee.run("import", "-", input="\n".join([*lines, "no json", "x" * 20_000]))
    assert done.exit_code == 4
    data = done.json["data"]
    assert data["accepted"] == 1
    assert data["rejectedByReason"] == {**dict.fromkeys(bad, 1), "malformed": 2, "too-long": 1}


def test_a_withdrawn_channel_is_nothing_to_close(payee, payers, chain):
    """When the payer has taken its deposit back, closing says so by doing nothing."""
    opened = payers.open(payee.address)
    payee.accept(opened.voucher(5))
    payers.request_close(opened)
    chain.node.advance(900)
    payers.withdraw(opened)
    assert payee.run("close", "--all", "--yes").data == {"channels": [], "transactions": []}


def test_two_closes_at_once_close_each_channel_once(payee, payers):
    """Of processes that close the same channels at the same time one does it; the other finds nothing."""
    opened = [payers.open(payee.address) for _ in range(3)]
    payee.accept(*(channel.voucher(10) for channel in opened))
    started = [
        payee.home.start("payee", "close", "--all", "--yes", "--json", stdout=-1, stderr=-1) for _ in range(3)
    ]
    found = [json.loads(process.communicate(timeout=60)[0]) for process in started]
    assert [process.returncode for process in started] == [0, 0, 0]
    assert sorted(len(document["data"]["channels"]) for document in found) == [0, 0, 3]
    assert payee.sent() == 1
    assert payee.holds() == 30


def owed(payee, payers, count=2):
    """Channels that owe a thousand base units each."""
    opened = [payers.open(payee.address) for _ in range(count)]
    payee.accept(*(channel.voucher(1_000) for channel in opened))
    return opened


def kill_and_finish(payee, payers, chance):
    """Kill a close at a random moment; a normal run then leaves each channel closed exactly once."""
    opened = owed(payee, payers)
    before = payee.holds()
    closing = payee.home.start("payee", "close", "--all", "--yes", stdout=-3, stderr=-3)
    time.sleep(chance)
    closing.kill()
    closing.wait()
    payee.run("close", "--all", "--yes").data  # noqa: B018
    assert payee.holds() - before == 2_000
    assert [payers.closes(channel) for channel in opened] == [1, 1]
    assert payee.run("list").data == {"channels": []}


def time_of_a_close(payee, payers):
    """Seconds that a close takes here and now."""
    owed(payee, payers)
    started = time.monotonic()
    payee.run("close", "--all", "--yes").data  # noqa: B018
    return time.monotonic() - started


def test_a_killed_close_is_finished_and_never_done_twice(payee, payers):
    """SIGKILL at a few random moments of a close."""
    seconds, chance = time_of_a_close(payee, payers), random.Random(5)
    for _ in range(3):
        kill_and_finish(payee, payers, chance.uniform(0.3, 1.0) * seconds)


@pytest.mark.long
def test_hundred_killed_closes_are_finished(payee, payers):
    """SIGKILL at a hundred random moments of a close."""
    seconds, chance = time_of_a_close(payee, payers), random.Random(6)
    for _ in range(100):
        kill_and_finish(payee, payers, chance.uniform(0.2, 1.1) * seconds)


@pytest.mark.parametrize("since", ["dropped", "mined", "seen"])
def test_a_close_killed_after_it_was_sent_is_finished(payee, payers, chain, since):
    """Killed between broadcast and receipt: the next run tells of it, also where another one saw the channels
    closed, or sends the same bytes again."""
    opened = owed(payee, payers)
    chain.rpc.call("evm_setAutomine", [False])
    try:
        closing = payee.home.start("payee", "close", "--all", "--yes", stdout=-3, stderr=-3)
        (sent,) = wait_until(lambda: pooled(chain))
        closing.kill()
        closing.wait()
        if since == "dropped":
            chain.rpc.call("anvil_dropTransaction", [sent])
    finally:
        chain.rpc.call("evm_setAutomine", [True])
    if since != "dropped":
        chain.rpc.call("evm_mine")
    if since == "seen":
        assert payee.run("list").data["channels"] == []
    data = payee.run("close", "--all", "--yes").data
    assert [row["transactionHash"] for row in data["transactions"]] == [sent]
    assert {row["channelId"] for row in data["channels"]} == {channel.channel_id for channel in opened}
    assert {row["captured"] for row in data["channels"]} == {"1000"}
    assert payee.sent() == 1


def test_a_payee_that_cannot_pay_for_gas_is_told(payee, payers, chain):
    """Nothing is lost, and the error names what is missing."""
    opened = payers.open(payee.address)
    payee.accept(opened.voucher(5))
    chain.rpc.call("anvil_setBalance", [payee.address, "0x1"])
    poor = payee.run("close", "--all", "--yes")
    assert (poor.exit_code, poor.error["code"]) == (4, "insufficient-funds")
    chain.node.add_native(payee.address, WEI)
    assert len(payee.run("close", "--all", "--yes").data["channels"]) == 1


def test_a_voucher_below_what_is_settled_still_closes(payee, payers, tmp_path):
    """A ledger older than the chain closes without its voucher: nothing is taken, nothing reverts."""
    opened = payers.open(payee.address)
    payee.accept(opened.voucher(500))
    backup = tmp_path / "old.jsonl"
    payee.run("export", backup).data  # noqa: B018
    payee.accept(opened.voucher(900))
    payee.run("settle", "--all", "--yes").data  # noqa: B018
    (payee.home.path / "ledger.sqlite3").unlink()
    (payee.home.path / "ledger.mark").unlink()
    payee.run("import", backup).data  # noqa: B018
    (closed,) = payee.run("close", "--all", "--yes").data["channels"]
    assert (closed["captured"], closed["status"]) == ("0", "finalized")
    assert payee.holds() == 900


def test_a_channel_that_is_not_on_chain_keeps_its_voucher(payee, payers, chain):
    """A reorganisation that takes the open out: closing is refused, listing shows it, nothing is lost."""
    snapshot = chain.rpc.call("evm_snapshot")
    opened = payers.open(payee.address)
    payee.accept(opened.voucher(5))
    chain.rpc.call("evm_revert", [snapshot])
    chain.node.add_native(payee.address, WEI)
    assert payee.run("close", "--all", "--yes").data["channels"] == []
    refused = payee.run("close", opened.channel_id, "--yes")
    assert (refused.exit_code, refused.error["code"]) == (4, "channel-not-open")
    listed = payee.run("list")
    (row,) = listed.data["channels"]
    assert (row["status"], row["authorized"]) == ("opening", "5")
    assert f"channel {opened.channel_id} is not on the chain any more" in listed.stderr


def test_a_voucher_right_after_an_open_was_undone(payee, payers, chain):
    """Nobody has looked since: what accepts asks the chain, and rejects it, whether it knew the channel."""
    snapshot = chain.rpc.call("evm_snapshot")
    known, unknown = (payers.open(payee.address) for _ in range(2))
    payee.accept(known.voucher(5))
    chain.rpc.call("evm_revert", [snapshot])
    late = payee.run("accept", "-", input=known.voucher(6) + unknown.voucher(6))
    assert late.exit_code == 4
    assert late.json["data"]["rejectedByReason"] == {"channel-not-found": 2}


def test_a_channel_that_the_chain_was_not_asked_about_is_not_missing(payee, payers, tmp_path):
    """A restored voucher: only the chain can tell what became of its channel."""
    payee.accept(payers.open(payee.address).voucher(5))
    backup = tmp_path / "backup.jsonl"
    payee.run("export", backup).data  # noqa: B018
    for name in ("ledger.sqlite3", "ledger.mark"):
        (payee.home.path / name).unlink()
    without = {"MICROWALLET_RPC_URL": "http://127.0.0.1:9", "MICROWALLET_RPC_TIMEOUT": "2"}
    payee.run("import", backup, env=without).data  # noqa: B018
    for flags in (["--offline"], []):
        listed = payee.run("list", *flags)
        assert len(listed.data["channels"]) == 1
        assert "not on the chain" not in listed.stderr


def test_a_top_up_makes_a_large_voucher_worth_more(payee, payers, chain):
    """What the chain holds is captured: after a top up, all that the voucher authorizes."""
    opened = payers.open(payee.address, 1_000)
    chain.node.mint(payee.token, opened.descriptor.payer, 500)
    payers.send(opened.descriptor.payer, calls.approve(payee.token, chain.escrow_contract, 500))
    payers.send(opened.descriptor.payer, calls.top_up(opened.descriptor, 500))
    payee.accept(opened.voucher(1_400))
    (closed,) = payee.run("close", "--yes").data["channels"]
    assert (closed["captured"], closed["refunded"]) == ("1400", "100")
