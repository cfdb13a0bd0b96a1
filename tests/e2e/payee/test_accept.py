"""`payee accept` on a real chain: good lines in any order, and every bad one, never the worse for it."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace

import pytest
from migrated import migrate

from microwallet.domain.identifiers import checksum_address
from microwallet.domain.voucher import VoucherKey
from microwallet.wallet import Wallet

SAYS_YES = "0x7f1626ba7e" + "00" * 28 + "60005260206000f3"
"""Code of a contract signer that takes anything for its signature (ERC-1271)."""
UNREAD = {"amount", "asset", "decimals", "remaining"}
"""What a voucher says beside what counts."""
OTHER = checksum_address(b"\x99" * 20)
ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141


@pytest.fixture
def opened(payee, payers):
    """A channel of ten USDC that pays bob."""
    return payers.open(payee.address)


def best(payee, opened):
    """The best voucher's amount in the payee's ledger; 0 without one."""
    with Wallet.open(environment=payee.home.environment) as wallet:
        found = wallet.ledger.vouchers.get(opened.channel_id)
        return found.authorized if found else 0


def changed(line, **fields):
    """A voucher line with other fields; None takes a field out."""
    document = {**json.loads(line), **fields}
    return json.dumps({name: value for name, value in document.items() if value is not None}) + "\n"


def resigned(opened, amount, **fields):
    """A voucher rightly signed for a channel that differs in its descriptor."""
    descriptor = replace(opened.descriptor, **fields)
    return replace(opened, descriptor=descriptor, channel_id=descriptor.channel_id()).voucher(amount)


def high_s(line):
    """The other signature over the same voucher, which the curve allows and the draft does not."""
    raw = bytes.fromhex(json.loads(line)["signature"][2:])
    s = ORDER - int.from_bytes(raw[32:64], "big")
    return changed(line, signature="0x" + (raw[:32] + s.to_bytes(32, "big") + bytes((55 - raw[64],))).hex())


def flipped(line, bit):
    """A signature with one bit changed."""
    signature = int(json.loads(line)["signature"], 16) ^ (1 << bit)
    return changed(line, signature=f"0x{signature:0130x}")


def test_a_thousand_payments_through_a_pipe(alice, payee):
    """`pay --each | payee accept -`, two processes at once: every voucher arrives, the last is the best."""
    channel = alice.run(
        "channel", "open", payee.address, "10 USDC", "--label", "coffee", "--yes", "--json"
    ).data
    paying = alice.start("pay", "coffee", "0.0001 USDC", "--count", 1000, "--each", stdout=subprocess.PIPE,
                         stderr=subprocess.DEVNULL)  # fmt: skip
    accepting = payee.home.start(
        "payee", "accept", "-", "--json", stdin=paying.stdout, stdout=subprocess.PIPE
    )
    paying.stdout.close()
    told = json.loads(accepting.communicate(timeout=60)[0])
    assert (paying.wait(), accepting.returncode) == (0, 0)
    assert told["data"] == {
        "accepted": 1000,
        "duplicates": 0,
        "rejected": 0,
        "rejectedByReason": {},
        "rejectedLines": [],
        "channels": [channel["channelId"]],
    }
    closed = payee.run("close", "--all", "--yes").data
    assert [one["captured"] for one in closed["channels"]] == ["100000"]
    assert payee.holds() == 100_000


def test_any_order_and_twice(payee, payers, opened):
    """Shuffled lines of three channels, all of them twice: the best of each, nothing rejected."""
    channels = [opened, payers.open(payee.address), payers.open(payee.address, native=True)]
    lines = [channel.voucher(amount) for channel in channels for amount in range(1, 101)] * 2
    random.Random(3).shuffle(lines)
    data = payee.accept(*lines)
    assert data["accepted"] + data["duplicates"] == 600
    assert data["rejected"] == 0
    assert set(data["channels"]) == {channel.channel_id for channel in channels}
    assert [best(payee, channel) for channel in channels] == [100, 100, 100]
    again = payee.accept(*lines)
    assert (again["accepted"], again["duplicates"]) == (0, 600)


def test_every_bad_line_in_a_good_stream(payee, opened):
    """Each is counted under its reason, exit 4; the lines around it are accepted, also after 10 MB."""
    good = opened.voucher(500)
    bad = [
        ("malformed", "not JSON\n"),
        ("malformed", "{" * 10_000 + "\n"),
        ("malformed", "\x00\n"),
        ("malformed", changed(good, signature=None)),
        ("malformed", changed(good, cumulativeAmount=500)),
        ("malformed", changed(good, cumulativeAmount="5e2")),
        ("malformed", changed(good, cumulativeAmount=str(2**128))),
        ("malformed", changed(good, chainId="31337")),
        ("malformed", changed(good, payer=["0x"])),
        ("malformed", changed(good, salt="0x" + "00" * 32)),
        ("invalid-signature", high_s(good)),
        ("invalid-signature", changed(good, signature=json.loads(good)["signature"][:-2])),
        ("invalid-signature", changed(good, signature="0x")),
        ("signer-mismatch", replace(opened, key=VoucherKey(b"\x07" * 32)).voucher(500)),
        ("signer-mismatch", changed(good, cumulativeAmount="501")),
        ("wrong-chain", resigned(opened, 500, chain_id=1)),
        ("wrong-escrow", resigned(opened, 500, escrow_contract=OTHER)),
        ("wrong-payee", resigned(opened, 500, payee=OTHER)),
        ("wrong-token", resigned(opened, 500, token=OTHER)),
        ("channel-not-found", resigned(opened, 500, salt="0x" + "00" * 32)),
        ("amount-exceeds-deposit", opened.voucher(10_000_001)),
        ("too-long", "x" * 10_000_000 + "\n"),
        ("too-long", changed(good, padding="x" * 17_000)),
    ]
    lines = [opened.voucher(1)]
    for number, (_, line) in enumerate(bad, start=2):
        lines += [line, opened.voucher(number)]
    refused = payee.run("accept", "-", input="".join(lines))
    assert (refused.exit_code, refused.error["code"]) == (4, "voucher-rejected")
    reasons = [reason for reason, _ in bad]
    data = refused.json["data"]
    assert data["rejectedByReason"] == {reason: reasons.count(reason) for reason in reasons}
    assert (data["accepted"], data["rejected"]) == (len(bad) + 1, len(bad))
    assert best(payee, opened) == len(bad) + 1
    told = [(one["line"], one["reason"]) for one in data["rejectedLines"]]
    assert told == [(2 * number, reason) for number, reason in enumerate(reasons, start=1)]
    said = {one["reason"]: [*one.values()][2:] for one in data["rejectedLines"]}
    assert said["amount-exceeds-deposit"] == [None, opened.channel_id, "10000001", "USDC", 6]
    assert said["wrong-token"][2:] == ["500", None, None]
    assert said["too-long"] == [None] * 5


def test_rejected_lines_on_the_screen(payee, opened):
    """The first ten by number, channel, amount and reason, and how many more; no line writes an escape."""
    hostile = "\x1b]0;owned\x07\x1b[31m\u202e\u009b" * 20
    good = opened.voucher(500)
    lines = [
        "\n",
        good,
        changed(good, cumulativeAmount="501"),
        resigned(opened, 500, token=OTHER),
        *(changed(good, **{name: hostile}) for name in json.loads(good) if name not in UNREAD),
        changed(good, channelId=hostile, asset=hostile, paymentStart=hostile),
    ]
    told = payee.home.run("payee", "accept", "-", input="".join(lines))
    assert told.exit_code == 4
    assert all(line.isprintable() for line in (told.stdout + told.stderr).split("\n")), told
    said = told.stdout.splitlines()
    assert said[1].split() == ["LINE", "CHANNEL", "AMOUNT", "REASON"]
    assert said[2].split() == ["3", opened.channel_id, "0.000501", "USDC", "signer-mismatch"]
    assert said[3].split()[0] == "4"
    assert said[3].endswith("500 base units  wrong-token")
    assert said[4].startswith("   5  -"), said
    assert len(said) == 13
    rejected = len(lines) - 2
    assert said[-1] == f"and {rejected - 10} more, by line in --json"


def test_a_token_of_the_payers_own_making(payee, payers, chain):
    """Worth nothing until the payee says otherwise: refused, with the command that would take it."""
    token = checksum_address(b"\x66" * 20)
    chain.rpc.call("anvil_setCode", [token, chain.rpc.call("eth_getCode", [chain.token, "latest"])])
    opened = payers.open(payee.address, token=token)
    refused = payee.run("accept", "-", input=opened.voucher(500))
    assert refused.json["data"]["rejectedByReason"] == {"wrong-token": 1}
    assert refused.error["hint"].endswith(f"microwallet network token add {token}")
    payee.home.run("network", "token", "add", token, "--alias", "MINE").succeeded()
    assert payee.accept(opened.voucher(500))["accepted"] == 1


def test_flipped_bits(payee, opened):
    """No voucher whose signature differs in one bit is accepted."""
    lines = [flipped(opened.voucher(10), bit) for bit in range(0, 65 * 8, 5)]
    data = payee.run("accept", "-", input="".join(lines)).json["data"]
    assert (data["accepted"], data["duplicates"], data["rejected"]) == (0, 0, len(lines))
    assert best(payee, opened) == 0


def test_envelopes_and_files(payee, opened, tmp_path):
    """`pay --json` lines are taken as bare ones are; a file needs no last line break."""
    document = json.loads(opened.voucher(7))
    file = tmp_path / "vouchers"
    file.write_text(
        json.dumps({"schema": 1, "ok": True, "data": document}) + "\r\n\n" + opened.voucher(8).rstrip("\n")
    )
    assert payee.run("accept", file).data["accepted"] == 2
    assert best(payee, opened) == 8
    missing = payee.run("accept", tmp_path / "nothing")
    assert (missing.exit_code, missing.error["code"]) == (2, "usage")
    assert payee.run("accept", tmp_path).exit_code == 2


def test_nothing_at_all(payee):
    """An empty stream is nothing accepted and no failure; no stdin at all is exit 2."""
    assert payee.run("accept", "-", input="").data["accepted"] == 0
    done = subprocess.run(
        ["sh", "-c", 'exec "$@" <&-', "sh", *_command("payee", "accept", "-", "--json")],
        env=payee.home.environment,
        capture_output=True,
        check=False,
    )
    assert (done.returncode, json.loads(done.stdout)["error"]["code"]) == (2, "usage"), done


def test_a_payment_with_no_stdout_is_not_lost(alice, payee):
    """Nobody took the voucher: it is recorded once, and resumed by its key."""
    alice.run("channel", "open", payee.address, "1 USDC", "--label", "coffee", "--yes").succeeded()
    pay = _command("pay", "coffee", "0.1", "--idempotency-key", "k")
    for _ in range(2):
        done = subprocess.run(
            ["sh", "-c", 'exec "$@" >&-', "sh", *pay], env=alice.environment, capture_output=True, check=False
        )
        assert (done.returncode, b"Traceback" in done.stderr) == (0, False), done
    assert payee.accept(alice.run("pay", "--resume", "k").succeeded().stdout)["accepted"] == 1
    assert alice.run("pay", "coffee", "0.1", "--json").data["cumulativeAmount"] == "200000"


def test_a_channel_that_is_closing_or_closed(payee, payers, opened):
    """What could be taken back any minute buys nothing: close-pending, then channel-finalized."""
    other = payers.open(payee.address)
    payee.accept(opened.voucher(5), other.voucher(5))
    payers.request_close(opened)
    payee.run("close", other.channel_id, "--yes").data  # noqa: B018
    refused = payee.run("accept", "-", input=opened.voucher(6) + other.voucher(6))
    assert refused.exit_code == 4
    assert refused.json["data"]["rejectedByReason"] == {"close-pending": 1, "channel-finalized": 1}
    assert (best(payee, opened), best(payee, other)) == (5, 5)


def test_a_captured_voucher_buys_nothing_again(payee, opened):
    """CVE-2026-34209: another home of the same payee, without the ledger, is not paid with it twice."""
    payee.accept(opened.voucher(5_000))
    payee.run("settle", "--all", "--yes").data  # noqa: B018
    (payee.home.path / "ledger.sqlite3").unlink()
    (payee.home.path / "ledger.mark").unlink()
    data = payee.accept(opened.voucher(4_999), opened.voucher(5_000))
    assert (data["accepted"], data["duplicates"]) == (0, 2)
    assert payee.accept(opened.voucher(5_001))["accepted"] == 1


def test_an_open_with_too_few_confirmations(payee, chain, payers):
    """With three confirmations wanted, the open counts in the third block, a top up too."""
    payee.home.run("network", "add", "anvil", "--confirmations", 3).succeeded()
    opened = payers.open(payee.address, 1000)
    for _ in range(2):
        refused = payee.run("accept", "-", input=opened.voucher(5))
        assert refused.json["data"]["rejectedByReason"] == {"channel-not-found": 1}
        chain.rpc.call("evm_mine")
    assert payee.accept(opened.voucher(5))["accepted"] == 1


def test_a_contract_signer(payee, chain, opened):
    """Refused unless the payee wants such signers; then accepted, and really paid."""
    chain.rpc.call("anvil_setCode", [opened.descriptor.authorized_signer, SAYS_YES])
    line = changed(opened.voucher(10), signature="0x" + "ab" * 70, cumulativeAmount="2000")
    refused = payee.run("accept", "-", input=line)
    assert refused.json["data"]["rejectedByReason"] == {"invalid-signature": 1}
    assert payee.accept(opened.voucher(1000))["accepted"] == 1, "the key still signs"
    empty = changed(line, signature="0x", cumulativeAmount="3000")
    mixed = payee.run("accept", "-", "--allow-contract-signers", input=line + empty)
    assert mixed.json["data"]["accepted"] == 1
    assert mixed.json["data"]["rejectedByReason"] == {"invalid-signature": 1}
    payee.run("close", "--all", "--yes").data  # noqa: B018
    assert payee.holds() == 2000


@contextmanager
def stopped(chain):
    """The chain answers nothing meanwhile."""
    os.kill(chain.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(chain.pid, signal.SIGCONT)


def test_the_chain_goes_silent_midway(payee, payers, chain, opened):
    """Exit 3 with what was accepted before; it is stored, and the same stream again takes the rest."""
    other = payers.open(payee.address)
    first = "".join(opened.voucher(amount) for amount in range(1, 51))
    accepting = payee.home.start(
        "payee", "accept", "-", "--json", stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        env={"MICROWALLET_RPC_TIMEOUT": "3"},
    )  # fmt: skip
    accepting.stdin.write(first.encode())
    accepting.stdin.flush()
    deadline = time.monotonic() + 20
    while best(payee, opened) != 50:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    with stopped(chain):
        told = json.loads(accepting.communicate(other.voucher(7).encode(), timeout=60)[0])
    assert (accepting.returncode, told["error"]["code"]) == (3, "network")
    assert (told["data"]["accepted"], told["data"]["channels"]) == (50, [opened.channel_id])
    data = payee.accept(first, other.voucher(7))
    assert (data["accepted"], data["duplicates"]) == (1, 50)


def test_the_ledger_is_migrated_midway(payee, opened):
    """Exit 7 with what was accepted before; not a voucher is stored in what is not known here."""
    accepting = payee.home.start(
        "payee", "accept", "-", "--json", stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    accepting.stdin.write(opened.voucher(50).encode())
    accepting.stdin.flush()
    deadline = time.monotonic() + 20
    while best(payee, opened) != 50:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    migrate(payee.home.path / "ledger.sqlite3")
    told = json.loads(accepting.communicate(opened.voucher(60).encode(), timeout=60)[0])
    assert (accepting.returncode, told["error"]["code"]) == (7, "ledger-too-new")
    assert told["data"]["accepted"] == 1
    migrate(payee.home.path / "ledger.sqlite3", by=0)
    assert best(payee, opened) == 50


def test_no_chain_at_all(payee, opened):
    """Exit 3 within the time-out, and nothing is stored."""
    settings = {"MICROWALLET_RPC_URL": "http://127.0.0.1:9", "MICROWALLET_RPC_TIMEOUT": "1"}
    refused = payee.run("accept", "-", input=opened.voucher(1), env=settings)
    assert (refused.exit_code, refused.error["code"]) == (3, "network")
    assert best(payee, opened) == 0


def test_verified_on_chain(payee, opened):
    """What is right offline is held against the newest state of its channel; nothing is stored."""
    lines = {
        opened.voucher(9): None,
        opened.voucher(10**8): "amount-exceeds-deposit",
        resigned(opened, 9, salt="0x" + "77" * 32): "channel-not-found",
        resigned(opened, 9, escrow_contract=OTHER): "wrong-escrow",
        resigned(opened, 9, chain_id=5): "wrong-chain",
        flipped(opened.voucher(9), 9): "signer-mismatch",
    }
    verify = ("voucher", "verify", "-", "--json")
    told = payee.home.run(*verify, "--on-chain", input="".join(lines))
    assert (told.exit_code, told.json["data"]["failed"]) == (4, 5)
    assert [one["reason"] for one in told.json["data"]["vouchers"]] == list(lines.values())
    assert payee.home.run(*verify, input="".join(lines)).json["data"]["failed"] == 1
    told = payee.home.run(*verify[:-1], input=opened.voucher(9)).stdout
    assert told == f"{opened.channel_id}  9 base units  ok\n"
    payee.accept(opened.voucher(9))
    payee.run("close", "--all", "--yes").data  # noqa: B018
    (closed,) = payee.home.run(*verify, "--on-chain", input=opened.voucher(9)).json["data"]["vouchers"]
    assert closed["reason"] == "channel-finalized"
    nowhere = {"MICROWALLET_RPC_URL": "http://127.0.0.1:9", "MICROWALLET_RPC_TIMEOUT": "1"}
    assert payee.home.run(*verify, "--on-chain", input=opened.voucher(9), env=nowhere).exit_code == 3


def test_two_at_once_on_one_channel(payee, opened):
    """Each takes half of the lines: together they count all, and the best is the best of both."""
    halves = ["".join(opened.voucher(amount) for amount in range(start, 2001, 2)) for start in (1, 2)]
    with ThreadPoolExecutor(2) as pool:
        runs = list(pool.map(lambda half: payee.run("accept", "-", input=half).data, halves))
    assert [data["accepted"] + data["duplicates"] for data in runs] == [1000, 1000]
    assert best(payee, opened) == 2000


def kill_and_repeat(payee, opened, tmp_path, rounds):
    """Kill accept at random moments; the same file again always ends with the right best."""
    rng = random.Random(11)
    for number in range(rounds):
        top = 1000 * (number + 1)
        file = tmp_path / "vouchers"
        file.write_text("".join(opened.voucher(amount) for amount in range(top - 999, top + 1)))
        process = payee.home.start("payee", "accept", file, stdout=subprocess.DEVNULL)
        time.sleep(rng.uniform(0.1, 0.8))
        process.kill()
        process.wait()
        assert top - 1000 <= best(payee, opened) <= top
        data = payee.run("accept", file).data
        assert data["accepted"] + data["duplicates"] == 1000
        assert best(payee, opened) == top


def test_killed_while_accepting(payee, opened, tmp_path):
    """SIGKILL at a few random moments: what was stored stays, and nothing is in the way of the rest."""
    kill_and_repeat(payee, opened, tmp_path, 4)


@pytest.mark.long
def test_killed_while_accepting_hundreds_of_times(payee, payers, tmp_path):
    """The long form."""
    kill_and_repeat(payee, payers.open(payee.address, 10**9), tmp_path, 200)


@pytest.mark.long
def test_memory_does_not_grow_with_the_stream(payee, payers, tmp_path):
    """A hundred thousand lines take no more memory than a thousand."""
    opened = payers.open(payee.address, 10**9)
    peaks = []
    for count in (1_000, 100_000):
        file = tmp_path / "vouchers"
        with file.open("w") as lines:
            lines.writelines(opened.voucher(amount) for amount in range(1, count + 1))
        script = (
            "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True);"
            "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
        )
        done = subprocess.run(
            [sys.executable, "-c", script, *_command("payee", "accept", file)],
            env=payee.home.environment, capture_output=True, text=True, check=True,
        )  # fmt: skip
        peaks.append(int(done.stdout.splitlines()[-1]))
    assert peaks[1] < peaks[0] + 16 * 1024, peaks


def _command(*arguments):
    return [sys.executable, "-m", "microwallet", *(str(argument) for argument in arguments)]
