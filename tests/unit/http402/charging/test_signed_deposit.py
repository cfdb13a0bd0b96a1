"""Deposits that payers sign for the gateway to send."""

from __future__ import annotations

from dataclasses import replace

from counter import Payer

from microwallet.domain.identifiers import ChainId
from microwallet.domain.voucher import VoucherKey
from microwallet.escrow.authorizations import TokenDomain, authorize_open
from microwallet.http402.charging.signed_deposit import CheckedDeposit

KEY = VoucherKey(b"\x71" * 32)


def opened(chain_id):
    """An open on a chain, with a token that has one address on all of them."""
    descriptor = replace(Payer().descriptor, payer=KEY.address, chain_id=chain_id)
    domain = TokenDomain(name="USDC", version="2", chain_id=chain_id, token=descriptor.token)
    authorization = authorize_open(KEY.secret, domain, descriptor, deposit=1000, valid_before=2**40)
    return CheckedDeposit(descriptor=descriptor, authorization=authorization)


def test_the_same_open_on_two_chains_is_two_operations():
    """Its nonce is the same: what one costs in the end is not what is set aside for the other."""
    here, there = opened(ChainId(31337)), opened(ChainId(84532))
    assert here.authorization.nonce == there.authorization.nonce
    assert here.operation != there.operation
