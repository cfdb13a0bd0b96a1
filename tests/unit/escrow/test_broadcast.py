"""What nodes say to a transaction: the words of several programs."""

from __future__ import annotations

import pytest

from microwallet.escrow.broadcast import Answer, answer_of
from microwallet.escrow.rpc import RpcError


@pytest.mark.parametrize(
    ("said", "answer"),
    [
        ("already known", Answer.ACCEPTED),
        ("ALREADY_EXISTS: already known", Answer.ACCEPTED),
        ("Known transaction", Answer.ACCEPTED),
        ("transaction already imported", Answer.ACCEPTED),
        ("nonce too low", Answer.NONCE_TAKEN),
        ("nonce too low: next nonce 5, tx nonce 4", Answer.NONCE_TAKEN),
        ("Nonce too low", Answer.NONCE_TAKEN),
        ("OldNonce: nonce is too low", Answer.NONCE_TAKEN),
        ("replacement transaction underpriced", Answer.UNDERPRICED),
        ("transaction underpriced: tip needed 25000000000", Answer.UNDERPRICED),
        ("max fee per gas less than block base fee", Answer.UNDERPRICED),
        ("FeeTooLow, MaxFeePerGas too low: fee too low", Answer.UNDERPRICED),
        ("insufficient funds for gas * price + value: balance 0", Answer.INSUFFICIENT_FUNDS),
        ("Insufficient funds for gas * price + value", Answer.INSUFFICIENT_FUNDS),
        ("intrinsic gas too low", Answer.INVALID),
        ("exceeds block gas limit", Answer.INVALID),
        ("invalid chain id for signer", Answer.INVALID),
        ("tx fee (1.10 ether) exceeds the configured cap (1.00 ether)", Answer.INVALID),
        ("internal error", Answer.UNKNOWN),
        ("", Answer.UNKNOWN),
    ],
)
def test_an_answer_is_known_by_its_words(said, answer):
    """Geth, Nethermind, Erigon, Besu and Anvil word the same refusals differently."""
    error = RpcError(said, error_code=-32000, error_data=None, where="http://node")
    assert answer_of(error) is answer
