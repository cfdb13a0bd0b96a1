"""Receipts as a server answers them: mined, not mined, or no receipt at all."""

from __future__ import annotations

import pytest

from microwallet.errors import NetworkError
from microwallet.escrow.reader import read_mined

RECEIPT = {"blockNumber": "0x5", "status": "0x1", "logs": [{"data": "0x"}]}
WITHOUT_STATUS = {name: value for name, value in RECEIPT.items() if name != "status"}
PENDING = {name: value for name, value in RECEIPT.items() if name != "blockNumber"}


@pytest.mark.parametrize(("status", "succeeded"), [("0x1", True), ("0x0", False)])
def test_a_transaction_in_a_block(status, succeeded):
    """It did what it was for, or was reverted; its logs are there either way."""
    mined = read_mined(RECEIPT | {"status": status}, "http://node")
    assert (mined.succeeded, mined.logs) == (succeeded, ({"data": "0x"},))


@pytest.mark.parametrize("answer", [None, PENDING, RECEIPT | {"blockNumber": None}])
def test_a_transaction_in_no_block(answer):
    """No receipt, or that of a pending one, which has no block."""
    assert read_mined(answer, "http://node") is None


@pytest.mark.parametrize(
    "answer",
    [
        "0x1",
        [RECEIPT],
        False,
        WITHOUT_STATUS,
        RECEIPT | {"status": None},
        RECEIPT | {"status": 1},
        RECEIPT | {"logs": 7},
    ],
)
def test_what_is_no_receipt(answer):
    """Nothing is concluded from it: the chain could not be asked."""
    with pytest.raises(NetworkError, match="http://node"):
        read_mined(answer, "http://node")
