"""`channel list`, `show` and `sync`: the ledger agrees with the chain, and nothing is made up."""

from __future__ import annotations

import json
import shlex
import shutil
import time

import pytest
from anybody import done_as

from microwallet import Wallet as ProgramsWallet
from microwallet.devnet.local_chain import local_chain
from microwallet.domain.channel import CLOSE_GRACE_PERIOD
from microwallet.domain.identifiers import checksum_address
from microwallet.domain.money import Amount
from microwallet.errors import EscrowMissing, OutcomeUnknown
from microwallet.escrow import calls
from microwallet.escrow.authorizations import AUTHORIZATION_SECONDS, EXPIRY_MARGIN
from microwallet.escrow.reader import EscrowReader
from microwallet.http402.charging.settling import Settling, SettlingPolicy
from microwallet.payer.deposit import make_deposit
from microwallet.payer.open import plan_open
from microwallet.payer.refresh import refresh
from microwallet.payer.signed_deposit import sign_deposit
from microwallet.wallet import Wallet

TEN = 10_000_000
OTHER_ESCROW = checksum_address(b"\xe5" * 20)


@pytest.fixture
def coffee(alice, coffee) -> dict:
    """A channel with 10 USDC, 3 of them authorized by the voucher beside it."""
    first, second = (alice.run("pay", "coffee", amount).succeeded().stdout for amount in "12")
    return coffee | {"first": first, "voucher": second}


@pytest.fixture
def fresh(alice, make_home, chain):
    """A new home with nothing but alice's key."""
    home = make_home("fresh", chain)
    shutil.copytree(alice.path / "keys" / "accounts", home.path / "keys" / "accounts")
    return home


@pytest.fixture
def opened_elsewhere(alice, bob, fresh, chain):
    """Makes a deposit of 10 USDC, by a function, into a channel of another escrow, which both homes trust;
    what that has given."""
    code = chain.rpc.call("eth_getCode", [chain.escrow_contract, "latest"])
    chain.rpc.call("anvil_setCode", [OTHER_ESCROW, code])
    for home in (alice, fresh):
        home.run("escrow", "trust", OTHER_ESCROW, "--yes").succeeded()

    def opened(make, *, is_gasless=False, **settings):
        with Wallet.open(environment=alice.environment | settings) as wallet:
            account = wallet.paying_account(escrow_contract=OTHER_ESCROW)
            amount = Amount(TEN, wallet.resolve_asset("USDC"))
            return make(account, plan_open(account, bob.address, amount, is_gasless=is_gasless))

    return opened


def test_a_lost_ledger_is_rebuilt(fresh, coffee, bob, tmp_path):
    """From the key alone: found, not paying, its authorized amount unknown, until the voucher comes."""
    found = fresh.run("channel", "sync", "--json").data
    assert found["added"] == [coffee["channelId"]]
    (channel,) = found["channels"]
    for key in (
        "payer",
        "payee",
        "token",
        "salt",
        "authorizedSigner",
        "deposit",
        "status",
        "asset",
        "decimals",
    ):
        assert channel[key] == coffee[key], key
    assert (channel["authorized"], channel["remaining"], channel["label"]) == (None, None, None)
    assert "unknown" in fresh.run("channel", "list").stdout
    refused = fresh.run("pay", bob.address, "1")
    assert refused.exit_code == 4
    assert "sync --voucher" in refused.stderr
    file = tmp_path / "voucher.json"
    file.write_text(coffee["voucher"])
    imported = fresh.run("channel", "sync", "--voucher", str(file), "--json").data
    assert imported["imported"] == [{"channelId": coffee["channelId"], "cumulativeAmount": "3000000"}]
    assert imported["added"] == []
    paid = fresh.run("pay", bob.address, "1", "--json").data
    assert (paid["cumulativeAmount"], paid["channelId"]) == ("4000000", coffee["channelId"])


def found_by_command(home):
    """The channels that `channel sync` finds."""
    return home.run("channel", "sync", "--json").data["added"]


def found_by_program(home):
    """The channels that a program's sync finds."""
    with ProgramsWallet.open(home.path, rpc_url=home.settings["MICROWALLET_RPC_URL"]) as wallet:
        return [one.channel_id for one in wallet.sync()]


@pytest.mark.parametrize("found_by", [found_by_command, found_by_program])
def test_a_channel_in_another_escrow_that_is_trusted_is_found_too(found_by, fresh, opened_elsewhere):
    """From the key alone, as any other: its deposit would be lost."""
    made = opened_elsewhere(make_deposit)
    assert found_by(fresh) == [made.channel.channel_id]


def test_an_open_in_another_escrow_is_not_given_up(alice, bob, opened_elsewhere, chain):
    """The payee has brought it onto the chain, and what was signed for it has expired since: it is there."""
    signed = opened_elsewhere(sign_deposit, is_gasless=True)
    call = calls.open_with_authorization(signed.channel.descriptor, TEN, signed.authorization)
    done_as(bob.address, call, chain)
    chain.node.advance(AUTHORIZATION_SECONDS + EXPIRY_MARGIN + 1)
    synced = alice.run("channel", "sync", "--json").data
    assert [one["status"] for one in synced["deposits"]] == ["done"]
    assert [one["channelId"] for one in synced["channels"]] == [signed.channel.channel_id]


def test_an_open_in_another_escrow_that_got_no_answer_is_finished_by_its_hint(
    alice, opened_elsewhere, faults
):
    """`channel open` opens in the wallet's own escrow alone, and would tell to take another key."""
    faults.drop_answer_of = "eth_sendRawTransaction"
    with pytest.raises(OutcomeUnknown) as unknown:
        opened_elsewhere(make_deposit, MICROWALLET_RPC_URL=faults.url, MICROWALLET_WAIT_SECONDS="1")
    told = alice.run(*shlex.split(unknown.value.hint)[1:], "--json").data
    assert [one["status"] for one in told["deposits"]] == ["done"]


def test_an_escrow_that_is_not_there_keeps_no_other_from_being_looked_at(
    alice, bob, opened_elsewhere, chain, faults
):
    """As on a chain that was started anew without it. What is unfinished elsewhere is brought to its end."""
    opened_elsewhere(make_deposit)
    opened_elsewhere(sign_deposit, is_gasless=True)
    faults.drop_answer_of = "eth_sendRawTransaction"
    env = {"MICROWALLET_RPC_URL": faults.url, "MICROWALLET_WAIT_SECONDS": "1"}
    opened = ("channel", "open", bob.address, "1 USDC", "--label", "mug", "--yes", "--json")
    assert alice.run(*opened, env=env).exit_code == 5
    chain.rpc.call("anvil_setCode", [OTHER_ESCROW, "0x"])
    synced = alice.run("channel", "sync", "--json")
    assert len(synced.data["channels"]) == 3
    assert f"there is no escrow contract at {OTHER_ESCROW}" in synced.stderr
    with Wallet.open(environment=alice.environment) as wallet:
        pending = wallet.ledger.deposits.pending()
        escrows = [wallet.ledger.channels.get(one.channel_id).descriptor.escrow_contract for one in pending]
    assert escrows == [OTHER_ESCROW]


@pytest.mark.parametrize("command", ["channel list", "channel sync", "balance"])
def test_what_an_escrow_that_is_not_there_cannot_tell_hides_no_other_channel(
    alice, coffee, opened_elsewhere, chain, payee_takes, command
):
    """Its channels are told as they were, which is said; those of the other escrows as the chain has them."""
    lost = opened_elsewhere(make_deposit).channel
    chain.rpc.call("anvil_setCode", [OTHER_ESCROW, "0x"])
    payee_takes(coffee | {"voucher": json.loads(coffee["voucher"])}, TEN // 10, close=False)
    told = alice.run(*command.split()).succeeded()
    assert f"there is no escrow contract at {OTHER_ESCROW}" in told.stderr
    listed = alice.run("channel", "list", "--offline", "--json").data["channels"]
    assert {one["channelId"]: (one["deposit"], one["settled"]) for one in listed} == {
        coffee["channelId"]: ("10000000", "1000000"),
        lost.channel_id: ("10000000", "0"),
    }
    assert alice.run("channel", "show", lost.channel_id, "--json").data["status"] == "open"
    assert alice.run("channel", "top-up", lost.channel_id, "1", "--yes").exit_code == 3


def test_nor_does_it_for_the_payee(alice, bob, coffee, opened_elsewhere, chain):
    """What each channel owes is listed, and a close that a payer requests is answered; to settle ends with 3,
    as no transaction may go where no code is."""
    bob.run("escrow", "trust", OTHER_ESCROW, "--yes").succeeded()
    lost = opened_elsewhere(make_deposit).channel.channel_id
    vouchers = coffee["voucher"] + alice.run("pay", lost, "1").succeeded().stdout
    bob.run("payee", "accept", "-", input=vouchers).succeeded()
    chain.rpc.call("anvil_setCode", [OTHER_ESCROW, "0x"])
    listed = bob.run("payee", "list", "--json")
    assert {one["channelId"]: one["unsettled"] for one in listed.data["channels"]} == {
        coffee["channelId"]: "3000000",
        lost: "1000000",
    }
    for told in (listed, bob.run("payee", "show", lost).succeeded()):
        assert f"there is no escrow contract at {OTHER_ESCROW}" in told.stderr
    assert bob.run("payee", "settle", lost, "--yes").exit_code == 3
    with Wallet.open(environment=alice.environment) as wallet:
        channel = wallet.ledger.channels.get(coffee["channelId"])
    done_as(alice.address, calls.request_close(channel.descriptor), chain)
    watched = bob.run("payee", "watch", "--once", "--json")
    assert [event["event"] for event in watched.lines] == ["close-requested", "closed"]
    assert watched.exit_code == 3


def test_an_escrow_of_a_channel_is_known_when_it_is_trusted_no_more(alice, opened_elsewhere, chain):
    """It has money of this wallet: what it may still take is told, and nothing is sent to it by mistake."""
    opened_elsewhere(make_deposit)
    with Wallet.open(environment=alice.environment) as wallet, wallet.configuration.editing() as content:
        del content["escrows"]
    done_as(alice.address, calls.approve(chain.token, OTHER_ESCROW, TEN), chain)
    (left,) = alice.run("escrow", "allowances", "--json").data["allowances"]
    assert (left["escrowContract"], left["allowance"]) == (OTHER_ESCROW, str(TEN))
    refused = alice.run("send", OTHER_ESCROW, "1 USDC", "--yes", "--json")
    assert (refused.exit_code, "is an escrow itself" in refused.error["message"]) == (2, True)


def test_what_is_owed_elsewhere_is_captured_all_the_same(alice, bob, coffee, opened_elsewhere, chain):
    """A gateway answers closes, and settles what is due, in every other escrow; then says what is missing."""
    bob.run("escrow", "trust", OTHER_ESCROW, "--yes").succeeded()
    lost = opened_elsewhere(make_deposit).channel.channel_id
    opened = ("channel", "open", bob.address, "1 USDC", "--label", "mug", "--yes", "--json")
    mug = alice.run(*opened).data["channelId"]
    vouchers = coffee["voucher"] + alice.run("pay", lost, "1").succeeded().stdout
    bob.run("payee", "accept", "-", input=vouchers + alice.run("pay", mug, "1").stdout).succeeded()
    chain.rpc.call("anvil_setCode", [OTHER_ESCROW, "0x"])
    alice.run("channel", "close", "coffee", "--yes").succeeded()
    told = []
    with Wallet.open(environment=bob.environment) as wallet:
        settling = Settling(
            wallet.settlement,
            wallet.ledger.vouchers,
            SettlingPolicy(payee=bob.address, chain_id=chain.chain_id, idle_seconds=0),
            clock=wallet.now,
            emit=lambda event, details: told.append((event, details["channelId"])),
        )
        with pytest.raises(EscrowMissing):
            settling.look()
    closed = coffee["channelId"]
    assert told == [("close-requested", closed), ("closed", closed), ("settled", mug)]


def test_a_channel_in_a_token_that_is_not_known_is_paid_from_by_the_name_it_gets(
    alice, fresh, bob, token_without
):
    """As each hint writes amounts of it; the token's own name is not believed."""
    token = token_without(
        "permit(address,address,uint256,uint256,uint8,bytes32,bytes32)", owner=alice.address
    )
    alice.run("network", "token", "add", token, "--alias", "TKN").succeeded()
    alice.run("channel", "open", bob.address, "5 TKN", "--yes").succeeded()
    voucher = alice.run("pay", bob.address, "1 TKN").succeeded().stdout
    (channel,) = fresh.run("channel", "sync", "--voucher", "-", "--json", input=voucher).data["channels"]
    assert token[2:6] in channel["asset"]
    paid = fresh.run("pay", bob.address, f"0.5 {channel['asset']}", "--json").data
    assert paid["cumulativeAmount"] == "1500000"


def test_nothing_of_a_channel_whose_voucher_is_unknown_is_free(fresh, coffee):
    """Its payee may have a voucher for all of it; none of it can be paid until that is known."""
    fresh.run("channel", "sync").succeeded()
    (held,) = [one for one in fresh.run("balance", "--json").data["balances"] if one["asset"] == "USDC"]
    assert (held["locked"], held["authorized"], held["free"]) == (coffee["deposit"], coffee["deposit"], "0")
    topped_up = fresh.run("channel", "top-up", coffee["channelId"], "5 USDC", "--yes").succeeded().stdout
    assert "the deposit is 15 USDC, an unknown part of it is left\n" in topped_up


def test_the_highest_of_many_vouchers_counts(fresh, coffee, bob):
    """Lines in any order, bare or in an envelope: the highest is taken, and authorized never falls."""
    envelope = json.dumps({"schema": 1, "ok": True, "data": json.loads(coffee["voucher"])})
    told = fresh.run("channel", "sync", "--voucher", "-", "--json", input=f"{envelope}\n\n{coffee['first']}")
    assert told.data["imported"][0]["cumulativeAmount"] == "3000000"
    again = fresh.run("channel", "sync", "--voucher", "-", "--json", input=coffee["first"])
    assert again.data["channels"][0]["authorized"] == "3000000"
    assert fresh.run("pay", bob.address, "1", "--json").data["cumulativeAmount"] == "4000000"


def test_all_that_a_payee_exports_may_be_imported(fresh, coffee, bob, make_wallet):
    """The vouchers of its other payers are left out, which is said."""
    carol = make_wallet("carol")
    carol.run("channel", "open", bob.address, "1 USDC", "--yes").succeeded()
    theirs = carol.run("pay", bob.address, "1").stdout
    bob.run("payee", "accept", "-", input=theirs + coffee["voucher"]).succeeded()
    exported = bob.run("payee", "export").stdout
    assert len(exported.splitlines()) == 2
    imported = fresh.run("channel", "sync", "--voucher", "-", "--json", input=exported)
    assert [one["cumulativeAmount"] for one in imported.data["imported"]] == ["3000000"]
    assert "left out: 1 of the file's channels, which this wallet does not pay through" in imported.stderr


def changed(text: str, **fields: object) -> str:
    """A voucher with some fields changed."""
    return json.dumps(json.loads(text) | fields) + "\n"


def test_a_voucher_that_proves_nothing_is_refused(fresh, coffee, bob):
    """Another amount, signature, descriptor or channel, or no voucher at all: nothing is imported."""
    voucher, signature = coffee["voucher"], json.loads(coffee["voucher"])["signature"]
    flipped = signature[:-4] + ("00" if signature[-4:-2] != "00" else "01") + signature[-2:]
    lies = [
        (4, changed(voucher, cumulativeAmount="3000001")),
        (4, changed(voucher, signature=flipped)),
        (4, changed(voucher, signature=signature[:-2])),
        (4, changed(voucher, payee="0x" + "44" * 20)),
        (2, changed(voucher, channelId="0x" + "44" * 32)),
        (4, "not JSON\n"),
        (4, "{}\n"),
        (4, ""),
        (4, "1" * 20_000),
        (4, voucher + changed(voucher, cumulativeAmount="9000000")),
    ]
    for exit_code, text in lies:
        refused = fresh.run("channel", "sync", "--voucher", "-", "--json", input=text)
        assert refused.exit_code == exit_code, (text[:80], refused)
        assert refused.error["code"] in ("voucher-rejected", "not-found")
    assert fresh.run("pay", bob.address, "1").exit_code == 4
    assert fresh.run("channel", "sync", "--voucher", "/nowhere", "--json").exit_code == 2


def test_a_voucher_below_what_is_settled_is_not_the_highest(fresh, coffee, payee_takes):
    """The chain settled more than the voucher carries: it cannot be the last one."""
    coffee["voucher"] = json.loads(coffee["voucher"])
    payee_takes(coffee, 3_000_000, close=False)
    refused = fresh.run("channel", "sync", "--voucher", "-", "--json", input=coffee["first"])
    assert (refused.exit_code, refused.error["code"]) == (4, "voucher-rejected")
    assert coffee["payee"] in refused.error["hint"]


def test_sync_again_changes_nothing(alice, coffee):
    """The ledger's own channels keep label and authorized amount, however often it is run."""
    for _ in range(2):
        synced = alice.run("channel", "sync", "--json").data
        assert (synced["added"], synced["deposits"], synced["transactions"]) == ([], [], [])
        (channel,) = synced["channels"]
        assert (channel["label"], channel["authorized"]) == ("coffee", "3000000")
        assert channel["channelId"] == coffee["channelId"]


def test_what_is_paid_and_settled_while_a_list_waits_for_the_chain_is_no_old_copy(alice, coffee, payee_takes):
    """More is settled than was signed when it asked, not than is signed by now: the channel pays on."""

    class Slow(EscrowReader):
        def channel_states(self, *arguments):
            if not coffee.get("paid"):
                coffee["paid"] = coffee["voucher"] = alice.run("pay", "coffee", "4", "--json").data
                payee_takes(coffee, 7_000_000, close=False)
            return super().channel_states(*arguments)

    with Wallet.open(environment=alice.environment) as wallet:
        channels = wallet.ledger.channels.list(finalized=False)
        reader = Slow(wallet.rpc, wallet.escrow_contract)
        refreshed = refresh(wallet.ledger, lambda _: reader, channels, now=wallet.now())
    assert [(one.state.settled, one.authorized) for one in refreshed.channels] == [(7_000_000, 7_000_000)]
    assert refreshed.notes == []
    assert alice.run("pay", "coffee", "1", "--json").data["cumulativeAmount"] == "8000000"


def test_an_older_ledger_is_noticed(alice, coffee, payee_takes):
    """A copy of the ledger from before a payment that was settled: it says so and does not pay."""
    old = alice.path / "ledger.sqlite3"
    saved = old.read_bytes()
    newer = alice.run("pay", "coffee", "4", "--json").data
    coffee["voucher"] = newer
    payee_takes(coffee, 7_000_000, close=False)
    for name in ("ledger.sqlite3", "ledger.sqlite3-wal", "ledger.sqlite3-shm", "ledger.mark"):
        (alice.path / name).unlink(missing_ok=True)
    old.write_bytes(saved)
    listed = alice.run("channel", "list", "--json")
    assert "it is an old copy, and does not pay until: microwallet channel sync --voucher" in listed.stderr
    assert (listed.data["channels"][0]["settled"], listed.data["channels"][0]["authorized"]) == (
        "7000000",
        None,
    )
    assert alice.run("pay", "coffee", "1").exit_code == 4
    told = alice.run("channel", "sync", "--voucher", "-", "--json", input=json.dumps(newer)).data
    assert told["channels"][0]["authorized"] == "7000000"
    assert alice.run("pay", "coffee", "1", "--json").data["cumulativeAmount"] == "8000000"


def test_a_finalized_channel_asks_an_older_ledger_for_nothing(fresh, coffee, payee_takes):
    """More was settled than it knows of, which is told; no voucher makes the channel pay again."""
    fresh.run("channel", "sync", "--voucher", "-", input=coffee["first"]).succeeded()
    payee_takes(coffee | {"voucher": json.loads(coffee["voucher"])}, 3_000_000, close=True)
    told = fresh.run("channel", "list").stderr
    assert "is settled than this ledger ever signed: it is an old copy\n" in told


def test_a_reorganised_top_up(alice, coffee, chain, witness):
    """A top-up that is undone takes its room back; sync sends it again."""
    witness.mine()
    alice.run("channel", "top-up", "coffee", "5 USDC", "--yes")
    chain.rpc.call("anvil_reorg", [1, []])
    assert alice.run("channel", "list", "--json").data["channels"][0]["deposit"] == str(TEN)
    assert alice.run("pay", "coffee", "8").exit_code == 4
    alice.run("channel", "sync")
    synced = alice.run("channel", "sync", "--json").data
    assert synced["channels"][0]["deposit"] == "15000000"
    assert witness.of(coffee["payer"]).deposit == 15_000_000


@pytest.mark.parametrize("before", ["approve", "send"])
def test_what_was_reorganised_before_a_top_up(alice, bob, coffee, chain, witness, before):
    """It is sent again first, as the top-up waits for its nonce; by a sync, and by the top-up itself where it
    is its own approve."""
    witness.mine()
    top_up = ("channel", "top-up", "coffee", "5 USDC", "--yes", "--json")
    if before == "send":
        alice.run("send", bob.address, "1 ETH", "--yes").succeeded()
        alice.run(*top_up).succeeded()
    else:
        alice.run(*top_up, "--via", "approve", "--idempotency-key", "k").succeeded()
    chain.rpc.call("anvil_reorg", [2, []])
    if before == "send":
        alice.run("channel", "sync").succeeded()
    else:
        alice.run(*top_up, "--idempotency-key", "k", env={"MICROWALLET_WAIT_SECONDS": "5"}).succeeded()
    synced = alice.run("channel", "sync", "--json").data
    assert (synced["transactions"], synced["deposits"]) == ([], [])
    assert synced["channels"][0]["deposit"] == "15000000"
    assert witness.of(coffee["payer"]).deposit == 15_000_000
    if before == "approve":
        assert witness.allowance(chain.token, alice.address) == 0


def test_list_and_show(alice, coffee, bob):
    """Refreshed with asOf; by id, prefix, label and payee; --offline asks no chain."""
    (listed,) = alice.run("channel", "list", "--json").data["channels"]
    assert (listed["status"], listed["authorized"], listed["remaining"]) == ("open", "3000000", "7000000")
    assert listed["asOf"] >= coffee["asOf"]
    table = alice.run("channel", "list").stdout
    for word in ("coffee", coffee["channelId"], "DEPOSIT", "open"):
        assert word in table
    for reference in (coffee["channelId"], coffee["channelId"][:10], "coffee", bob.address):
        shown = alice.run("channel", "show", reference, "--json").data
        assert shown["channelId"] == coffee["channelId"]
    unknown = alice.run("channel", "show", "tea", "--json")
    assert (unknown.exit_code, unknown.error["code"]) == (2, "not-found")
    assert "coffee" in unknown.error["message"]
    down = {"MICROWALLET_RPC_URL": "http://127.0.0.1:9"}
    for command in (("channel", "list"), ("channel", "show", "coffee"), ("balance",)):
        refused = alice.run(*command, "--json", env=down)
        assert refused.exit_code == 3
        assert "--offline" in refused.error["hint"]
        assert alice.run(*command, "--offline", "--json", env=down).exit_code == 0


@pytest.mark.usefixtures("coffee")
def test_a_chain_that_cannot_be_asked_changes_nothing(alice, faults):
    """Garbage, silence or another chain: exit 3, and no channel, key or amount is gone."""
    before = alice.run("channel", "list", "--all", "--offline", "--json").data
    faults.dead = True
    impatient = {"MICROWALLET_RPC_TIMEOUT": "1"}
    for command in ("list", "sync"):
        refused = alice.run("channel", command, "--json", "--rpc-url", faults.url, env=impatient)
        assert refused.exit_code == 3
    assert alice.run("channel", "list", "--all", "--offline", "--json").data == before
    assert alice.run("pay", "coffee", "1").exit_code == 0


def test_a_wallet_without_channels(fresh, home):
    """An empty list is exit 0 and says how to begin; sync without an account is exit 2."""
    listed = fresh.run("channel", "list", "--json")
    assert listed.data == {"channels": []}
    assert "microwallet channel open" in listed.stderr
    assert home.run("channel", "sync", "--json").exit_code == 2


@pytest.mark.parametrize("command", [("list",), ("show", "coffee"), ("list", "--offline")])
@pytest.mark.usefixtures("coffee")
def test_looking_at_channels_loads_nothing_slow(alice, command):
    """A refreshed list goes through the small reader, not through web3."""
    assert not alice.imports("channel", *command) & {"web3", "eth_account", "keyring"}


def test_a_chain_that_was_started_anew(make_home, bob, anvil):
    """What was opened on the chain before is given up: neither sent again nor listed."""
    opening = ("channel", "open", bob.address, "10 USDC", "--label", "coffee", "--yes", "--json")
    with local_chain(anvil) as before:
        alice = make_home("alice", before).with_account("alice")
        before.node.add_native(alice.address, 10**18)
        before.node.mint(before.token, alice.address, 10**8)
        opened = alice.run(*opening).data
        voucher = alice.run("pay", "coffee", "1").succeeded().stdout
        alice.run("channel", "open", bob.address, "1 USDC", "--label", "mug", "--yes").succeeded()
        alice.run("channel", "close", "mug", "--yes").succeeded()
        before.node.advance(CLOSE_GRACE_PERIOD)
        alice.run("channel", "withdraw", "mug", "--yes").succeeded()
    time.sleep(1.1)  # what is of the same second may be of either
    with local_chain(anvil) as after:
        anew = {"MICROWALLET_RPC_URL": after.rpc_url}
        after.node.add_native(alice.address, 10**18)
        after.node.mint(after.token, alice.address, 10**8)
        for _ in range(8):  # as many blocks as before
            after.node.advance(1)
        alice.run("channel", "list", env=anew).succeeded()
        listed = alice.run("channel", "list", "--json", env=anew)
        assert [one["status"] for one in listed.data["channels"]] == ["opening"]
        assert "microwallet channel sync" in listed.stderr
        synced = alice.run("channel", "sync", "--json", env=anew)
        (deposit,) = synced.data["deposits"]
        assert (deposit["channelId"], deposit["status"]) == (opened["channelId"], "abandoned")
        assert "started anew" in synced.stderr
        assert (synced.data["channels"], synced.data["transactions"]) == ([], [])
        held = alice.run("balance", "--json", env=anew).data
        assert "100000000" in json.dumps(held)
        assert alice.run("channel", "list", "--json", env=anew).data["channels"] == []
        again = alice.run("channel", "sync", env=anew).succeeded()
        assert opened["channelId"] not in again.stdout + again.stderr
        assert alice.run(*opening, env=anew).data["channelId"] != opened["channelId"]
        paid = alice.run("pay", "coffee", "2", env=anew).succeeded().stdout
        assert json.loads(paid)["cumulativeAmount"] == "2000000"
        (kept,) = [
            one
            for one in alice.run("channel", "list", "--all", "--json", env=anew).data["channels"]
            if one["channelId"] == opened["channelId"]
        ]
        assert kept["authorized"] == json.loads(voucher)["cumulativeAmount"] == "1000000"


def test_an_open_of_an_earlier_chain_is_made_again_under_its_key(make_home, bob, anvil):
    """On the new chain, by a transaction of its own: what was signed before is never sent there."""
    opening = ("channel", "open", bob.address, "10 USDC", "--label", "coffee", "--yes", "--json")
    keyed = (*opening, "--idempotency-key", "order-17")
    with local_chain(anvil) as before:
        alice = make_home("alice", before).with_account("alice")
        before.node.add_native(alice.address, 10**18)
        before.node.mint(before.token, alice.address, 10**8)
        alice.run("send", bob.address, "0.1 ETH", "--yes").succeeded()  # so that the nonces differ
        opened = alice.run(*keyed).data
    time.sleep(1.1)  # what is of the same second may be of either
    with local_chain(anvil) as after:
        anew = {"MICROWALLET_RPC_URL": after.rpc_url, "MICROWALLET_WAIT_SECONDS": "5"}
        after.node.add_native(alice.address, 10**18)
        after.node.mint(after.token, alice.address, 10**8)
        alice.run("channel", "sync", env=anew).succeeded()
        again = alice.run(*keyed, env=anew).data
        assert again["channelId"] == opened["channelId"]
        assert again["transactionHash"] != opened["transactionHash"]
        (listed,) = alice.run("channel", "list", "--json", env=anew).data["channels"]
        assert (listed["status"], listed["label"]) == ("open", "coffee")
        after.rpc.call("anvil_reorg", [1, []])
        synced = alice.run("channel", "sync", "--json", env=anew).data
        assert [one["status"] for one in synced["deposits"]] == ["done"]
