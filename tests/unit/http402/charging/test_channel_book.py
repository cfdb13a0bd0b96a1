"""How often the chain is asked about channels: before its word is old, and about many at once."""

from __future__ import annotations

import asyncio
import threading
from contextlib import nullcontext
from dataclasses import replace

import pytest
from model import keyed

from microwallet.domain.channel import NO_CHANNEL
from microwallet.errors import LedgerBusy, NetworkError
from microwallet.http402.charging import channel_book
from microwallet.http402.charging.channel_book import (
    RENEW_SECONDS,
    SILENCE_SECONDS,
    STATE_SECONDS,
    ChannelBook,
)
from microwallet.http402.charging.desk import Desk

CHANNELS = [keyed(number) for number in range(1, 40)]
STATE = replace(NO_CHANNEL, deposit=1000)


class Chain:
    """What is asked of it."""

    def __init__(self):
        self.asked = []
        self.states_now = STATE
        self.is_away = False

    def states(self, channel_ids):
        if self.is_away:
            raise NetworkError("nobody answers")
        self.asked.append(sorted(channel_ids))
        return dict.fromkeys(channel_ids, self.states_now)


class Scene:
    """A book of channels over a ledger, with a clock that stands still."""

    def __init__(self, ledger):
        self.now = 1000
        self.chain = Chain()
        self.book = ChannelBook(
            ledger.sessions, Desk("chain", lambda: nullcontext(self.chain)), clock=lambda: self.now
        )
        self.known = [self.book.add(one.payee_channel(deposit=1000)) for one in CHANNELS]

    def use(self):
        """Whether a request through each of them has to wait for the chain."""
        return [not self.book.is_fresh(one) for one in self.known]

    async def renewed(self):
        """Whatever was begun beside is done."""
        if self.book._renewal is not None:
            await self.book._renewal


@pytest.fixture
def scene(ledger, monkeypatch):
    """The book, which gathers for a hundredth of a second."""
    monkeypatch.setattr(channel_book, "GATHER_SECONDS", 0.01)
    return Scene(ledger)


def test_channels_that_are_used_are_asked_about_beside(scene):
    """All in one question, before anybody would have to wait; those that are not used are not."""

    async def run():
        for age in (RENEW_SECONDS - 1, RENEW_SECONDS, STATE_SECONDS):
            scene.now = 1000 + age
            assert not any(scene.use())
        await scene.renewed()
        assert scene.chain.asked == [sorted(one.channel_id for one in CHANNELS)]
        scene.now += STATE_SECONDS
        assert not any(scene.use()[:1])
        scene.now += 1
        assert scene.use() == [True] * len(CHANNELS)

    asyncio.run(run())


def test_news_of_a_channel_that_was_asked_about_beside(scene, ledger):
    """They are believed and written down; another question comes only with another use."""

    async def run():
        scene.now += RENEW_SECONDS
        scene.chain.states_now = replace(STATE, close_requested_at=5)
        scene.use()
        await scene.renewed()
        assert {one.state.close_requested_at for one in scene.known} == {5}
        assert ledger.vouchers.get(CHANNELS[0].channel_id).state.close_requested_at == 5
        assert len(scene.chain.asked) == 1

    asyncio.run(run())


def test_a_chain_that_is_away(scene):
    """What it said holds for as long as it may, and it is asked again and again as channels are used."""

    async def run():
        scene.chain.is_away = True
        scene.now += RENEW_SECONDS
        assert not any(scene.use())
        await scene.renewed()
        scene.now = 1000 + SILENCE_SECONDS
        await scene.book.freshen(scene.known[0])
        scene.now += 1
        with pytest.raises(NetworkError):
            await scene.book.freshen(scene.known[0])
        scene.chain.is_away = False
        assert all(scene.use())
        await scene.renewed()
        assert not any(scene.use())

    asyncio.run(run())


@pytest.mark.parametrize(
    ("heard", "asks"),
    [
        (STATE, False),
        (replace(STATE, deposit=2000), True),
        (replace(STATE, close_requested_at=5), True),
        (replace(STATE, finalized=True), True),
        (None, True),
    ],
)
def test_what_was_heard_beside(scene, heard, asks):
    """A look that found a channel as it is known to be saves the question; any other asks it."""

    async def run():
        scene.now += STATE_SECONDS + 1
        states = {} if heard is None else {one.channel_id: heard for one in CHANNELS}
        scene.book.hear(states, at=scene.now - 1)
        assert scene.use() == [asks] * len(CHANNELS)
        scene.book.doubt(scene.known[0])
        assert scene.use()[0]
        await scene.renewed()
        assert len(scene.chain.asked) == 1
        assert len(scene.chain.asked[0]) == (len(CHANNELS) if asks else 1)

    asyncio.run(run())


def test_what_was_heard_long_ago(scene):
    """It is as old as it is."""

    async def run():
        scene.book.hear({one.channel_id: STATE for one in CHANNELS}, at=scene.now + 10)
        scene.now += 11 + STATE_SECONDS
        assert all(scene.use())

    asyncio.run(run())


def test_news_that_could_not_be_written_down(scene, ledger, monkeypatch):
    """They are still news to the next question: what is sold goes by what is written."""

    def refuse(*_, **__):
        raise LedgerBusy("another process writes")

    async def run():
        scene.now += STATE_SECONDS + 1
        scene.chain.states_now = replace(STATE, close_requested_at=5)
        with monkeypatch.context() as patch:
            patch.setattr(ledger.sessions, "record_states", refuse)
            with pytest.raises(LedgerBusy):
                await scene.book.freshen(scene.known[0])
        await scene.book.freshen(scene.known[0])
        assert ledger.vouchers.get(CHANNELS[0].channel_id).state.close_requested_at == 5

    asyncio.run(run())


@pytest.mark.parametrize("is_told", [True, False])
def test_an_answer_that_is_older_than_what_was_told(scene, ledger, is_told):
    """A question that was asked before a top-up was told of, or a doubt, does not undo it."""
    known, topped_up = scene.known[0], replace(STATE, deposit=2000)

    async def run():
        scene.now += RENEW_SECONDS
        asked, answer = threading.Event(), threading.Event()

        def states(channel_ids):
            asked.set()
            answer.wait(5)
            return dict.fromkeys(channel_ids, STATE)

        scene.chain.states = states
        scene.use()
        await asyncio.to_thread(asked.wait, 5)
        if is_told:
            scene.book.record(known, topped_up)
        else:
            scene.book.doubt(known)
        answer.set()
        await scene.renewed()
        assert known.state == ledger.vouchers.get(known.channel_id).state == (topped_up if is_told else STATE)
        assert known.state_at == (scene.now if is_told else None)
        assert scene.known[1].state_at == scene.now

    asyncio.run(run())
