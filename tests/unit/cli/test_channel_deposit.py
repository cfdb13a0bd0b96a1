"""What is shown before a deposit is made."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from model import ESCROW, PAYEE, PAYER, USDC

from microwallet.cli.channel_deposit import deposit_summary
from microwallet.domain.money import Amount
from microwallet.payer.deposit_plan import DepositPlan
from microwallet.payer.ways import Way


@pytest.mark.parametrize(("is_gasless", "fee"), [(True, "none: it is signed here"), (False, "at most 0 ETH")])
def test_a_fee_of_nothing(is_gasless, fee):
    """On a chain without a price for gas the payer sends it all the same."""
    network = SimpleNamespace(described="free (chain 31337)", coins=lambda wei: f"{wei} ETH")
    paying = SimpleNamespace(
        name="alice", address=PAYER, network=network, reader=SimpleNamespace(escrow_contract=ESCROW)
    )
    plan = DepositPlan(
        payee=PAYEE,
        amount=Amount(1, USDC),
        is_gasless=is_gasless,
        arguments="{}",
        idempotency_key="k",
        way=Way.AUTHORIZATION,
        max_fee=0,
        begun=None,
    )
    assert fee in deposit_summary(paying, plan)
