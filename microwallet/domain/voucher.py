"""Vouchers: the EIP-712 digest, signing and recovery. The path every payment takes, so kept short.

draft-evm-session-00, section "Voucher Signing Format". A voucher carries the total authorized so
far, never a delta. Signatures are 65 bytes r‖s‖v, v 27 or 28, low s.
"""

from __future__ import annotations

from typing import Any

from coincurve import PrivateKey, PublicKey

# Its own recovery makes twenty calls of these two; the part in C has no types.
from coincurve._libsecp256k1 import ffi, lib  # type: ignore[import-not-found]
from coincurve.context import GLOBAL_CONTEXT
from sha3 import keccak_256

from microwallet.domain.identifiers import Address, ChainId, checksum_address, keccak, word

DOMAIN_NAME = "EVM Payment Channel"
DOMAIN_VERSION = "1"
DOMAIN_TYPE = "EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"
VOUCHER_TYPE = "Voucher(bytes32 channelId,uint128 cumulativeAmount)"

CUMULATIVE_AMOUNT_LIMIT = 2**128
SIGNATURE_LENGTH = 65
DIGEST_LENGTH = 32

_VOUCHER_TYPE_HASH = keccak(VOUCHER_TYPE.encode())
_RECOVERY_IDS = {27: 0, 28: 1}
"""By `v`, as libsecp256k1 takes them."""
_CONTEXT = GLOBAL_CONTEXT.ctx
_SIGNATURE = ffi.typeof("secp256k1_ecdsa_recoverable_signature *")
_PUBLIC_KEY = ffi.typeof("secp256k1_pubkey *")
_HALF_ORDER = bytes.fromhex("7fffffffffffffffffffffffffffffff5d576e7357a4501ddfe92f46681b20a0")


def domain_separator(
    chain_id: ChainId, contract: Address, *, name: str = DOMAIN_NAME, version: str = DOMAIN_VERSION
) -> bytes:
    """EIP-712 domain separator of a contract, by default an escrow, on one chain, 32 bytes."""
    return keccak(
        keccak(DOMAIN_TYPE.encode())
        + keccak(name.encode())
        + keccak(version.encode())
        + word(chain_id)
        + word(contract)
    )


class VoucherDigest:
    """The digests of one channel's vouchers: everything but the amount is hashed in advance."""

    __slots__ = ("_head", "_struct_head")

    def __init__(self, chain_id: ChainId, escrow_contract: Address, channel_id: str) -> None:
        self._head = b"\x19\x01" + domain_separator(chain_id, escrow_contract)
        self._struct_head = _VOUCHER_TYPE_HASH + word(channel_id)

    def __call__(self, cumulative_amount: int) -> bytes:
        """32 bytes to sign for `cumulative_amount` base units, below 2**128."""
        struct = keccak_256(self._struct_head + cumulative_amount.to_bytes(32, "big")).digest()
        return keccak_256(self._head + struct).digest()


class VoucherKey:
    """The private key of a channel's authorized signer. Never shown, never logged."""

    __slots__ = ("_key", "address")

    def __init__(self, secret: bytes) -> None:
        self._key = PrivateKey(secret)
        self.address = address_of(self._key.public_key)

    def __repr__(self) -> str:
        return f"VoucherKey({self.address})"

    @property
    def secret(self) -> bytes:
        """The 32 secret bytes, for the key store alone."""
        return self._key.secret

    def sign(self, digest: bytes) -> bytes:
        """65 bytes r‖s‖v, deterministic (RFC 6979), low s."""
        signature = self._key.sign_recoverable(digest, hasher=None)
        return signature[:64] + (b"\x1c" if signature[64] else b"\x1b")


class SignatureError(ValueError):
    """A signature that no verifier may accept: wrong length, high s, wrong v, no such point."""


class SignerCheck:
    """Whether signatures are by one address. The public key is remembered once it matched."""

    __slots__ = ("_public_key", "signer")

    def __init__(self, signer: Address) -> None:
        self.signer = signer
        self._public_key: bytes | None = None

    def __call__(self, digest: bytes, signature: bytes) -> bool:
        """True if `signature` over `digest` is by the signer; SignatureError if it is not canonical.

        Recovers the key rather than verifying against a known one: the escrow recovers too, and a
        flipped `v` passes verification but not recovery.
        """
        public_key = recover(digest, signature)
        raw = ffi.buffer(public_key)
        if raw == self._public_key:
            return True
        if address_of(PublicKey(public_key)) != self.signer:
            return False
        self._public_key = bytes(raw)
        return True


def recover(digest: bytes, signature: bytes) -> Any:
    """The public key that made `signature`, as libsecp256k1 has it in memory.

    SignatureError unless the signature is 65 bytes, low s, v 27 or 28.
    """
    if len(signature) != SIGNATURE_LENGTH:
        raise SignatureError(f"a signature has {SIGNATURE_LENGTH} bytes, this one {len(signature)}")
    if signature[32:64] > _HALF_ORDER:
        raise SignatureError("the signature has a high s")
    recovery_id = _RECOVERY_IDS.get(signature[64])
    if recovery_id is None:
        raise SignatureError(f"the signature's v is {signature[64]}, neither 27 nor 28")
    if len(digest) != DIGEST_LENGTH:
        raise ValueError(f"a digest has {DIGEST_LENGTH} bytes, this one {len(digest)}")
    parsed, public_key = ffi.new(_SIGNATURE), ffi.new(_PUBLIC_KEY)
    if not lib.secp256k1_ecdsa_recoverable_signature_parse_compact(
        _CONTEXT, parsed, signature, recovery_id
    ) or not lib.secp256k1_ecdsa_recover(_CONTEXT, public_key, parsed, digest):
        raise SignatureError("the signature fits no key")
    return public_key


def address_of(public_key: PublicKey) -> Address:
    """EIP-55 address of a public key."""
    return checksum_address(keccak(public_key.format(compressed=False)[1:])[12:])
