"""What the payer is told of an escrow that it does not use."""

from __future__ import annotations

import pytest

from microwallet.domain.identifiers import checksum_address
from microwallet.escrow.artifacts import artifact
from microwallet.escrow.reader import selector
from microwallet.http402.paying.foreign_escrow import foreign_escrow

ESCROW = checksum_address(b"\x44" * 20)
DRAFT = b"".join(
    b"\x63" + selector(one)
    for one in (
        "settle(bytes32,uint128,bytes)",
        "close(bytes32,uint128,bytes)",
        "topUp(bytes32,uint128)",
        "requestClose(bytes32)",
        "withdraw(bytes32)",
    )
)


@pytest.mark.parametrize(
    ("code", "told", "hint"),
    [
        (b"", "no contract", None),
        (DRAFT, "the draft's own form", "microwallet help fees"),
        (artifact("ChannelEscrow").deployed_bytecode, "has the calls of ours", "escrow trust"),
        (b"\x00", "its code is unknown", "microwallet help fees"),
    ],
)
def test_each_form_has_its_reason(code, told, hint):
    """Only an escrow with our calls can be trusted by name."""
    refusal = foreign_escrow(ESCROW, code)
    assert told in refusal.message
    assert ESCROW in refusal.message
    assert (hint is None) is (refusal.hint is None)
    assert hint is None or hint in refusal.hint
