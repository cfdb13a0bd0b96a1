"""What a revert means: the contract's errors, a token's, and plain reasons, in words with values."""

from __future__ import annotations

from functools import cache
from typing import Any

from microwallet.domain.identifiers import checksum_address, hexed
from microwallet.domain.one_line import one_line
from microwallet.errors import InsufficientFunds, MicrowalletError, TransactionReverted
from microwallet.escrow.artifacts import artifact
from microwallet.escrow.calls import type_of
from microwallet.escrow.reader import selector
from microwallet.escrow.rpc import RpcError

_STANDARD_ERRORS = {
    "Error": [("string", "reason")],
    "Panic": [("uint256", "code")],
    # ERC-6093, as OpenZeppelin's tokens raise them.
    "ERC20InsufficientBalance": [("address", "sender"), ("uint256", "balance"), ("uint256", "needed")],
    "ERC20InsufficientAllowance": [
        ("address", "spender"),
        ("uint256", "allowance"),
        ("uint256", "needed"),
    ],
    "ERC20InvalidReceiver": [("address", "receiver")],
    # EIP-3009 and EIP-2612 as the test token raises them.
    "AuthorizationNotYetValid": [("uint256", "validAfter")],
    "AuthorizationUsedOrCanceled": [("address", "authorizer"), ("bytes32", "nonce")],
    "PermitExpired": [("uint256", "deadline")],
}

_WORDS = {
    "AmountExceedsDeposit": "{captureAmount} base units are more than the deposit of {deposit}",
    "AmountNotIncreasing": "{captureAmount} base units do not pass what is settled already: {settled}",
    "AuthorizationExpired": "the authorization expired at Unix time {deadline}",
    "AuthorizationNotYetValid": "the authorization is valid only after Unix time {validAfter}",
    "AuthorizationUsedOrCanceled": "the authorization {nonce} of {authorizer} was used already",
    "CaptureAmountInvalid": "{captureAmount} base units are more than the voucher's {cumulativeAmount}",
    "ChannelAlreadyExists": "channel {channelId} exists already",
    "ChannelFinalized": "channel {channelId} is closed for ever",
    "ChannelNotFound": "channel {channelId} does not exist on this chain",
    "CloseNotReady": "the grace period is over at Unix time {withdrawableAt} (0: no close was requested)",
    "DepositNotReceived": "the token {token} delivered {received} base units of {expected}",
    "DepositOverflow": "a deposit of {deposit} base units is too large",
    "ERC20InsufficientAllowance": "{spender} may take {allowance} base units; {needed} are needed",
    "ERC20InvalidReceiver": "the token does not pay {receiver}",
    "Error": "{reason}",
    "InvalidPayee": "{payee} cannot be a payee",
    "InvalidSignature": "the signature is not {signer}'s",
    "InvalidToken": "{token} is not a token on this chain",
    "InvalidValue": "{value} wei were sent along; {expected} are expected",
    "NonceAlreadyUsed": "the authorization {nonce} was used already on channel {channelId}",
    "NotPayee": "{caller} is not the channel's payee {payee}",
    "NotPayer": "{caller} is not the channel's payer {payer}",
    "Panic": "the contract stopped with panic code {code}",
    "PermitExpired": "the permit expired at Unix time {deadline}",
    "SafeERC20FailedOperation": "the token {token} refused the transfer",
    "ZeroDeposit": "a deposit of nothing",
}


class ContractReverted(TransactionReverted):
    """A contract refused; `name` and `arguments` are its error as Solidity names it, if it is known."""

    def __init__(self, message: str, *, name: str | None, arguments: dict[str, Any]) -> None:
        super().__init__(message)
        self.name = name
        self.arguments = arguments


def revert_of(error: RpcError, doing: str) -> MicrowalletError:
    """The error to raise for a simulated call that is sure to revert while `doing` something.

    InsufficientFunds where a token says that there is too little of it, else ContractReverted.
    """
    reverted = contract_reverted(error.revert_data or b"", doing, otherwise=error.rpc_message)
    arguments = reverted.arguments
    if reverted.name == "ERC20InsufficientBalance":
        return InsufficientFunds(
            "{sender} holds {balance} base units of the token; {needed} are needed".format(**arguments),
            hint="microwallet balance",
        )
    if reverted.name == "Error" and "exceeds balance" in arguments["reason"]:
        return InsufficientFunds(f"the token refused: {arguments['reason']}", hint="microwallet balance")
    return reverted


def contract_reverted(data: bytes, doing: str, *, otherwise: str = "without a reason") -> ContractReverted:
    """A revert in words, from the bytes the call returned."""
    name, arguments = decoded_error(data)
    said = otherwise if name is None else _words(name, arguments)
    return ContractReverted(f"{doing} reverts: {said}", name=name, arguments=arguments)


def decoded_error(data: bytes) -> tuple[str | None, dict[str, Any]]:
    """Name and arguments of a revert's data; (None, {}) when it is not known.

    Addresses are EIP-55, bytes lowercase 0x hex, numbers int, texts made printable.
    """
    found = _errors().get(data[:4])
    if found is None:
        return None, {}
    name, members = found
    from eth_abi.abi import decode
    from eth_abi.exceptions import DecodingError

    try:
        values = decode([kind for kind, _ in members], data[4:])
    except (DecodingError, OverflowError, UnicodeDecodeError):
        return None, {}
    return name, {key: _value(kind, value) for (kind, key), value in zip(members, values, strict=True)}


@cache
def _errors() -> dict[bytes, tuple[str, list[tuple[str, str]]]]:
    known = dict(_STANDARD_ERRORS)
    for entry in artifact("ChannelEscrow").abi:
        if entry["type"] == "error":
            known[entry["name"]] = [(type_of(member), member["name"]) for member in entry["inputs"]]
    return {
        selector(f"{name}({','.join(kind for kind, _ in members)})"): (name, members)
        for name, members in known.items()
    }


def _words(name: str, arguments: dict[str, Any]) -> str:
    template = _WORDS.get(name)
    if template is not None:
        return template.format(**arguments)
    values = ", ".join(f"{key} {value}" for key, value in arguments.items())
    return f"{name}({values})"


def _value(kind: str, value: Any) -> Any:
    if kind == "address":
        return checksum_address(bytes.fromhex(value[2:]))
    if isinstance(value, bytes):
        return hexed(value)
    if isinstance(value, str):
        return one_line(value)
    return value
