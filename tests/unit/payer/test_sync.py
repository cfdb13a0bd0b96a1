"""Looking for channels that the ledger does not know: which blocks are read."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
from model import CHAIN, ESCROW, PAYER, USDC, keyed

from microwallet.domain.channel import NO_CHANNEL
from microwallet.domain.ports import Quiet
from microwallet.payer.paying_account import PayingAccount
from microwallet.payer.sync import REORGANISATION_BLOCKS, sync

ONE = keyed(1)
FIRST, HEAD = 50, 1_000


@pytest.fixture
def account(ledger, monkeypatch):
    """An account that opened a channel, on a chain of a thousand blocks; which of them were read."""
    read = []

    class Events:
        def __init__(self, _reader, _chain_id):
            pass

        def first_block(self):
            return FIRST

        def opened(self, *, payer, from_block, to_block):
            assert payer == PAYER
            read.append((from_block, to_block))
            return [SimpleNamespace(channel_id=ONE.channel_id, descriptor=ONE.descriptor)]

    monkeypatch.setattr("microwallet.payer.sync.EscrowEvents", Events)
    state = replace(NO_CHANNEL, deposit=100)
    reader = SimpleNamespace(
        escrow_contract=ESCROW,
        head=lambda: SimpleNamespace(number=HEAD, timestamp=1),
        channel_states=lambda ids: dict.fromkeys(ids, state),
        are_mined=lambda hashes: [True for _ in hashes],
    )
    known = {
        "name": "alice",
        "address": PAYER,
        "network": SimpleNamespace(chain_id=CHAIN),
        "ledger": ledger,
        "reader": reader,
        "reader_of": lambda _escrow: reader,
        "sender": SimpleNamespace(resume_all=list),
        "reporter": Quiet(),
        "clock": lambda: 1,
    }
    made = PayingAccount(**{**dict.fromkeys(PayingAccount.__dataclass_fields__), **known})
    return made, read


@pytest.mark.parametrize(
    ("scanned", "first"),
    [
        (None, FIRST),
        (HEAD + 1, FIRST),
        (HEAD, HEAD - REORGANISATION_BLOCKS),
        (900, 900 - REORGANISATION_BLOCKS),
        (REORGANISATION_BLOCKS - 1, 0),
    ],
)
def test_which_blocks_are_read(account, ledger, scanned, first):
    """Those since the last time, and before as many as a reorganisation may change; all of them at first, and
    where the chain has become shorter. What is found does not pay before its vouchers are known."""
    account, read = account
    if scanned is not None:
        ledger.scanned.record(CHAIN, ESCROW, PAYER, scanned)
    found = [sync([account], [ESCROW], lambda _token: USDC).added for _ in range(2)]
    assert found == [[ONE.channel_id], []]
    assert read == [(first, HEAD), (HEAD - REORGANISATION_BLOCKS, HEAD)]
    assert not ledger.channels.get(ONE.channel_id).voucher_known


def test_a_close_that_a_reorganisation_undid(account, ledger):
    """A channel that is finalized is looked at too: it is told as the chain has it."""
    account, _ = account
    closed = ONE.payer_channel(deposit=100)
    ledger.channels.add(replace(closed, state=replace(closed.state, finalized=True)), now=0)
    (told,) = sync([account], [ESCROW], lambda _token: USDC).channels
    assert (told.channel_id, told.state.finalized) == (ONE.channel_id, False)
    assert not ledger.channels.get(ONE.channel_id).state.finalized
