"""What `channel close --all` shows of many channels, and which failure is its own."""

from __future__ import annotations

from dataclasses import replace

import pytest
from model import keyed

from microwallet.cli.channel_close_view import result_of_all, summary_of_all
from microwallet.cli.max_fee import MaxFee
from microwallet.cli.result import Result
from microwallet.errors import KeyUnavailable, NetworkError, OutcomeUnknown
from microwallet.wallet import Wallet

USDC = 10**6
LOST = (keyed(99).payer_channel(deposit=USDC), KeyUnavailable("the key is not here"))


@pytest.fixture
def summary(tmp_path):
    """The screen before some channels are closed, by lines."""
    with Wallet.open(environment={"MICROWALLET_HOME": str(tmp_path)}) as wallet:
        fee = MaxFee(wei=1, text="at most 1 wei")
        yield lambda channels, failed=(): summary_of_all(
            wallet, channels, failed, fee, on_chain=False
        ).splitlines()


def opened(count):
    return [keyed(number).payer_channel(deposit=USDC) for number in range(1, count + 1)]


def test_twenty_are_shown(summary):
    """Of more it says how many; what comes back of all is told anyway."""
    for count, more in ((20, []), (21, ["  ... and 1 more"]), (30, ["  ... and 10 more"])):
        told = summary(opened(count))
        assert told[0].startswith(f"close {count} channels on anvil")
        assert [line for line in told if "..." in line] == more
        assert sum("comes back at least 1 USDC" in line for line in told) == 20
        assert f"  in all      at least {count} USDC" in told


def test_what_is_not_known_is_not_counted(summary):
    """A rebuilt channel may have been used up."""
    [known, rebuilt] = opened(2)
    rebuilt = replace(rebuilt, voucher_known=False)
    assert "  in all      at least 1 USDC" in summary([known, rebuilt])
    told = summary([rebuilt])
    assert told[0].startswith("close 1 channel on anvil")
    assert told[1].endswith("comes back unknown")
    assert "  in all      unknown" in told


def test_what_cannot_be_closed_is_shown_before(summary):
    """Also where nothing else is there to close."""
    line = f"channel {LOST[0].name} cannot be closed: the key is not here"
    assert line in summary(opened(1), [LOST])
    assert summary([], [LOST]) == [line, "no channel is open"]


def test_an_unknown_outcome_is_the_exit_code():
    """Before all other failures, whatever came first."""
    unknown = OutcomeUnknown("it was sent")
    failed = [LOST, (LOST[0], unknown), (LOST[0], NetworkError("gone"))]
    result = result_of_all([Result(data={"of": "one"}, text="closed")], failed)
    assert result.error is unknown
    assert result.data["channels"] == [{"of": "one"}]
    assert [one["code"] for one in result.data["failed"]] == ["key-unavailable", "outcome-unknown", "network"]
