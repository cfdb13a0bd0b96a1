"""What the gas of a transaction costs at most, as screens and documents tell it before it is sent."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from microwallet.errors import PaymentRefused, TransactionReverted
from microwallet.wallet import Wallet


@dataclass(frozen=True, slots=True, kw_only=True)
class MaxFee:
    """The most by the price of gas now, in wei; None where that cannot be said, and `text` says why."""

    wei: int | None
    text: str

    @property
    def document(self) -> dict[str, str | None]:
        """The member `maxFee` of what `--dry-run` tells."""
        return {"maxFee": None if self.wei is None else str(self.wei)}


def max_fee(wallet: Wallet, cost: Callable[[], int]) -> MaxFee:
    """What `cost` says, in wei, beside the cap; or that it refuses, since the fee cannot be paid now."""
    cap = f"{wallet.configuration.get('max-fee-gwei')} gwei per gas"
    try:
        wei = cost()
    except TransactionReverted:  # it would not go through yet
        return MaxFee(wei=None, text=f"at most {cap}")
    except PaymentRefused as error:
        return MaxFee(wei=None, text=error.message)
    return MaxFee(wei=wei, text=f"at most {wallet.network.coins(wei)} now, and never above {cap}")
