"""What nodes say to a transaction: the words of several programs."""

from __future__ import annotations

import pytest

from microwallet.escrow.node_answer import NodeAnswer, answer_of
from microwallet.escrow.rpc import RpcError


@pytest.mark.parametrize(
    ("said", "answer"),
    [
        ("already known", NodeAnswer.ACCEPTED),
        ("ALREADY_EXISTS: already known", NodeAnswer.ACCEPTED),
        ("Known transaction", NodeAnswer.ACCEPTED),
        ("transaction already imported", NodeAnswer.ACCEPTED),
        ("nonce too low", NodeAnswer.NONCE_TAKEN),
        ("nonce too low: next nonce 5, tx nonce 4", NodeAnswer.NONCE_TAKEN),
        ("Nonce too low", NodeAnswer.NONCE_TAKEN),
        ("OldNonce: nonce is too low", NodeAnswer.NONCE_TAKEN),
        ("replacement transaction underpriced", NodeAnswer.UNDERPRICED),
        ("transaction underpriced: tip needed 25000000000", NodeAnswer.UNDERPRICED),
        ("max fee per gas less than block base fee", NodeAnswer.UNDERPRICED),
        ("FeeTooLow, MaxFeePerGas too low: fee too low", NodeAnswer.UNDERPRICED),
        ("insufficient funds for gas * price + value: balance 0", NodeAnswer.INSUFFICIENT_FUNDS),
        ("Insufficient funds for gas * price + value", NodeAnswer.INSUFFICIENT_FUNDS),
        ("intrinsic gas too low", NodeAnswer.INVALID),
        ("exceeds block gas limit", NodeAnswer.INVALID),
        ("invalid chain id for signer", NodeAnswer.INVALID),
        ("tx fee (1.10 ether) exceeds the configured cap (1.00 ether)", NodeAnswer.INVALID),
        ("internal error", NodeAnswer.UNKNOWN),
        ("", NodeAnswer.UNKNOWN),
    ],
)
def test_an_answer_is_known_by_its_words(said, answer):
    """Geth, Nethermind, Erigon, Besu and Anvil word the same refusals differently."""
    error = RpcError(said, error_code=-32000, error_data=None, where="http://node")
    assert answer_of(error) is answer
