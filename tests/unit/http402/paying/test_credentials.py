"""Credentials of a channel: what each of them hands over."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from issuing import issue
from model import keyed

from microwallet.domain.voucher import SignerCheck, VoucherDigest
from microwallet.escrow.authorizations import TransferAuthorization
from microwallet.http402.paying.credentials import Signer
from microwallet.http402.wire.challenge import ChallengeSecrets
from microwallet.http402.wire.credential import Credential
from microwallet.http402.wire.session_payload import OpenAction, TopUpAction, parse_payload

ONE = keyed(1)
CHALLENGE = issue(ChallengeSecrets([b"s" * 32]), {}, realm="r", method="evm", intent="session", expires_at=50)


@pytest.mark.parametrize("top_up_salt", [None, b"\x07" * 32])
def test_a_deposit_that_is_handed_over_authorizes_nothing(top_up_salt):
    """An open needs a voucher all the same: a signed one, over nothing. A top-up has none."""
    authorization = TransferAuthorization(
        value=500,
        valid_after=0,
        valid_before=99,
        nonce=b"\x01" * 32,
        signature=b"\x02" * 65,
        top_up_salt=top_up_salt,
    )
    signer = Signer(ONE.payer_channel(deposit=1000), ONE.key)
    field = signer.deposit(CHALLENGE, SimpleNamespace(authorization=authorization))
    action = parse_payload(Credential.parse(field).payload)
    if isinstance(action, TopUpAction):
        assert (action.additional_deposit, action.salt) == (500, "0x" + "07" * 32)
        return
    assert isinstance(action, OpenAction)
    voucher, descriptor = action.voucher, ONE.descriptor
    assert (voucher.channel_id, voucher.cumulative_amount, action.deposit.value) == (ONE.channel_id, 0, 500)
    digest = VoucherDigest(descriptor.chain_id, descriptor.escrow_contract, ONE.channel_id)
    assert SignerCheck(ONE.key.address)(digest(0), voucher.signature)
