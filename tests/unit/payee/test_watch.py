"""When a watcher acts, and what it says: decided from states and two clocks alone."""

from __future__ import annotations

from dataclasses import replace

import pytest

from microwallet.domain.channel import NO_CHANNEL, ChannelDescriptor, ChannelState, PayeeChannel
from microwallet.domain.identifiers import ChainId, checksum_address
from microwallet.domain.money import Asset
from microwallet.errors import ChainStandsStill, LedgerCorrupt, NetworkError, TransactionReverted, UsageError
from microwallet.payee.lookout import Looked
from microwallet.payee.outcome import Failure, Outcome
from microwallet.payee.watch import Watch, check_margin

REQUESTED_AT = 1_000_000
ADDRESS = checksum_address(b"\x44" * 20)
DESCRIPTOR = ChannelDescriptor(
    payer=ADDRESS,
    payee=ADDRESS,
    token=ADDRESS,
    salt="0x" + "33" * 32,
    authorized_signer=ADDRESS,
    escrow_contract=ADDRESS,
    chain_id=ChainId(1),
)
CHANNEL = PayeeChannel(
    channel_id=DESCRIPTOR.channel_id(),
    descriptor=DESCRIPTOR,
    asset=Asset(chain_id=ChainId(1), token=ADDRESS, symbol="USDC", decimals=6),
    state=ChannelState(deposit=100, settled=0, close_requested_at=REQUESTED_AT, finalized=False),
    authorized=60,
    spent=60,
    as_of=1,
    signature=b"",
)


class Script:
    """Settling whose looks are given in advance: a state, or an error to raise. Closes fail with `error`."""

    def __init__(self, *looks, chain_time=REQUESTED_AT, untold=(), error=None):
        self.looks = list(looks)
        self.untold = untold
        self.chain_time = chain_time
        self.error = error
        self.flaws = []
        """One for each look, while there are any."""
        self.closed = []

    def look(self):
        look = self.looks.pop(0)
        if isinstance(look, Exception):
            raise look
        return Looked(
            channels=[look],
            payees={ADDRESS},
            chain_time=self.chain_time,
            flaw=self.flaws.pop(0) if self.flaws else None,
            untold=self.untold,
        )

    def record_told(self, channel_ids):
        assert channel_ids == self.untold
        self.untold = ()

    def resume(self, _payees):
        return Outcome()

    def execute(self, _action, planned, *, by_payer):
        assert by_payer
        assert planned
        self.closed += planned
        if self.error is not None:
            return Outcome(failed=[Failure(channel=planned[0].channel, error=self.error)])
        return Outcome()


def watching(script, *, margin=900, now=REQUESTED_AT):
    events = []
    watch = Watch(script, margin=margin, clock=lambda: now, emit=lambda name, _: events.append(name))
    return watch, events


@pytest.mark.parametrize("clock", ["chain", "local"])
@pytest.mark.parametrize(("elapsed", "acts"), [(449, False), (450, True), (451, True), (900, True)])
def test_it_acts_when_the_later_of_two_clocks_says_so(clock, elapsed, acts):
    """A margin of half the grace period: at its second half, whichever clock shows it first."""
    times = {"chain": REQUESTED_AT, "local": REQUESTED_AT} | {clock: REQUESTED_AT + elapsed}
    script = Script(CHANNEL, chain_time=times["chain"])
    watch, _ = watching(script, margin=450, now=times["local"])
    watch.look()
    assert bool(script.closed) is acts


@pytest.mark.parametrize(
    "state",
    [
        replace(CHANNEL.state, close_requested_at=0),
        replace(CHANNEL.state, settled=60),
        replace(CHANNEL.state, finalized=True),
    ],
    ids=["open", "nothing-unsettled", "finalized"],
)
def test_it_leaves_alone_what_needs_nothing(state):
    """No close requested, nothing to gain, or over: nothing is sent."""
    script = Script(replace(CHANNEL, state=state))
    watching(script)[0].look()
    assert script.closed == []


def test_it_tells_each_change_once():
    """Requested, cancelled by a top up, requested again, finalized by another, undone by a reorganisation."""
    calm = replace(CHANNEL, state=replace(CHANNEL.state, close_requested_at=0))
    over = replace(CHANNEL, state=replace(CHANNEL.state, finalized=True))
    watch, events = watching(Script(calm, CHANNEL, CHANNEL, calm, CHANNEL, over, over, calm))
    for _ in range(8):
        watch.look()
    assert events == ["close-requested", "close-cancelled", "close-requested", "finalized", "reorganised"]


@pytest.mark.parametrize(
    ("settled", "untold", "told"),
    [(20, [CHANNEL.channel_id], ["finalized"]), (60, [CHANNEL.channel_id], []), (20, [], [])],
    ids=["lost", "nothing-lost", "known-before"],
)
def test_what_was_lost_while_nobody_watched(settled, untold, told):
    """A close that nobody has told of before the first look is told where money went with it, once."""
    over = replace(CHANNEL, state=replace(CHANNEL.state, settled=settled, finalized=True))
    script = Script(over, over, untold=untold)
    watch, events = watching(script)
    watch.look()
    watch.look()
    assert (events, [*script.untold]) == (told, [])


@pytest.mark.parametrize(
    ("before", "told"), [({}, "60"), ({"settled": 20}, "40"), ({"finalized": True, "settled": 60}, "0")]
)
def test_a_channel_that_the_chain_has_no_more(before, told):
    """Reorganised away, or of a chain started anew: told once, and so is its return."""
    there = replace(CHANNEL, state=replace(CHANNEL.state, **before))
    gone = replace(CHANNEL, state=NO_CHANNEL)
    events = []
    watch = Watch(
        Script(there, gone, gone, there),
        margin=900,
        clock=lambda: REQUESTED_AT,
        emit=lambda name, details: events.append((name, details.get("unsettled"))),
    )
    for _ in range(4):
        watch.look()
    assert ("missing", told) in events
    assert [name for name, _ in events if name != "close-requested"] == (
        ["missing", "finalized"] if before.get("finalized") else ["missing", "reorganised"]
    )


def test_a_channel_that_a_node_does_not_have_yet():
    """It is new, and the node behind the others: nothing has been taken back."""
    events = []
    watch = Watch(
        Script(replace(CHANNEL, state=NO_CHANNEL), replace(CHANNEL, state=NO_CHANNEL), CHANNEL),
        margin=900,
        clock=lambda: 0,
        emit=lambda name, _details: events.append(name),
    )
    for _ in range(3):
        watch.look()
    assert events == ["close-requested"]


class Enough(Exception):
    """Ends a watcher that would go on for ever."""


@pytest.mark.parametrize(
    ("interval", "pauses"),
    [(5, [10, 20, 40, 60, 60]), (0.01, [1, 2, 4, 8, 16]), (300, [300, 300, 300, 300, 300])],
)
def test_it_waits_longer_while_nothing_answers(interval, pauses):
    """From a second on the pause doubles up to a minute, is never shorter than without trouble, and is short
    again after an answer; the trouble is said once."""
    script = Script(*[NetworkError("silent")] * 5, CHANNEL, CHANNEL)
    watch, events = watching(script)
    paused = []

    def wait(seconds):
        paused.append(seconds)
        if not script.looks:
            raise Enough

    with pytest.raises(Enough):
        watch.run(interval=interval, wait=wait)
    assert paused == [*pauses, interval, interval]
    assert events == ["interrupted", "close-requested", "resumed"]


def test_a_chain_that_stands_still_is_told():
    """Once, and that it goes on; what is known to be due is done all the same, and no look is put off."""
    script = Script(CHANNEL, CHANNEL, CHANNEL)
    script.flaws = [ChainStandsStill("old")] * 2
    watch, events = watching(script)

    def wait(seconds):
        assert seconds == 5
        assert script.closed
        if not script.looks:
            raise Enough

    with pytest.raises(Enough):
        watch.run(interval=5, wait=wait)
    assert events == ["close-requested", "interrupted", "resumed"]


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (NetworkError("silent"), ["close-requested", "failed", "interrupted"]),
        (TransactionReverted("refused"), ["close-requested", "failed"]),
    ],
)
def test_a_close_that_fails(error, told):
    """It is told. Without an answer of the chain the next look is later; where the escrow refuses, not."""
    watch, events = watching(Script(CHANNEL, error=error))

    def wait(seconds):
        assert seconds == (10 if isinstance(error, NetworkError) else 5)
        raise Enough

    with pytest.raises(Enough):
        watch.run(interval=5, wait=wait)
    assert events == told


def test_a_damaged_ledger_ends_it():
    """What no waiting mends is raised."""
    watch, _ = watching(Script(LedgerCorrupt("damaged")))
    with pytest.raises(LedgerCorrupt):
        watch.run(interval=5, wait=lambda _: None)


@pytest.mark.parametrize(("margin", "allowed"), [(449, False), (450, True), (900, True), (901, False)])
def test_a_margin_is_half_of_the_grace_period_at_least(margin, allowed):
    """Never later than at its middle, never earlier than the request."""
    if allowed:
        assert check_margin(margin) == margin
    else:
        with pytest.raises(UsageError):
            check_margin(margin)
