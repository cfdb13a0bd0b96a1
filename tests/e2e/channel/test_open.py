"""`channel open`: every kind of token, nothing without a yes, and one channel for one key."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from anybody import done_as
from odd_tokens import RECEIVE

from microwallet.domain.money import Amount
from microwallet.errors import KeyUnavailable, NetworkError
from microwallet.escrow import calls
from microwallet.escrow.reader import EscrowReader
from microwallet.keys import keystore
from microwallet.keys.passwords import PasswordSource
from microwallet.payer.deposit import make_deposit
from microwallet.payer.open import plan_open
from microwallet.wallet import Wallet

PERMIT = "permit(address,address,uint256,uint256,uint8,bytes32,bytes32)"


def opened(home, *arguments: object, **options):
    """The data of a `channel open` that succeeds."""
    return home.run("channel", "open", *arguments, "--yes", "--json", **options).data


def test_a_token_with_authorizations_takes_one_transaction(alice, bob, chain, witness):
    """EIP-3009: one transaction, no allowance left, and the whole channel object is told."""
    channel = opened(alice, bob.address, "10 USDC", "--label", "coffee")
    assert channel["status"] == "open"
    assert (channel["deposit"], channel["settled"], channel["authorized"]) == ("10000000", "0", "0")
    assert (channel["payer"], channel["payee"], channel["token"]) == (alice.address, bob.address, chain.token)
    assert (channel["label"], channel["asset"], channel["decimals"]) == ("coffee", "USDC", 6)
    assert channel["authorizedSigner"] not in (alice.address, "0x" + "00" * 20)
    assert channel["transactionHash"].startswith("0x")
    assert 80_000 < channel["gasUsed"] < 130_000
    seen = witness.of(alice.address)
    assert (seen.opened, seen.deposit, seen.transactions) == ([channel["channelId"]], 10_000_000, 1)
    assert witness.allowance(chain.token, alice.address) == 0
    assert alice.run("pay", "coffee", "1", "--json").data["cumulativeAmount"] == "1000000"


def test_a_token_with_permits_takes_one_transaction(alice, bob, witness, token_without):
    """EIP-2612, where the token has no authorizations: one transaction, no allowance left."""
    token = token_without(RECEIVE, owner=alice.address)
    alice.run("network", "token", "add", token, "--alias", "PERM", "--json").succeeded()
    channel = opened(alice, bob.address, "10 PERM")
    assert channel["token"] == token
    assert witness.of(alice.address).transactions == 1
    assert witness.allowance(token, alice.address) == 0


def test_a_plain_token_takes_an_exact_approval(alice, bob, witness, token_without):
    """Neither: approve exactly the amount, then open; no allowance is left over."""
    token = token_without(RECEIVE, PERMIT, owner=alice.address)
    alice.run("network", "token", "add", token, "--alias", "PLAIN", "--json").succeeded()
    assert opened(alice, bob.address, "10 PLAIN")["status"] == "open"
    seen = witness.of(alice.address)
    assert (seen.transactions, seen.deposit) == (2, 10_000_000)
    assert witness.allowance(token, alice.address) == 0


def test_the_native_coin(alice, bob, witness):
    """The chain's own coin is sent along; wei and gwei are its units too."""
    channel = opened(alice, bob.address, "500000000 gwei", "--label", "eth")
    assert (channel["asset"], channel["decimals"], channel["token"]) == ("ETH", 18, "0x" + "00" * 20)
    assert channel["deposit"] == str(5 * 10**17)
    assert witness.of(alice.address).transactions == 1


def test_a_standing_allowance_is_used(alice, bob, chain, witness):
    """What the escrow may take already is taken, by a plain open."""
    allow(chain, witness, chain.token, alice.address, 10_000_000)
    preview = alice.run("channel", "open", bob.address, "10 USDC", "--dry-run", "--json").data
    assert preview["way"] == "allowance"
    opened(alice, bob.address, "10 USDC")
    assert witness.allowance(chain.token, alice.address) == 0
    assert witness.of(alice.address).transactions == 2


def allow(chain, witness, token: str, owner: str, amount: int) -> None:
    """Let the escrow take some of an owner's tokens, beside the wallet."""
    done_as(owner, calls.approve(token, chain.escrow_contract, amount), chain)
    assert witness.allowance(token, owner) == amount


def test_a_token_that_changes_allowances_only_from_nothing(alice, bob, chain, witness, grudging_token):
    """What is left of an older allowance is taken back first, then exactly the amount is approved."""
    token = grudging_token(alice.address)
    alice.run("network", "token", "add", token, "--alias", "GRUDGE", "--json").succeeded()
    allow(chain, witness, token, alice.address, 3)
    assert opened(alice, bob.address, "10 GRUDGE", "--via", "approve")["deposit"] == "10000000"
    assert witness.allowance(token, alice.address) == 0
    assert witness.of(alice.address).transactions == 4


@pytest.mark.parametrize(("via", "transactions"), [("authorization", 1), ("permit", 1), ("approve", 2)])
def test_the_way_can_be_chosen(alice, bob, witness, via, transactions):
    """`--via` takes another way than the shortest."""
    opened(alice, bob.address, "1 USDC", "--via", via)
    assert witness.of(alice.address).transactions == transactions


def test_a_dry_run_does_nothing(alice, bob, witness):
    """`--dry-run` says what would happen; neither key, ledger nor chain is touched."""
    told = alice.run("channel", "open", bob.address, "10 USDC", "--dry-run")
    assert told.exit_code == 0
    for word in ("10 USDC", bob.address, "anvil", "EIP-3009", "at most"):
        assert word in told.stdout
    preview = alice.run(
        "channel",
        "open",
        bob.address,
        "10 USDC",
        "--dry-run",
        "--json",
        env={"MICROWALLET_PASSWORD_FILE": ""},
    ).data
    assert (preview["deposit"], preview["way"], preview["dryRun"]) == ("10000000", "authorization", True)
    assert alice.run("channel", "list", "--all", "--json").data["channels"] == []
    assert witness.of(alice.address).transactions == 0


def test_nothing_happens_without_a_yes(alice, bob, witness):
    """Without a terminal and without --yes it fails, showing what was asked, and names the flag."""
    refused = alice.run("channel", "open", bob.address, "10 USDC", "--json")
    assert refused.exit_code == 2
    assert refused.error["code"] == "confirmation-required"
    assert refused.error["message"].startswith(
        "this needs --yes, as there is no terminal to ask at: open a channel\n"
    )
    assert refused.error["hint"] == "add --yes to do it, --dry-run to look"
    assert "--yes" in refused.error["hint"]
    assert bob.address in refused.error["message"]
    assert witness.of(alice.address).transactions == 0
    assert alice.run("channel", "list", "--all", "--json").data["channels"] == []


@pytest.mark.parametrize(
    "amount", ["0", "-1 USDC", "1e3", "0.0000001 USDC", "1 XYZ", "", "1٣ USDC", "9" * 40]
)
def test_a_wrong_deposit_is_refused(alice, bob, amount):
    """An amount that is none, or in no asset of this network, is exit 2, and nothing is begun."""
    refused = alice.run("channel", "open", bob.address, amount, "--yes", "--json")
    assert refused.exit_code == 2
    assert alice.run("channel", "list", "--all", "--offline", "--json").data["channels"] == []


def test_a_payee_that_cannot_be_paid_is_refused(alice, chain):
    """The payer itself, the zero address, the escrow and a mistyped address: exit 2."""
    mistyped = "0x" + alice.address[2:].swapcase()
    for payee in (
        alice.address,
        "alice",
        "0x" + "00" * 20,
        chain.escrow_contract,
        mistyped,
        "0x12",
        "nobody",
    ):
        refused = alice.run("channel", "open", payee, "1 USDC", "--yes", "--json")
        assert (refused.exit_code, refused.error["code"] in ("usage", "not-found")) == (2, True), payee


def test_missing_funds_are_named_before_a_key_is_touched(make_wallet, bob):
    """Too little of the token, or of gas, is exit 4 with the command that funds it; no password needed."""
    no_password = {"MICROWALLET_PASSWORD_FILE": ""}
    poor = make_wallet("poor", usdc=1)
    refused = poor.run("channel", "open", bob.address, "1 USDC", "--yes", "--json", env=no_password)
    assert (refused.exit_code, refused.error["code"]) == (4, "insufficient-funds")
    assert refused.error["hint"] == 'microwallet devnet fund poor "0.999999 USDC"'
    dry = make_wallet("dry", wei=0)
    refused = dry.run("channel", "open", bob.address, "1 USDC", "--yes", "--json", env=no_password)
    assert (refused.exit_code, refused.error["code"]) == (4, "insufficient-funds")
    assert refused.error["hint"].startswith('microwallet devnet fund dry "0.')
    refused = dry.run("channel", "open", bob.address, "1 ETH", "--yes", "--json", env=no_password)
    assert (refused.exit_code, refused.error["code"]) == (4, "insufficient-funds")


def test_a_chain_without_the_escrow(alice, bob, chain):
    """No escrow, or other code in its place: exit 3, and nothing is begun."""
    code = chain.rpc.call("eth_getCode", [chain.escrow_contract, "latest"])
    chain.rpc.call("anvil_setCode", [chain.escrow_contract, "0x"])
    missing = alice.run("channel", "open", bob.address, "1 USDC", "--yes", "--json")
    assert (missing.exit_code, missing.error["hint"]) == (3, "microwallet escrow deploy")
    chain.rpc.call("anvil_setCode", [chain.escrow_contract, code + "00"])
    other = alice.run("channel", "open", bob.address, "1 USDC", "--yes", "--json")
    assert other.exit_code == 3
    assert "do not use this chain" in other.error["message"]
    assert alice.run("channel", "list", "--all", "--offline", "--json").data["channels"] == []


def test_the_same_key_opens_once(alice, bob, witness):
    """The same idempotency key gives the same channel again; with other arguments it is exit 2."""
    first = opened(alice, bob.address, "10 USDC", "--idempotency-key", "k1")
    again = opened(alice, bob.address, "10 USDC", "--idempotency-key", "k1")
    assert again["channelId"] == first["channelId"]
    assert (again["transactionHash"], again["gasUsed"]) == (first["transactionHash"], first["gasUsed"])
    assert (first["resumed"], again["resumed"]) == (False, True)
    for arguments in (
        (bob.address, "11 USDC"),
        ("0x" + "44" * 20, "10 USDC"),
        (bob.address, "10 USDC", "--label", "x"),
    ):
        other = alice.run("channel", "open", *arguments, "--idempotency-key", "k1", "--yes", "--json")
        assert (other.exit_code, other.error["code"]) == (2, "idempotency-mismatch")
    seen = witness.of(alice.address)
    assert (len(seen.opened), seen.transactions) == (1, 1)


def test_two_opens_without_a_key_are_two_channels(alice, bob, witness):
    """A finished open is not resumed: asking again without a key opens another channel."""
    first, second = (opened(alice, bob.address, "1 USDC")["channelId"] for _ in range(2))
    assert first != second
    assert len(witness.of(alice.address).opened) == 2


@pytest.mark.parametrize("deposit", ["10 USDC", "0.1 ETH"])
def test_processes_with_the_same_key_open_once(alice, bob, witness, deposit):
    """Four processes at once with one key: one channel, one transaction, all succeed."""
    command = (bob.address, deposit, "--idempotency-key", "race")
    with ThreadPoolExecutor(4) as pool:
        channels = list(pool.map(lambda _: opened(alice, *command)["channelId"], range(4)))
    assert len(set(channels)) == 1
    seen = witness.of(alice.address)
    assert (seen.opened, seen.transactions) == ([channels[0]], 1)


def test_processes_that_approve_do_not_take_each_others_allowance(alice, bob, witness, chain):
    """Opens of one token at once, each by approval, all succeed: they take turns."""
    with ThreadPoolExecutor(3) as pool:
        channels = list(
            pool.map(
                lambda n: opened(alice, bob.address, f"{n} USDC", "--via", "approve")["channelId"], (1, 2, 3)
            )
        )
    seen = witness.of(alice.address)
    assert sorted(seen.opened) == sorted(channels)
    assert (seen.deposit, seen.transactions) == (6_000_000, 6)
    assert witness.allowance(chain.token, alice.address) == 0


def test_no_channel_is_opened_with_an_account_that_was_removed_meanwhile(alice, bob, witness):
    """Its deposit could never come back: exit 6, and nothing is signed."""
    with Wallet.open(environment=alice.environment) as wallet:
        paying = wallet.paying_account()
        deposit = Amount.parse("1 USDC", wallet.resolve_asset("USDC"))
        plan = plan_open(paying, bob.address, deposit)
        assert paying.secret()
        alice.run("account", "remove", "alice", "--confirm", "alice").succeeded()
        with pytest.raises(KeyUnavailable, match="not in this wallet"):
            make_deposit(paying, plan)
        assert wallet.ledger.channels.list(finalized=True) == []
    assert witness.of(alice.address).transactions == 0


def test_a_voucher_key_is_never_left_under_a_password_that_is_being_changed(
    alice, bob, witness, tmp_path, monkeypatch
):
    """The open waits for the change, and then needs the new password: exit 6, and nothing is signed."""
    monkeypatch.setattr(keystore, "STANDARD_COST", 2)  # a real one takes a second of scrypt
    new = tmp_path / "new"
    new.write_text("brand new\n")
    new.chmod(0o600)
    command = ("channel", "open", bob.address, "1 USDC", "--label", "coffee", "--yes", "--json")
    with Wallet.open(environment=alice.environment) as wallet, ThreadPoolExecutor(1) as pool:
        with wallet.keys_held(wallet.account):
            opening = pool.submit(alice.run, *command)
            time.sleep(1)
            wallet.accounts.change_password("alice", PasswordSource(str(new), None))
        assert opening.result().error["code"] == "key-unavailable"
    assert witness.of(alice.address).transactions == 0
    alice.run(*command, "--password-file", new).succeeded()
    assert alice.run("pay", "coffee", "1", "--password-file", new).exit_code == 0


def test_an_open_that_the_chain_has_shown_has_succeeded(alice, bob):
    """Whatever the chain fails to answer after that."""

    class Dying(EscrowReader):
        shown = False

        def channel_state(self, *arguments):
            found = super().channel_state(*arguments)
            self.shown = found.exists
            return found

        def head(self, *arguments):
            if self.shown:
                raise NetworkError("the chain is gone")
            return super().head(*arguments)

    with Wallet.open(environment=alice.environment) as wallet:
        paying = replace(wallet.paying_account(), reader=Dying(wallet.rpc, wallet.escrow_contract))
        deposit = Amount.parse("1 USDC", wallet.resolve_asset("USDC"))
        made = make_deposit(paying, plan_open(paying, bob.address, deposit, label="coffee"))
    assert (made.channel.state.deposit, made.transaction_hash is not None) == (1_000_000, True)
    assert alice.run("pay", "coffee", "1").exit_code == 0


def test_a_label_names_one_live_channel(alice, bob, witness):
    """A label that a live channel has, or that could be an id, is refused before anything is sent."""
    opened(alice, bob.address, "1 USDC", "--label", "coffee")
    for label in ("coffee", "0xabc", "-x", ""):
        refused = alice.run("channel", "open", bob.address, "1 USDC", f"--label={label}", "--yes", "--json")
        assert refused.exit_code == 2, label
    assert witness.of(alice.address).transactions == 1


def test_an_account_of_this_wallet_can_be_the_payee(alice):
    """A name of an account here stands for its address."""
    bobby = alice.run("account", "create", "bobby", "--json").data["address"]
    assert opened(alice, "bobby", "1 USDC", "--account", "alice")["payee"] == bobby
    elsewhere = alice.run("channel", "open", "carol", "1 USDC", "--account", "alice", "--json")
    assert elsewhere.exit_code == 2
    assert "named by address: 0x and 40 hexadecimal digits" in elsewhere.error["hint"]


def test_an_unreachable_or_wrong_chain_is_exit_3(alice, bob, anvil):
    """No chain, or another one, is exit 3 within the time-out, and the ledger stays empty."""
    from microwallet.devnet.local_chain import local_chain

    down = alice.run(
        "channel", "open", bob.address, "1 USDC", "--yes", "--json", "--rpc-url", "http://127.0.0.1:9"
    )
    assert (down.exit_code, down.error["code"]) == (3, "network")
    with local_chain(anvil, chain_id=1338) as other:
        wrong = alice.run(
            "channel", "open", bob.address, "1 USDC", "--yes", "--json", "--rpc-url", other.rpc_url
        )
    assert (wrong.exit_code, wrong.error["code"]) == (3, "wrong-chain")
    assert json.loads(alice.run("channel", "list", "--all", "--offline", "--json").stdout)["data"] == {
        "channels": []
    }


def test_a_key_that_is_locked_or_gone(alice, bob, tmp_path, witness):
    """A wrong password, or none, is exit 6 and nothing is begun; so is a payer's key that is not here."""
    wrong = tmp_path / "wrong"
    wrong.write_text("another password\n")
    for file in (str(wrong), ""):
        locked = alice.run(
            "channel",
            "open",
            bob.address,
            "1 USDC",
            "--yes",
            "--json",
            env={"MICROWALLET_PASSWORD_FILE": file},
        )
        assert (locked.exit_code, locked.error["code"]) == (6, "key-unavailable")
    assert alice.run("channel", "list", "--all", "--offline", "--json").data["channels"] == []
    opened(alice, bob.address, "1 USDC", "--label", "coffee")
    next((alice.path / "keys" / "accounts").glob("alice*")).unlink()
    for command in (("close", "coffee", "--yes"), ("top-up", "coffee", "1", "--yes"), ("withdraw", "coffee")):
        gone = alice.run("channel", *command, "--json")
        assert (gone.exit_code, gone.error["code"]) == (6, "key-unavailable"), command
    assert alice.run("pay", "coffee", "0.5").exit_code == 0
    assert witness.of(alice.address).transactions == 1
