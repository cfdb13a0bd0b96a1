"""Which channels are taken, and how much of them: every bound, one below it and one above."""

from __future__ import annotations

from dataclasses import replace

import pytest

from microwallet.domain.channel import ChannelDescriptor, ChannelState, PayeeChannel
from microwallet.domain.identifiers import NATIVE_TOKEN, ChainId, checksum_address
from microwallet.domain.money import Asset
from microwallet.errors import AmountExceedsDeposit, ChannelNotOpen, InvalidAmount, PaymentRefused
from microwallet.payee.captures import (
    Action,
    PlannedCapture,
    Selection,
    chosen_capture,
    whole_capture,
)

TOKEN = checksum_address(b"\x55" * 20)


def channel(deposit=1_000, settled=0, authorized=0, *, finalized=False, number=1, token=TOKEN):
    descriptor = ChannelDescriptor(
        payer=checksum_address(b"\x11" * 20),
        payee=checksum_address(b"\x44" * 20),
        token=token,
        salt=f"0x{number:064x}",
        authorized_signer=checksum_address(b"\x22" * 20),
        escrow_contract=checksum_address(b"\x33" * 20),
        chain_id=ChainId(31337),
    )
    symbol, decimals = ("ETH", 18) if token == NATIVE_TOKEN else ("USDC", 6)
    return PayeeChannel(
        channel_id=descriptor.channel_id(),
        descriptor=descriptor,
        asset=Asset(chain_id=ChainId(31337), token=token, symbol=symbol, decimals=decimals),
        state=ChannelState(deposit=deposit, settled=settled, close_requested_at=0, finalized=finalized),
        authorized=authorized,
        spent=authorized,
        as_of=1,
        signature=b"\x01" * 65,
    )


@pytest.mark.parametrize(
    ("deposit", "settled", "authorized", "capture"),
    [
        (1_000, 0, 0, 0),
        (1_000, 0, 999, 999),
        (1_000, 0, 1_000, 1_000),
        (1_000, 0, 1_001, 1_000),
        (1_000, 500, 499, 500),
        (1_000, 500, 500, 500),
        (1_000, 500, 501, 501),
        (1_000, 1_000, 1_001, 1_000),
    ],
)
def test_all_that_the_voucher_is_worth_is_taken(deposit, settled, authorized, capture):
    """No more than the deposit and the voucher, no less than what is settled."""
    planned = whole_capture(channel(deposit, settled, authorized))
    assert planned.capture_amount == capture
    assert planned.captured == capture - settled
    assert planned.refunded == deposit - capture


def test_a_settle_needs_something_unsettled_and_a_close_does_not():
    """Of an idle, an owing and a finalized channel settle means the second, close the first two."""
    idle = channel(settled=5, authorized=5, number=1)
    owing = channel(settled=5, authorized=6, number=2)
    done = channel(authorized=6, finalized=True, number=3)
    unknown = channel(deposit=0, authorized=6, number=4)
    channels = [idle, owing, done, unknown]
    assert [item.channel for item in Selection(action=Action.SETTLE).plan(channels)] == [owing]
    assert [item.channel for item in Selection(action=Action.CLOSE).plan(channels)] == [idle, owing]


def test_only_what_is_meant_is_taken():
    """By the names of channels, by the address that is paid, or both."""
    one, two = channel(authorized=6, number=1), channel(authorized=6, number=2)

    def taken(**selection):
        return [item.channel for item in Selection(action=Action.CLOSE, **selection).plan([one, two])]

    payee = one.descriptor.payee
    assert taken() == taken(payee=payee) == [one, two]
    assert taken(channel_ids=[two.channel_id]) == taken(channel_ids=[two.channel_id], payee=payee) == [two]
    assert taken(payee=TOKEN) == taken(channel_ids=[two.channel_id], payee=TOKEN) == []


def test_a_chosen_capture_may_be_the_whole_deposit():
    """And not one base unit more."""
    owing = channel(1_000, 0, 1_001)
    assert chosen_capture(owing, "0.001", Action.CLOSE).refunded == 0
    with pytest.raises(AmountExceedsDeposit):
        chosen_capture(owing, "0.001001", Action.CLOSE)


def test_a_named_channel_has_to_be_on_chain():
    """Among all, a channel the chain does not know is passed over; by name it is an error."""
    unknown = channel(deposit=0, authorized=6)
    named = Selection(action=Action.CLOSE, channel_ids=[unknown.channel_id])
    with pytest.raises(ChannelNotOpen):
        named.plan([unknown])


@pytest.mark.parametrize(("authorized", "taken"), [(99, False), (100, True), (101, True)])
def test_a_minimum_includes_its_own_amount(authorized, taken):
    """Exactly the minimum is enough; one base unit less is left out."""
    selection = Selection(action=Action.CLOSE, minimum="0.0001 USDC")
    assert bool(selection.plan([channel(authorized=authorized)])) is taken


def test_a_minimum_of_another_asset_leaves_a_channel_out():
    """A minimum in USDC says nothing of channels in ETH."""
    native = channel(10**18, authorized=10**18, token=NATIVE_TOKEN)
    assert Selection(action=Action.CLOSE, minimum="0.0001 USDC").plan([native]) == []
    assert Selection(action=Action.CLOSE, minimum="1 ETH").plan([native])


@pytest.mark.parametrize(
    ("action", "capture", "error"),
    [
        (Action.SETTLE, "0.0005", PaymentRefused),
        (Action.SETTLE, "0.000501", None),
        (Action.CLOSE, "0.000499", PaymentRefused),
        (Action.CLOSE, "0.0005", None),
        (Action.CLOSE, "0.0008", None),
        (Action.CLOSE, "0.000801", PaymentRefused),
        (Action.CLOSE, "0.001", PaymentRefused),
        (Action.CLOSE, "0.001001", AmountExceedsDeposit),
        (Action.CLOSE, "0.0000001", InvalidAmount),
    ],
)
def test_a_chosen_capture_stays_inside_what_is_allowed(action, capture, error):
    """Settled 500, voucher 800, deposit 1000: settle takes 501 to 800, close 500 to 800."""
    owing = channel(1_000, 500, 800)
    if error is None:
        assert chosen_capture(owing, capture, action).captured >= 0
    else:
        with pytest.raises(error):
            chosen_capture(owing, capture, action)


@pytest.mark.parametrize(
    ("settled", "finalized", "settles", "closes", "outrun"),
    [
        (99, False, True, True, False),
        (100, False, False, True, False),
        (101, False, False, False, True),
        (99, True, False, False, False),
        (101, True, False, False, False),
    ],
)
def test_what_another_process_did_is_left_out(settled, finalized, settles, closes, outrun):
    """A plan for a total of 100, by what is settled by the time it is carried out."""
    planned = PlannedCapture(channel=channel(authorized=100), capture_amount=100)
    state = replace(planned.channel.state, settled=settled, finalized=finalized)
    now = replace(planned, channel=replace(planned.channel, state=state))
    assert now.is_due(Action.SETTLE) is settles
    assert now.is_due(Action.CLOSE) is closes
    assert now.is_outrun(Action.CLOSE) is outrun
    assert now.is_outrun(Action.SETTLE) is False


@pytest.mark.parametrize(("deposit", "is_due"), [(100, True), (99, False)])
def test_a_plan_for_more_than_a_reorganisation_left(deposit, is_due):
    """The escrow would refuse it, and all other captures in its transaction."""
    planned = PlannedCapture(channel=channel(deposit=deposit, authorized=100), capture_amount=100)
    assert planned.is_due(Action.SETTLE) is planned.is_due(Action.CLOSE) is is_due


def test_what_is_authorized_and_was_not_charged_is_not_taken():
    """Neither in whole nor by a chosen amount: it is the payer's."""
    owing = replace(channel(authorized=900), spent=300)
    assert whole_capture(owing).capture_amount == 300
    assert chosen_capture(owing, "0.0003", Action.CLOSE).capture_amount == 300
    with pytest.raises(PaymentRefused, match="more than was charged"):
        chosen_capture(owing, "0.000301", Action.CLOSE)


def test_a_plan_is_for_the_channel_as_it_is_then():
    """What was charged since it was made is taken too, unless the payee named an amount."""
    owing = channel(authorized=300)
    paid_more = replace(owing, authorized=400, spent=400)
    assert whole_capture(owing).renewed(paid_more) == whole_capture(paid_more)
    chosen = chosen_capture(owing, "0.0002", Action.SETTLE)
    assert chosen.renewed(paid_more) == replace(chosen, channel=paid_more)


@pytest.mark.parametrize(
    ("spent", "settled", "finalized", "beyond"),
    [(100, 0, False, False), (99, 0, False, True), (99, 100, False, False), (99, 0, True, False)],
)
def test_a_named_amount_that_was_given_back_meanwhile(spent, settled, finalized, beyond):
    """It would be taken from the payer, unless the chain has it already; no plan for the whole is beyond."""
    now = replace(channel(settled=settled, authorized=100, finalized=finalized), spent=spent)
    planned = PlannedCapture(channel=now, capture_amount=100, chosen=True)
    assert planned.is_beyond is beyond
    assert not replace(planned, chosen=False).is_beyond


def test_nothing_is_unsettled_in_a_finalized_channel():
    """What a payer took back, or the payee left, is not owed any more: it is lost."""
    done = channel(authorized=7, finalized=True)
    assert (done.unpaid, done.unsettled) == (7, 0)
