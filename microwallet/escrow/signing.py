"""Signed transactions: EIP-1559 bytes made by a 32-byte key, and read back from the journal."""

from __future__ import annotations

from dataclasses import dataclass

from microwallet.domain.identifiers import Address, ChainId, ChannelId, TxHash, checksum_address, hexed
from microwallet.domain.ports import SignedTransaction
from microwallet.errors import LedgerCorrupt
from microwallet.escrow.calls import Call
from microwallet.escrow.fees import Fees


@dataclass(frozen=True, slots=True, kw_only=True)
class Intent:
    """What a transaction is for, as the journal keeps it."""

    operation: str
    purpose: str
    channel_id: ChannelId | None


def sign_transaction(
    secret: bytes,
    sender: Address,
    chain_id: ChainId,
    intent: Intent,
    *,
    nonce: int,
    call: Call,
    gas: int,
    fees: Fees,
) -> SignedTransaction:
    """An EIP-1559 transaction, signed; nothing has left the process yet."""
    from eth_account import Account

    signed = Account.sign_transaction(
        {
            "type": 2,
            "chainId": chain_id,
            "nonce": nonce,
            "maxFeePerGas": fees.max_fee_per_gas,
            "maxPriorityFeePerGas": fees.max_priority_fee_per_gas,
            "gas": gas,
            "to": call.to,
            "value": call.value,
            "data": call.data,
        },
        secret,
    )
    return SignedTransaction(
        hash=TxHash(hexed(bytes(signed.hash))),
        chain_id=chain_id,
        sender=sender,
        nonce=nonce,
        operation=intent.operation,
        purpose=intent.purpose,
        channel_id=intent.channel_id,
        raw=bytes(signed.raw_transaction),
        max_fee_per_gas=fees.max_fee_per_gas,
        max_priority_fee_per_gas=fees.max_priority_fee_per_gas,
    )


def signed_call(transaction: SignedTransaction) -> tuple[Call, int]:
    """The call inside a journaled transaction, and its gas limit."""
    from eth_account.typed_transactions.typed_transaction import TypedTransaction
    from hexbytes import HexBytes

    try:
        fields = TypedTransaction.from_bytes(HexBytes(transaction.raw)).as_dict()
        call = Call(to=checksum_address(fields["to"]), value=fields["value"], data=bytes(fields["data"]))
    except Exception as error:  # the library raises whatever its parsers do
        raise LedgerCorrupt(f"the journaled transaction {transaction.hash} cannot be read") from error
    return call, fields["gas"]
