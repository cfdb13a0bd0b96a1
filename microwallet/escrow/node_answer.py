"""What a node says to a transaction it is sent, by name."""

from __future__ import annotations

from enum import Enum, auto

from microwallet.escrow.rpc import RpcError


class NodeAnswer(Enum):
    """A node's answer to a broadcast."""

    ACCEPTED = auto()
    """In its pool, now or before."""
    NONCE_TAKEN = auto()
    """A transaction with this nonce is mined: this one, or another."""
    UNDERPRICED = auto()
    """It offers too little, alone or to replace one with the same nonce."""
    INSUFFICIENT_FUNDS = auto()
    INVALID = auto()
    """It can never be mined."""
    UNKNOWN = auto()
    """No answer, or words nobody knows: it may be in the pool."""


_WORDS = (
    (NodeAnswer.ACCEPTED, ("already known", "known transaction", "already imported", "already exists")),
    (NodeAnswer.NONCE_TAKEN, ("nonce too low", "nonce is too low", "nonce has already been used")),
    (
        NodeAnswer.UNDERPRICED,
        (
            "underpriced",
            "less than block base fee",
            "lower than the current base fee",
            "fee too low",
            "fee cap less than",
            "max fee per gas less than",
        ),
    ),
    (NodeAnswer.INSUFFICIENT_FUNDS, ("insufficient funds", "insufficient balance")),
    (
        NodeAnswer.INVALID,
        (
            "intrinsic gas",
            "exceeds block gas limit",
            "gas limit too high",
            "invalid chain id",
            "invalid sender",
            "chain id mismatch",
            "type not supported",
            "exceeds the configured cap",
        ),
    ),
)


def answer_of(error: RpcError) -> NodeAnswer:
    """The meaning of a JSON-RPC error to `eth_sendRawTransaction`."""
    said = error.rpc_message.lower()
    for answer, phrases in _WORDS:
        if any(phrase in said for phrase in phrases):
            return answer
    return NodeAnswer.UNKNOWN
