"""Importing vouchers: all of them right, or none of them counts."""

from __future__ import annotations

from dataclasses import replace

import pytest
from model import keyed

from microwallet.domain.channel import NO_CHANNEL
from microwallet.domain.voucher import VoucherKey
from microwallet.errors import UnknownReference, VoucherRejected
from microwallet.payer.import_voucher import import_vouchers

ONE, TWO = keyed(1), keyed(2)


@pytest.fixture
def ledger(ledger):
    """Two rebuilt channels, neither of which knows its highest voucher."""
    for channel in (ONE, TWO):
        rebuilt = replace(channel.payer_channel(deposit=1000), voucher_known=False)
        ledger.channels.add(rebuilt, now=1)
    return ledger


def authorized(ledger, channel) -> int | None:
    """What a channel knows to be authorized; None while it does not know."""
    found = ledger.channels.get(channel.channel_id)
    return found.authorized if found.voucher_known else None


def test_the_highest_of_each_channel(ledger):
    """Any order, several channels, empty lines."""
    lines = [ONE.line(5), TWO.line(7), b"", ONE.line(3), b"  "]
    imported = import_vouchers(ledger, lines)
    assert {one.cumulative_amount for one in imported.vouchers} == {5, 7}
    assert (authorized(ledger, ONE), authorized(ledger, TWO)) == (5, 7)


def test_authorized_never_falls(ledger):
    """A lower voucher than was known before changes nothing."""
    import_vouchers(ledger, [ONE.line(5)])
    import_vouchers(ledger, [ONE.line(3)])
    assert authorized(ledger, ONE) == 5


def test_a_voucher_above_the_deposit_counts(ledger):
    """A reorganised top-up leaves such ones; the payer must not sign below them."""
    import_vouchers(ledger, [ONE.line(1001)])
    assert authorized(ledger, ONE) == 1001


@pytest.mark.parametrize(
    "line",
    [
        b"x",
        b"{}",
        b"1" * 20_000,
        ONE.line(9, key=VoucherKey(b"\x01" * 32)),
        ONE.line(9).replace(b'"cumulativeAmount":"9"', b'"cumulativeAmount":"8"'),
        ONE.line(9).replace(b'"chainId":31337', b'"chainId":1'),
    ],
)
def test_one_bad_line_and_nothing_is_imported(ledger, line):
    """Also where good ones are before it."""
    with pytest.raises(VoucherRejected):
        import_vouchers(ledger, [TWO.line(7), line])
    assert (authorized(ledger, ONE), authorized(ledger, TWO)) == (None, None)


def test_a_channel_of_somebody_else(ledger):
    """A voucher of a channel that this wallet does not pay through."""
    with pytest.raises(UnknownReference, match=r"0x.* is not one this wallet pays through"):
        import_vouchers(ledger, [keyed(3).line(1)])
    with pytest.raises(UnknownReference, match="none of the file's 2 channels is one this wallet"):
        import_vouchers(ledger, [keyed(3).line(1), keyed(4).line(1), keyed(3).line(2)])


def test_channels_of_others_are_left_out(ledger):
    """As in all that a payee exports: its other payers' vouchers are in it, before and after."""
    imported = import_vouchers(ledger, [keyed(3).line(1), ONE.line(5), keyed(3).line(2), keyed(4).line(9)])
    assert [one.cumulative_amount for one in imported.vouchers] == [5]
    assert list(imported.others) == [keyed(3).channel_id, keyed(4).channel_id]
    assert (authorized(ledger, ONE), authorized(ledger, TWO)) == (5, None)


@pytest.mark.parametrize(("amount", "counts"), [(499, False), (500, True), (501, True)])
def test_not_below_what_is_settled(ledger, amount, counts):
    """The payee was paid more than it carries: it is not the highest."""
    settled = replace(NO_CHANNEL, deposit=1000, settled=500)
    ledger.channels.record_states({ONE.channel_id: settled}, as_of=2)
    if counts:
        import_vouchers(ledger, [ONE.line(amount)])
    else:
        with pytest.raises(VoucherRejected, match="settled"):
            import_vouchers(ledger, [ONE.line(amount)])
    assert authorized(ledger, ONE) == (amount if counts else None)


def test_an_empty_file(ledger):
    """No voucher at all is an error, not a success."""
    with pytest.raises(VoucherRejected):
        import_vouchers(ledger, [b"", b"\n"])
