"""What the books and the chain say of a channel together."""

from __future__ import annotations

from dataclasses import replace

import pytest
from model import keyed

CHANNEL = keyed(1).payer_channel(deposit=100)


@pytest.mark.parametrize(
    ("deposit", "authorized", "finalized", "remaining"),
    [(100, 30, False, 70), (100, 100, False, 0), (20, 30, False, 0), (100, 30, True, 0)],
)
def test_what_can_still_be_authorized(deposit, authorized, finalized, remaining):
    """What is deposited above it, whatever a reorganisation took of that; nothing once finalized."""
    state = replace(CHANNEL.state, deposit=deposit, finalized=finalized)
    assert replace(CHANNEL, state=state, authorized=authorized).remaining == remaining


@pytest.mark.parametrize(
    ("deposit", "spent", "settled", "finalized", "unpaid", "unsettled"),
    [
        (100, 30, 10, False, 20, 20),
        (100, 10, 30, False, 0, 0),
        (20, 30, 10, False, 10, 10),
        (100, 30, 10, True, 20, 0),
    ],
)
def test_what_was_charged_and_not_settled(deposit, spent, settled, finalized, unpaid, unsettled):
    """No more of it than is deposited can be taken, and nothing once the channel is finalized."""
    state = replace(CHANNEL.state, deposit=deposit, settled=settled, finalized=finalized)
    channel = replace(CHANNEL, state=state, spent=spent)
    assert (channel.unpaid, channel.unsettled) == (unpaid, unsettled)


def test_one_base_unit_is_a_channel():
    """A channel exists as soon as anything was deposited."""
    assert [replace(CHANNEL.state, deposit=deposit).exists for deposit in (0, 1)] == [False, True]
