"""V3 keystores: ours open elsewhere, those of others open here, hostile ones do no harm."""

import copy
import json
import resource
from pathlib import Path

import pytest

from microwallet.domain.identifiers import keccak
from microwallet.errors import KeyUnavailable, UsageError
from microwallet.keys import keystore
from microwallet.keys.keystore import LIGHT_COST, STANDARD_COST, decrypt, encrypt

STATM = Path("/proc/self/statm")
SECRET = bytes.fromhex("7a28b5ba57c53603b0b07b56bba752f7784bf506fa95edc395f5cf6c7514fe9d")
VECTOR_PBKDF2 = {
    "crypto": {
        "cipher": "aes-128-ctr",
        "cipherparams": {"iv": "6087dab2f9fdbbfaddc31a909735c1e6"},
        "ciphertext": "5318b4d5bcd28de64ee5559e671353e16f075ecae9f99c7a79a38af5f869aa46",
        "kdf": "pbkdf2",
        "kdfparams": {
            "c": 262144,
            "dklen": 32,
            "prf": "hmac-sha256",
            "salt": "ae3cd4e7013836a3df6bd7241b12db061dbe2c6785853cce422d148a624ce0bd",
        },
        "mac": "517ead924a9d0dc3124507e3393d175ce3ff7c1e96529c6c555ce9e51205e9b2",
    },
    "id": "3198bc9c-6672-5ab3-d995-4942343ae5b6",
    "version": 3,
}
"""The example of the Web3 Secret Storage definition."""

PBKDF2_PARAMETERS = VECTOR_PBKDF2["crypto"]["kdfparams"]


def changed(**fields: object) -> dict:
    """A keystore of ours with some fields of its `crypto` replaced; None removes one."""
    document = encrypt(SECRET, "right", cost=2)
    document["crypto"].update(fields)
    for name in [name for name, value in fields.items() if value is None]:
        del document["crypto"][name]
    return document


def scrypt_parameters(**fields: object) -> dict:
    return {"kdfparams": {**changed()["crypto"]["kdfparams"], **fields}}


@pytest.mark.parametrize("password", ["x", "with späce and ütf-8 🔑", "p" * 4096])
def test_what_is_encrypted_decrypts(password: str) -> None:
    """Under the same password, whatever it holds."""
    assert decrypt(encrypt(SECRET, password, cost=2), password, what="it") == SECRET


@pytest.mark.parametrize("cost", [LIGHT_COST, STANDARD_COST])
def test_eth_account_opens_what_we_write(cost: int) -> None:
    """Both the light form of voucher keys and the standard form of accounts."""
    from eth_account import Account

    document = json.loads(json.dumps(encrypt(SECRET, "pässword", cost=cost)))
    assert bytes(Account.decrypt(document, "pässword")) == SECRET


@pytest.mark.parametrize("kdf", ["scrypt", "pbkdf2"])
def test_what_eth_account_writes_opens(kdf: str) -> None:
    """With either key derivation."""
    from eth_account import Account

    document = Account.encrypt(SECRET, "pässword", kdf=kdf, iterations=64)
    assert decrypt(document, "pässword", what="it") == SECRET


def test_the_vector_of_the_definition_opens() -> None:
    """The standard's own example, also with its keys as other wallets spell them."""
    assert decrypt(VECTOR_PBKDF2, "testpassword", what="it") == SECRET
    spelled = {"version": 3, "Crypto": VECTOR_PBKDF2["crypto"]}
    assert decrypt(spelled, "testpassword", what="it") == SECRET


def test_no_two_documents_are_alike() -> None:
    """Salt, nonce and id are fresh each time; the secret is not in the text."""
    one, two = encrypt(SECRET, "x", cost=2), encrypt(SECRET, "x", cost=2)
    assert one["id"] != two["id"]
    assert one["crypto"]["ciphertext"] != two["crypto"]["ciphertext"]
    assert SECRET.hex() not in json.dumps(one)


def test_a_wrong_password_is_exit_6() -> None:
    """And is said of the key by name."""
    with pytest.raises(KeyUnavailable, match="the password of the key of alice is wrong"):
        decrypt(encrypt(SECRET, "right", cost=2), "wrong", what="the key of alice")


@pytest.mark.parametrize("field", ["ciphertext", "mac"])
def test_a_flipped_bit_is_found(field: str) -> None:
    """A changed keystore never opens to another key."""
    document = copy.deepcopy(changed())
    raw = bytearray.fromhex(document["crypto"][field])
    raw[0] ^= 1
    document["crypto"][field] = raw.hex()
    with pytest.raises(KeyUnavailable):
        decrypt(document, "right", what="it")


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"version": 3},
        {"version": 1, "crypto": {}},
        {"version": 3, "crypto": []},
        {"version": 3, "crypto": {}},
        changed(cipher="aes-256-gcm"),
        changed(kdf="argon2"),
        changed(kdf="pbkdf2"),
        changed(mac=None),
        changed(mac=7),
        changed(ciphertext="zz"),
        changed(cipherparams={"iv": "00"}),
        changed(kdfparams=[]),
        changed(**scrypt_parameters(dklen=64)),
        changed(**scrypt_parameters(n=3)),
        changed(**scrypt_parameters(n=0)),
        changed(**scrypt_parameters(n=-(2**100))),
        changed(**scrypt_parameters(n=2**40)),
        changed(**scrypt_parameters(r=2**30)),
        changed(**scrypt_parameters(p=2**30)),
        changed(**scrypt_parameters(n=1e300)),
        changed(**scrypt_parameters(n="8")),
        changed(**scrypt_parameters(n="8", r=2**40)),
        changed(**scrypt_parameters(n=[8], r=2**40)),
        changed(kdf="pbkdf2", kdfparams={**PBKDF2_PARAMETERS, "c": 2**40}),
        changed(kdf="pbkdf2", kdfparams={**PBKDF2_PARAMETERS, "c": -1}),
    ],
)
def test_what_is_no_keystore_is_refused(document: dict) -> None:
    """At once, whatever memory or time it asks for, and by a plain message."""
    with pytest.raises(UsageError, match=r"^it"):
        decrypt(document, "right", what="it")


@pytest.mark.parametrize("secret", [b"\x01" * 31, b"\x00" * 32, b"\xff" * 32])
def test_a_key_outside_the_curve_is_refused(secret: bytes) -> None:
    """A keystore may hold 31 bytes, zero, or too much: none is a key."""
    document = changed()
    crypto = document["crypto"]
    derived = keystore._derived(crypto, "right", "it")
    ciphertext = keystore._aes_128_ctr(derived[:16], bytes.fromhex(crypto["cipherparams"]["iv"]), secret)
    crypto["ciphertext"] = ciphertext.hex()
    crypto["mac"] = keccak(derived[16:32] + ciphertext).hex()
    with pytest.raises(UsageError, match=r"^it"):
        decrypt(document, "right", what="it")


@pytest.mark.skipif(not STATM.exists(), reason="this system does not tell how much memory a process has")
def test_a_key_is_not_called_damaged_where_memory_is_short():
    """Who reads that a key is none might throw it away; nothing is made of less than it takes, either."""
    document = encrypt(SECRET, "password", cost=2)
    document["crypto"]["kdfparams"]["n"] = STANDARD_COST
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    taken = int(STATM.read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + 2**26, hard))
    try:
        for attempt in (
            lambda: decrypt(document, "password", what="the key of alice"),
            lambda: encrypt(SECRET, "password", cost=STANDARD_COST),
        ):
            with pytest.raises(KeyUnavailable, match="256 MiB of memory"):
                attempt()
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
