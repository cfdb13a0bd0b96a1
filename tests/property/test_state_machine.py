"""Payer, payee and chain against a model: whatever they do, and whatever happens to them.

The ledgers are real files, the vouchers are really signed and really accepted; the chain is the model of the
escrow in `model.py`. The machine keeps its own account of what may have left the payer.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
)
from machine import run_machine
from memory import folder_in_memory
from model import CHAIN, ESCROW, PAYEE, PAYER, TOKEN, USDC, Escrow, Keyed, Reverted, keyed
from steps import Killed

from microwallet.domain.channel import CLOSE_GRACE_PERIOD, ChannelStatus
from microwallet.errors import (
    AmountExceedsDeposit,
    ChannelNotOpen,
    IdempotencyMismatch,
    VoucherUnknown,
)
from microwallet.ledger.ledger import Ledger
from microwallet.ledger.mark import Mark
from microwallet.payee.accept import Acceptance, AcceptancePolicy
from microwallet.payee.captures import Action, whole_capture
from microwallet.payee.tally import rejection_by_state
from microwallet.payer.import_voucher import import_vouchers
from microwallet.payer.pay import pay, resume

CHANNELS = tuple(keyed(number) for number in (1, 2, 3))
LABELS = {channel.channel_id: f"channel-{number}" for number, channel in enumerate(CHANNELS)}
POLICY = AcceptancePolicy(
    chain_id=CHAIN,
    escrow_contracts=frozenset({ESCROW}),
    payees=frozenset({PAYEE}),
    assets={TOKEN: USDC},
    state_lifetime=-1,
)


channels = st.sampled_from(CHANNELS)
steps = st.integers(1, 60)
counts = st.integers(1, 5)


def seldom(mostly, sometimes):
    """What ends a channel comes less often than what happens in its life."""
    return st.sampled_from([mostly] * 4 + [sometimes])


@dataclass(frozen=True)
class Asked:
    """A payment as it was asked for."""

    key: str
    channel: Keyed
    step: int
    count: int


@dataclass(frozen=True)
class Copy:
    """A backup of the payer's ledger, and the keys it knows."""

    path: Path
    keys: frozenset


class PaymentMachine(RuleBasedStateMachine):
    """See the module's docstring."""

    copies = Bundle("copies")

    def __init__(self):
        super().__init__()
        self.temporary = folder_in_memory()
        self.folder = Path(self.temporary.name)
        self.payer = Ledger.open(self.folder / "payer.sqlite3")
        self.payee = Ledger.open(self.folder / "payee.sqlite3")
        self.chain = Escrow()
        self.acceptance = self.new_acceptance()
        self.number = 0
        self.payments: dict[str, Asked] = {}
        """Payments the ledger in place knows."""
        self.handed: dict[str, list[str]] = {}
        """The vouchers of every payment that left the payer, in this life of the ledger or before."""
        self.used: dict[tuple[str, int], str] = {}
        """Which payment has a cumulative amount of a channel."""
        self.unknown: set[str] = set()
        """Channels whose highest voucher the ledger in place may not know."""
        self.best: dict[str, int] = {}
        self.was_authorized: dict[str, int] = {}

    def new_acceptance(self):
        """As a new process of the payee has it."""
        return Acceptance(self.payee.vouchers, self.chain, POLICY, clock=lambda: self.chain.now)

    @initialize(deposits=st.tuples(*[st.integers(1, 500)] * len(CHANNELS)))
    def open(self, deposits):
        for channel, deposit in zip(CHANNELS, deposits, strict=True):
            self.chain.open(channel, deposit)
            label = LABELS[channel.channel_id]
            self.payer.channels.add(channel.payer_channel(deposit=deposit, label=label), now=self.chain.now)

    # The payer

    def pay_for(self, asked):
        return pay(
            self.payer,
            LABELS[asked.channel.channel_id],
            f"{asked.step / 10**6:.6f} USDC",
            count=asked.count,
            memo=None,
            idempotency_key=asked.key,
            key_of=lambda _: asked.channel.key,
            before_commit=lambda: None,
            now=self.chain.now,
        )

    def hand_over(self, asked, signed):
        """Take a payment's vouchers out of the process: their amounts are used from now on."""
        lines = list(signed.vouchers())
        assert len(lines) == asked.count
        assert lines[-1] == signed.last()
        assert self.handed.setdefault(asked.key, lines) == lines, "not the same bytes"
        for line in lines:
            amount = int(json.loads(line)["cumulativeAmount"])
            used_by = self.used.setdefault((asked.channel.channel_id, amount), asked.key)
            assert used_by == asked.key, "one amount for two payments"

    def expected_refusal(self, asked):
        channel = self.payer.channels.get(asked.channel.channel_id)
        if channel.state.status(now=self.chain.now) is not ChannelStatus.OPEN:
            return ChannelNotOpen
        if asked.channel.channel_id in self.unknown:
            return VoucherUnknown
        if channel.authorized + asked.step * asked.count > channel.state.deposit:
            return AmountExceedsDeposit
        return None

    def new_payment(self, channel, step, count):
        self.number += 1
        return Asked(f"key-{self.number}", channel, step, count)

    @rule(channel=channels, step=steps, count=counts, takes_all=seldom(False, True))
    def pay(self, channel, step, count, takes_all):
        """A payment under a new key: refused for the right reason, or next in line."""
        if takes_all and (remaining := self.payer.channels.get(channel.channel_id).remaining):
            step, count = remaining, 1
        asked = self.new_payment(channel, step, count)
        refusal = self.expected_refusal(asked)
        before = self.payer.channels.get(channel.channel_id).authorized
        try:
            signed = self.pay_for(asked)
        except (ChannelNotOpen, VoucherUnknown, AmountExceedsDeposit) as error:
            refused = error
        else:
            refused = None
        assert type(refused) is (refusal or type(None))
        if refused is not None:
            assert self.payer.payments.find(asked.key) is None
            return
        assert signed.payment.start == before
        self.payments[asked.key] = asked
        self.hand_over(asked, signed)

    @rule(channel=channels, step=steps, count=counts, marked=st.booleans(), resumed=st.booleans())
    def pay_and_die(self, channel, step, count, marked, resumed):
        """Killed after the commit, before or after the mark is written: no voucher leaves but by resuming."""
        asked = self.new_payment(channel, step, count)
        if self.expected_refusal(asked) is not None:
            return
        if marked:
            self.pay_for(asked)
        else:
            write, Mark.write = Mark.write, _die
            try:
                with pytest.raises(Killed):
                    self.pay_for(asked)
            finally:
                Mark.write = write
        self.payments[asked.key] = asked
        self.reopen_payer()
        if resumed:
            self.hand_over(asked, resume(self.payer, asked.key, key_of=lambda _: asked.channel.key))

    @precondition(lambda self: self.payments)
    @rule(data=st.data(), resumed=st.booleans())
    def pay_again(self, data, resumed):
        """The same key gives the same bytes, from whatever state the channel is in by now."""
        asked = data.draw(st.sampled_from(sorted(self.payments.values(), key=lambda one: one.key)))
        key_of = lambda _: asked.channel.key  # noqa: E731
        signed = resume(self.payer, asked.key, key_of=key_of) if resumed else self.pay_for(asked)
        self.hand_over(asked, signed)

    @precondition(lambda self: self.payments)
    @rule(data=st.data(), channel=channels, step=steps, count=counts)
    def pay_otherwise(self, data, channel, step, count):
        """The same key with other arguments is refused, whatever the channel could still pay."""
        asked = data.draw(st.sampled_from(sorted(self.payments.values(), key=lambda one: one.key)))
        other = Asked(asked.key, channel, step, count)
        if other != asked:
            with pytest.raises(IdempotencyMismatch):
                self.pay_for(other)

    @rule()
    def reopen_payer(self):
        self.payer.close()
        self.payer = Ledger.open(self.folder / "payer.sqlite3")

    @rule(target=copies)
    def back_up(self):
        path = self.folder / f"copy-{self.number}-{len(list(self.folder.iterdir()))}"
        self.payer.close()
        shutil.copy(self.folder / "payer.sqlite3", path)
        self.payer = Ledger.open(self.folder / "payer.sqlite3")
        return multiple(Copy(path, frozenset(self.payments)))

    @rule(copy=copies)
    def restore(self, copy):
        """A backup takes the ledger's place; what left the payer since then is not in it."""
        self.payer.close()
        shutil.copy(copy.path, self.folder / "payer.sqlite3")
        self.payer = Ledger.open(self.folder / "payer.sqlite3")
        lost = {key for key in self.payments if key not in copy.keys}
        self.payments = {key: asked for key, asked in self.payments.items() if key in copy.keys}
        for channel in CHANNELS:
            found = self.payer.channels.get(channel.channel_id)
            highest = self.highest(channel)
            if not found.voucher_known:
                self.unknown.add(channel.channel_id)
            else:
                assert found.state.finalized or found.authorized >= highest, "signs below a known voucher"
                self.unknown.discard(channel.channel_id)
            self.was_authorized[channel.channel_id] = found.authorized
        assert not lost & self.handed.keys() or self.unknown or self.all_finalized()

    def all_finalized(self):
        return all(channel.state.finalized for channel in self.payer.channels.list(finalized=True))

    def highest(self, channel):
        return max((amount for name, amount in self.used if name == channel.channel_id), default=0)

    @precondition(lambda self: self.unknown and self.used)
    @rule()
    def import_highest(self):
        """The payees give the highest vouchers back: those channels pay again, above them."""
        lines = {}
        for vouchers in self.handed.values():
            for line in vouchers:
                document = json.loads(line)
                name, amount = document["channelId"], int(document["cumulativeAmount"])
                if name in self.unknown and amount > lines.get(name, (0, ""))[0]:
                    lines[name] = (amount, line)
        if not lines or any(
            amount < self.payer.channels.get(name).state.settled for name, (amount, _) in lines.items()
        ):
            return
        import_vouchers(self.payer, [line.encode() for _, line in lines.values()])
        self.unknown -= lines.keys()

    @rule()
    def payer_looks(self):
        """The payer's ledger learns what the chain says."""
        states = self.chain.states(ESCROW, [channel.channel_id for channel in CHANNELS])
        self.payer.channels.record_states(states, as_of=self.chain.now)

    # The payee

    @precondition(lambda self: self.handed)
    @rule(data=st.data(), dies=st.booleans())
    def deliver(self, data, dies):
        """Vouchers in any order, some twice, some spoilt; each becomes what the model says it does."""
        all_lines = sorted(line for lines in self.handed.values() for line in lines)
        chosen = data.draw(st.lists(st.sampled_from(all_lines), min_size=1, max_size=8))
        spoilt = [
            (_spoil(line, how) if how else line).encode()
            for line in chosen
            for how in [data.draw(st.sampled_from(["", "", "", "", "", "", "amount", "cut", "id", "high-s"]))]
        ]
        if dies:
            self.acceptance = self.new_acceptance()
        self.take(spoilt, chosen)

    def take(self, lines, originals):
        """Have lines accepted; each becomes what the model says of it."""
        expected, best = self.expected_of(lines, originals)
        tally = self.acceptance.tally
        before = Counter({"accepted": tally.accepted, "duplicates": tally.duplicates})
        before.update(tally.rejected_by_reason)
        self.acceptance.take(lines)
        after = Counter({"accepted": tally.accepted, "duplicates": tally.duplicates})
        after.update(tally.rejected_by_reason)
        after.subtract(before)
        assert +after == expected
        self.best = best

    def expected_of(self, lines, originals):
        expected, best = Counter(), dict(self.best)
        for line, original in zip(lines, originals, strict=True):
            document = json.loads(original)
            name, amount = document["channelId"], int(document["cumulativeAmount"])
            reason = _REASONS.get(_how(line, original))
            reason = reason or rejection_by_state(amount, self.chain.state(name))
            if reason:
                expected[str(reason)] += 1
            elif amount <= max(best.get(name, -1), self.chain.state(name).settled):
                expected["duplicates"] += 1
            else:
                expected["accepted"] += 1
                best[name] = amount
        return expected, best

    @rule()
    def reopen_payee(self):
        self.payee.close()
        self.payee = Ledger.open(self.folder / "payee.sqlite3")
        self.acceptance = self.new_acceptance()

    @precondition(lambda self: self.best)
    @rule()
    def payee_loses_its_ledger(self):
        """Best vouchers that the payer sends again buy what was not captured, and that alone."""
        self.payee.close()
        for path in self.folder.glob("payee.*"):
            path.unlink()
        replayed = [keyed_of(name).line(amount) for name, amount in self.best.items()]
        self.best = {}
        self.payee = Ledger.open(self.folder / "payee.sqlite3")
        self.acceptance = self.new_acceptance()
        self.take(replayed, [line.decode() for line in replayed])

    @precondition(lambda self: self.best)
    @rule(channel=channels, action=seldom(Action.SETTLE, Action.CLOSE), less=st.integers(0, 30))
    def capture(self, channel, action, less):
        """The payee settles or closes with its best voucher, for all of it or for less."""
        stored = self.payee.vouchers.get(channel.channel_id)
        if stored is None:
            return
        stored = replace(stored, state=self.chain.state(channel.channel_id))
        planned = whole_capture(stored)
        amount = max(stored.state.settled, planned.capture_amount - less)
        call = self.chain.settle if action is Action.SETTLE else self.chain.close
        held = self.chain.balances.get(PAYEE, 0)
        try:
            call(channel, stored.authorized, amount, stored.signature)
        except Reverted:
            assert not replace(planned, capture_amount=amount).is_due(action)
        else:
            assert self.chain.balances[PAYEE] - held == amount - stored.state.settled

    @precondition(lambda self: self.best)
    @rule(
        channel=channels, off=st.sampled_from([-1, 0, 1]), bound=st.integers(0, 2), close=seldom(False, True)
    )
    def capture_at_a_bound(self, channel, off, bound, close):
        """At -1, 0, +1 of settled, authorized and deposit: never more than a voucher or deposit allows."""
        stored = self.payee.vouchers.get(channel.channel_id)
        if stored is None:
            return
        state = self.chain.state(channel.channel_id)
        amount = (state.settled, stored.authorized, state.deposit)[bound] + off
        allowed = (
            (state.settled <= amount if close else state.settled < amount)
            and amount <= state.deposit
            and (amount <= stored.authorized or amount == state.settled)
            and not state.finalized
        )
        call = self.chain.close if close else self.chain.settle
        try:
            call(channel, stored.authorized, amount, stored.signature)
        except Reverted:
            assert not allowed
        else:
            assert allowed

    # The chain

    @rule(channel=channels, really=seldom(False, True))
    def request_close(self, channel, really):
        if really:
            _try(self.chain.request_close, channel)

    @precondition(lambda self: any(one.close_requested_at for one in self.chain.channels.values()))
    @rule(channel=channels, waits=st.booleans())
    def withdraw(self, channel, waits):
        self.chain.now += CLOSE_GRACE_PERIOD * waits
        _try(self.chain.withdraw, channel)

    @rule(channel=channels, amount=st.integers(1, 300))
    def top_up(self, channel, amount):
        _try(self.chain.top_up, channel, amount)

    @rule(seconds=st.sampled_from([1, CLOSE_GRACE_PERIOD - 1, CLOSE_GRACE_PERIOD]))
    def time_passes(self, seconds):
        self.chain.now += seconds

    # What always holds

    @invariant()
    def authorized_never_falls(self):
        for channel in self.payer.channels.list(finalized=True):
            name = channel.channel_id
            assert channel.authorized >= self.was_authorized.get(name, 0)
            self.was_authorized[name] = channel.authorized
            assert channel.voucher_known is (name not in self.unknown) or channel.state.finalized
            if channel.voucher_known and not channel.state.finalized:
                assert channel.authorized >= self.highest(keyed_of(name))

    @invariant()
    def the_payee_has_the_best_and_no_more_than_was_signed(self):
        stored = {one.channel_id: one.authorized for one in self.payee.vouchers.list(finalized=True)}
        assert stored == self.best
        for name, amount in stored.items():
            assert (name, amount) in self.used

    @invariant()
    def the_payee_can_capture_its_best(self):
        for stored in self.payee.vouchers.list(finalized=True):
            state = self.chain.state(stored.channel_id)
            worth = min(stored.authorized, state.deposit)
            if not state.finalized and worth > state.settled:
                rehearsal = replace_chain(self.chain)
                rehearsal.settle(keyed_of(stored.channel_id), stored.authorized, worth, stored.signature)

    @invariant()
    def money_is_conserved(self):
        states = self.chain.channels.values()
        assert all(state.settled <= state.deposit for state in states)
        assert self.chain.held == sum(
            state.deposit - state.settled for state in states if not state.finalized
        )
        assert sum(self.chain.balances.values()) + self.chain.held == 0
        assert self.chain.balances.get(PAYEE, 0) == sum(state.settled for state in states)
        assert self.chain.balances.get(PAYER, 0) <= 0

    def teardown(self):
        try:
            for ledger in (self.payer, self.payee):
                assert ledger.database.integrity_problems() == []
                ledger.close()
        finally:
            self.temporary.cleanup()


_REASONS = {"amount": "signer-mismatch", "cut": "malformed", "id": "malformed", "high-s": "invalid-signature"}
_ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141


def _spoil(line, how):
    document = json.loads(line)
    if how == "cut":
        return line[: len(line) // 2]
    if how == "amount":
        document["cumulativeAmount"] = str(int(document["cumulativeAmount"]) + 1)
    elif how == "id":
        document["channelId"] = "0x" + "ab" * 32
    else:
        raw = bytes.fromhex(document["signature"][2:])
        high = _ORDER - int.from_bytes(raw[32:64], "big")
        document["signature"] = "0x" + (raw[:32] + high.to_bytes(32, "big") + bytes((55 - raw[64],))).hex()
    return json.dumps(document)


def _how(line, original):
    """How a line was spoilt, if it was."""
    return next((how for how in _REASONS if _spoil(original, how).encode() == line), "")


def _try(call, *arguments):
    with suppress(Reverted):
        call(*arguments)


def _die(*_):
    raise Killed


def keyed_of(channel_id):
    """The channel with an id."""
    return next(channel for channel in CHANNELS if channel.channel_id == channel_id)


def replace_chain(chain):
    """A copy of the chain to try something on."""
    return replace(chain, balances=dict(chain.balances), channels=dict(chain.channels))


def test_payer_payee_and_chain_against_a_model():
    """Nothing is signed twice, lost, or captured beyond what was signed, in any order of events."""
    run_machine(PaymentMachine, examples=60, steps=50)


@pytest.mark.long
def test_payer_payee_and_chain_against_a_model_for_long():
    """The long form."""
    run_machine(PaymentMachine, examples=2000, steps=100)
