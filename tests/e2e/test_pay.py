"""Paying: every amount once, whatever runs beside it, dies, or is asked twice."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from seeded import seed


@pytest.fixture(scope="module")
def template(tmp_path_factory, make_home_in):
    """A home with a channel called coffee and a deposit of 10 USDC, made once."""
    return seed(make_home_in(tmp_path_factory.mktemp("template"), "user"), deposit=10_000_000)


@pytest.fixture
def coffee(template, tmp_path):
    """A copy of the template that a test may spoil."""
    shutil.copytree(template.home.path.parent, tmp_path / "user")
    home = dataclasses.replace(
        template.home, path=tmp_path / "user" / "home", password_file=tmp_path / "user" / "password"
    )
    return dataclasses.replace(template, home=home)


def test_one_bare_voucher(coffee):
    """`pay` prints one bare voucher object; `--json` wraps the same in the envelope."""
    first = coffee.home.run("pay", "coffee", "0.001 USDC")
    assert first.exit_code == 0
    assert coffee.amounts(first.stdout) == [1000]
    document = json.loads(first.stdout)
    assert (document["amount"], document["remaining"]) == ("1000", "9999000")
    second = coffee.home.run("pay", "coffee", "0.001 USDC", "--json")
    assert second.data["cumulativeAmount"] == "2000"
    assert coffee.authorized() == 2000


def test_count_prints_the_last_and_each_prints_all(coffee):
    """`--count` advances N times and prints the last voucher, `--each` prints every one."""
    last = coffee.home.run("pay", "coffee", "0.0001", "--count", 100)
    assert coffee.amounts(last.stdout) == [10_000]
    every = coffee.home.run("pay", "coffee", "0.0001", "--count", 100, "--each")
    assert coffee.amounts(every.stdout) == list(range(10_100, 20_001, 100))


def test_what_was_signed_and_not_spent_is_told_and_not_used(coffee):
    """A voucher by hand is above all that was signed, so what a request left of it is for the next fetch."""
    plain = coffee.home.run("pay", "coffee", "0.001 USDC").succeeded()
    assert plain.stderr.splitlines()[-1] == "authorized 0.001 USDC on coffee; 9.999 USDC left"
    with coffee.open_wallet() as wallet, wallet.ledger.database.write() as connection:
        connection.execute("UPDATE channels SET spent = ?", (f"{400:039d}",))
    for count, words in ((1, ()), (2, ("--json",))):
        paid = coffee.home.run("pay", "coffee", "0.001 USDC", *words).succeeded()
        assert coffee.authorized() == (1 + count) * 1000
        assert paid.stderr.splitlines()[-1] == (
            "0.0006 USDC that was signed before is not spent: pay does not use it, the next fetch from this"
            " payee does"
        )


def test_channel_by_id_prefix_label_and_payee(coffee):
    """A channel is named by id, by a prefix of it, by its label, or by its payee."""
    channel = coffee.channel
    for reference in (channel.channel_id, channel.channel_id[:10], "coffee", channel.descriptor.payee):
        assert coffee.home.run("pay", reference, "1 USDC", "--json").exit_code == 0
    assert coffee.authorized() == 4_000_000


def test_payee_with_two_open_channels_is_ambiguous(coffee):
    """A payee with two open channels is exit 2, and both are listed."""
    other = seed(coffee.home, deposit=5, label="tea", salt=0x34)
    refused = coffee.home.run("pay", coffee.channel.descriptor.payee, "1", "--json")
    assert (refused.exit_code, refused.error["code"]) == (2, "ambiguous")
    assert coffee.channel.channel_id in refused.error["message"]
    assert other.channel.channel_id in refused.error["message"]
    assert coffee.authorized() == 0


def test_unknown_channel_lists_candidates(coffee):
    """A channel nobody knows is exit 2 with the channels there are."""
    refused = coffee.home.run("pay", "tea", "1", "--json")
    assert (refused.exit_code, refused.error["code"]) == (2, "not-found")
    assert coffee.channel.channel_id in refused.error["message"]


@pytest.mark.parametrize(
    "amount", ["", "0", "-1", "-1 USDC", "1e3", "NaN", "1 DAI", "\u0661", "0.0000001", str(2**96)]
)
def test_wrong_amount_signs_nothing(coffee, amount):
    """A wrong amount is exit 2, names the value and the asset's precision, and moves nothing."""
    refused = coffee.home.run("pay", "coffee", amount, "--json")
    assert (refused.exit_code, refused.error["code"]) == (2, "invalid-amount")
    assert repr(amount) in refused.error["message"]
    assert coffee.authorized() == 0


def test_never_past_the_deposit(coffee):
    """The boundary is exact: one base unit more than the deposit is refused, the deposit itself is not."""
    refused = coffee.home.run("pay", "coffee", "10.000001", "--json")
    assert (refused.exit_code, refused.error["code"]) == (4, "amount-exceeds-deposit")
    assert refused.error["type"].endswith("/amount-exceeds-deposit")
    assert "10 USDC" in refused.error["message"]
    assert refused.error["hint"] == 'microwallet channel top-up coffee "0.000001 USDC"'
    assert "idempotency key" not in refused.stderr
    refused = coffee.home.run("pay", "coffee", "3", "--count", 4, "--each", "--json")
    assert refused.exit_code == 4
    assert refused.stdout == ""
    assert json.loads(refused.stderr.splitlines()[-1])["error"]["code"] == "amount-exceeds-deposit"
    assert coffee.authorized() == 0
    assert coffee.home.run("pay", "coffee", "10").exit_code == 0
    assert coffee.authorized() == 10_000_000


def test_same_key_same_vouchers(coffee):
    """The same key again, or --resume, prints the same bytes and moves nothing, even after a top-up."""
    arguments = ("pay", "coffee", "0.5", "--count", 3, "--each", "--idempotency-key", "order-7")
    first = coffee.home.run(*arguments)
    with coffee.open_wallet() as wallet, wallet.ledger.database.write() as connection:
        connection.execute("UPDATE channels SET deposit = ?", (f"{20_000_000:039d}",))
    assert coffee.home.run(*arguments).stdout == first.stdout
    assert coffee.home.run("pay", "--resume", "order-7", "--each").stdout == first.stdout
    last = coffee.home.run("pay", "coffee", "0.5", "--resume", "order-7").stdout
    assert last == first.stdout.splitlines(keepends=True)[-1]
    assert coffee.authorized() == 1_500_000


@pytest.mark.parametrize(
    "other",
    [
        ("coffee", "0.6", "--count", 3),
        ("coffee", "0.5", "--count", 2),
        ("coffee", "0.5"),
        ("coffee", "0.5", "--count", 3, "--memo", "x"),
        ("tea", "0.5", "--count", 3),
    ],
)
def test_same_key_other_arguments(coffee, other):
    """A key that comes again with another channel, amount, count or memo is exit 2."""
    seed(coffee.home, deposit=5_000_000, label="tea", salt=0x34)
    coffee.home.run("pay", "coffee", "0.5", "--count", 3, "--idempotency-key", "order-7")
    refused = coffee.home.run("pay", *other, "--idempotency-key", "order-7", "--json")
    assert (refused.exit_code, refused.error["code"]) == (2, "idempotency-mismatch")
    assert coffee.authorized() == 1_500_000


@pytest.mark.parametrize("flag", ["--idempotency-key", "--resume"])
def test_an_empty_key_is_no_key(coffee, flag):
    """A script whose variable is empty is told, rather than made to pay again each time."""
    refused = coffee.home.run("pay", "coffee", "0.5", flag, "", "--json")
    assert (refused.exit_code, refused.json["error"]["exitCode"], coffee.authorized()) == (2, 2, 0)


@pytest.mark.parametrize("arguments", [("coffee", "1", "--memo"), ("coffee", "1", "--label"), ()])
def test_bytes_that_are_no_text(coffee, arguments):
    """An argument that is not UTF-8 is a usage error."""
    refused = coffee.home.run("pay", *arguments, b"\xff".decode(errors="surrogateescape"))
    assert (refused.exit_code, coffee.authorized()) == (2, 0)
    assert "UTF-8" in refused.stderr


def test_more_payments_than_can_be_counted(make_home):
    """A count beyond 63 bits is a usage error, however large the deposit."""
    home = make_home("rich")
    seed(home, deposit=2**70, label="coffee")
    refused = home.run("pay", "coffee", "0.000001", "--count", 2**63, "--json")
    assert (refused.exit_code, refused.error["code"]) == (2, "usage")
    home.run("pay", "coffee", "0.000001", "--count", 2**63 - 1).succeeded()


def test_resume_with_other_arguments(coffee):
    """What is named beside --resume must be as it was; what is not named is not asked about."""
    seed(coffee.home, deposit=5_000_000, label="tea", salt=0x34)
    words = ("coffee", "0.5", "--count", 3, "--memo", "x")
    paid = coffee.home.run("pay", *words, "--idempotency-key", "order-7").stdout
    resume = ("pay", "--resume", "order-7")
    for same in ((), ("coffee",), ("coffee", "0.5"), words):
        assert coffee.home.run(*resume, *same).stdout == paid
    for other in (("tea",), ("coffee", "0.6"), ("--count", 2), ("--memo", "y")):
        refused = coffee.home.run(*resume, *other, "--json")
        assert (refused.exit_code, refused.error["code"]) == (2, "idempotency-mismatch")


def test_resume_of_an_unknown_key(coffee):
    """--resume of a key that no payment was made under is exit 2 and makes none."""
    refused = coffee.home.run("pay", "coffee", "1", "--resume", "nope", "--json")
    assert refused.exit_code == 2
    assert refused.error["hint"] == "microwallet pay CHANNEL AMOUNT --idempotency-key nope"
    assert coffee.authorized() == 0


def test_key_is_made_and_named(coffee):
    """Without a key one is made and named on stderr; it resumes the payment."""
    paid = coffee.home.run("pay", "coffee", "1")
    key = paid.stderr.split("idempotency key: ")[1].splitlines()[0]
    assert coffee.home.run("pay", "--resume", key).stdout == paid.stdout


def test_the_document_has_the_key_beside_the_voucher(coffee):
    """Also where nothing is said on stderr; a payee takes it as the bare one, and it is repeated whole."""
    paid = coffee.home.run("-q", "pay", "coffee", "1", "--json")
    key = paid.data["idempotencyKey"]
    bare = coffee.home.run("pay", "--resume", key).stdout
    assert paid.data == json.loads(bare) | {"idempotencyKey": key}
    assert coffee.home.run("pay", "--resume", key, "--json").stdout == paid.stdout
    assert coffee.amounts(paid.stdout) == coffee.amounts(bare) == [1_000_000]


@pytest.mark.parametrize("count", [2_000, pytest.param(50_000, marks=pytest.mark.long)])
def test_broken_pipe(coffee, count):
    """A reader that goes away is exit 5 with the command that prints the rest; nothing is paid twice."""
    with coffee.home.start(
        "pay",
        "coffee",
        "0.0001",
        "--count",
        count,
        "--each",
        "--idempotency-key",
        "k",
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        process.stdout.readline()
        process.stdout.close()
        said = process.stderr.read().decode()
    assert process.returncode == 5
    assert "hint: microwallet pay --resume k --each\n" in said
    committed = f"{count / 10_000:.1f}".removesuffix(".0")
    assert f"(Broken pipe), but the payment is committed: authorized {committed} USDC in {count}" in said
    assert "Traceback" not in said
    assert "Exception ignored" not in said
    again = coffee.home.run("pay", "--resume", "k", "--each")
    assert coffee.amounts(again.stdout) == list(range(100, count * 100 + 1, 100))
    assert coffee.authorized() == count * 100


def test_fifty_processes_on_one_channel(coffee):
    """tempo-foundry#381: concurrent payers never use an amount twice, and lose none."""
    processes, payments = 50, 40

    def pay(_):
        return coffee.home.run("pay", "coffee", "0.0001", "--count", payments, "--each", timeout=300)

    with ThreadPoolExecutor(processes) as pool:
        runs = list(pool.map(pay, range(processes)))
    assert [run.exit_code for run in runs] == [0] * processes, [run.stderr for run in runs if run.exit_code]
    amounts = sorted(amount for run in runs for amount in coffee.amounts(run.stdout))
    assert amounts == list(range(100, 100 * processes * payments + 1, 100))
    assert coffee.authorized() == 100 * processes * payments


def _kill_and_resume(coffee, rounds):
    rng = random.Random(7)
    began = time.monotonic()
    coffee.home.run("pay", "coffee", "0.0001", "--count", 20, "--each").succeeded()
    lasts = time.monotonic() - began
    paid = 2000
    for number in range(rounds):
        key = f"k{number}"
        arguments = ("pay", "coffee", "0.0001", "--count", 20, "--each", "--idempotency-key", key)
        process = coffee.home.start(*arguments, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        time.sleep(rng.uniform(0.0, lasts))
        process.kill()
        printed = process.communicate()[0].decode()
        again = coffee.home.run(*arguments)
        assert again.exit_code == 0, again
        assert coffee.amounts(again.stdout) == list(range(paid + 100, paid + 2001, 100))
        assert again.stdout.startswith(printed[: printed.rfind("\n") + 1])
        paid += 2000
        assert coffee.authorized() == paid


def test_killed_while_paying(coffee):
    """SIGKILL at any moment: the same key then gives each voucher once, starting where it should."""
    _kill_and_resume(coffee, 8)


@pytest.mark.long
def test_killed_while_paying_hundreds_of_times(coffee):
    """The long form."""
    _kill_and_resume(coffee, 300)


def test_killed_lock_holder_delays_nobody(coffee):
    """A writer killed while it holds the ledger delays the next payment by less than a second."""
    lock = (
        "import sqlite3, sys, time; ledger = sqlite3.connect(sys.argv[1], isolation_level=None);"
        "ledger.execute('BEGIN IMMEDIATE'); print(1, flush=True); time.sleep(60)"
    )
    ledger = coffee.home.path / "ledger.sqlite3"
    with subprocess.Popen([sys.executable, "-c", lock, ledger], stdout=subprocess.PIPE) as holder:
        holder.stdout.readline()
        pay = ("pay", "coffee", "1")
        with coffee.home.start(*pay, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as waiting:
            time.sleep(1)
            assert waiting.poll() is None
            holder.kill()
            freed = time.monotonic()
            assert coffee.amounts(waiting.communicate()[0].decode()) == [1_000_000]
            waited = time.monotonic() - freed
    begun = time.monotonic()
    coffee.home.run(*pay).succeeded()
    assert waited < 1 + time.monotonic() - begun


def test_older_copy_of_the_ledger_does_not_pay(coffee):
    """lnd#2757: a ledger restored from N vouchers ago is noticed and never signs below a known voucher."""
    ledger = coffee.home.path / "ledger.sqlite3"
    coffee.home.run("pay", "coffee", "1")
    old = ledger.read_bytes()
    coffee.home.run("pay", "coffee", "1")
    ledger.write_bytes(old)
    for _ in range(2):
        refused = coffee.home.run("pay", "coffee", "1", "--json")
        assert (refused.exit_code, refused.error["code"]) == (4, "voucher-unknown")
        assert "channel sync --voucher" in refused.error["hint"]


def _ledger_error(coffee, code):
    refused = coffee.home.run("pay", "coffee", "1", "--json")
    assert (refused.exit_code, refused.error["code"]) == (7, code), refused
    assert refused.error["hint"]
    return refused


def test_ledger_missing_after_payments(coffee):
    """A ledger that vanished is never replaced by a new empty one."""
    coffee.home.run("pay", "coffee", "1")
    ledger = coffee.home.path / "ledger.sqlite3"
    ledger.unlink()
    _ledger_error(coffee, "ledger-corrupt")
    assert not ledger.exists()


@pytest.mark.parametrize(
    "content", [b"not a database at all" * 100, b"SQLite format 3\x00" + b"\xff" * 8000, b"x"]
)
def test_ledger_corrupt(coffee, content):
    """A damaged ledger is exit 7 and stays as it is."""
    ledger = coffee.home.path / "ledger.sqlite3"
    ledger.write_bytes(content)
    _ledger_error(coffee, "ledger-corrupt")
    assert ledger.read_bytes() == content


def test_ledger_truncated_to_nothing(coffee):
    """An empty file where payments were recorded is not taken for a new ledger."""
    coffee.home.run("pay", "coffee", "1")
    ledger = coffee.home.path / "ledger.sqlite3"
    ledger.write_bytes(b"")
    _ledger_error(coffee, "ledger-corrupt")
    assert ledger.read_bytes() == b""


def test_ledger_from_a_newer_version(coffee):
    """A ledger of a later version is exit 7 and untouched."""
    with coffee.open_wallet() as wallet, wallet.ledger.database.write() as connection:
        connection.execute("PRAGMA user_version = 99")
    refused = _ledger_error(coffee, "ledger-too-new")
    assert "99" in refused.error["message"]


def test_disk_full(coffee):
    """No room for the ledger's log: exit 7, nothing signed, and it goes on when there is room."""
    assert coffee.home.run("pay", "coffee", "1").exit_code == 0
    script = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (16, 16));"
        "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "from microwallet.cli.main import main; sys.exit(main(['pay', 'coffee', '1', '--json']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], env=coffee.home.environment, capture_output=True, check=False
    )
    assert done.returncode == 7, done
    assert json.loads(done.stdout)["error"]["code"] == "ledger-unwritable"
    assert coffee.authorized() == 1_000_000
    assert coffee.home.run("pay", "coffee", "1", "--json").data["cumulativeAmount"] == "2000000"


def test_ledger_on_a_read_only_disk(coffee):
    """A ledger that cannot be written is exit 7 and says so."""
    if os.geteuid() == 0:
        mounted = subprocess.run(
            ["mount", "--bind", "-o", "ro", coffee.home.path, coffee.home.path],
            check=False,
            capture_output=True,
        )
        if (
            mounted.returncode
            or subprocess.run(
                ["mount", "-o", "remount,ro,bind", coffee.home.path], check=False, capture_output=True
            ).returncode
        ):
            subprocess.run(["umount", coffee.home.path], check=False, capture_output=True)
            subprocess.run(["chattr", "+i", coffee.home.path / "ledger.sqlite3"], check=False)
        try:
            refused = coffee.home.run("pay", "coffee", "1", "--json")
        finally:
            subprocess.run(["umount", coffee.home.path], check=False, capture_output=True)
            subprocess.run(
                ["chattr", "-i", coffee.home.path / "ledger.sqlite3"], check=False, capture_output=True
            )
    else:
        (coffee.home.path / "ledger.sqlite3").chmod(0o400)
        coffee.home.path.chmod(0o500)
        try:
            refused = coffee.home.run("pay", "coffee", "1", "--json")
        finally:
            coffee.home.path.chmod(0o700)
            (coffee.home.path / "ledger.sqlite3").chmod(0o600)
    assert (refused.exit_code, refused.error["code"]) == (7, "ledger-unwritable"), refused


def test_ledger_busy(coffee):
    """A ledger somebody keeps is exit 7 after the busy time-out, with nothing signed."""
    from microwallet.errors import LedgerBusy
    from microwallet.ledger.ledger import Ledger

    path = coffee.home.path / "ledger.sqlite3"
    with Ledger.open(path) as holder, holder.database.write(), Ledger.open(path, busy_seconds=0.2) as other:
        with pytest.raises(LedgerBusy) as busy, other.database.write():
            pass
        assert busy.value.exit_code == 7
