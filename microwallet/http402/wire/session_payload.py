"""The four actions of a session credential's `payload`. draft-evm-session-00, section "Payload Actions"."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from microwallet.domain.identifiers import NATIVE_TOKEN, Address, ChannelId, TxHash, hexed
from microwallet.errors import MalformedMessage
from microwallet.http402.wire.session_request import CredentialType
from microwallet.http402.wire.wire_object import WireObject

NO_SIGNER = Address(NATIVE_TOKEN)
"""The zero address as `authorizedSigner` is the payer."""


class SignedVoucher(NamedTuple):
    """What every action but a top-up carries: an amount authorized so far, and the signature over it."""

    channel_id: ChannelId
    cumulative_amount: int
    signature: bytes

    def __repr__(self) -> str:
        return f"SignedVoucher({self.channel_id}, {self.cumulative_amount})"


@dataclass(frozen=True, slots=True, kw_only=True)
class SentTransaction:
    """A deposit that the payer brought onto the chain: `type` is "hash"."""

    hash: TxHash


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedTransfer:
    """A deposit that the server is to bring onto the chain, by EIP-3009: `type` is "authorization"."""

    payer: Address
    to: Address
    value: int
    valid_after: int
    valid_before: int
    nonce: str
    signature: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenAction:
    """Tells of a new channel, with its first voucher, often over 0."""

    voucher: SignedVoucher
    salt: str
    authorized_signer: Address
    deposit: SentTransaction | SignedTransfer


@dataclass(frozen=True, slots=True, kw_only=True)
class TopUpAction:
    """Tells of more deposit in a channel."""

    channel_id: ChannelId
    additional_deposit: int
    deposit: SentTransaction | SignedTransfer
    salt: str | None = None
    """Of a signed transfer's nonce."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MergedOpen:
    """A deposit that opens the voucher's channel on the way."""

    salt: str
    authorized_signer: Address
    deposit: SignedTransfer


@dataclass(frozen=True, slots=True, kw_only=True)
class MergedTopUp:
    """A deposit that tops the voucher's channel up on the way."""

    salt: str
    deposit: SignedTransfer


class VoucherAction(NamedTuple):
    """Hands a voucher over, with what must be deposited first for it to be good."""

    voucher: SignedVoucher
    merged: MergedOpen | MergedTopUp | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CloseAction:
    """Asks for the channel to be closed with this voucher or a better one."""

    voucher: SignedVoucher


SessionAction = OpenAction | TopUpAction | VoucherAction | CloseAction


def parse_payload(payload: Mapping[str, Any]) -> SessionAction:
    """The action in a payload; MalformedMessage for an unknown one, and for a deposit by permit2."""
    top = WireObject(payload, "payload")
    action = top.one_of("action", ("voucher", "open", "topUp", "close"))
    if action == "voucher":
        merged = top.optional_child("deposit")
        return VoucherAction(_voucher(top), None if merged is None else _merged(merged))
    if action == "open":
        return _open(top)
    if action == "topUp":
        return _top_up(top)
    return CloseAction(voucher=_voucher(top))


def separate_deposit(voucher: SignedVoucher, merged: MergedOpen | MergedTopUp) -> OpenAction | TopUpAction:
    """The action that a deposit merged into a voucher is, were it to come by itself."""
    if isinstance(merged, MergedOpen):
        return OpenAction(
            voucher=voucher,
            salt=merged.salt,
            authorized_signer=merged.authorized_signer,
            deposit=merged.deposit,
        )
    return TopUpAction(
        channel_id=voucher.channel_id,
        additional_deposit=merged.deposit.value,
        deposit=merged.deposit,
        salt=merged.salt,
    )


def payload_object(action: SessionAction) -> dict[str, Any]:
    """The payload of an action."""
    match action:
        case OpenAction(deposit=SentTransaction()):
            return {
                "action": "open",
                **_voucher_object(action.voucher),
                **_opening(action),
                **_funding(action.deposit),
            }
        case OpenAction():
            voucher = _voucher_object(action.voucher)
            voucher["voucherSignature"] = voucher.pop("signature")
            return {"action": "open", **voucher, **_opening(action), **_funding(action.deposit)}
        case TopUpAction():
            return {
                "action": "topUp",
                "channelId": action.channel_id,
                "additionalDeposit": str(action.additional_deposit),
                **({} if action.salt is None else {"salt": action.salt}),
                **_funding(action.deposit),
            }
        case VoucherAction():
            merged = {} if action.merged is None else {"deposit": _merged_object(action.merged)}
            return {"action": "voucher", **_voucher_object(action.voucher), **merged}
        case CloseAction():
            return {"action": "close", **_voucher_object(action.voucher)}


def _open(top: WireObject) -> OpenAction:
    deposit = _deposit(top)
    by_hash = isinstance(deposit, SentTransaction)
    return OpenAction(
        voucher=_voucher(top, signature="signature" if by_hash else "voucherSignature"),
        salt=top.bytes32("salt"),
        authorized_signer=top.optional_address("authorizedSigner") or NO_SIGNER,
        deposit=deposit,
    )


def _top_up(top: WireObject) -> TopUpAction:
    deposit = _deposit(top)
    by_hash = isinstance(deposit, SentTransaction)
    action = TopUpAction(
        channel_id=ChannelId(top.bytes32("channelId")),
        additional_deposit=top.amount("additionalDeposit"),
        deposit=deposit,
        salt=None if by_hash else top.bytes32("salt"),
    )
    if isinstance(deposit, SignedTransfer) and deposit.value != action.additional_deposit:
        raise MalformedMessage(
            f"payload.additionalDeposit is {action.additional_deposit}, but {deposit.value} is authorized"
        )
    return action


def _merged(merged: WireObject) -> MergedOpen | MergedTopUp:
    action = merged.one_of("action", ("open", "topUp"))
    deposit = _deposit(merged)
    if isinstance(deposit, SentTransaction):
        raise MalformedMessage("payload.deposit.type is 'hash'; authorization is expected")
    salt = merged.bytes32("salt")
    if action == "topUp":
        return MergedTopUp(salt=salt, deposit=deposit)
    signer = merged.optional_address("authorizedSigner") or NO_SIGNER
    return MergedOpen(salt=salt, authorized_signer=signer, deposit=deposit)


def _voucher(top: WireObject, *, signature: str = "signature") -> SignedVoucher:
    return SignedVoucher(
        ChannelId(top.bytes32("channelId")), top.amount("cumulativeAmount"), top.signature(signature)
    )


def _deposit(top: WireObject) -> SentTransaction | SignedTransfer:
    kind = top.one_of("type", tuple(CredentialType))
    if kind == CredentialType.PERMIT2:
        raise MalformedMessage(
            "payload.type is permit2, which this escrow does not take; use hash or authorization"
        )
    if kind == CredentialType.HASH:
        return SentTransaction(hash=TxHash(top.bytes32("hash")))
    authorization = top.child("authorization")
    return SignedTransfer(
        payer=authorization.address("from"),
        to=authorization.address("to"),
        value=authorization.amount("value"),
        valid_after=authorization.uint256("validAfter"),
        valid_before=authorization.uint256("validBefore"),
        nonce=authorization.bytes32("nonce"),
        signature=top.signature("signature"),
    )


def _voucher_object(voucher: SignedVoucher) -> dict[str, Any]:
    return {
        "channelId": voucher.channel_id,
        "cumulativeAmount": str(voucher.cumulative_amount),
        "signature": hexed(voucher.signature),
    }


def _opening(opening: OpenAction | MergedOpen) -> dict[str, Any]:
    signer = {} if opening.authorized_signer == NO_SIGNER else {"authorizedSigner": opening.authorized_signer}
    return {"salt": opening.salt, **signer}


def _merged_object(merged: MergedOpen | MergedTopUp) -> dict[str, Any]:
    if isinstance(merged, MergedOpen):
        return {"action": "open", **_opening(merged), **_funding(merged.deposit)}
    return {"action": "topUp", "salt": merged.salt, **_funding(merged.deposit)}


def _funding(deposit: SentTransaction | SignedTransfer) -> dict[str, Any]:
    if isinstance(deposit, SentTransaction):
        return {"type": str(CredentialType.HASH), "hash": deposit.hash}
    return {
        "type": str(CredentialType.AUTHORIZATION),
        "authorization": {
            "from": deposit.payer,
            "to": deposit.to,
            "value": str(deposit.value),
            "validAfter": str(deposit.valid_after),
            "validBefore": str(deposit.valid_before),
            "nonce": deposit.nonce,
        },
        "signature": hexed(deposit.signature),
    }
