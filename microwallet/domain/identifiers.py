"""Addresses, ids and hashes: canonical text inside, strict parsing at the edges."""

from __future__ import annotations

import re
from typing import NewType

from sha3 import keccak_256

from microwallet.errors import UsageError

Address = NewType("Address", str)
"""20 bytes as EIP-55 text."""
ChannelId = NewType("ChannelId", str)
"""32 bytes as lowercase 0x hex."""
TxHash = NewType("TxHash", str)
"""32 bytes as lowercase 0x hex."""
ChainId = NewType("ChainId", int)

ZERO_ADDRESS = Address("0x" + "00" * 20)
"""Nobody's."""
NATIVE_TOKEN = ZERO_ADDRESS
"""As `token` it is the chain's native coin."""

_ADDRESS = re.compile(r"0x[0-9a-fA-F]{40}")
_BYTES32 = re.compile(r"0x[0-9a-fA-F]{64}")


def keccak(data: bytes) -> bytes:
    """Keccak-256 as Ethereum uses it: 32 bytes."""
    return keccak_256(data).digest()


def checksum_address(raw: bytes) -> Address:
    """EIP-55 text of 20 raw bytes."""
    text = raw.hex()
    digest = keccak_256(text.encode()).hexdigest()
    mixed = (
        char.upper() if int(nibble, 16) >= 8 else char for char, nibble in zip(text, digest, strict=False)
    )
    return Address("0x" + "".join(mixed))


def is_address(text: str) -> bool:
    """Whether `text` has the shape of an address; its checksum is not looked at."""
    return _ADDRESS.fullmatch(text) is not None


def parse_address(text: str) -> Address:
    """Canonical address of `text`. Mixed case must carry a right EIP-55 checksum."""
    if not is_address(text):
        raise UsageError(f"{text[:80]!r} is not an address: 0x and 40 hexadecimal digits are expected")
    digits = text[2:]
    canonical = checksum_address(bytes.fromhex(digits))
    if text != canonical and digits not in (digits.lower(), digits.upper()):
        raise UsageError(
            f"{text} has a wrong EIP-55 checksum: a character may be mistyped",
            hint=f"check the address with its owner, or write it in lowercase: {text.lower()}",
        )
    return canonical


def parse_bytes32(text: str, *, what: str) -> str:
    """Lowercase 0x hex of a 32-byte value."""
    if _BYTES32.fullmatch(text) is None:
        raise UsageError(f"{text[:80]!r} is not a {what}: 0x and 64 hexadecimal digits are expected")
    return text.lower()


def word(value: Address | str | int | bytes) -> bytes:
    """ABI encoding of one static value: an address or bytes32 as hex text, a number, or raw bytes."""
    if isinstance(value, int):
        return value.to_bytes(32, "big")
    raw = value if isinstance(value, bytes) else bytes.fromhex(value[2:])
    return raw.rjust(32, b"\0")


def hexed(raw: bytes) -> str:
    """Lowercase 0x hex of raw bytes."""
    return "0x" + raw.hex()


def unhexed(text: str) -> bytes:
    """Raw bytes of hex, with or without 0x; ValueError for anything else."""
    return bytes.fromhex(text.removeprefix("0x"))
