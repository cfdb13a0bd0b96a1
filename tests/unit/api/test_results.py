"""What programs are told of channels."""

from __future__ import annotations

from dataclasses import replace

import pytest
from model import keyed

from microwallet.api.results import channel_result


@pytest.mark.parametrize(
    ("deposit", "abandoned", "status"),
    [(0, False, "opening"), (0, True, "abandoned"), (5, True, "open")],
)
def test_an_open_that_was_given_up_is_told(deposit, abandoned, status):
    """Not as one that is on its way; what the chain has is open all the same."""
    channel = replace(keyed(1).payer_channel(deposit=deposit), open_abandoned=abandoned)
    assert channel_result(channel, now=9).status == status
