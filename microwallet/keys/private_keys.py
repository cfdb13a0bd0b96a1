"""Private keys as they come in: raw bytes, text, or a mnemonic. No error ever repeats one."""

from __future__ import annotations

import os
import re

from microwallet.errors import UsageError

_ORDER = int("FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141", 16)
_PRIVATE_KEY = re.compile(r"(?:0x)?([0-9a-fA-F]{64})", re.ASCII)
_INDEX_LIMIT = 2**31


def new_secret() -> bytes:
    """A fresh private key of secp256k1: 32 bytes."""
    while True:
        secret = os.urandom(32)
        if 0 < int.from_bytes(secret, "big") < _ORDER:
            return secret


def checked_secret(secret: bytes, *, what: str = "the private key") -> bytes:
    """`secret` if it is a private key of secp256k1: 32 bytes, above zero, below the order."""
    if len(secret) != 32:
        raise UsageError(f"{what} has {len(secret)} bytes instead of 32")
    if not 0 < int.from_bytes(secret, "big") < _ORDER:
        raise UsageError(f"{what} is outside the range of secp256k1: it is zero, or too large")
    return secret


def parse_private_key(text: str) -> bytes:
    """32 bytes from 64 hexadecimal digits, with or without 0x; surrounding white space is ignored."""
    match = _PRIVATE_KEY.fullmatch(text.strip())
    if match is None:
        raise UsageError(
            f"that is not a private key: 64 hexadecimal digits are expected,"
            f" {len(text.strip())} characters were given"
        )
    return checked_secret(bytes.fromhex(match[1]))


def from_mnemonic(text: str, *, index: int) -> bytes:
    """Key number `index` of a BIP-39 mnemonic, at m/44'/60'/0'/0/index (BIP-44)."""
    if not 0 <= index < _INDEX_LIMIT:
        raise UsageError(f"the index {index} is outside 0 to {_INDEX_LIMIT - 1}")
    words = " ".join(text.split()).lower()
    secret = _derived_from(words, index)
    if secret is None:
        raise UsageError(
            f"that is not a BIP-39 mnemonic: {len(words.split())} words were given;"
            " 12, 15, 18, 21 or 24 words of one list with a right checksum are expected"
        )
    return checked_secret(secret)


def _derived_from(words: str, index: int) -> bytes | None:
    """None for an invalid mnemonic: the library's error repeats the words, so it ends here."""
    from eth_account import Account
    from eth_utils.exceptions import ValidationError

    Account.enable_unaudited_hdwallet_features()
    try:
        return bytes(Account.from_mnemonic(words, account_path=f"m/44'/60'/0'/0/{index}").key)
    except (ValidationError, ValueError):
        return None
