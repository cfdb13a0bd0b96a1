"""What commands say whose output cannot be written, by what they did until then."""

from __future__ import annotations

import json
import shlex

import pytest
from seeded import PAYEE, seed
from unwritable import FULL, into_full, into_nowhere, needs_full

FULL_MESSAGE = "error: the output could not be written: No space left on device"


@needs_full
@pytest.mark.parametrize(
    "words",
    ["network list", "network list --json", "help channels", "--help", "pay --help", "--version", "help"],
)
def test_a_result_that_cannot_be_written_is_one_plain_line(home, words):
    """Exit 1, and neither a traceback nor the word for a defect."""
    assert into_full(home, *words.split()) == (1, [FULL_MESSAGE])


@needs_full
@pytest.mark.parametrize("words", ["payee export", "payee watch --print-service"])
def test_commands_that_write_by_themselves_say_the_same(alice, bob, words):
    """A backup, a unit of systemd."""
    alice.run("channel", "open", bob.address, "1 USDC", "--label", "coffee", "--yes").succeeded()
    bob.run("payee", "accept", "-", input=alice.run("pay", "coffee", "1").succeeded().stdout).succeeded()
    assert into_full(bob, *words.split()) == (1, [FULL_MESSAGE])


@needs_full
def test_an_error_has_a_place_where_stdout_is_full(home):
    """A document that cannot be written leaves the error on stderr: one line, no traceback."""
    code, said = into_full(home, "network", "show", "nowhere", "--json")
    assert (code, len(said)) == (2, 2)
    assert said[0].startswith("error: there is no network 'nowhere'")


@needs_full
@pytest.mark.parametrize("into", [into_full, into_nowhere])
@pytest.mark.parametrize("how", [[], ["--json"], ["--each"], ["--each", "--json"]], ids=" ".join)
def test_a_payment_that_cannot_be_printed(make_home, into, how):
    """Exit 5: what was paid, and the command that has the vouchers again and pays nothing."""
    home = make_home("user")
    coffee = seed(home, deposit=10_000)
    code, said = into(coffee.home, "pay", "coffee", "0.001", "--count", 2, *how)
    assert code == 5
    key = said[0].removeprefix("idempotency key: ")
    if len(how) == 2:  # a stream: errors are lines of JSON
        error = json.loads(said[1])["error"]
        message, hint = error["message"], error["hint"]
    else:
        message, hint = said[1].removeprefix("error: "), said[2].removeprefix("hint: ")
    assert (
        "the payment is committed: authorized 0.002 USDC in 2 payments on coffee; 0.008 USDC left" in message
    )
    assert shlex.split(hint)[:4] == ["microwallet", "pay", "--resume", key]
    amounts = [1000, 2000] if "--each" in how else [2000]
    assert coffee.amounts(coffee.home.run(*shlex.split(hint)[1:]).succeeded().stdout) == amounts
    assert coffee.authorized() == 2000


@needs_full
@pytest.mark.parametrize("how", [[], ["--json"], ["--each"], ["--each", "--json"]], ids=" ".join)
def test_the_exit_code_is_left_where_stderr_is_full_too(make_home, how):
    """`> log 2>&1` on a full disk: 5 still tells that a payment is committed."""
    coffee = seed(make_home("user"), deposit=10_000)
    with FULL.open("wb") as full:
        paying = coffee.home.start("pay", "coffee", "0.001", *how, stdout=full.fileno(), stderr=full.fileno())
    assert (paying.wait(timeout=20), coffee.authorized()) == (5, 1000)


@needs_full
def test_so_it_is_of_a_command_that_tells_a_result_and_fails(home):
    """A check that failed is no output that was lost."""
    with FULL.open("wb") as full:
        checking = home.start("voucher", "verify", "/dev/null", stderr=full.fileno())
    assert checking.wait(timeout=20) == 4


@needs_full
@pytest.mark.parametrize("into", [into_full, into_nowhere])
@pytest.mark.parametrize("how", [[], ["--json"]], ids=" ".join)
def test_a_transaction_that_cannot_be_told(alice, into, how):
    """Money has moved, so it is exit 5, and stderr has what stdout did not take."""
    code, said = into(alice, "channel", "open", PAYEE, "1 USDC", "--label", "coffee", "--yes", *how)
    assert code == 5
    [channel] = alice.run("channel", "list", "--json").data["channels"]
    told = said.index(next(line for line in said if line.startswith("error: it was done, but the output")))
    assert said[told + 1].startswith(f"channel {channel['channelId']} (coffee) is open: 1 USDC for {PAYEE}")
    assert said[told + 2].startswith("transaction 0x")
    assert said[told + 3 :] == ["hint: microwallet balance"]


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_what_a_terminal_cannot_show_is_told_in_other_letters(alice, bob, encoding):
    """A label in a script that the locale does not know: the result is told all the same, and is what it was
    in a document, which is UTF-8 or plain ASCII."""
    env = {"PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}
    label = "tea \u2615\U0001f375"
    opened = alice.run("channel", "open", bob.address, "1 USDC", "--label", label, "--yes", env=env)
    assert opened.succeeded().stdout.startswith("channel 0x")
    assert "(tea \\u2615\\U0001f375) is open" in opened.stdout
    assert alice.run("channel", "show", label, "--json", env=env).data["label"] == label
    assert label in alice.run("channel", "show", label, "--json", env={"PYTHONIOENCODING": "utf-8"}).stdout
    refused = alice.run("channel", "show", label + "s", "--json", env=env)
    assert refused.exit_code == 2
    assert label in refused.error["message"]
    assert alice.run("channel", "list", env=env).exit_code == 0
