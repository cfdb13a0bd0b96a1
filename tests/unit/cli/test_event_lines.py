"""Events as lines for a person."""

from __future__ import annotations

import pytest

from microwallet.cli.event_lines import event_line


@pytest.mark.parametrize(
    ("event", "words"),
    [("closed", ["captured 1 USDC", "refunded 0 USDC", "0xab"]), ("settled", ["captured 1 USDC", "0xab"])],
)
def test_a_refund_belongs_to_a_close(event, words):
    """A settlement refunds nothing, and its line does not speak of it."""
    amounts = {"asset": "USDC", "decimals": 6, "captured": "1000000", "refunded": "0"}
    told = event_line(event, amounts | {"transactionHash": "0xab", "gasUsed": 1})
    assert told.split("  ")[1:] == [event, *words]
