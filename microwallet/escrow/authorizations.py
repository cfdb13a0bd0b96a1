"""Signed permissions: EIP-3009 and EIP-2612 for deposits, the payee's own for settle and close.

All are EIP-712 over fixed types, so their digests are built by hand, as the vouchers' are.
"""

from __future__ import annotations

from dataclasses import dataclass

from microwallet.domain.channel import ChannelDescriptor
from microwallet.domain.identifiers import Address, ChainId, keccak, word
from microwallet.domain.voucher import VoucherKey, domain_separator

AUTHORIZATION_SECONDS = 15 * 60
"""How long an EIP-3009 authorization or a permit may be used. Until then what it names counts as
committed, so it is short; a slow chain still mines the transaction within it."""
EXPIRY_MARGIN = 60
"""Seconds after its end until an authorization is taken for dead: clocks differ."""

RECEIVE_TYPE = (
    "ReceiveWithAuthorization(address from,address to,uint256 value,uint256 validAfter,"
    "uint256 validBefore,bytes32 nonce)"
)
PERMIT_TYPE = "Permit(address owner,address spender,uint256 value,uint256 nonce,uint256 deadline)"
_PAYEE_MEMBERS = (
    "(bytes32 channelId,uint128 cumulativeAmount,uint128 captureAmount,uint256 nonce,uint256 deadline)"
)
SETTLE_TYPE = "SettleAuthorization" + _PAYEE_MEMBERS
CLOSE_TYPE = "CloseAuthorization" + _PAYEE_MEMBERS


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenDomain:
    """The EIP-712 domain in which a token checks signatures."""

    name: str
    version: str
    chain_id: ChainId
    token: Address

    def separator(self) -> bytes:
        """32 bytes, as the token's DOMAIN_SEPARATOR gives them."""
        return domain_separator(self.chain_id, self.token, name=self.name, version=self.version)


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferAuthorization:
    """A signed EIP-3009 `ReceiveWithAuthorization` from the payer to the escrow."""

    value: int
    valid_after: int
    valid_before: int
    nonce: bytes
    signature: bytes
    top_up_salt: bytes | None = None
    """For a top up: what its nonce was derived from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Permit:
    """A signed EIP-2612 permit of the payer for the escrow."""

    deadline: int
    signature: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class PayeeAuthorization:
    """A payee's signed word that anyone may settle or close a channel at exactly this amount."""

    cumulative_amount: int
    capture_amount: int
    nonce: int
    deadline: int
    signature: bytes


def expiry(*, chain_time: int, now: int) -> int:
    """Unix seconds at which an authorization signed now ends.

    The later of the two clocks counts: an idle local chain's newest block may be old, and its
    next one is not.
    """
    return max(chain_time, now) + AUTHORIZATION_SECONDS


def open_nonce(descriptor: ChannelDescriptor) -> bytes:
    """keccak256(abi.encode(from, payee, token, salt, authorizedSigner)).

    draft-evm-session-00, "Front-Running Protection".
    """
    return keccak(
        word(descriptor.payer)
        + word(descriptor.payee)
        + word(descriptor.token)
        + word(descriptor.salt)
        + word(descriptor.authorized_signer)
    )


def top_up_nonce(descriptor: ChannelDescriptor, additional_deposit: int, top_up_salt: bytes) -> bytes:
    """keccak256(abi.encode(channelId, additionalDeposit, from, topUpSalt))."""
    return keccak(
        word(descriptor.channel_id()) + word(additional_deposit) + word(descriptor.payer) + word(top_up_salt)
    )


def authorize_open(
    secret: bytes, domain: TokenDomain, descriptor: ChannelDescriptor, *, deposit: int, valid_before: int
) -> TransferAuthorization:
    """The payer's authorization that opens exactly this channel with `deposit` base units."""
    return _authorize(secret, domain, descriptor, deposit, valid_before, open_nonce(descriptor), None)


def authorize_top_up(
    secret: bytes,
    domain: TokenDomain,
    descriptor: ChannelDescriptor,
    *,
    additional_deposit: int,
    top_up_salt: bytes,
    valid_before: int,
) -> TransferAuthorization:
    """The payer's authorization that adds to exactly this channel; `top_up_salt` is 32 random bytes."""
    nonce = top_up_nonce(descriptor, additional_deposit, top_up_salt)
    return _authorize(secret, domain, descriptor, additional_deposit, valid_before, nonce, top_up_salt)


def receive_digest(
    domain: TokenDomain,
    *,
    sender: Address,
    receiver: Address,
    value: int,
    valid_after: int,
    valid_before: int,
    nonce: bytes,
) -> bytes:
    """EIP-3009: the digest of a `ReceiveWithAuthorization`."""
    return _digest(
        domain.separator(), RECEIVE_TYPE, sender, receiver, value, valid_after, valid_before, nonce
    )


def permit_digest(
    domain: TokenDomain, *, owner: Address, spender: Address, value: int, nonce: int, deadline: int
) -> bytes:
    """EIP-2612: the digest of a `Permit`."""
    return _digest(domain.separator(), PERMIT_TYPE, owner, spender, value, nonce, deadline)


def sign_permit(
    secret: bytes,
    domain: TokenDomain,
    *,
    owner: Address,
    spender: Address,
    value: int,
    nonce: int,
    deadline: int,
) -> Permit:
    """The owner's permit; `nonce` is the token's `nonces(owner)`."""
    digest = permit_digest(domain, owner=owner, spender=spender, value=value, nonce=nonce, deadline=deadline)
    return Permit(deadline=deadline, signature=sign(secret, digest))


def authorize_capture(
    type_text: str,
    secret: bytes,
    descriptor: ChannelDescriptor,
    *,
    cumulative_amount: int,
    capture_amount: int,
    nonce: int,
    deadline: int,
) -> PayeeAuthorization:
    """The payee's word for `settleWithAuthorization` (SETTLE_TYPE) or `closeWithAuthorization` (CLOSE_TYPE).

    draft-evm-session-00, "Payee-initiated functions".
    """
    separator = domain_separator(descriptor.chain_id, descriptor.escrow_contract)
    members = (descriptor.channel_id(), cumulative_amount, capture_amount, nonce, deadline)
    return PayeeAuthorization(
        cumulative_amount=cumulative_amount,
        capture_amount=capture_amount,
        nonce=nonce,
        deadline=deadline,
        signature=sign(secret, _digest(separator, type_text, *members)),
    )


def sign(secret: bytes, digest: bytes) -> bytes:
    """65 bytes r‖s‖v over a digest, by a 32-byte key."""
    return VoucherKey(secret).sign(digest)


def _authorize(
    secret: bytes,
    domain: TokenDomain,
    descriptor: ChannelDescriptor,
    value: int,
    valid_before: int,
    nonce: bytes,
    top_up_salt: bytes | None,
) -> TransferAuthorization:
    digest = receive_digest(
        domain,
        sender=descriptor.payer,
        receiver=descriptor.escrow_contract,
        value=value,
        valid_after=0,
        valid_before=valid_before,
        nonce=nonce,
    )
    return TransferAuthorization(
        value=value,
        valid_after=0,
        valid_before=valid_before,
        nonce=nonce,
        signature=sign(secret, digest),
        top_up_salt=top_up_salt,
    )


def _digest(separator: bytes, type_text: str, *members: Address | str | int | bytes) -> bytes:
    struct = keccak(keccak(type_text.encode()) + b"".join(word(member) for member in members))
    return keccak(b"\x19\x01" + separator + struct)
