"""Until when an authorization that was shown, and closed nothing, can still close."""

from __future__ import annotations

import pytest

from microwallet.domain.channel import ChannelDescriptor
from microwallet.domain.identifiers import ChainId, checksum_address
from microwallet.domain.ports import JournalEntry, TransactionStatus
from microwallet.escrow import calls
from microwallet.escrow.authorizations import CLOSE_TYPE, EXPIRY_MARGIN, SETTLE_TYPE, authorize_capture
from microwallet.escrow.fees import Fees
from microwallet.escrow.signing import Intent, sign_transaction
from microwallet.payee.relayer import can_still_close

SECRET = b"\x11" * 32
ADDRESS = checksum_address(b"\x44" * 20)
DESCRIPTOR = ChannelDescriptor(
    payer=ADDRESS,
    payee=ADDRESS,
    token=ADDRESS,
    salt="0x" + "33" * 32,
    authorized_signer=ADDRESS,
    escrow_contract=ADDRESS,
    chain_id=ChainId(1),
)
DEADLINE = 1_800_000_000
MEMBERS = {"cumulative_amount": 2**127, "capture_amount": 7, "nonce": 2**256 - 1, "deadline": DEADLINE}
CLOSE = calls.close_with_authorization(
    DESCRIPTOR, authorize_capture(CLOSE_TYPE, SECRET, DESCRIPTOR, **MEMBERS), b"\x01" * 65
)
SETTLE = calls.settle_with_authorization(
    DESCRIPTOR, authorize_capture(SETTLE_TYPE, SECRET, DESCRIPTOR, **MEMBERS), b"\x01" * 65
)
PLAIN = calls.close(
    calls.Capture(descriptor=DESCRIPTOR, cumulative_amount=9, capture_amount=7, signature=b"\x01" * 65)
)


def entry(call, status=TransactionStatus.REVERTED):
    transaction = sign_transaction(
        SECRET,
        ADDRESS,
        ChainId(1),
        Intent(operation="close-1", purpose="close", channel_id=None),
        nonce=1,
        call=call,
        gas=100_000,
        fees=Fees(max_fee_per_gas=2, max_priority_fee_per_gas=1),
    )
    return JournalEntry(transaction=transaction, status=status, block_number=None, gas_used=None)


def test_until_its_deadline_and_a_margin():
    """To the second; whether it reverted or another transaction took its nonce."""
    for status in (TransactionStatus.REVERTED, TransactionStatus.REPLACED):
        assert can_still_close(entry(CLOSE, status), chain_time=lambda: DEADLINE + EXPIRY_MARGIN)
        assert not can_still_close(entry(CLOSE, status), chain_time=lambda: DEADLINE + EXPIRY_MARGIN + 1)


@pytest.mark.parametrize("call", [SETTLE, PLAIN])
def test_what_closes_for_nobody_else(call):
    """A settle takes no more than the payee is owed, and a payee's own call needs the payee."""
    assert not can_still_close(entry(call), chain_time=lambda: DEADLINE)


def test_one_that_was_mined_is_over():
    """The channel is finalized, or the transaction still counts as unfinished."""
    for status in (TransactionStatus.MINED, TransactionStatus.SIGNED, TransactionStatus.BROADCAST):
        assert not can_still_close(entry(CLOSE, status), chain_time=lambda: DEADLINE)
