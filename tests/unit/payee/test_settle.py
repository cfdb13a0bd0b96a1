"""What settling and closing sends: how many transactions there are."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from model import CHAIN, PAYEE, PAYER, keyed

from microwallet.domain.identifiers import Address
from microwallet.domain.ports import Quiet
from microwallet.payee.captures import PlannedCapture
from microwallet.payee.settle import Settlement


@dataclass
class Sender:
    """What sends for others."""

    address: Address


@pytest.mark.parametrize(("relayer", "sizes"), [(None, [2]), (Sender(PAYEE), [2]), (Sender(PAYER), [1, 1])])
def test_a_transaction_takes_several_channels_unless_it_is_relayed(ledger, tmp_path, relayer, sizes):
    """Each costs gas of its own: a payee's authorization alone is for one channel."""
    settlement = Settlement(
        home=tmp_path,
        chain_id=CHAIN,
        vouchers=ledger.vouchers,
        reader_of=None,
        journal=ledger.journal,
        sender_of=None,
        wait_seconds=1,
        clock=lambda: 1,
        reporter=Quiet(),
        relayer=relayer,
    )
    planned = [
        PlannedCapture(channel=keyed(number).payee_channel(deposit=10), capture_amount=1) for number in (1, 2)
    ]
    assert [len(part) for part in settlement.by_transaction(planned)] == sizes
