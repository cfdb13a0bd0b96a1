"""Web3 Secret Storage, version 3: one private key encrypted under a password.

Written here rather than taken from `eth_keyfile`, whose import alone takes longer than a payment.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from typing import Any

from microwallet.domain.identifiers import keccak, unhexed
from microwallet.domain.voucher import VoucherKey
from microwallet.errors import KeyUnavailable, UsageError
from microwallet.keys.private_keys import checked_secret

STANDARD_COST = 2**18
"""scrypt's n for account keys: the standard's own, about a second."""
LIGHT_COST = 2**13
"""scrypt's n for voucher keys, read at every payment: each is worth one deposit at most."""

_BLOCK_SIZE = 8
_MEMORY_LIMIT = 2**30
_ROUNDS_LIMIT = 10_000_000


def encrypt(secret: bytes, password: str, *, cost: int) -> dict[str, Any]:
    """V3 document of a 32-byte key; `cost` is scrypt's n."""
    salt, nonce = os.urandom(32), os.urandom(16)
    parameters = {"dklen": 32, "n": cost, "r": _BLOCK_SIZE, "p": 1, "salt": salt.hex()}
    derived = _scrypt(password, parameters)
    ciphertext = _aes_128_ctr(derived[:16], nonce, secret)
    return {
        "version": 3,
        "id": _identifier(),
        "address": VoucherKey(secret).address[2:].lower(),
        "crypto": {
            "cipher": "aes-128-ctr",
            "cipherparams": {"iv": nonce.hex()},
            "ciphertext": ciphertext.hex(),
            "kdf": "scrypt",
            "kdfparams": parameters,
            "mac": keccak(derived[16:32] + ciphertext).hex(),
        },
    }


def decrypt(document: dict[str, Any], password: str, *, what: str, hint: str | None = None) -> bytes:
    """The 32-byte key in a V3 document, its own or another wallet's; `what` names it in errors.

    Raises KeyUnavailable, with `hint`, for a wrong password, UsageError for what is no such document.
    """
    crypto = document.get("crypto", document.get("Crypto"))
    if document.get("version") != 3 or not isinstance(crypto, dict):
        raise UsageError(f"{what} is not a V3 keystore")
    try:
        if crypto["cipher"] != "aes-128-ctr":
            raise UsageError(f"{what}: the cipher {crypto['cipher']!r} is not supported, only aes-128-ctr")
        nonce = unhexed(crypto["cipherparams"]["iv"])
        ciphertext, mac = unhexed(crypto["ciphertext"]), unhexed(crypto["mac"])
        derived = _derived(crypto, password, what)
        if not hmac.compare_digest(keccak(derived[16:32] + ciphertext), mac):
            raise KeyUnavailable(f"the password of {what} is wrong", hint=hint)
        secret = _aes_128_ctr(derived[:16], nonce, ciphertext)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise UsageError(f"{what} is not a V3 keystore: {type(error).__name__} in its fields") from error
    return checked_secret(secret, what=what)


def _derived(crypto: dict[str, Any], password: str, what: str) -> bytes:
    """Key derived from the password; refuses what would eat memory or hours."""
    parameters = crypto["kdfparams"]
    if parameters["dklen"] != 32:
        raise ValueError("dklen")
    if crypto["kdf"] == "scrypt":
        if any(type(parameters[name]) is not int for name in ("n", "r", "p")):  # texts multiply as well
            raise TypeError("kdfparams")
        if 128 * parameters["n"] * parameters["r"] * parameters["p"] > _MEMORY_LIMIT:
            raise UsageError(f"{what} asks for more than 1 GiB of scrypt: it is refused")
        return _scrypt(password, parameters)
    if crypto["kdf"] == "pbkdf2" and parameters.get("prf") == "hmac-sha256":
        if parameters["c"] > _ROUNDS_LIMIT:
            raise UsageError(f"{what} asks for more than {_ROUNDS_LIMIT} rounds of pbkdf2: it is refused")
        return hashlib.pbkdf2_hmac(
            "sha256", _encoded(password), unhexed(parameters["salt"]), parameters["c"], 32
        )
    raise UsageError(f"{what}: the key derivation {crypto['kdf']!r} is not supported")


def _scrypt(password: str, parameters: dict[str, Any]) -> bytes:
    """ValueError for parameters that are none, KeyUnavailable where there is too little memory."""
    n, r, p = parameters["n"], parameters["r"], parameters["p"]
    try:
        return hashlib.scrypt(
            _encoded(password),
            salt=unhexed(parameters["salt"]),
            n=n,
            r=r,
            p=p,
            maxmem=128 * r * (n + p + 2),
            dklen=32,
        )
    except (MemoryError, ValueError) as error:
        if isinstance(error, ValueError) and "malloc failure" not in str(error):
            raise
        raise KeyUnavailable(
            f"a key under a password takes {128 * r * n >> 20} MiB of memory, and there is not so much left",
            hint="free -m; ulimit -v",
        ) from error


def _aes_128_ctr(key: bytes, nonce: bytes, data: bytes) -> bytes:
    """Encrypts and decrypts alike."""
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    stream = Cipher(algorithms.AES(key), modes.CTR(nonce)).encryptor()
    return stream.update(data) + stream.finalize()


def _encoded(password: str) -> bytes:
    """The bytes that were typed, even where the terminal does not speak UTF-8."""
    return password.encode("utf-8", "surrogateescape")


def _identifier() -> str:
    import uuid

    return str(uuid.uuid4())
