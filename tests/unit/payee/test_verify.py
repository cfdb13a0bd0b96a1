"""One voucher by itself, offline: form, id, signature, each with a reason and a detail."""

from __future__ import annotations

import json

import pytest
from model import keyed

from microwallet.domain.voucher import VoucherKey
from microwallet.payee.verify import verify

ONE = keyed(1)
GOOD = json.loads(ONE.line(10))


def test_a_good_voucher_spread_over_lines():
    """White space between the fields is nothing."""
    verdict = verify(json.dumps(GOOD, indent=4).encode())
    assert (verdict.rejection, verdict.document.cumulative_amount) == (None, 10)


@pytest.mark.parametrize(
    ("fields", "reason", "detail"),
    [
        ({"salt": "0x" + "00" * 32}, "malformed", "the descriptor makes channel 0x"),
        ({"cumulativeAmount": "11"}, "signer-mismatch", ONE.descriptor.authorized_signer),
        ({"signature": GOOD["signature"][:-2]}, "invalid-signature", "65 bytes, this one 64"),
        ({"signature": GOOD["signature"][:-2] + "01"}, "invalid-signature", "v is 1"),
        ({"signature": json.loads(ONE.line(10, key=VoucherKey(b"\x07" * 32)))["signature"]},
         "signer-mismatch", "not signed by"),
        ({"payer": None}, "malformed", ""),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(fields, reason, detail):
    """Each fault has its reason, and a detail a person can act on."""
    verdict = verify(json.dumps({**GOOD, **fields}).encode())
    assert verdict.rejection == reason
    assert detail in verdict.detail


def test_a_missing_field_is_named():
    """So that whoever wrote the voucher can find it."""
    assert verify(json.dumps({"channelId": GOOD["channelId"]}).encode()).detail == "payer is missing"
