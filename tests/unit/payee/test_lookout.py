"""Looking at channels again and again: every change is found, whoever writes, and no more is done."""

from __future__ import annotations

from dataclasses import replace

import pytest
from model import CHAIN, ESCROW, PAYEE, keyed

from microwallet.domain.channel import NO_CHANNEL
from microwallet.domain.identifiers import checksum_address, word
from microwallet.errors import EscrowMissing, LedgerBusy, NetworkError
from microwallet.escrow import reader
from microwallet.escrow.reader import EscrowReader, Head
from microwallet.payee.lookout import Lookout
from microwallet.payee.refresh import CONFIRMED_DEPTH, STALE_SECONDS, refresh

CHANNELS = [keyed(number).channel_id for number in range(1, 8)]
STATE = replace(NO_CHANNEL, deposit=1000)
NOW = 5000


class Chain(EscrowReader):
    """States that a test decides, encoded as the escrow does."""

    def __init__(self):
        self.of = dict.fromkeys(CHANNELS, STATE)
        self.height = 10
        self.decoded = 0
        self.is_away = False
        self.has_escrow = True

    def head(self, _block="latest"):
        if self.is_away:
            raise NetworkError("nobody answers")
        return Head(number=self.height, timestamp=NOW)

    def encoded_states(self, chunks, _block=None):
        if not self.has_escrow:
            raise EscrowMissing("there is no escrow")
        return [b"".join([word(32), word(len(chunk)), *map(self._encoded, chunk)]) for chunk in chunks]

    def _encoded(self, channel_id):
        state = self.of[channel_id]
        words = (state.deposit, state.settled, state.close_requested_at, int(state.finalized))
        return b"".join(map(word, words))

    def decoded_states(self, encoded, channel_ids):
        self.decoded += len(channel_ids)
        states = reader._states(encoded, len(channel_ids), "here")
        return dict(zip(channel_ids, states, strict=True))


@pytest.fixture
def ledger(ledger, monkeypatch):
    """A ledger with channels, of which three are asked about at once."""
    monkeypatch.setattr(reader, "CHANNELS_PER_CALL", 3)
    for number in range(1, 8):
        ledger.sessions.add_channel(keyed(number).payee_channel(deposit=1000), now=number)
    return ledger


@pytest.fixture
def chain():
    return Chain()


@pytest.fixture
def look(ledger, chain):
    """What a look finds: the channels, by number from 0."""
    lookout = Lookout(ledger.vouchers, CHAIN, lambda _: chain)

    def look(now=NOW):
        looked = lookout.look(now=now)
        assert looked.chain_time == NOW
        assert looked.payees == {PAYEE}
        assert lookout.states == chain.of
        for channel in looked.channels:
            assert channel.state == chain.of[channel.channel_id]
        assert [one.state for one in ledger.vouchers.list(finalized=True)] == [*chain.of.values()]
        return [[*chain.of].index(one.channel_id) for one in looked.channels]

    return look


def test_what_has_changed(look, chain):
    """The first look finds all, others what has changed since, of which alone what is near is read again."""
    assert look() == [0, 1, 2, 3, 4, 5, 6]
    assert look() == []
    chain.decoded = 0
    assert look() == []
    assert chain.decoded == 0
    chain.of[CHANNELS[4]] = replace(STATE, settled=7)
    assert look() == [4]
    assert chain.decoded == 3


@pytest.mark.parametrize("change", [{"close_requested_at": 9}, {"finalized": True, "settled": 3}])
def test_what_may_need_something(look, chain, change):
    """A channel that is being closed, or may be open again, is found each time; until it is open again."""
    look()
    chain.of[CHANNELS[1]] = replace(STATE, **change)
    assert [look(), look(), look()] == [[1], [1], [1]]
    chain.of[CHANNELS[1]] = STATE
    assert [look(), look()] == [[1], []]


def test_a_channel_that_was_added(look, ledger, chain):
    """It is new to the next look."""
    look()
    other = keyed(9)
    ledger.sessions.add_channel(other.payee_channel(deposit=1000), now=9)
    chain.of[other.channel_id] = STATE
    assert [look(), look()] == [[7], []]


def test_what_others_write_is_put_right(look, ledger, chain):
    """Whatever the ledger was told meanwhile, it has what the chain says after a look."""
    wrong = {CHANNELS[3]: replace(STATE, deposit=1)}
    look()
    ledger.vouchers.record_states(wrong, as_of=NOW)
    assert look() == []
    chain.of[CHANNELS[3]] = replace(STATE, settled=5)
    assert look() == [3]
    ledger.vouchers.record_states({CHANNELS[3]: STATE}, as_of=NOW)
    assert look() == []


def test_a_look_that_fails(look, chain):
    """Nothing is lost by it: the next one finds what there was."""
    look()
    chain.of[CHANNELS[0]] = replace(STATE, close_requested_at=9)
    chain.is_away = True
    with pytest.raises(NetworkError):
        look()
    chain.is_away = False
    assert look() == [0]


def test_a_look_that_fails_once_it_has_written(look, ledger, chain, monkeypatch):
    """What it had found is found by the next one: nobody was told of it."""

    def refuse(_channel_ids):
        raise LedgerBusy("another process writes")

    look()
    chain.of[CHANNELS[2]] = replace(STATE, settled=5)
    with monkeypatch.context() as patch:
        patch.setattr(ledger.vouchers, "some", refuse)
        with pytest.raises(LedgerBusy):
            look()
    assert [look(), look()] == [[2], []]


def test_others_that_write_what_is_old_at_the_end_of_a_look(ledger, chain, monkeypatch):
    """What is found has the state that the chain has: a requested close is not put off for the next look."""
    lookout = Lookout(ledger.vouchers, CHAIN, lambda _: chain)
    record_states = ledger.vouchers.record_states

    def beside(states, *, as_of):
        record_states(states, as_of=as_of)
        record_states({CHANNELS[1]: STATE}, as_of=as_of - 1)

    monkeypatch.setattr(ledger.vouchers, "record_states", beside)
    chain.of[CHANNELS[1]] = closing = replace(STATE, close_requested_at=9)
    found = {one.channel_id: one for one in lookout.look(now=NOW).channels}
    assert (found[CHANNELS[1]].state, found[CHANNELS[1]].as_of) == (closing, NOW)


def test_closes_that_are_deep_enough(look, ledger, chain):
    """They are not looked at any more."""
    look()
    chain.of[CHANNELS[0]] = replace(STATE, finalized=True)
    assert look() == [0]
    chain.height = CONFIRMED_DEPTH + 1
    assert look() == [0]
    assert CHANNELS[0] not in {one.channel_id for one in ledger.vouchers.live(CHAIN)}


def test_an_end_that_others_learn_of_first(ledger, chain):
    """It is found until it was told, however deep it is by then; and again where it came a second time."""
    lookout = Lookout(ledger.vouchers, CHAIN, lambda _: chain)
    chain.of[CHANNELS[5]] = over = replace(STATE, finalized=True)
    chain.height = CONFIRMED_DEPTH + 1
    refresh(ledger.vouchers, CHAIN, lambda _: chain, now=NOW)
    for _ in range(2):
        looked = lookout.look(now=NOW)
        assert looked.untold == [CHANNELS[5]]
        assert [one.state for one in looked.channels if one.channel_id == CHANNELS[5]] == [over]
    ledger.vouchers.record_told(looked.untold)
    assert lookout.look(now=NOW).untold == []
    for state, untold in ((STATE, []), (over, [CHANNELS[5]])):
        ledger.vouchers.record_states({CHANNELS[5]: state}, as_of=NOW)
        assert lookout.look(now=NOW).untold == untold


def test_when_the_chain_said_so(look, ledger):
    """It is written down again once it is old, not with each look, and nobody forgets an account for it."""
    look(NOW)
    with ledger.sessions.transaction() as rows:
        known = rows.account(CHANNELS[0])
    look(NOW + STALE_SECONDS)
    assert {one.as_of for one in ledger.vouchers.live(CHAIN)} == {NOW}
    look(NOW + STALE_SECONDS + 1)
    assert {one.as_of for one in ledger.vouchers.live(CHAIN)} == {NOW + STALE_SECONDS + 1}
    with ledger.sessions.transaction() as rows:
        assert rows.account(CHANNELS[0]) is known


def test_channels_of_several_escrows(ledger, chain):
    """Each is asked about where it is."""
    asked = []

    def reader_of(escrow_contract):
        asked.append(escrow_contract)
        return chain

    other = keyed(10, escrow_contract=PAYEE)
    chain.of[other.channel_id] = replace(STATE, settled=4)
    ledger.sessions.add_channel(other.payee_channel(deposit=1000), now=10)
    looked = Lookout(ledger.vouchers, CHAIN, reader_of).look(now=NOW)
    assert asked == [ESCROW, PAYEE]
    assert len(looked.channels) == len(CHANNELS) + 1
    assert ledger.vouchers.get(other.channel_id).state.settled == 4


@pytest.mark.parametrize("named", [[], [3], [5, 2]])
def test_some_of_them_for_what_is_done_once(ledger, chain, named):
    """Whoever settles or closes a few channels asks about these alone."""
    chain.of = dict.fromkeys(CHANNELS, replace(STATE, settled=7))
    wanted = [CHANNELS[number] for number in named]
    refreshed = refresh(ledger.vouchers, CHAIN, lambda _: chain, wanted, now=NOW)
    assert [one.channel_id for one in refreshed] == wanted
    assert all(one.state.settled == 7 for one in refreshed)
    assert chain.decoded == len(wanted)
    stored = {one.channel_id: one.state.settled for one in ledger.vouchers.list(finalized=True)}
    assert stored == {one: 7 * (one in wanted) for one in CHANNELS}
    assert len(refresh(ledger.vouchers, CHAIN, lambda _: chain, now=NOW)) == len(CHANNELS)


def test_a_channel_that_is_named_twice(ledger, chain):
    """By its id and by the beginning of it: it is one channel, and settled or closed once."""
    named = [CHANNELS[5], CHANNELS[2], CHANNELS[5]]
    refreshed = refresh(ledger.vouchers, CHAIN, lambda _: chain, named, now=NOW)
    assert [one.channel_id for one in refreshed] == [CHANNELS[5], CHANNELS[2]]


def test_a_channel_whose_close_is_confirmed(ledger, chain):
    """Nothing is asked about it by name either."""
    closed = {CHANNELS[0]: replace(STATE, finalized=True)}
    ledger.vouchers.record_states(closed, as_of=NOW)
    ledger.vouchers.confirm_closes(closed)
    assert not refresh(ledger.vouchers, CHAIN, lambda _: chain, closed, now=NOW)
    assert chain.decoded == 0


REQUESTED = replace(STATE, close_requested_at=9)


@pytest.fixture(params=["the first", "the last"])
def gone(request, ledger, chain):
    """A chain without one of the escrows of two channels, and what reads each escrow; the channel that is
    there, whose payer requests a close, and the other one."""
    other = keyed(8, escrow_contract=checksum_address(b"\x11" * 20))
    ledger.sessions.add_channel(other.payee_channel(deposit=1000), now=8)
    chain.of = dict.fromkeys([*CHANNELS, other.channel_id], REQUESTED)
    gone, is_first = Chain(), request.param == "the first"
    gone.has_escrow = False
    lost, there = CHANNELS[0], other.channel_id
    if not is_first:
        lost, there = there, lost
    return gone, lambda asked: gone if (asked == ESCROW) is is_first else chain, there, lost


def test_an_escrow_that_is_not_there_hides_no_other(ledger, chain, gone):
    """What the others say is found and stored. Of its own channels nothing is, until it is there."""
    gone, reader_of, there, lost = gone
    lookout = Lookout(ledger.vouchers, CHAIN, reader_of)
    looked = lookout.look(now=NOW)
    assert looked.flaw is not None
    assert {one.state for one in looked.channels if one.channel_id == there} == {REQUESTED}
    assert lost not in {*lookout.states, *(one.channel_id for one in looked.channels)}
    assert ledger.vouchers.get(there).state == REQUESTED
    assert ledger.vouchers.get(lost).as_of != NOW
    gone.has_escrow, gone.of = True, chain.of
    looked = lookout.look(now=NOW)
    assert looked.flaw is None
    assert lost in lookout.states


def test_nor_does_it_where_one_looks_once(ledger, gone):
    """What the others say is stored before it is told."""
    _, reader_of, there, lost = gone
    with pytest.raises(EscrowMissing):
        refresh(ledger.vouchers, CHAIN, reader_of, now=NOW)
    assert ledger.vouchers.get(there).state == REQUESTED
    assert ledger.vouchers.get(lost).state != REQUESTED
