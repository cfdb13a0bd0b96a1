"""Which problem a client is told of when a transaction reverts: the draft's table."""

from __future__ import annotations

import pytest

from microwallet.domain.identifiers import ChannelId
from microwallet.errors import InsufficientFunds
from microwallet.escrow.reverts import ContractReverted
from microwallet.http402.charging.revert_problem import revert_problem

CHANNEL = ChannelId("0x" + "22" * 32)


def reverted(name):
    return ContractReverted("open reverts: some reason", name=name, arguments={})


@pytest.mark.parametrize(
    ("name", "slug", "status"),
    [
        ("AmountExceedsDeposit", "session/amount-exceeds-deposit", 402),
        ("ChannelNotFound", "session/channel-not-found", 410),
        ("ChannelFinalized", "session/channel-finalized", 410),
        ("InvalidSignature", "session/invalid-signature", 402),
        ("ERC20InsufficientBalance", "session/insufficient-balance", 402),
        ("SafeERC20FailedOperation", "session/insufficient-balance", 402),
        ("DepositNotReceived", "session/insufficient-balance", 402),
        ("NonceMismatch", "session/transaction-reverted", 409),
        ("NonceAlreadyUsed", "session/transaction-reverted", 409),
        ("AuthorizationExpired", "session/transaction-reverted", 409),
        ("AmountNotIncreasing", "session/transaction-reverted", 409),
        ("ChannelAlreadyExists", "session/transaction-reverted", 409),
        (None, "session/transaction-reverted", 409),
    ],
)
def test_the_most_specific_type(name, slug, status):
    """With that type's status in simulation; 409 once a transaction was mined for nothing."""
    error = reverted(name)
    problem = revert_problem(error, CHANNEL)
    assert (problem.type.uri.removeprefix("https://paymentauth.org/problems/"), problem.status) == (
        slug,
        status,
    )
    assert problem.extensions == {"channelId": CHANNEL}
    error.data = {"transactionHash": "0x" + "99" * 32}
    assert revert_problem(error, CHANNEL).status == 409


def test_what_has_no_name_has_no_words():
    """What a node says of it, such as a selector, is not handed on."""
    error = ContractReverted("open reverts: custom error 0x12345678", name=None, arguments={})
    assert "0x12345678" not in revert_problem(error, CHANNEL).detail
    assert revert_problem(error, CHANNEL, lacks_funds=True).type.title == "Insufficient Balance"


def test_a_token_that_says_it_is_too_little():
    """The payer's balance, told by the token itself."""
    problem = revert_problem(InsufficientFunds("holds 1; 2 are needed"), CHANNEL)
    assert (problem.type.title, problem.status) == ("Insufficient Balance", 402)
