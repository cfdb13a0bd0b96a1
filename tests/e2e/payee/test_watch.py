"""`payee watch` by the real command: no payer takes back what it has paid while it runs."""

from __future__ import annotations

import json
import queue
import signal
import subprocess
import threading
import time

import pytest
from gate import Gate
from migrated import migrate
from unwritable import FULL, into_full, into_nowhere, needs_full

from microwallet.payee.refresh import CONFIRMED_DEPTH

WEI = 10**18
WITHOUT_CHAIN = {"MICROWALLET_RPC_URL": "http://127.0.0.1:9", "MICROWALLET_RPC_TIMEOUT": "2"}


class Watcher:
    """A running watcher and the events it prints."""

    def __init__(self, home, *arguments, **settings):
        self.process = home.start(
            "payee",
            "watch",
            "--interval",
            "100ms",
            "--json",
            *arguments,
            env=settings,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        self._events = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        with self.process.stdout:
            for line in self.process.stdout:
                self._events.put(json.loads(line))
        self._events.put(None)

    def next(self, *names, seconds=30):
        """The next event of one of these names; others before it are passed over."""
        deadline = time.monotonic() + seconds
        while True:
            event = self._events.get(timeout=max(0.01, deadline - time.monotonic()))
            assert event is not None, f"the watcher ended before {names}"
            if event["event"] in names:
                return event

    def rest(self, seconds):
        """Every event that still comes within a time."""
        time.sleep(seconds)
        events = []
        while not self._events.empty():
            events.append(self._events.get())
        return events

    def end(self, number=signal.SIGTERM):
        """Send a signal; the exit code."""
        self.process.send_signal(number)
        return self.process.wait(timeout=20)


@pytest.fixture
def start(payee):
    """Starts watchers of the payee's home and ends them with the test."""
    started = []

    def start_watcher(*arguments, **settings):
        started.append(Watcher(payee.home, *arguments, **settings))
        return started[-1]

    yield start_watcher
    for watcher in started:
        watcher.process.kill()
        watcher.process.wait()


@pytest.fixture
def gate(chain):
    """A gate before this test's chain."""
    gate = Gate(chain.rpc_url)
    yield gate
    gate.close()


def set_clock(chain, timestamp):
    """Mine a block with exactly this time."""
    chain.rpc.call("evm_setNextBlockTimestamp", [hex(timestamp)])
    chain.rpc.call("evm_mine")


def test_a_requested_close_is_answered_at_once(payee, payers, start):
    """As soon as a payer requests a close, the best voucher is cashed, a channel that owes nothing left."""
    opened, idle = payers.open(payee.address), payers.open(payee.address)
    payee.accept(opened.voucher(4_000_000), idle.voucher(1))
    payee.run("settle", idle.channel_id, "--yes").data  # noqa: B018
    watcher = start()
    assert watcher.next("watching")["chainId"] == 31337
    withdrawable_at = payers.request_close(opened)
    payers.request_close(idle)
    requested = watcher.next("close-requested")
    assert (requested["channelId"], requested["unsettled"]) == (opened.channel_id, "4000000")
    assert requested["withdrawableAt"] == withdrawable_at
    closed = watcher.next("closed")
    assert (closed["channelId"], closed["captured"], closed["refunded"]) == (
        opened.channel_id,
        "4000000",
        "6000000",
    )
    assert payee.holds() == 4_000_001
    assert not payers.reader.channel_state(idle.channel_id).finalized
    assert "unwatched" not in payee.run("list").stderr
    assert watcher.end() == 0
    assert watcher.next("stopped")


def test_vouchers_accepted_while_it_runs_are_watched(payee, payers, start):
    """A watcher started before there was anything to watch closes with the newest voucher."""
    watcher = start()
    watcher.next("watching")
    opened = payers.open(payee.address)
    payee.accept(opened.voucher(1))
    assert "warning" not in payee.run("list").stderr
    payee.accept(opened.voucher(2_000_000))
    payers.request_close(opened)
    assert watcher.next("closed")["captured"] == "2000000"


def test_a_killed_watcher_leaves_nothing_behind(payee, payers, start, chain):
    """After SIGKILL the next one starts at once, and sees what was requested while none ran."""
    opened = payers.open(payee.address)
    payee.accept(opened.voucher(3_000_000))
    first = start()
    first.next("watching")
    first.end(signal.SIGKILL)
    payers.request_close(opened)
    chain.rpc.call("anvil_mine", [hex(300)])
    second = start()
    assert second.next("closed")["captured"] == "3000000"


def test_the_ledger_is_migrated_meanwhile(payee, start):
    """Exit 7 at once, not when a close is due that it could not write down."""
    watcher = start()
    watcher.next("watching")
    migrate(payee.home.path / "ledger.sqlite3")
    assert watcher.process.wait(timeout=20) == 7
    assert watcher.rest(0.1) == [None]


def test_it_outlasts_a_chain_that_cannot_be_asked(payee, payers, start, gate):
    """A close requested while nothing answers is answered when the chain is back; it never gives up."""
    opened = payers.open(payee.address)
    payee.accept(opened.voucher(3_000_000))
    watcher = start(MICROWALLET_RPC_URL=gate.url, MICROWALLET_RPC_TIMEOUT="1")
    watcher.next("watching")
    gate.shut()
    assert watcher.next("interrupted")["code"] == "network"
    payers.request_close(opened)
    assert watcher.rest(2) == []
    assert watcher.process.poll() is None
    gate.open()
    assert watcher.next("closed", seconds=90)["captured"] == "3000000"


def test_it_starts_without_a_chain(payee, payers, start, gate):
    """A machine that boots before its network: the watcher waits for it."""
    opened = payers.open(payee.address)
    payee.accept(opened.voucher(8))
    payers.request_close(opened)
    gate.shut()
    watcher = start(MICROWALLET_RPC_URL=gate.url, MICROWALLET_RPC_TIMEOUT="1")
    watcher.next("interrupted")
    gate.open()
    assert watcher.next("closed")["captured"] == "8"


def test_a_close_undone_by_a_reorganisation_is_done_again(payee, payers, start, chain):
    """The block with the close disappears: the watcher notices and closes again."""
    opened = payers.open(payee.address)
    payee.accept(opened.voucher(2_000_000))
    payers.request_close(opened)
    snapshot = chain.rpc.call("evm_snapshot")
    watcher = start()
    watcher.next("closed")
    time.sleep(0.5)
    chain.rpc.call("evm_revert", [snapshot])
    watcher.next("reorganised")
    assert watcher.next("closed")["captured"] == "2000000"
    assert payee.holds() == 2_000_000


def test_a_payer_that_refuses_its_refund_is_settled_once(payee, payers, start):
    """What it owes is taken; that its channel stays open is said once, and costs no more gas."""
    hostile = payers.open(payee.address, WEI, native=True)
    payee.accept(hostile.voucher(WEI // 4))
    payers.request_close(hostile)
    payers.become(hostile)
    watcher = start()
    assert watcher.next("settled")["captured"] == str(WEI // 4)
    assert watcher.next("failed")["code"] == "refund-undeliverable"
    assert watcher.rest(1) == []
    assert payee.sent() == 1


def test_one_watcher_a_home(payee, start):
    """A second one says that there is one, or a gateway, and exits."""
    start().next("watching")
    second = payee.home.run("payee", "watch")
    assert second.exit_code == 2
    assert "payee watch or a gateway (serve), watches anvil for this wallet already" in second.stderr


def test_interrupt_and_terminate_end_it(start):
    """SIGTERM is a clean end, Ctrl-C says that it was interrupted."""
    first = start()
    first.next("watching")
    assert first.end(signal.SIGTERM) == 0
    second = start()
    second.next("watching")
    assert second.end(signal.SIGINT) == 130


@pytest.mark.parametrize(("left", "closes"), [(451, False), (450, True)])
def test_a_margin_waits_half_of_the_grace_period_at_most(payee, payers, chain, left, closes):
    """With --margin 450s the close is sent at the second half of the grace period, not before."""
    opened = payers.open(payee.address)
    payee.accept(opened.voucher(6))
    # The chain's clock is put ahead of ours, so that it alone decides.
    chain.rpc.call("evm_increaseTime", [hex(3600)])
    withdrawable_at = payers.request_close(opened)
    set_clock(chain, withdrawable_at - left)
    looked = payee.run("watch", "--once", "--margin", "450s")
    assert looked.exit_code == 0, looked
    assert payers.reader.channel_state(opened.channel_id).finalized is closes


@pytest.mark.parametrize("offset", [-1, 0, 1])
def test_around_the_end_of_the_grace_period_it_still_closes(payee, payers, chain, offset):
    """A watcher that was down until the last second, or longer, takes what the payer has left there."""
    opened = payers.open(payee.address)
    payee.accept(opened.voucher(6))
    withdrawable_at = payers.request_close(opened)
    set_clock(chain, withdrawable_at + offset)
    closed = [event for event in payee.run("watch", "--once").lines if event["event"] == "closed"]
    assert [event["captured"] for event in closed] == ["6"]


def test_a_withdrawal_that_was_missed_is_told(payee, payers, start, chain, gate):
    """When the payer could withdraw because the chain was out of reach, the loss is said."""
    opened = payers.open(payee.address)
    payee.accept(opened.voucher(6))
    watcher = start(MICROWALLET_RPC_URL=gate.url, MICROWALLET_RPC_TIMEOUT="1")
    watcher.next("watching")
    time.sleep(0.5)
    gate.shut()
    watcher.next("interrupted")
    payers.request_close(opened)
    chain.node.advance(900)
    payers.withdraw(opened)
    gate.open()
    assert watcher.next("finalized")["unsettled"] == "6"


@pytest.mark.parametrize("listed_at", [None, 0, CONFIRMED_DEPTH + 1])
def test_a_withdrawal_while_nobody_watched_is_told(payee, payers, chain, listed_at):
    """The next watcher says what was lost, once, though the ledger has learned of it before, and however many
    blocks came since."""
    opened = payers.open(payee.address)
    payee.accept(opened.voucher(6))
    payers.request_close(opened)
    chain.node.advance(900)
    payers.withdraw(opened)
    if listed_at is not None:
        chain.rpc.call("anvil_mine", [hex(listed_at)])
        [listed] = payee.run("list", "--all").data["channels"]
        assert listed["status"] == "finalized"
    looks = [payee.run("watch", "--once").lines for _ in range(2)]
    lost = [[event["unsettled"] for event in look if event["event"] == "finalized"] for look in looks]
    assert lost == [["6"], []]


@pytest.mark.parametrize("arguments", [["--margin", "449s"], ["--margin", "16m"], ["--interval", "often"]])
def test_times_that_make_no_sense_are_refused(payee, arguments):
    """A margin below half of the grace period, or what is no time: exit 2."""
    assert payee.home.run("payee", "watch", *arguments).exit_code == 2


def test_once_fails_when_the_chain_cannot_be_asked(payee, payers):
    """For a timer instead of a service: exit 3, one JSON line on stderr."""
    opened = payers.open(payee.address)
    payee.accept(opened.voucher(6))
    looked = payee.run("watch", "--once", env=WITHOUT_CHAIN)
    assert looked.exit_code == 3
    assert json.loads(looked.stderr)["error"]["code"] == "network"


@needs_full
def test_a_disk_that_is_full_keeps_no_close_from_being_sent(payee, payers):
    """What its output does not take is said on stderr, and it goes on; one look ends with exit 1."""
    opened = payers.open(payee.address)
    payee.accept(opened.voucher(6))
    payers.request_close(opened)
    code, said = into_full(payee.home, "payee", "watch", "--once")
    assert code == 1
    assert "close requested" in next(line for line in said if opened.channel_id in line)
    assert said[-1] == "error: the output could not be written: No space left on device"
    assert (payers.closes(opened), payee.holds()) == (1, 6)


@pytest.mark.parametrize("how", [["--once"], ["--interval", "100ms"]], ids=" ".join)
def test_a_reader_that_has_gone_away_keeps_no_close_from_being_sent(payee, payers, how):
    """It ends, with exit 1, once what is due has been sent."""
    opened = payers.open(payee.address)
    payee.accept(opened.voucher(6))
    payers.request_close(opened)
    code, said = into_nowhere(payee.home, "payee", "watch", *how)
    assert (code, said[-1]) == (1, "error: what reads the output has gone away")
    assert (payers.closes(opened), payee.holds()) == (1, 6)


@needs_full
def test_a_log_of_everything_on_a_full_disk_keeps_no_close_from_being_sent(payee, payers):
    """Where stderr takes as little as stdout, `> watch.log 2>&1`, the close is sent all the same."""
    opened = payers.open(payee.address)
    payee.accept(opened.voucher(6))
    payers.request_close(opened)
    with FULL.open("wb") as full:
        watch = payee.home.start("payee", "watch", "--once", stdout=full.fileno(), stderr=full.fileno())
    assert watch.wait(timeout=20) == 1
    assert (payers.closes(opened), payee.holds()) == (1, 6)


def test_it_prints_a_service(payee):
    """A systemd unit that runs this very program on this very home."""
    unit = payee.home.run("payee", "watch", "--print-service").succeeded().stdout
    assert "payee watch --interval 5s --margin 15m --network anvil" in unit
    assert f'Environment="MICROWALLET_HOME={payee.home.path}"' in unit
    assert f'Environment="MICROWALLET_PASSWORD_FILE={payee.home.password_file}"' in unit
    assert "Restart=always" in unit


def test_a_service_has_the_settings_of_this_run(payee):
    """Those of flags and variables, which no file has: it would watch by another node, or pay too little. It
    reads those of the file itself."""
    payee.home.run("config", "set", "wait-seconds", "33").succeeded()
    env = {"MICROWALLET_RELAYER": 'pay "100 %"\\', "MICROWALLET_MAX_FEE_GWEI": "900"}
    words = ("payee", "watch", "--rpc-url", "http://127.0.0.1:9/key", "--print-service")
    unit = payee.home.run(*words, env=env).succeeded().stdout
    assert 'Environment="MICROWALLET_RPC_URL=http://127.0.0.1:9/key"' in unit
    assert 'Environment="MICROWALLET_RELAYER=pay \\"100 %%\\"\\\\"' in unit
    assert 'Environment="MICROWALLET_MAX_FEE_GWEI=900"' in unit
    assert "WAIT_SECONDS" not in unit


def test_a_locked_key_is_told_before_it_is_needed(payee, payers):
    """Without the password the watcher does not start at all."""
    payee.accept(payers.open(payee.address).voucher(6))
    refused = payee.home.run("payee", "watch", env={"MICROWALLET_PASSWORD_FILE": ""})
    assert refused.exit_code == 6


def test_a_locked_relayer_is_told_before_it_is_needed(payee, payers, tmp_path):
    """Its key is needed for each close as the payee's is, and may be under a password of its own."""
    payee.accept(payers.open(payee.address).voucher(6))
    (tmp_path / "theirs").write_text("another password\n")
    payee.home.run("account", "create", "relay", "--password-file", tmp_path / "theirs").succeeded()
    refused = payee.home.run("payee", "watch", env={"MICROWALLET_RELAYER": "relay"}, timeout=20)
    assert refused.exit_code == 6
    assert "the password of the key of account relay is wrong" in refused.stderr
