"""Transactions that can only revert any more: using up their nonce takes less gas than sending them again."""

from __future__ import annotations

from collections.abc import Sequence

from microwallet.domain.ports import SignedTransaction
from microwallet.errors import LedgerCorrupt
from microwallet.escrow.calls import deadline
from microwallet.escrow.delivery import look
from microwallet.escrow.reader import read_head
from microwallet.escrow.rpc import Rpc, RpcError
from microwallet.escrow.signing import signed_call


def why_hopeless(rpc: Rpc, attempts: Sequence[SignedTransaction]) -> str | None:
    """What is the matter with attempts at one nonce of which none is mined, and all could only revert; else
    None. Only of those with an authorization inside, as others may have used it, or its money.
    """
    deadlines = [_deadline(transaction) for transaction in attempts]
    known = [end for end in deadlines if end is not None]
    if len(known) < len(deadlines):
        return None
    is_expired = read_head(rpc).timestamp > max(known)
    if not is_expired and not _reverts(rpc, attempts[-1]):
        return None
    mined, mined_nonces = look(rpc, attempts)
    if any(mined) or mined_nonces > attempts[0].nonce:
        return None
    if is_expired:
        return "has expired"
    # One that waits for others may need what they do.
    return "would revert" if mined_nonces == attempts[0].nonce else None


def _reverts(rpc: Rpc, transaction: SignedTransaction) -> bool:
    """Whether its call reverts both after the newest block and in the next one: a node may hold the
    transaction for the next one already, and the newest may be from before the authorization is valid."""
    request = signed_call(transaction)[0].request(transaction.sender)
    answers = rpc.try_batch([("eth_call", [request, "latest"]), ("eth_estimateGas", [request])])
    return all(isinstance(answer, RpcError) and answer.is_revert for answer in answers)


def _deadline(transaction: SignedTransaction) -> int | None:
    """Unix seconds after which it can only revert; None where nothing in it expires, or it cannot be read."""
    try:
        return deadline(signed_call(transaction)[0])
    except LedgerCorrupt:
        return None
