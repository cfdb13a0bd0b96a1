"""Signed transactions: EIP-1559 bytes made by a 32-byte key, and read back from the journal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import rlp  # type: ignore[import-untyped]
from coincurve import PrivateKey

from microwallet.domain.identifiers import (
    Address,
    ChainId,
    ChannelId,
    TxHash,
    checksum_address,
    hexed,
    keccak,
)
from microwallet.domain.ports import SignedTransaction
from microwallet.errors import LedgerCorrupt
from microwallet.escrow.calls import Call
from microwallet.escrow.fees import Fees

_TYPE = b"\x02"
_FIELDS = 12


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
    """EIP-1559: 0x02 ‖ rlp([chainId, nonce, tip, maxFee, gas, to, value, data, [], yParity, r, s])."""
    unsigned: list[Any] = [
        chain_id,
        nonce,
        fees.max_priority_fee_per_gas,
        fees.max_fee_per_gas,
        gas,
        bytes.fromhex(call.to[2:]),
        call.value,
        call.data,
        [],
    ]
    signature = PrivateKey(secret).sign_recoverable(keccak(_TYPE + rlp.encode(unsigned)), hasher=None)
    r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:64], "big")
    raw = _TYPE + rlp.encode([*unsigned, signature[64], r, s])
    return SignedTransaction(
        hash=TxHash(hexed(keccak(raw))),
        chain_id=chain_id,
        sender=sender,
        nonce=nonce,
        operation=intent.operation,
        purpose=intent.purpose,
        channel_id=intent.channel_id,
        raw=raw,
        max_fee_per_gas=fees.max_fee_per_gas,
        max_priority_fee_per_gas=fees.max_priority_fee_per_gas,
    )


def signed_call(transaction: SignedTransaction) -> tuple[Call, int]:
    """The call inside a journaled transaction, and its gas limit."""
    try:
        fields = rlp.decode(transaction.raw[1:])
    except rlp.DecodingError as error:
        raise LedgerCorrupt(f"the journaled transaction {transaction.hash} cannot be read") from error
    if transaction.raw[:1] != _TYPE or len(fields) != _FIELDS:
        raise LedgerCorrupt(f"the journaled transaction {transaction.hash} cannot be read")
    call = Call(to=checksum_address(fields[5]), value=int.from_bytes(fields[6], "big"), data=fields[7])
    return call, int.from_bytes(fields[4], "big")
