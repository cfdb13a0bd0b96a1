"""What a mined transaction took and told, and why one reverted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

from microwallet.domain.identifiers import TxHash
from microwallet.domain.ports import SignedTransaction
from microwallet.errors import MicrowalletError, NetworkError
from microwallet.escrow.reader import Mined, read_count, read_quantity
from microwallet.escrow.reverts import contract_reverted
from microwallet.escrow.rpc import Rpc, RpcError
from microwallet.escrow.signing import signed_call


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """A mined transaction; gas price and fee in wei."""

    hash: TxHash
    block_number: int
    gas_used: int
    effective_gas_price: int | None
    logs: tuple[Any, ...]
    data_fee: int = 0
    """What a rollup took for the data, beside the gas."""

    @classmethod
    def of(cls, transaction_hash: TxHash, mined: Mined, where: str) -> Self:
        """The receipt that a node answered; `where` names it in a NetworkError for one that is none, or is
        of another transaction."""
        found = mined.fields
        if str(found.get("transactionHash", "")).lower() != transaction_hash:
            raise NetworkError(f"{where} answered the receipt of another transaction")
        return cls(
            hash=transaction_hash,
            block_number=read_count(found.get("blockNumber"), where),
            gas_used=read_count(found.get("gasUsed"), where),
            effective_gas_price=read_quantity(found.get("effectiveGasPrice"), where),
            logs=mined.logs,
            data_fee=read_quantity(found.get("l1Fee") or "0x0", where),
        )

    @property
    def cost(self) -> int | None:
        """Wei that it took, beside its value; None where the price is not known any more."""
        if self.effective_gas_price is None:
            return None
        return self.gas_used * self.effective_gas_price + self.data_fee


def why_reverted(rpc: Rpc, transaction: SignedTransaction, receipt: Receipt) -> MicrowalletError:
    """The reason of a mined revert, found by doing the call again before its block."""
    call, gas = signed_call(transaction)
    request = call.request(transaction.sender) | {"gas": hex(gas)}
    doing = f"{transaction.purpose} ({transaction.hash})"
    try:
        rpc.call("eth_call", [request, hex(receipt.block_number - 1)])
    except RpcError as error:
        failure = contract_reverted(error.revert_data or b"", doing, otherwise=error.rpc_message)
    except NetworkError:
        failure = contract_reverted(b"", doing)
    else:
        failure = contract_reverted(b"", doing, otherwise="in its block, though not one block before")
    failure.data = {"transactionHash": transaction.hash, "gasUsed": receipt.gas_used}
    return failure
