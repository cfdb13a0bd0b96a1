"""How a channel ends for its payer: what is told where the chain, or the payee, was faster or is slower."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
from model import keyed

from microwallet.domain.channel import CLOSE_GRACE_PERIOD, NO_CHANNEL
from microwallet.domain.ports import Quiet
from microwallet.errors import (
    ChannelNotOpen,
    CloseNotReady,
    NetworkError,
    OutcomeUnknown,
    TransactionReverted,
)
from microwallet.escrow.reverts import ContractReverted
from microwallet.payer.close import ClosedByPayee, close, require_live
from microwallet.payer.withdraw import withdraw

ONE = keyed(1).payer_channel(deposit=100)
REQUESTED_AT = 1_000
FREE_AT = REQUESTED_AT + CLOSE_GRACE_PERIOD
GONE = replace(ONE, state=NO_CHANNEL)
REQUESTED = replace(ONE, state=replace(ONE.state, close_requested_at=REQUESTED_AT))
FINALIZED = replace(ONE, state=replace(ONE.state, finalized=True))
NOT_READY = ContractReverted("too early", name="CloseNotReady", arguments={})
REVERTED = TransactionReverted("no")
RECEIPT = object()
HASH = "0x" + "12" * 32


@pytest.fixture
def chain(ledger, monkeypatch):
    """An account whose chain tells these states one after the other, the last again and again, and answers
    every transaction so; what it sent."""

    def make(*states, answer=RECEIPT, now=FREE_AT):
        script, sent = list(states), []

        def refreshed(_account, _channel):
            found = script.pop(0) if len(script) > 1 else script[0]
            if isinstance(found, Exception):
                raise found
            return found

        def send(_call, *, purpose, **_more):
            sent.append(purpose)
            if isinstance(answer, Exception):
                raise answer
            return answer

        for module in ("close", "withdraw"):
            monkeypatch.setattr(f"microwallet.payer.{module}.refreshed", refreshed)
        monkeypatch.setattr("microwallet.payer.close.LAG_SECONDS", 0)
        account = SimpleNamespace(
            ledger=ledger,
            reader=SimpleNamespace(next_block_time=lambda: now),
            sender=SimpleNamespace(send=send),
            reporter=Quiet(),
            clock=lambda: now,
        )
        return account, sent

    return make


@pytest.mark.parametrize(
    ("states", "now", "stage", "seconds_left"),
    [
        ([FINALIZED], FREE_AT, "closed", 0),
        ([REQUESTED], FREE_AT - 1, "requested", 1),
        ([REQUESTED], FREE_AT, "withdrawable", 0),
        ([REQUESTED], FREE_AT + 1, "withdrawable", 0),
    ],
)
def test_a_close_that_was_begun_is_told(chain, states, now, stage, seconds_left):
    """Nobody is asked for another, and nothing is sent."""
    account, sent = chain(*states, now=now)
    told = close(account, ONE, ask_payee=lambda _channel: pytest.fail("asked"))
    assert (told.stage, told.seconds_left, told.receipt, sent) == (stage, seconds_left, None, [])


def test_a_close_is_requested(chain):
    """Where the payee is not asked, does not close, or only says so."""
    for says in (None, ClosedByPayee(transaction_hash=None)):
        account, sent = chain(ONE, *[ONE] * (says is not None), REQUESTED, now=REQUESTED_AT)
        told = close(account, ONE, ask_payee=lambda _channel, says=says: says)
        assert (told.stage, told.seconds_left, sent) == ("requested", CLOSE_GRACE_PERIOD, ["requestClose"])
        assert told.receipt is RECEIPT


def test_a_close_of_the_payee(chain):
    """Once the chain shows it, it is told with the transaction that the payee named."""
    account, sent = chain(ONE, FINALIZED)
    told = close(account, ONE, ask_payee=lambda _channel: ClosedByPayee(transaction_hash=HASH))
    assert (told.stage, told.payee_transaction, told.receipt, sent) == ("closed", HASH, None, [])


def test_a_request_to_close_that_the_payee_was_faster_than(chain):
    """Its close is told; one that fails otherwise stays an error."""
    account, _ = chain(ONE, FINALIZED, answer=REVERTED)
    told = close(account, ONE)
    assert (told.stage, told.receipt) == ("closed", None)
    account, _ = chain(ONE, answer=REVERTED)
    with pytest.raises(TransactionReverted):
        close(account, ONE)


def test_no_close_of_what_is_not_there(chain):
    """Nothing is sent for a channel that is not on the chain, nor is money put into it."""
    account, sent = chain(GONE)
    with pytest.raises(ChannelNotOpen, match="is not on the chain"):
        close(account, ONE)
    with pytest.raises(ChannelNotOpen, match="is not on the chain"):
        withdraw(account, ONE, wait=False)
    for dead in (GONE, FINALIZED):
        with pytest.raises(ChannelNotOpen):
            require_live(dead)
    require_live(REQUESTED)
    assert sent == []


@pytest.mark.parametrize(
    ("shown", "says"), [(ONE, "the chain does not show it"), (NetworkError("no chain"), "no chain")]
)
def test_what_the_chain_does_not_show(chain, shown, says):
    """A request that was mined may have been reorganised: its outcome is unknown."""
    account, _ = chain(ONE, shown)
    with pytest.raises(OutcomeUnknown, match="the request to close of channel") as caught:
        close(account, ONE)
    assert says in caught.value.message
    account, _ = chain(REQUESTED, REQUESTED if shown is ONE else shown)
    with pytest.raises(OutcomeUnknown, match="the withdrawal of channel") as caught:
        withdraw(account, ONE, wait=False)
    assert says in caught.value.message


def test_a_withdrawal(chain):
    """Not before its time, and told as it is where the payee ended the channel first."""
    account, sent = chain(REQUESTED, FINALIZED)
    assert withdraw(account, ONE, wait=False).receipt is RECEIPT
    assert sent == ["withdraw"]
    for wait in (False, True):
        account, sent = chain(FINALIZED)
        assert (withdraw(account, ONE, wait=wait).receipt, sent) == (None, [])
    account, sent = chain(REQUESTED, now=FREE_AT - 1)
    with pytest.raises(CloseNotReady, match="in 1 seconds"):
        withdraw(account, ONE, wait=False)
    assert sent == []


def test_a_withdrawal_that_reverts(chain):
    """The payee closed meanwhile, a top-up cancelled the request, or the chain's clock is behind."""
    account, _ = chain(REQUESTED, FINALIZED, answer=REVERTED)
    told = withdraw(account, ONE, wait=False)
    assert (told.channel, told.receipt) == (FINALIZED, None)
    account, _ = chain(REQUESTED, answer=REVERTED)
    with pytest.raises(TransactionReverted):
        withdraw(account, ONE, wait=False)
    account, _ = chain(REQUESTED, REQUESTED, ONE, answer=NOT_READY)
    with pytest.raises(ChannelNotOpen, match="a close must be requested"):
        withdraw(account, ONE, wait=False)
    account, _ = chain(REQUESTED, answer=NOT_READY)
    with pytest.raises(CloseNotReady):
        withdraw(account, ONE, wait=False)
