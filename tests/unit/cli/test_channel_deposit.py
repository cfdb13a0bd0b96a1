"""What is shown before a deposit is made, and after."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
from model import ESCROW, PAYEE, PAYER, USDC, keyed

from microwallet.cli.channel_deposit import deposit_summary, next_step
from microwallet.domain.deposit import Way
from microwallet.domain.money import Amount
from microwallet.payer.deposit_plan import DepositPlan


@pytest.mark.parametrize(("is_gasless", "fee"), [(True, "none: it is signed here"), (False, "at most 0 ETH")])
def test_a_fee_of_nothing(is_gasless, fee):
    """On a chain without a price for gas the payer sends it all the same. Each way fits a terminal."""
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
    ways = [deposit_summary(paying, replace(plan, way=way)) for way in Way]
    assert max(len(line) for shown in ways for line in shown.splitlines()) <= 80


@pytest.mark.parametrize(
    ("voucher_known", "state", "expected"),
    [
        (True, {}, 'pay from it: microwallet pay coffee "0.001 USDC"'),
        (False, {}, "next: microwallet channel sync --voucher FILE"),
        (True, {"close_requested_at": 1}, "next: microwallet channel withdraw coffee"),
        (True, {"finalized": True}, f"next: microwallet channel open {PAYEE} DEPOSIT"),
    ],
)
def test_what_comes_next(voucher_known, state, expected):
    """To pay from a channel that pays; of one whose deposit was done before it ended, what there is to do."""
    channel = keyed(1).payer_channel(deposit=10, label="coffee")
    channel = replace(channel, voucher_known=voucher_known, state=replace(channel.state, **state))
    assert next_step(channel, now=1_000_000).startswith(expected)
