"""What escrows may still take of an account's tokens, such as after an open that did not happen."""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from dataclasses import dataclass

from microwallet.domain.identifiers import Address
from microwallet.domain.money import Asset
from microwallet.escrow.calls import approve
from microwallet.escrow.reader import EscrowReader
from microwallet.escrow.receipt import Receipt
from microwallet.escrow.transactions import TransactionSender


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowance:
    """What an escrow may take, in base units; never nothing."""

    asset: Asset
    escrow_contract: Address
    base_units: int


def allowances_left(
    reader: EscrowReader, owner: Address, assets: Iterable[Asset], escrow_contracts: Iterable[Address]
) -> list[Allowance]:
    """What is left of allowances for these tokens and escrows; the native coin has none."""
    escrows = sorted(escrow_contracts)
    pairs = [(asset, escrow) for asset in assets if not asset.is_native for escrow in escrows]
    found = reader.allowances([(asset.token, owner, escrow) for asset, escrow in pairs])
    return [
        Allowance(asset=asset, escrow_contract=escrow, base_units=base_units)
        for (asset, escrow), base_units in zip(pairs, found, strict=True)
        if base_units
    ]


def revoke(sender: TransactionSender, allowance: Allowance) -> Receipt:
    """Take an allowance back; see TransactionSender.send for what it raises."""
    return sender.send(
        approve(allowance.asset.token, allowance.escrow_contract, 0),
        operation=f"revoke-{secrets.token_hex(8)}",
        purpose="revoke",
    )
