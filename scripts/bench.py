"""The speed table of the README: every figure beside a floor measured in the same run.

The floors of signing and verifying are raw libsecp256k1, called through its C interface with no
hashing and no encoding around it. Whole processes are timed from outside, in turn with what they are
compared to, and the median is told. Prints Markdown.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench_home import MICROWALLET, Home, Row, anvil, in_turn, timed
from bench_http import NOTE, http_rows
from coincurve._libsecp256k1 import ffi, lib
from coincurve.context import GLOBAL_CONTEXT

from microwallet.devnet.local_chain import local_chain
from microwallet.domain.channel import NO_CHANNEL, ChannelDescriptor, PayerChannel
from microwallet.domain.identifiers import Address, ChainId, checksum_address
from microwallet.domain.money import Asset
from microwallet.domain.voucher import SignerCheck, VoucherDigest, VoucherKey
from microwallet.keys.os_keyring import BACKEND_VARIABLE
from microwallet.ledger.database import to_text

ESCROW = Address("0x5FbDB2315678afecb367f032d93F642f64180aa3")
SECRET, CHANNEL = b"\x11" * 32, "0x" + "22" * 32
HELLO = """
import typer

app = typer.Typer()

@app.command()
def hello(name: str = "x"):
    print(name)

app()
"""


def main() -> None:
    """Measure everything and print the tables."""
    quick = "--quick" in sys.argv
    rounds, count = (3, 2_000) if quick else (9, 10_000)
    with tempfile.TemporaryDirectory(prefix="microwallet-bench-") as folder:
        if "--secret-service" in sys.argv:
            print(json.dumps(one_pay_by_secret_service(Path(folder), rounds)))
            return
        if "http" in sys.argv:
            print_table(http_rows(Path(folder) / "http", quick=quick, alone="--alone" in sys.argv))
            print(NOTE)
            return
        sign_floor, recover_floor = floors()
        rows = in_process(sign_floor, recover_floor)
        rows += whole_processes(Path(folder), sign_floor, recover_floor, rounds, count)
        rows += beside_a_secret_service(rounds)
        rows += large_ledger(Path(folder), rounds, 20_000 if quick else 1_000_000)
        rows += http_rows(Path(folder) / "http", quick=quick)
    print_table(rows)
    print(NOTE)
    print("| call | gas | to reach | what it consists of |\n| --- | --- | --- | --- |")
    for call, figure in gas().items():
        print(f"| {call} | {figure['gas']:,} | {figure['target']:,} | {figure['explanation']} |")


def print_table(rows: Iterable[Row]) -> None:
    """Print rows as Markdown."""
    print(f"Python {sys.version.split()[0]}, {os.cpu_count()} cores\n")
    print("| what | measured | to reach |\n| --- | --- | --- |")
    for what, measured, goal in rows:
        print(f"| {what} | {measured} | {goal} |")


def seconds_per_call(work: Callable[[int], object], calls: int = 2_000) -> float:
    """Wall seconds that one call takes."""
    begun = time.perf_counter()
    for number in range(calls):
        work(number)
    return (time.perf_counter() - begun) / calls


def share(pairs: Iterable[tuple[float, float]]) -> tuple[float, float]:
    """The share that a floor has of what stands on it, and the seconds of that: medians of pairs.

    The two of a pair are measured one after the other: a machine's speed changes with time.
    """
    measured = list(pairs)
    return (
        statistics.median(floor / whole for floor, whole in measured),
        statistics.median(whole for _, whole in measured),
    )


def floors() -> tuple[Callable[[], float], Callable[[], float]]:
    """Measure the seconds libsecp256k1 itself takes to sign, and to recover a public key."""
    context, digest = GLOBAL_CONTEXT.ctx, b"\x22" * 32
    signature = ffi.new("secp256k1_ecdsa_recoverable_signature *")
    public_key = ffi.new("secp256k1_pubkey *")
    sign, recover = lib.secp256k1_ecdsa_sign_recoverable, lib.secp256k1_ecdsa_recover
    sign(context, signature, digest, SECRET, ffi.NULL, ffi.NULL)
    return (
        lambda: seconds_per_call(lambda _: sign(context, signature, digest, SECRET, ffi.NULL, ffi.NULL)),
        lambda: seconds_per_call(lambda _: recover(context, public_key, signature, digest)),
    )


def in_process(sign_floor: Callable[[], float], recover_floor: Callable[[], float]) -> list[Row]:
    """Rows of what signing and verifying take inside a process."""
    key, digest = VoucherKey(SECRET), VoucherDigest(ChainId(31337), ESCROW, CHANNEL)
    signatures = [key.sign(digest(amount)) for amount in range(2_000)]
    is_ours = SignerCheck(key.address)
    signing, sign = share(
        (sign_floor(), seconds_per_call(lambda amount: key.sign(digest(amount)))) for _ in range(25)
    )
    verifying, verify = share(
        (recover_floor(), seconds_per_call(lambda amount: is_ours(digest(amount), signatures[amount])))
        for _ in range(25)
    )
    return [
        (
            "digest and sign one voucher, in process",
            f"{signing:.2f} of the signing floor ({1 / sign:,.0f} a second)",
            "0.70",
        ),
        (
            "verify one voucher, in process",
            f"{verifying:.2f} of the recovery floor ({1 / verify:,.0f} a second)",
            "0.75",
        ),
    ]


def whole_processes(
    folder: Path,
    sign_floor: Callable[[], float],
    recover_floor: Callable[[], float],
    rounds: int,
    count: int,
) -> list[Row]:
    """Rows of what commands take from start to exit, on a real chain."""
    vouchers = folder / "vouchers"
    with local_chain(anvil()) as chain:
        payer, payee = Home(folder / "payer", chain), Home(folder / "payee", chain)
        with payer.wallet() as wallet:
            alice = wallet.accounts.create("alice").address
        with payee.wallet() as wallet:
            bob = wallet.accounts.create("bob").address
        chain.node.add_native(alice, 10**19)
        chain.node.mint(chain.token, alice, 10**12)
        payer.run("channel", "open", bob, "100000 USDC", "--label", "channel-0", "--yes")
        batch = ("pay", "channel-0", "0.0001", "--count", str(count), "--each")
        pay, accept = [], []
        for _ in range(rounds):
            pay.append((sign_floor() * count, payer.run(*batch, output=vouchers)))
            accept.append((recover_floor() * count, payee.run("payee", "accept", str(vouchers))))
        (signing, paying), (verifying, accepting) = share(pay), share(accept)
        one_pay = against_a_hello(payer, folder, "one `pay`, start to exit, file store", "1.6", rounds)
        memory = [peak_memory(payer, count * factor) for factor in (1, 10)]
    return [
        (
            f"`pay --count {count} --each`, whole process",
            f"{signing:.2f} of the signing floor ({count / paying:,.0f} a second)",
            "0.35",
        ),
        (
            f"`payee accept` of {count} lines, whole process",
            f"{verifying:.2f} of the recovery floor ({count / accepting:,.0f} a second)",
            "0.40",
        ),
        one_pay,
        (
            f"memory of `pay --count {count * 10}`",
            f"{memory[1]:.1f} MiB, {memory[0]:.1f} MiB for a tenth of it",
            "flat",
        ),
    ]


def beside_a_secret_service(rounds: int) -> list[Row]:
    """The row of one `pay` whose key is in a Secret Service started for it; no row where none can be."""
    if not (shutil.which("dbus-run-session") and shutil.which("gnome-keyring-daemon")):
        return []
    unlocked = 'eval "$(printf bench | gnome-keyring-daemon --unlock --components=secrets)"; exec "$@"'
    bench = [sys.executable, __file__, "--secret-service", *(["--quick"] if rounds < 5 else [])]
    with tempfile.TemporaryDirectory(prefix="microwallet-bench-") as folder:
        places = {"HOME": folder, "XDG_RUNTIME_DIR": folder, "XDG_DATA_HOME": folder}
        told = subprocess.run(
            ["dbus-run-session", "--", "sh", "-c", unlocked, "_", *bench],
            env={**os.environ, **places},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            check=True,
        )
    return [json.loads(told.stdout.splitlines()[-1])]


def one_pay_by_secret_service(folder: Path, rounds: int) -> Row:
    """The row itself, measured inside the session that has the Secret Service."""
    home = Home(folder / "payer")
    home.environment[BACKEND_VARIABLE] = "keyring.backends.SecretService.Keyring"
    fill(home, channels=1, payments=0)
    return against_a_hello(home, folder, "one `pay`, start to exit, Secret Service", "2.0", rounds)


def against_a_hello(home: Home, folder: Path, what: str, goal: str, rounds: int) -> Row:
    """The row of one `pay` as a process, in turn with a Typer hello-world."""
    hello = folder / "hello.py"
    hello.write_text(HELLO)
    one, greeting = in_turn(
        lambda: home.run("pay", "channel-0", "0.0001"),
        lambda: timed([sys.executable, str(hello)], home.environment),
        rounds,
    )
    return what, f"{one / greeting:.2f} x a Typer hello ({one:.2f} s beside {greeting:.2f} s)", goal


def gas() -> dict[str, dict[str, Any]]:
    """Gas of each call by receipts of real transactions, its goal, and what it consists of."""
    program = Path(__file__).parents[1] / "tests/contract/measure_gas.py"
    told = subprocess.run(
        [sys.executable, str(program)],
        env={**os.environ, "MICROWALLET_ANVIL": str(anvil())},
        stdout=subprocess.PIPE,
        check=True,
    )
    figures: dict[str, dict[str, Any]] = json.loads(told.stdout)
    return figures


def peak_memory(home: Home, count: int) -> float:
    """MiB that paying `count` times takes at its peak, told by a small process that starts it."""
    watch = (
        "import resource, sys; from subprocess import DEVNULL, run; run(sys.argv[1:], stdout=DEVNULL);"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )
    pay = [MICROWALLET, "--quiet", "pay", "channel-0", "0.0001", "--count", str(count), "--each"]
    told = subprocess.run(
        [sys.executable, "-c", watch, *pay], env=home.environment, stdout=subprocess.PIPE, check=True
    )
    return int(told.stdout) / (1024 * 1024 if sys.platform == "darwin" else 1024)


def large_ledger(folder: Path, rounds: int, payments: int) -> list[Row]:
    """Commands on a ledger with many recorded payments and 1,000 channels, against a small one."""
    small, large = Home(folder / "small"), Home(folder / "large")
    fill(small, channels=1, payments=0)
    fill(large, channels=1_000, payments=payments)
    commands = {
        "pay": ("pay", "channel-0", "0.000001"),
        "channel list": ("channel", "list", "--offline", "--json"),
        "balance": ("balance", "--offline"),
    }
    rows = []
    for name, command in commands.items():
        many, few = in_turn(lambda: large.run(*command), lambda: small.run(*command), rounds)  # noqa: B023
        rows.append(
            (
                f"`{name}` with {payments:,} payments and 1,000 channels",
                f"{many / few:.2f} x an empty ledger",
                "1.5",
            )
        )
    return rows


def fill(home: Home, *, channels: int, payments: int) -> None:
    """Write a ledger with so many channels and recorded payments."""
    with home.wallet() as wallet:
        account = wallet.accounts.create("alice")
        key = VoucherKey(SECRET)
        token = checksum_address(b"\x55" * 20)
        asset = Asset(chain_id=ChainId(31337), token=token, symbol="TEST", decimals=6)
        opened = replace(NO_CHANNEL, deposit=10**12)
        made = []
        for number in range(channels):
            descriptor = ChannelDescriptor(
                payer=account.address,
                payee=checksum_address(number.to_bytes(20, "big")),
                token=token,
                salt="0x" + number.to_bytes(32, "big").hex(),
                authorized_signer=key.address,
                escrow_contract=wallet.escrow_contract,
                chain_id=ChainId(31337),
            )
            new = PayerChannel.new(descriptor, asset, label=f"channel-{number}", voucher_known=True)
            made.append(replace(new, state=opened, authorized=payments, spent=payments, as_of=0))
        for channel in made:
            wallet.ledger.channels.add(channel, now=0)
        wallet.voucher_keys.put(made[0].channel_id, key, account.store)
        with wallet.ledger.database.write() as connection:
            connection.executemany(
                "INSERT INTO payments (idempotency_key, channel_id, start, step, count, deposit, created_at)"
                " VALUES (?, ?, ?, ?, 1, ?, 0)",
                (
                    (
                        f"pay-{number:024x}",
                        made[number % channels].channel_id,
                        to_text(number),
                        to_text(1),
                        to_text(10**12),
                    )
                    for number in range(payments)
                ),
            )


if __name__ == "__main__":
    main()
