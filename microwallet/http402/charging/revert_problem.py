"""What a client is told of a transaction that reverts. draft-evm-session-00, section "Error Responses"."""

from __future__ import annotations

from microwallet.domain.identifiers import ChannelId
from microwallet.errors import InsufficientFunds, MicrowalletError
from microwallet.escrow.reverts import ContractReverted
from microwallet.http402.wire.problems import Problem, ProblemType

_TYPES = {
    "AmountExceedsDeposit": ProblemType.AMOUNT_EXCEEDS_DEPOSIT,
    "ChannelNotFound": ProblemType.CHANNEL_NOT_FOUND,
    "ChannelFinalized": ProblemType.CHANNEL_FINALIZED,
    "InvalidSignature": ProblemType.INVALID_SIGNATURE,
    # Of the token: it could not be pulled.
    "DepositNotReceived": ProblemType.INSUFFICIENT_BALANCE,
    "ERC20InsufficientBalance": ProblemType.INSUFFICIENT_BALANCE,
    "Error": ProblemType.INSUFFICIENT_BALANCE,
    "SafeERC20FailedOperation": ProblemType.INSUFFICIENT_BALANCE,
}


def revert_problem(error: MicrowalletError, channel_id: ChannelId, *, lacks_funds: bool = False) -> Problem:
    """The most specific problem of a revert; 409 where the transaction was mined, and did nothing.

    What a contract calls its errors stays out of it, unless it has words. `lacks_funds` tells of a payer
    who has too little, where the revert itself has no name.
    """
    name = error.name if isinstance(error, ContractReverted) else None
    if isinstance(error, InsufficientFunds) or (name is None and lacks_funds):
        type = ProblemType.INSUFFICIENT_BALANCE
    else:
        type = _TYPES.get(name or "", ProblemType.TRANSACTION_REVERTED)
    was_mined = "transactionHash" in (error.data or {})
    nameless = isinstance(error, ContractReverted) and name is None
    return Problem(
        type=type,
        detail="the transaction reverts without a reason" if nameless else error.message,
        extensions={"channelId": channel_id},
        other_status=ProblemType.TRANSACTION_REVERTED.status if was_mined else None,
    )
