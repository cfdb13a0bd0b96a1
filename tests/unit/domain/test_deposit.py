"""Deposits: what was signed for one, and who can still use it."""

from __future__ import annotations

import pytest

from microwallet.domain.deposit import Deposit, DepositKind, DepositStatus, Way
from microwallet.domain.identifiers import ChannelId


@pytest.mark.parametrize(("way", "expires_at"), [(Way.AUTHORIZATION, 99), (Way.PERMIT, None)])
def test_only_a_signed_transfer_can_be_submitted_by_anyone(way, expires_at):
    """A permit is worth nothing in the hands of others: its end does not keep a deposit alive."""
    deposit = Deposit(
        idempotency_key="key",
        kind=DepositKind.OPEN,
        channel_id=ChannelId("0x" + "00" * 32),
        amount=1,
        arguments="{}",
        way=way,
        authorization_expires_at=99,
        status=DepositStatus.PENDING,
    )
    assert deposit.transfer_expires_at == expires_at
