"""A payee's commands at the same time: no voucher buys twice, none that was accepted is given away."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from contextlib import closing, contextmanager, suppress

import pytest

from microwallet.accepting import acceptance_of
from microwallet.domain.channel import CLOSE_GRACE_PERIOD
from microwallet.domain.ports import SignedTransaction
from microwallet.errors import KeyUnavailable, LedgerUnwritable, UsageError
from microwallet.escrow.reader import EscrowReader
from microwallet.ledger.at_risk import money_at_risk
from microwallet.ledger.ledger import Ledger
from microwallet.ledger.vouchers import Vouchers
from microwallet.payee import settle
from microwallet.payee.captures import Action, Selection
from microwallet.payee.exclusive import claims_lock, exclusive
from microwallet.payee.in_hand import InHandHere
from microwallet.payee.watch import Watch
from microwallet.wallet import Wallet


def test_a_close_takes_what_was_accepted_while_it_waited(payee, payers, chain):
    """A better voucher comes between plan and transaction: the close takes all of it."""
    opened = payers.open(payee.address)
    payee.accept(opened.voucher(1_000))
    with exclusive(claims_lock(payee.home.path, chain.chain_id)):
        closing = payee.home.start(
            "payee", "close", "--all", "--yes", "--json", stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        assert b"waiting for another process" in closing.stderr.readline()
        payee.accept(opened.voucher(5_000))
    (closed,) = json.loads(closing.communicate(timeout=60)[0])["data"]["channels"]
    assert closed["captured"] == "5000"
    assert payee.holds() == 5_000


def accepting(payee, voucher):
    """An open stream of vouchers to the payee, of which the first is accepted."""
    stream = payee.home.start("payee", "accept", "-", "--json", stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    stream.stdin.write(voucher.encode())
    stream.stdin.flush()
    while not payee.run("list").data["channels"]:
        pass
    return stream


def test_a_voucher_buys_once_whichever_process_gets_it(payee, payers):
    """A stream that is open while another process accepts the same voucher calls it a duplicate."""
    opened = payers.open(payee.address)
    stream = accepting(payee, opened.voucher(10))
    assert payee.accept(opened.voucher(20))["accepted"] == 1
    told = json.loads(stream.communicate(opened.voucher(20).encode(), timeout=60)[0])["data"]
    assert (told["accepted"], told["duplicates"]) == (1, 1)


def test_nothing_is_accepted_behind_a_close(payee, payers, chain):
    """A payer that sees the close in the pool cannot spend the rest: not now, not in a stream that was
    open; and what a close that failed leaves open is accepted again."""
    opened = payers.open(payee.address)
    stream = accepting(payee, opened.voucher(1_000))
    chain.rpc.call("evm_setAutomine", [False])
    try:
        hasty = {"MICROWALLET_WAIT_SECONDS": "1"}
        assert payee.run("close", "--all", "--yes", env=hasty).error["code"] == "outcome-unknown"
        late = payee.run("accept", "-", input=opened.voucher(9_000_000))
        assert late.json["data"]["rejectedByReason"] == {"close-pending": 1}
    finally:
        chain.rpc.call("evm_setAutomine", [True])
    chain.rpc.call("evm_mine")
    assert payee.run("close", "--all", "--yes").data["channels"][0]["captured"] == "1000"
    told = json.loads(stream.communicate(opened.voucher(9_000_000).encode(), timeout=60)[0])["data"]
    assert told["rejectedByReason"] == {"channel-finalized": 1}


def test_a_close_takes_what_is_left_once_all_is_served(payee, payers, chain):
    """What was sold before it began and not served is given back: nothing is sold meanwhile."""
    opened, other = payers.open(payee.address), payers.open(payee.address)
    payee.accept(opened.voucher(5_000), other.voucher(700))
    with closing(InHandHere(payee.home.path)) as in_hand:
        in_hand.reserve(opened.channel_id, 5_000)
        close = payee.home.start("payee", "close", "--all", "--yes", "--json", stdout=subprocess.PIPE)
        with Ledger.open(payee.home.path / "ledger.sqlite3") as ledger:
            deadline = time.monotonic() + 30
            while not ledger.vouchers.closing(chain.chain_id) and time.monotonic() < deadline:
                time.sleep(0.01)
            time.sleep(0.5)
            assert close.poll() is None
            with ledger.sessions.transaction() as rows:
                account = rows.account(opened.channel_id)
                assert account.is_closing
                rows.save(account._replace(spent=2_000))
        in_hand.reserve(opened.channel_id, -5_000)
        told = json.loads(close.communicate(timeout=60)[0])["data"]["channels"]
    assert {one["channelId"]: one["captured"] for one in told} == {
        opened.channel_id: "2000",
        other.channel_id: "700",
    }
    assert payee.holds() == 2_700


@contextmanager
def serving_one(payee, opened):
    """The payee's wallet, with 5,000 base units authorized and 1,000 of them reserved for a request."""
    payee.accept(opened.voucher(5_000))
    with (
        Wallet.open(environment=payee.home.environment) as wallet,
        closing(InHandHere(payee.home.path)) as in_hand,
    ):
        in_hand.reserve(opened.channel_id, 1_000)
        yield wallet


@pytest.mark.parametrize(
    ("action", "by_payer", "captured"),
    [(Action.SETTLE, False, 4_000), (Action.CLOSE, False, 4_000), (Action.CLOSE, True, 5_000)],
)
def test_what_is_reserved_for_requests_that_are_being_served(
    payee, payers, monkeypatch, action, by_payer, captured
):
    """It is not taken: it may be given back. Where the payer closes the channel, that is at its risk: it does
    not get what is being served for nothing."""
    patience, none_of_it = ("HURRY_SECONDS", "WAIT_SECONDS")[:: 1 if by_payer else -1]
    monkeypatch.setattr(settle, patience, 0.1)
    monkeypatch.setattr(settle, none_of_it, None)
    opened = payers.open(payee.address)
    with serving_one(payee, opened) as wallet:
        planned = wallet.settlement.plan(Selection(action=action))
        assert [one.captured for one in planned] == [4_000 if action is Action.SETTLE else 5_000]
        outcome = wallet.settlement.execute(action, planned, by_payer=by_payer)
    assert [done.captured for done in outcome.channels] == [captured]


def test_no_more_is_captured_than_was_charged_in_the_end(payee, payers, monkeypatch):
    """What the payee chose may have been given back, while the close waited for what was being served."""
    monkeypatch.setattr(settle, "WAIT_SECONDS", 0.1)
    opened = payers.open(payee.address)
    with serving_one(payee, opened) as wallet:
        planned = {
            capture: wallet.settlement.plan(
                Selection(action=Action.CLOSE, channel_ids=[opened.channel_id], capture=capture)
            )
            for capture in ("0.005", "0.004")
        }
        refused = wallet.settlement.execute(Action.CLOSE, planned["0.005"])
        done = wallet.settlement.execute(Action.CLOSE, planned["0.004"])
    assert [(one.code, one.channel.channel_id) for one in refused.failed] == [
        ("transaction-reverted", opened.channel_id)
    ]
    assert (refused.channels, [one.captured for one in done.channels]) == ([], [4_000])


def test_a_close_that_was_to_take_less_than_is_settled_meanwhile(payee, payers):
    """It does not happen, and that is told."""
    opened = payers.open(payee.address)
    payee.accept(opened.voucher(5_000))
    with Wallet.open(environment=payee.home.environment) as wallet:
        settlement = wallet.settlement
        less = Selection(action=Action.CLOSE, channel_ids=[opened.channel_id], capture="0.004")
        planned = settlement.plan(less)
        settlement.execute(Action.SETTLE, settlement.plan(Selection(action=Action.SETTLE)))
        refused = settlement.execute(Action.CLOSE, planned)
    assert [one.error.message for one in refused.failed] == [
        "more was settled meanwhile than was to be captured"
    ]
    assert (payee.holds(), payers.closes(opened)) == (5_000, 0)


@pytest.mark.parametrize("reverts", [False, True])
def test_what_was_unknown_holds_nothing_back_once_it_is_known(payee, payers, chain, reverts):
    """As in a process that watches: whether the close went through or not, the next channel is settled."""
    first, second = payers.open(payee.address, native=True), payers.open(payee.address)
    payee.accept(first.voucher(5_000), second.voucher(700))
    with Wallet.open(environment=payee.home.environment | {"MICROWALLET_WAIT_SECONDS": "1"}) as wallet:

        def done(action, opened):
            selection = Selection(action=action, channel_ids=[opened.channel_id])
            wallet.settlement.resume([payee.address])
            return wallet.settlement.execute(action, wallet.settlement.plan(selection))

        chain.rpc.call("evm_setAutomine", [False])
        try:
            unknown = [*done(Action.CLOSE, first).failed, *done(Action.SETTLE, second).failed]
            if reverts:
                payers.become(first)
        finally:
            chain.rpc.call("evm_setAutomine", [True])
        chain.rpc.call("evm_mine")
        settled = done(Action.SETTLE, second)
    assert [(one.code, one.channel.channel_id) for one in unknown] == [
        ("outcome-unknown", first.channel_id),
        ("outcome-unknown", second.channel_id),
    ]
    assert ([one.captured for one in settled.channels], payers.closes(first)) == ([700], int(not reverts))


def test_a_close_is_told_where_it_cannot_be_recorded(payee, payers, monkeypatch):
    """A disk that is full once it was mined: what it took is not hidden by that, and is found again."""
    opened, record_states = payers.open(payee.address), Vouchers.record_states
    payee.accept(opened.voucher(5_000))

    def fail(vouchers, states, **times):
        if any(state.finalized for state in states.values()):
            raise LedgerUnwritable("the disk is full")
        record_states(vouchers, states, **times)

    with Wallet.open(environment=payee.home.environment) as wallet:
        settlement = wallet.settlement
        monkeypatch.setattr(Vouchers, "record_states", fail)
        done = settlement.execute(Action.CLOSE, settlement.plan(Selection(action=Action.CLOSE)))
        assert [one.captured for one in done.channels] == [5_000]
        monkeypatch.undo()
        assert settlement.plan(Selection(action=Action.CLOSE)) == []


def test_a_channel_that_is_shut_meanwhile_stays_so(payee, payers, chain, monkeypatch):
    """As by another process, which hears that a reorganisation undid its close while closes of others end."""
    first, second = payers.open(payee.address), payers.open(payee.address)
    payee.accept(first.voucher(1_000), second.voucher(1_000))
    end_closes = Vouchers.end_closes

    def end(vouchers, *arguments, **options):
        vouchers.begin_closes([second.channel_id])
        end_closes(vouchers, *arguments, **options)

    with Wallet.open(environment=payee.home.environment) as wallet:
        vouchers = wallet.ledger.vouchers
        vouchers.begin_closes([first.channel_id])
        monkeypatch.setattr(Vouchers, "end_closes", end)
        wallet.settlement.resume([payee.address])
        assert [one.channel_id for one in vouchers.closing(chain.chain_id)] == [second.channel_id]


def test_a_node_that_is_behind_does_not_open_a_closed_channel(payee, payers, chain, monkeypatch):
    """Of several behind one address the one that is asked afterwards may lag: what was sold through the
    channel meanwhile would never be paid."""
    opened, encoded_states = payers.open(payee.address), EscrowReader.encoded_states
    payee.accept(opened.voucher(5_000))
    with Wallet.open(environment=payee.home.environment) as wallet:
        settlement, newest = wallet.settlement, wallet.reader.head().number

        def account():
            with wallet.ledger.sessions.transaction() as rows:
                return rows.account(opened.channel_id)

        def encoded(reader, chunks, block=None):
            return encoded_states(reader, chunks, newest if block is None else block)

        monkeypatch.setattr(EscrowReader, "encoded_states", encoded)
        done = settlement.execute(Action.CLOSE, settlement.plan(Selection(action=Action.CLOSE)))
        assert [one.captured for one in done.channels] == [5_000]
        assert account().is_closing
        for _ in range(2):
            settlement.resume(settlement.look().payees)
            assert account().is_closing
        monkeypatch.undo()
        settlement.resume(settlement.look().payees)
        assert account().is_finalized
        assert not wallet.ledger.vouchers.closing(chain.chain_id)
        monkeypatch.setattr(EscrowReader, "encoded_states", encoded)
        settlement.resume(settlement.look().payees)
        assert account().is_closing


def test_what_is_sold_while_the_chain_is_asked(payee, payers, monkeypatch):
    """It is for the next settlement: no more is captured than the voucher authorizes that is sent."""
    opened, amounts = payers.open(payee.address), iter((6_000, 7_000, 8_000))
    payee.accept(opened.voucher(5_000))
    refresh = settle.refresh

    def asked(*arguments, **options):
        refreshed = refresh(*arguments, **options)
        payee.accept(opened.voucher(next(amounts)))
        return refreshed

    monkeypatch.setattr(settle, "refresh", asked)
    with Wallet.open(environment=payee.home.environment) as wallet:
        planned = wallet.settlement.plan(Selection(action=Action.SETTLE))
        outcome = wallet.settlement.execute(Action.SETTLE, planned)
    assert outcome.failed == []
    assert [done.captured for done in outcome.channels] == [6_000]


def test_a_close_that_the_escrow_refuses_is_told_as_that(payee, payers, monkeypatch):
    """By a node that is behind it was open still, with nothing to take: no refund fails, and others close."""
    gone, opened = payers.open(payee.address), payers.open(payee.address)
    payee.accept(gone.voucher(1_000), opened.voucher(700))
    payee.run("settle", gone.channel_id, "--yes").data  # noqa: B018
    with Wallet.open(environment=payee.home.environment) as wallet:
        planned = wallet.settlement.plan(Selection(action=Action.CLOSE))
        payee.run("close", gone.channel_id, "--yes").data  # noqa: B018
        monkeypatch.setattr(settle, "refresh", lambda *_, **__: [item.channel for item in planned])
        outcome = wallet.settlement.execute(Action.CLOSE, planned)
    assert [(one.code, one.channel.channel_id) for one in outcome.failed] == [
        ("channel-finalized", gone.channel_id)
    ]
    assert [done.channel.channel_id for done in outcome.channels] == [opened.channel_id]


def test_a_close_that_failed_is_no_close(payee, payers, chain):
    """The payee cannot pay for gas: the channel goes on being paid through."""
    opened = payers.open(payee.address)
    payee.accept(opened.voucher(1_000))
    chain.rpc.call("anvil_setBalance", [payee.address, "0x1"])
    assert payee.run("close", "--all", "--yes").exit_code == 4
    assert payee.accept(opened.voucher(2_000))["accepted"] == 1


def test_a_close_killed_before_it_signed_is_no_close_for_long(payee, payers):
    """Whatever is settled or closed next finds that nothing is under way."""
    opened, other = payers.open(payee.address), payers.open(payee.address)
    payee.accept(opened.voucher(1_000), other.voucher(1_000))
    with Ledger.open(payee.home.path / "ledger.sqlite3") as ledger:
        ledger.vouchers.begin_closes([opened.channel_id])
    assert payee.run("accept", "-", input=opened.voucher(2_000)).exit_code == 4
    payee.run("settle", other.channel_id, "--yes").data  # noqa: B018
    assert payee.accept(opened.voucher(2_000))["accepted"] == 1


def test_a_close_of_another_process_is_not_ended_before_it_signed(payee, payers, chain):
    """Whoever looks meanwhile does not wait for it, and lets in no voucher behind it."""
    opened = payers.open(payee.address)
    payee.accept(opened.voucher(1_000))
    with (
        Wallet.open(environment=payee.home.environment) as wallet,
        exclusive(claims_lock(payee.home.path, chain.chain_id)),
    ):
        wallet.ledger.vouchers.begin_closes([opened.channel_id])
        wallet.settlement.resume([payee.address])
        assert [one.channel_id for one in wallet.ledger.vouchers.closing(chain.chain_id)] == [
            opened.channel_id
        ]


def test_a_process_that_is_stopped_while_it_closes(payee, payers, chain, monkeypatch):
    """By Ctrl-Z, say: the watcher beside it tells that it can answer no close, and does once that goes on."""
    monkeypatch.setattr(settle, "ALONE_SECONDS", 0.1)
    opened, leaving = payers.open(payee.address), payers.open(payee.address)
    payee.accept(opened.voucher(1_000), leaving.voucher(2_000))
    payers.request_close(leaving)
    told = []
    chain.rpc.call("evm_setAutomine", [False])
    words = ("payee", "close", opened.channel_id, "--yes")
    closing = payee.home.start(*words, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def wait(_pause):
        if len(told) == 2:
            closing.send_signal(signal.SIGCONT)
            chain.rpc.call("evm_setAutomine", [True])
            chain.rpc.call("evm_mine")
            closing.communicate(timeout=60)
        if ("closed", None) in told:
            raise KeyboardInterrupt

    try:
        while b"waiting for it to be mined" not in closing.stderr.readline():
            pass
        closing.send_signal(signal.SIGSTOP)
        with Wallet.open(environment=payee.home.environment) as wallet, suppress(KeyboardInterrupt):
            Watch(
                wallet.settlement,
                margin=CLOSE_GRACE_PERIOD,
                clock=wallet.now,
                emit=lambda event, details: told.append((event, details.get("code"))),
            ).run(interval=0.1, wait=wait)
    finally:
        closing.kill()
    assert closing.returncode == 0
    assert told == [
        ("close-requested", None),
        ("interrupted", "ledger-busy"),
        ("finalized", None),
        ("closed", None),
        ("resumed", None),
    ]
    assert payee.holds() == 3_000


def test_one_stuck_account_holds_back_no_other(payee, payers, chain):
    """A transaction whose fate nobody knows, of another account: what is closing is closed in time."""
    ledger_path = payee.home.path / "ledger.sqlite3"
    second = payee.home.run("account", "create", "second", "--json").data["address"]
    chain.node.add_native(second, 10**18)
    first, other = payers.open(payee.address), payers.open(second)
    payee.accept(first.voucher(9), other.voucher(9))
    for channel in (first, other):
        payers.request_close(channel)
    stuck = min(payee.address, second)  # whichever comes first
    with Ledger.open(ledger_path) as ledger:
        ledger.journal.replace(
            SignedTransaction(
                hash="0x" + "ab" * 32,
                chain_id=chain.chain_id,
                sender=stuck,
                nonce=7,
                operation="send:rent:x",
                purpose="send",
                channel_id=None,
                raw=b"\x02",
                max_fee_per_gas=1,
                max_priority_fee_per_gas=1,
            )
        )
    payee.run("watch", "--once", env={"MICROWALLET_WAIT_SECONDS": "2"})
    assert payers.closes(first) == payers.closes(other) == 1


def test_a_close_that_is_interrupted_while_it_waits(payee, payers):
    """For requests that are being served: nothing was sent, and the channel takes vouchers at once."""
    opened = payers.open(payee.address)
    payee.accept(opened.voucher(1_000))
    with closing(InHandHere(payee.home.path)) as serving:
        serving.begin(opened.channel_id)
        serving.reserve(opened.channel_id, 1)
        close = payee.home.start(
            "payee", "close", opened.channel_id, "--yes", stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        while b"waiting for requests" not in (line := close.stderr.readline()):
            assert line
        close.send_signal(signal.SIGINT)
        close.communicate(timeout=30)
        assert close.returncode == 130
        payee.accept(opened.voucher(1_500))


def test_nothing_is_accepted_for_an_account_that_was_removed_meanwhile(payee, payers):
    """What comes before the removal keeps the account; what comes after it is not accepted."""
    opened = payers.open(payee.address)
    with Wallet.open(environment=payee.home.environment) as wallet:
        acceptance = acceptance_of(wallet)
        payee.home.run("account", "remove", "bob", "--confirm", "bob").succeeded()
        with pytest.raises(KeyUnavailable, match="not in this wallet"):
            acceptance.take([opened.voucher(1_000).encode()])
        assert wallet.ledger.vouchers.list(finalized=True) == []


def test_an_account_is_not_removed_once_a_voucher_is_accepted(payee, payers):
    """Not even by a command that looked before, and then waited for the name to be typed."""
    opened = payers.open(payee.address)
    with Wallet.open(environment=payee.home.environment) as wallet:
        assert money_at_risk(wallet.ledger, payee.address) == []
        payee.accept(opened.voucher(1_000))
        with pytest.raises(UsageError, match="is needed"):
            wallet.remove_account(wallet.account)
        assert wallet.account.address == payee.address
