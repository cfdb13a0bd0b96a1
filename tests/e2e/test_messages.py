"""What commands say when they cannot: the values, and a hint that can be typed as it stands."""

from __future__ import annotations

import re
import shlex

import pytest

from microwallet.domain.money import format_units
from microwallet.escrow.reader import EscrowReader

SOMEBODY = "0x" + "44" * 20


def test_a_hint_names_no_flag_the_command_lacks(run):
    """`escrow trust` has no --dry-run, so none is named."""
    assert run("escrow", "trust", SOMEBODY, "--json").error["hint"] == "add --yes to do it"


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        (("network", "sepolai"), "did you mean sepolia?"),
        (("account", "nobody"), "there is no account 'nobody'"),
        (("max-fee-gvei", "1"), "did you mean max-fee-gwei?"),
    ],
    ids=" ".join,
)
def test_a_setting_that_names_nothing_is_refused(run, setting, said):
    """A misspelled name is refused when it is set, not by every command afterwards."""
    assert said in run("config", "set", *setting, "--json").error["message"]
    assert run("config", "show", "--json").data["settings"]["network"]["source"] == "default"


@pytest.mark.parametrize(
    ("name", "value", "meant"),
    [
        ("max-amount", "1", '"1 USDC"'),
        ("max-deposit", " 0.5", '"0.5 USDC"'),
        ("max-amount", "much", '"0.01 USDC"'),
        ("max-fee-gwei", "cheap", "200"),
        ("rpc-timeout", "0", "10"),
    ],
)
def test_a_value_that_a_setting_cannot_have_is_answered_with_one_that_it_can(run, name, value, meant):
    """The hint is the whole command, which works as it stands."""
    refused = run("config", "set", name, value, "--json")
    assert (refused.exit_code, refused.error["hint"]) == (2, f"microwallet config set {name} {meant}")
    run(*shlex.split(refused.error["hint"])[1:]).succeeded()


def test_a_setting_that_is_taken_back_has_its_default_again(run):
    """`config unset` undoes `config set`; what was never set stays as it is, what is none is refused."""

    def shown():
        return run("config", "show", "--json").data["settings"]["max-fee-gwei"]

    run("config", "set", "max-fee-gwei", "50").succeeded()
    assert shown() == {"value": 50, "source": "user"}
    for _ in range(2):
        assert run("config", "unset", "max-fee-gwei", "--json").data["value"] == 200
        assert shown() == {"value": 200, "source": "default"}
    assert "did you mean max-fee-gwei?" in run("config", "unset", "max-fee-gvei", "--json").error["message"]


@pytest.mark.parametrize("how", [(), ("--json",)])
def test_settings_are_shown_without_the_credentials_in_them(run, how):
    """Neither `config set` nor `config show` prints the password or key in the RPC address."""
    url = "http://user:secret@127.0.0.1:1/?key=secret"
    told = [
        run("config", "set", "rpc-url", url, *how).succeeded(),
        run("config", "show", *how).succeeded(),
        run("config", "show", *how, env={"MICROWALLET_RPC_URL": url}).succeeded(),
    ]
    assert all("127.0.0.1:1" in one.stdout and "secret" not in one.stdout + one.stderr for one in told)
    assert "refused the connection" in run("network", "check", "--json").error["message"]


def test_an_rpc_address_that_is_none_is_refused_when_it_is_set(run):
    """Not by every command afterwards."""
    refused = run("config", "set", "rpc-url", "127.0.0.1:18545", "--json").error
    assert "no RPC address" in refused["message"]
    assert refused["hint"] == "microwallet config set rpc-url http://127.0.0.1:18545"
    assert run("config", "show", "--json").data["settings"]["rpc-url"]["source"] == "default"


@pytest.mark.parametrize(
    ("words", "env", "hint"),
    [
        (("--rpc-url", "foo"), {}, "--rpc-url http://127.0.0.1:8545"),
        ((), {"MICROWALLET_RPC_URL": "foo"}, "export MICROWALLET_RPC_URL=http://127.0.0.1:8545"),
        (("--rpc-url", "localhost:18545"), {}, "--rpc-url http://localhost:18545"),
        ((), {"MICROWALLET_RPC_URL": "ws://127.0.0.1:1"}, "export MICROWALLET_RPC_URL=http://127.0.0.1:1"),
    ],
)
def test_an_rpc_address_that_is_none_is_refused_with_one_to_type(run, home, words, env, hint):
    """By what asks the chain, and by `serve` before it starts or says what it would sell."""
    bob = home.with_account("bob")
    priced = ("--upstream", "http://127.0.0.1:9000", "--price", "0.001 USDC")
    for command in (("network", "check"), ("serve", *priced, "--dry-run")):
        error = run(*command, *words, "--json", home=bob, env=env).error
        assert "is no RPC address" in error["message"]
        assert error["hint"] == hint
        assert error["exitCode"] == 2


def test_a_network_that_is_none_is_refused_as_such_beside_an_rpc_address(run):
    """What is wrong is the network: the hint leaves the address as it is."""
    env = {"MICROWALLET_RPC_URL": "http://127.0.0.1:1"}
    priced = ("--upstream", "http://127.0.0.1:9000", "--price", "0.001 USDC")
    refused = run("serve", *priced, "--dry-run", "--network", "base", "--json", env=env).error
    assert refused["message"].startswith("--network: there is no network 'base'")
    assert "RPC_URL" not in refused["hint"]


@pytest.mark.parametrize(
    ("words", "env", "hint"),
    [
        (("escrow", "show", "--network", "sepolai"), {}, "--network sepolia"),
        (("escrow", "show"), {"MICROWALLET_NETWORK": "sepolai"}, "export MICROWALLET_NETWORK=sepolia"),
        (("network", "check", "sepolai"), {}, "microwallet network check sepolia"),
        (("network", "show", "sepolai"), {}, "microwallet network show sepolia"),
        (("config", "set", "max-amount", "1 USD"), {}, 'microwallet config set max-amount "1 USDC"'),
    ],
    ids=str,
)
def test_what_is_misspelt_is_answered_as_it_was_said(run, words, env, hint):
    """A flag with a flag, a variable with a variable: nothing that changes a setting for good."""
    assert run(*words, "--json", env=env).error["hint"] == hint


def test_half_an_address_is_no_account(run):
    """An address with a digit lost is called that; names never begin with 0x."""
    error = run("account", "show", SOMEBODY[:-1], "--json").error
    assert error["message"].endswith("is not an address: 0x and 40 hexadecimal digits are expected")


def test_a_failed_check_does_not_send_one_back_to_itself(run):
    """`network check` says what else can be tried."""
    checked = run("network", "check", "sepolia", "--rpc-url", "https://host.invalid", "--json")
    assert checked.exit_code == 3
    assert checked.error["hint"] == "microwallet network check sepolia --rpc-url URL"


def test_a_chain_that_is_another_is_looked_for_by_its_name(alice):
    """The network that was named, not the one in use: `alice` has a chain behind every name."""
    asked = alice.run("balance", "--network", "base-sepolia", "--json")
    hint = "microwallet network show base-sepolia  (or add --offline)"
    assert (asked.exit_code, asked.error["hint"]) == (3, hint)


def test_a_close_that_failed_is_not_nothing_to_close(alice, make_wallet):
    """A payee without gas reads what is missing, and not that nothing was to be done."""
    poor = make_wallet("carol", wei=0)
    alice.run("channel", "open", poor.address, "1 USDC", "--label", "coffee", "--yes").succeeded()
    poor.run("payee", "accept", "-", input=alice.run("pay", "coffee", "0.1").succeeded().stdout).succeeded()
    failed = poor.run("payee", "close", "--all", "--yes")
    assert (failed.exit_code, failed.stdout) == (4, "")
    assert "holds 0 ETH" in failed.stderr
    looked = poor.run("payee", "watch", "--once").succeeded()
    assert (looked.stdout, looked.stderr) == ("", "looked once at anvil: no close is due\n")


def test_what_moves_money_is_told_in_the_same_words(alice, bob):
    """Before, the network and the most that the fee can be; afterwards the transaction and its gas."""
    for who, *command in (
        (alice, "channel", "open", bob.address, "1 USDC", "--label", "coffee"),
        (alice, "channel", "top-up", "coffee", "1 USDC"),
        (bob, "payee", "settle", "--all"),
        (alice, "channel", "close", "coffee"),
        (bob, "payee", "close", "--all"),
        (alice, "send", bob.address, "1 USDC"),
    ):
        screen = who.run(*command, "--dry-run").succeeded().stdout
        assert re.search(r"^ +fee +at most [0-9.]+ ETH", screen, flags=re.MULTILINE)
        assert "anvil (chain 31337)" in screen
        done = who.run(*command, "--yes").succeeded().stdout
        assert re.search(r"^transaction 0x[0-9a-f]{64}, \d+ gas$", done, flags=re.MULTILINE)
        assert ("refunded" in done) == (command[:2] == ["payee", "close"])
        if command[1] == "open":
            voucher = alice.run("pay", "coffee", "0.1").succeeded().stdout
            bob.run("payee", "accept", "-", input=voucher).succeeded()


def test_the_fee_that_is_told_is_the_most_that_is_paid(alice, bob, chain):
    """Of a close, a withdraw, a settle: in the coin of the chain beside the cap, in the document too."""
    for label in ("coffee", "tea", "milk"):
        alice.run("channel", "open", bob.address, "1 USDC", "--label", label, "--yes").succeeded()
        voucher = alice.run("pay", label, "0.1").succeeded().stdout
        bob.run("payee", "accept", "-", input=voucher).succeeded()
    reader = EscrowReader(chain.rpc, chain.escrow_contract)
    for who, *command in (
        (bob, "payee", "settle", "--all"),
        (alice, "channel", "close", "tea"),
        (alice, "channel", "close", "milk"),
        (bob, "payee", "close", alice.run("channel", "show", "milk", "--json").data["channelId"]),
        (None, "devnet", "advance", "15m"),
        (alice, "channel", "withdraw", "tea"),
        (bob, "payee", "close", "--all"),
    ):
        if who is None:
            alice.run(*command).succeeded()
            continue
        told = int(who.run(*command, "--dry-run", "--json").data["maxFee"])
        screen = who.run(*command, "--dry-run").succeeded().stdout
        assert f"at most {format_units(told, 18)} ETH now, and never above 200 gwei per gas" in screen
        held = reader.native_balance(who.address)
        who.run(*command, "--yes").succeeded()
        assert 0 < held - reader.native_balance(who.address) <= told


def test_a_close_that_cannot_be_paid_for_says_why_instead_of_a_fee(alice, bob, chain):
    """No coin for gas, or gas above the cap: the screen says so, as the payee may close still."""
    alice.run("channel", "open", bob.address, "1 USDC", "--label", "coffee", "--yes").succeeded()
    bob.run("payee", "accept", "-", input=alice.run("pay", "coffee", "0.1").succeeded().stdout).succeeded()
    low = {"MICROWALLET_MAX_FEE_GWEI": "0.0001"}
    for who, command in ((alice, ("channel", "close", "coffee")), (bob, ("payee", "close", "--all"))):
        screen = who.run(*command, "--dry-run", env=low).succeeded().stdout
        assert re.search(
            r"^ +fee +gas costs [0-9.]+ gwei now; the setting max-fee-gwei", screen, re.MULTILINE
        )
        assert who.run(*command, "--dry-run", "--json", env=low).data["maxFee"] is None
    chain.rpc.call("anvil_setBalance", [alice.address, "0x0"])
    assert re.search(r"fee +0x\w+ holds 0 ETH", alice.run("channel", "close", "coffee", "--dry-run").stdout)


def test_nobody_reads_unix_time(alice, bob):
    """When a withdraw is too early, the message says how long it takes, not at which second since 1970."""
    alice.run("channel", "open", bob.address, "1 USDC", "--label", "coffee", "--yes").succeeded()
    alice.run("channel", "close", "coffee", "--yes").succeeded()
    early = alice.run("channel", "withdraw", "coffee")
    assert re.search(r"ends in \d+ seconds; until then", early.stderr)


def test_a_payee_without_an_open_channel_is_not_a_new_one(alice, bob):
    """Once all are finalized, nothing says that none ever paid this wallet: the hint lists them."""
    nothing = "no open channel pays this wallet: microwallet payee "
    assert bob.run("payee", "list").succeeded().stderr == nothing + "accept FILE\n"
    alice.run("channel", "open", bob.address, "1 USDC", "--label", "coffee", "--yes").succeeded()
    bob.run("payee", "accept", "-", input=alice.run("pay", "coffee", "1").succeeded().stdout).succeeded()
    bob.run("payee", "close", "--all", "--yes").succeeded()
    listed = bob.run("payee", "list").succeeded()
    assert listed.stderr == nothing + "list --all\n"
    assert "finalized" in bob.run("payee", "list", "--all").succeeded().stdout


def test_all_of_a_token(alice, bob):
    """With "all USDC" all of it goes; a token named twice is refused."""
    twice = alice.run("send", bob.address, "all USDC", "--token", "ETH", "--yes", "--json")
    assert twice.error["code"] == "usage"
    sent = alice.run("send", bob.address, "all USDC", "--yes", "--json").data
    assert sent["amount"] == str(10**9)
    assert sent["asset"] == "USDC"


def test_a_head_from_the_future(make_home, chain):
    """A chain whose clock was moved ahead has no block of a negative age."""
    home = make_home("ahead", chain)
    home.run("devnet", "advance", "15m").succeeded()
    (head,) = [row for row in home.run("network", "check", "--json").data["checks"] if row["name"] == "head"]
    assert head["detail"].endswith(" s ahead of this clock")
