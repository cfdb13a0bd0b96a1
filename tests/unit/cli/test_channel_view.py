"""Channels as JSON and as tables: nothing unknown is shown as a number."""

from __future__ import annotations

import io
import re
import sys
from dataclasses import replace

import pytest
from model import keyed

from microwallet.cli.channel_view import channel_details, channel_document, channel_table
from microwallet.domain.channel import ChannelState, PayeeChannel
from microwallet.domain.money import Asset

ONE = keyed(1)
OPEN = ONE.payer_channel(deposit=10_000_000, label="coffee", authorized=3_000_000)
CLOSING = replace(
    OPEN, state=ChannelState(deposit=10_000_000, settled=0, close_requested_at=1000, finalized=False)
)


def test_the_document_of_a_channel():
    """Amounts are decimal strings of base units with asset and decimals beside them."""
    document = channel_document(OPEN, now=5)
    assert (document["deposit"], document["authorized"], document["remaining"], document["settled"]) == (
        "10000000",
        "3000000",
        "7000000",
        "0",
    )
    assert (document["asset"], document["decimals"], document["status"]) == ("USDC", 6, "open")
    assert (document["label"], document["asOf"], document["withdrawableAt"]) == ("coffee", 0, None)
    assert document["channelId"] == ONE.channel_id
    assert document["salt"] == ONE.descriptor.salt


@pytest.mark.parametrize(
    ("now", "as_of", "status"),
    [(1899, 0, "closing"), (1900, 0, "withdrawable"), (5, 1899, "closing"), (5, 1900, "withdrawable")],
)
def test_the_status_by_the_later_clock(now, as_of, status):
    """This machine's clock or the chain's, whichever is ahead; the time to withdraw is told."""
    document = channel_document(replace(CLOSING, as_of=as_of), now=now)
    assert (document["status"], document["withdrawableAt"]) == (status, 1900)


def test_unknown_is_not_zero():
    """A rebuilt channel: null in JSON, a word in the table."""
    rebuilt = replace(OPEN, voucher_known=False, authorized=0, as_of=None)
    document = channel_document(rebuilt, now=5)
    assert (document["authorized"], document["remaining"], document["asOf"]) == (None, None, None)
    assert "unknown" in channel_table([rebuilt], 5)
    details = channel_details(rebuilt, now=5)
    assert re.search(r"^authorized +unknown$", details, flags=re.MULTILINE)
    assert "never read from the chain" in details


def test_details_use_the_drafts_words():
    """Who signs the vouchers is the authorized signer, as in JSON and in the contract."""
    details = channel_details(OPEN, now=5)
    assert re.search(
        rf"^authorized signer +{OPEN.descriptor.authorized_signer}$", details, flags=re.MULTILINE
    )


def test_what_a_finalized_channel_had_left():
    """It was refunded: deposit and settled add up, whatever was authorized, and nothing remains."""
    state = replace(OPEN.state, settled=2_000_000, finalized=True)
    for known in (True, False):
        details = channel_details(replace(OPEN, state=state, voucher_known=known), now=5)
        assert re.search(r"^refunded +8 USDC$", details, flags=re.MULTILINE)
        assert "remaining" not in details
    assert re.search(r"^remaining +7 USDC$", channel_details(OPEN, now=5), flags=re.MULTILINE)


@pytest.mark.parametrize(
    ("spent", "known", "said"),
    [
        (2_000_001, True, "0.000001 USDC was spent and not taken by the payee: refunded"),
        (2_000_000, True, None),
        (1_999_999, True, None),
        (3_000_000, False, None),
    ],
)
def test_what_a_payee_did_not_capture_is_explained(spent, known, said):
    """A finalized channel that has settled less than was spent says where the rest went."""
    state = replace(OPEN.state, settled=2_000_000, finalized=True)
    ended = replace(OPEN, state=state, spent=spent, voucher_known=known)
    found = re.search(r"^not captured +(.*)$", channel_details(ended, now=5), flags=re.MULTILINE)
    assert (found and found[1]) == said
    still_open = replace(ended, state=replace(state, finalized=False))
    assert "not captured" not in channel_details(still_open, now=5)


def test_tables_align_and_name_the_asset():
    """Columns stand under their headers; every line names its asset."""
    lines = channel_table([OPEN, replace(OPEN, label=None)], 5).splitlines()
    assert "DEPOSIT" in lines[0]
    assert lines[1].index("open") == lines[2].index("open") == lines[0].index("STATUS")
    ether = Asset(chain_id=OPEN.asset.chain_id, token="0x" + "00" * 20, symbol="ETH", decimals=18)
    mixed = channel_table([OPEN, replace(OPEN, asset=ether)], 5)
    assert re.search(r" 10 .* USDC ", mixed)
    assert re.search(r" 0\.00000000001 .* ETH ", mixed)


def test_a_table_fits_a_terminal(monkeypatch):
    """80 columns hold the widest status, a label of 14 letters and amounts of all six decimals."""
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setenv("COLUMNS", "80")
    state = replace(CLOSING.state, deposit=1_123_456)
    wide = replace(CLOSING, label="coffee-machine", state=state)
    lines = channel_table([wide], 2000).splitlines()
    assert lines[1].endswith(" withdrawable")
    assert [line for line in lines if len(line) > 80] == []


def test_payers_are_told_apart():
    """Only where there are several: most wallets have one account."""
    other = "0x" + "12" * 20
    another = replace(OPEN, descriptor=replace(OPEN.descriptor, payer=other))
    assert "PAYER" not in channel_table([OPEN, OPEN], 5)
    head, first, second = channel_table([OPEN, another], 5).splitlines()
    assert head.split()[:4] == ["CHANNEL", "LABEL", "PAYER", "PAYEE"]
    assert (first.split()[2], second.split()[2]) == (OPEN.descriptor.payer, other)


def test_a_payees_table_shows_payers():
    """The other side of the channel is what is of interest; a label is the payer's own."""
    received = PayeeChannel(
        channel_id=ONE.channel_id,
        descriptor=ONE.descriptor,
        asset=OPEN.asset,
        state=OPEN.state,
        authorized=3,
        spent=3,
        as_of=1,
        signature=b"x",
    )
    table = channel_table([received], 5)
    assert "PAYER" in table
    assert "LABEL" not in table
    assert ONE.descriptor.payer in table
    assert channel_document(received, now=5)["label"] is None
