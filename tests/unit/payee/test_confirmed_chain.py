"""The chain as a careful payee sees it, over a reader that knows a history of states."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
from model import ESCROW, keyed

from microwallet.domain.channel import NO_CHANNEL
from microwallet.escrow.reader import Head
from microwallet.payee.confirmed_chain import ConfirmedChain

ONE = keyed(1).channel_id
OPEN = replace(NO_CHANNEL, deposit=100)


@dataclass
class History:
    """A reader of one channel whose state at each block is given."""

    blocks: list

    def head(self):
        return Head(number=len(self.blocks) - 1, timestamp=0)

    def channel_states(self, channel_ids, block):
        return dict.fromkeys(channel_ids, self.blocks[block])


def seen(blocks, confirmations):
    """The channel's state as a payee that wants so many confirmations takes it."""
    chain = ConfirmedChain(lambda _: History(blocks), confirmations=confirmations)
    return chain.states(ESCROW, [ONE])[ONE]


@pytest.mark.parametrize(
    ("blocks_with_it", "confirmations", "exists"),
    [(1, 0, True), (1, 1, True), (1, 2, False), (2, 2, True), (2, 3, False), (3, 3, True), (1, 99, False)],
)
def test_an_open_counts_from_its_confirmations_on(blocks_with_it, confirmations, exists):
    """The block of the open is the first confirmation."""
    blocks = [NO_CHANNEL] * 3 + [OPEN] * blocks_with_it
    assert seen(blocks, confirmations).exists is exists


def test_a_top_up_counts_from_its_confirmations_on():
    """Until then the channel is worth the deposit before it."""
    blocks = [OPEN, OPEN, replace(OPEN, deposit=300)]
    assert seen(blocks, 2).deposit == 100
    assert seen([*blocks, blocks[-1]], 2).deposit == 300


def test_what_is_against_the_payee_counts_at_once():
    """A close request, a close and a settle need no confirmation."""
    for newest in (
        replace(OPEN, close_requested_at=5),
        replace(OPEN, finalized=True),
        replace(OPEN, settled=7),
    ):
        assert seen([OPEN, OPEN, OPEN, newest], 3) == newest
