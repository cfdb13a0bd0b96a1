"""The transactions that use cases send, as pure values: target, data and native coin."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from microwallet.domain.channel import ChannelDescriptor
from microwallet.domain.identifiers import NATIVE_TOKEN, Address, hexed, word
from microwallet.errors import UsageError
from microwallet.escrow.artifacts import artifact
from microwallet.escrow.authorizations import PayeeAuthorization, Permit, TransferAuthorization
from microwallet.escrow.reader import selector

_APPROVE = selector("approve(address,uint256)")
_TRANSFER = selector("transfer(address,uint256)")
_DEADLINE_WORDS = {
    "openWithAuthorization": 7,
    "topUpWithAuthorization": 8,
    "settleWithAuthorization": 8,
    "closeWithAuthorization": 8,
}
"""Where each has the end of its authorization, counted from its first argument."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """What a transaction does. `value` is wei sent along."""

    to: Address
    data: bytes = b""
    value: int = 0

    def request(self, sender: Address) -> dict[str, str]:
        """The call as JSON-RPC takes it."""
        return {"from": sender, "to": self.to, "data": hexed(self.data), "value": hex(self.value)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Capture:
    """A channel, its voucher, and how much of it the payee takes: the new settled total."""

    descriptor: ChannelDescriptor
    cumulative_amount: int
    capture_amount: int
    signature: bytes


def open_channel(descriptor: ChannelDescriptor, deposit: int) -> Call:
    """`open`, sent by the payer: needs an allowance of `deposit`; the native coin is sent along."""
    return _call("open", descriptor, *_opening(descriptor, deposit), value=_native(descriptor, deposit))


def open_with_authorization(
    descriptor: ChannelDescriptor, deposit: int, authorization: TransferAuthorization
) -> Call:
    """`openWithAuthorization`, sent by anyone: one transaction, no allowance (EIP-3009)."""
    return _call(
        "openWithAuthorization",
        descriptor,
        *_opening(descriptor, deposit),
        descriptor.payer,
        authorization.valid_after,
        authorization.valid_before,
        authorization.nonce,
        authorization.signature,
    )


def open_with_permit(descriptor: ChannelDescriptor, deposit: int, permit: Permit) -> Call:
    """`openWithPermit`, sent by the payer: one transaction, the allowance set inside (EIP-2612)."""
    return _call("openWithPermit", descriptor, *_opening(descriptor, deposit), *_permit(permit))


def top_up(descriptor: ChannelDescriptor, additional_deposit: int) -> Call:
    """`topUp`, sent by the payer."""
    return _call(
        "topUp",
        descriptor,
        _tuple(descriptor),
        additional_deposit,
        value=_native(descriptor, additional_deposit),
    )


def top_up_with_authorization(
    descriptor: ChannelDescriptor, additional_deposit: int, authorization: TransferAuthorization
) -> Call:
    """`topUpWithAuthorization`, sent by anyone."""
    if authorization.top_up_salt is None:
        raise UsageError("this authorization opens a channel; a top up needs one with a salt of its own")
    return _call(
        "topUpWithAuthorization",
        descriptor,
        _tuple(descriptor),
        additional_deposit,
        authorization.top_up_salt,
        authorization.valid_after,
        authorization.valid_before,
        authorization.nonce,
        authorization.signature,
    )


def top_up_with_permit(descriptor: ChannelDescriptor, additional_deposit: int, permit: Permit) -> Call:
    """`topUpWithPermit`, sent by the payer."""
    return _call("topUpWithPermit", descriptor, _tuple(descriptor), additional_deposit, *_permit(permit))


def settle(capture: Capture) -> Call:
    """`settle`, sent by the payee: pays, and the channel stays open."""
    return _call("settle", capture.descriptor, *_capture(capture))


def close(capture: Capture) -> Call:
    """`close`, sent by the payee: pays, refunds the payer, and finalizes."""
    return _call("close", capture.descriptor, *_capture(capture))


def settle_batch(captures: Sequence[Capture]) -> Call:
    """`settleBatch`, sent by the payee of all: one bad item reverts it."""
    return _batch("settleBatch", captures)


def close_batch(captures: Sequence[Capture]) -> Call:
    """`closeBatch`, sent by the payee of all: one bad item reverts it."""
    return _batch("closeBatch", captures)


def settle_with_authorization(
    descriptor: ChannelDescriptor, authorization: PayeeAuthorization, voucher_signature: bytes
) -> Call:
    """`settleWithAuthorization`, sent by anyone."""
    return _authorized("settleWithAuthorization", descriptor, authorization, voucher_signature)


def close_with_authorization(
    descriptor: ChannelDescriptor, authorization: PayeeAuthorization, voucher_signature: bytes
) -> Call:
    """`closeWithAuthorization`, sent by anyone."""
    return _authorized("closeWithAuthorization", descriptor, authorization, voucher_signature)


def close_deadline(call: Call) -> int | None:
    """Unix seconds until which the payee's authorization inside `closeWithAuthorization` may be used."""
    return deadline(call) if call.data[:4] == _selector_of("closeWithAuthorization") else None


def deadline(call: Call) -> int | None:
    """Unix seconds after which a call can only revert, as the authorization inside has expired; None where
    there is none."""
    for name, position in _DEADLINE_WORDS.items():
        if call.data[:4] == _selector_of(name):
            start = 4 + position * 32
            return int.from_bytes(call.data[start : start + 32], "big")
    return None


def names(call: Call, descriptor: ChannelDescriptor) -> bool:
    """Whether a call is about this channel, alone or among others."""
    return call.to == descriptor.escrow_contract and b"".join(map(word, _tuple(descriptor))) in call.data


def request_close(descriptor: ChannelDescriptor) -> Call:
    """`requestClose`, sent by the payer: starts the grace period."""
    return _call("requestClose", descriptor, _tuple(descriptor))


def withdraw(descriptor: ChannelDescriptor) -> Call:
    """`withdraw`, sent by the payer once the grace period is over."""
    return _call("withdraw", descriptor, _tuple(descriptor))


def approve(token: Address, spender: Address, amount: int) -> Call:
    """ERC-20 `approve` of exactly `amount` base units; 0 revokes."""
    return Call(to=token, data=_APPROVE + word(spender) + word(amount))


def transfer(token: Address, receiver: Address, amount: int) -> Call:
    """A plain transfer of a token, or of the native coin where `token` is the zero address."""
    if token == NATIVE_TOKEN:
        return Call(to=receiver, value=amount)
    return Call(to=token, data=_TRANSFER + word(receiver) + word(amount))


def encode(name: str, *arguments: Any) -> bytes:
    """Call data of an escrow function, by the artifact's ABI."""
    from eth_abi.abi import encode as encode_values

    return _selector_of(name) + encode_values(_function_types(name), arguments)


def type_of(parameter: dict[str, Any]) -> str:
    """The canonical type of an ABI parameter, tuples written out."""
    kind: str = parameter["type"]
    if not kind.startswith("tuple"):
        return kind
    members = ",".join(type_of(member) for member in parameter["components"])
    return f"({members}){kind.removeprefix('tuple')}"


@cache
def _selector_of(name: str) -> bytes:
    return selector(f"{name}({','.join(_function_types(name))})")


@cache
def _function_types(name: str) -> list[str]:
    (entry,) = (
        entry
        for entry in artifact("ChannelEscrow").abi
        if entry["type"] == "function" and entry["name"] == name
    )
    return [type_of(parameter) for parameter in entry["inputs"]]


def _call(name: str, descriptor: ChannelDescriptor, *arguments: Any, value: int = 0) -> Call:
    return Call(to=descriptor.escrow_contract, data=encode(name, *arguments), value=value)


def _tuple(descriptor: ChannelDescriptor) -> tuple[Any, ...]:
    return (
        descriptor.payer,
        descriptor.payee,
        descriptor.token,
        word(descriptor.salt),
        descriptor.authorized_signer,
    )


def _opening(descriptor: ChannelDescriptor, deposit: int) -> tuple[Any, ...]:
    _, payee, token, salt, authorized_signer = _tuple(descriptor)
    return (payee, token, deposit, salt, authorized_signer)


def _native(descriptor: ChannelDescriptor, amount: int) -> int:
    return amount if descriptor.token == NATIVE_TOKEN else 0


def _permit(permit: Permit) -> tuple[int, int, bytes, bytes]:
    signature = permit.signature
    return (permit.deadline, signature[64], signature[:32], signature[32:64])


def _capture(capture: Capture) -> tuple[Any, ...]:
    return (
        _tuple(capture.descriptor),
        capture.cumulative_amount,
        capture.capture_amount,
        capture.signature,
    )


def _batch(name: str, captures: Sequence[Capture]) -> Call:
    escrows = {capture.descriptor.escrow_contract for capture in captures}
    if len(escrows) != 1:
        raise UsageError(f"a batch is for one escrow contract; this one has {len(escrows)}")
    return _call(name, captures[0].descriptor, [_capture(capture) for capture in captures])


def _authorized(
    name: str,
    descriptor: ChannelDescriptor,
    authorization: PayeeAuthorization,
    voucher_signature: bytes,
) -> Call:
    return _call(
        name,
        descriptor,
        _tuple(descriptor),
        authorization.cumulative_amount,
        authorization.capture_amount,
        authorization.nonce,
        authorization.deadline,
        authorization.signature,
        voucher_signature,
    )
