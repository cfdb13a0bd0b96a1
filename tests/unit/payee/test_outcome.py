"""What became of captures: which failures are told, and which of them is the error of the whole."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from model import PAYEE, PAYER, keyed

from microwallet.errors import NetworkError, OutcomeUnknown, RefundUndeliverable, TransactionReverted
from microwallet.escrow.events import TopUp
from microwallet.escrow.receipt import Receipt
from microwallet.escrow.reverts import ContractReverted
from microwallet.payee.captures import PlannedCapture
from microwallet.payee.outcome import RUN_AGAIN, Captured, Failure, Outcome, read_receipt

CHANNELS = [keyed(number).payee_channel(deposit=1000) for number in (1, 2, 3)]
PLANNED = [PlannedCapture(channel=one, capture_amount=7) for one in CHANNELS]
SETTLED = Captured(channel=CHANNELS[0], captured=7, refunded=0, transaction_hash="0xab", gas_used=1)
REFUSED, AWAY, UNKNOWN = TransactionReverted("refused"), NetworkError("away"), OutcomeUnknown("unknown")


def failed(*errors):
    """An outcome with these errors, of a channel each."""
    pairs = zip(CHANNELS, errors, strict=False)
    return Outcome(failed=[Failure(channel=one, error=error) for one, error in pairs])


@pytest.mark.parametrize(
    ("errors", "told"),
    [
        ([], None),
        ([REFUSED], REFUSED),
        ([AWAY], AWAY),
        ([AWAY, NetworkError("away as well")], AWAY),
        ([AWAY, AWAY], AWAY),
        ([REFUSED, AWAY, UNKNOWN], UNKNOWN),
    ],
)
def test_the_error_of_the_whole(errors, told):
    """The one reason; before all, that nobody knows yet what became of something."""
    assert failed(*errors).error() is told
    if told is UNKNOWN:
        assert UNKNOWN.hint == RUN_AGAIN


@pytest.mark.parametrize(
    "errors", [[REFUSED, REFUSED], [REFUSED, TransactionReverted("too")], [AWAY, REFUSED]]
)
def test_several_reasons(errors):
    """Each channel is told with its own."""
    told = failed(*errors).error()
    assert type(told) is TransactionReverted
    first, second = (
        f"{channel.channel_id}: {error.message}" for channel, error in zip(CHANNELS, errors, strict=False)
    )
    assert told.message.splitlines() == ["2 of the channels failed:", first, second]


def test_a_failure_is_of_those_that_nothing_was_told_of():
    """One that was captured, or failed before, has not failed now."""
    outcome = Outcome(channels=[SETTLED], failed=[Failure(channel=CHANNELS[1], error=REFUSED)])
    outcome.fail(PLANNED, AWAY)
    assert [(one.channel, one.error) for one in outcome.failed] == [
        (CHANNELS[1], REFUSED),
        (CHANNELS[2], AWAY),
    ]


def test_a_refund_that_cannot_be_delivered():
    """The channel stays open, told once, with whether what it owed was settled."""
    outcome = Outcome(channels=[SETTLED], failed=[Failure(channel=CHANNELS[1], error=REFUSED)])
    for item in PLANNED:
        outcome.refund_undeliverable(item)
    first, second, third = outcome.failed
    assert (first.error, second.channel, third.channel) == (REFUSED, CHANNELS[0], CHANNELS[2])
    assert isinstance(second.error, RefundUndeliverable)
    assert second.error.message.endswith("what it owed is settled")
    assert third.error.message.endswith("nothing is owed")


@pytest.mark.parametrize(
    ("name", "code"), [("DeltaTooSmall", "delta-too-small"), (None, "transaction-reverted")]
)
def test_the_code_of_a_failure(name, code):
    """The contract's own error where it named one."""
    error = ContractReverted("refused", name=name, arguments={})
    assert Failure(channel=CHANNELS[0], error=error).code == code
    assert Failure(channel=CHANNELS[0], error=AWAY).code == "network"


def test_what_others_do_in_the_same_transaction():
    """A payer that is paid its refund may top up another channel: nothing was captured by that."""
    channel, outcome = CHANNELS[0], Outcome()
    event = TopUp(
        channel_id=channel.channel_id,
        payer=PAYER,
        payee=PAYEE,
        block_number=1,
        transaction_hash="0xab",
        additional_deposit=5,
        deposit=1005,
    )
    receipt = Receipt(hash="0xab", block_number=1, gas_used=1, effective_gas_price=1, logs=(event, None))
    read_receipt(receipt, SimpleNamespace(decode=lambda log: log), {channel.channel_id: channel}.get, outcome)
    assert outcome == Outcome()
