"""Vouchers against the golden vector, against eth-account, and against forged signatures."""

import secrets

import pytest
from coincurve import PrivateKey

from microwallet.domain.channel import ChannelDescriptor
from microwallet.domain.identifiers import Address, ChainId, hexed
from microwallet.domain.voucher import (
    SignatureError,
    SignerCheck,
    VoucherDigest,
    VoucherKey,
    domain_separator,
    recover,
)

CHAIN = ChainId(31337)
ESCROW = Address("0x5FbDB2315678afecb367f032d93F642f64180aa3")
CHANNEL = "0x" + "22" * 32
KEY = VoucherKey(b"\x11" * 32)
ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
DIGEST = "0xef68a475124b55b32b7bab32847a57fa545f323ea8c96a54f92a78feb891daf8"
SIGNATURE = (
    "0xe72091056fe9737b8a31abe2adf6e6648493d3db98e5dda9c4094eb1a14e233e"
    "6b0320e7444e4fca584ef0e20a57911c6e4531b66e20bf4b37f3be30504842961b"
)


def test_golden_vector():
    """Separator, digest and signature are those two independent libraries agree on."""
    digest = VoucherDigest(CHAIN, ESCROW, CHANNEL)(1_000_001)
    assert KEY.address == "0x19E7E376E7C213B7E7e7e46cc70A5dD086DAff2A"
    assert hexed(domain_separator(CHAIN, ESCROW)) == (
        "0x66d1eef00d89253b97b26104ca270d8450c1362c28171b147c198d4a6d62242d"
    )
    assert hexed(digest) == DIGEST
    assert hexed(KEY.sign(digest)) == SIGNATURE


def test_same_as_eth_account():
    """Digest and signature equal eth-account's typed data signature for amounts of every size."""
    from eth_account import Account
    from eth_account.messages import encode_typed_data

    for amount in (0, 1, 2**64, 2**96 - 1, 2**96, 2**128 - 1):
        typed = encode_typed_data(
            domain_data={
                "name": "EVM Payment Channel",
                "version": "1",
                "chainId": CHAIN,
                "verifyingContract": ESCROW,
            },
            message_types={
                "Voucher": [
                    {"name": "channelId", "type": "bytes32"},
                    {"name": "cumulativeAmount", "type": "uint128"},
                ]
            },
            message_data={"channelId": bytes.fromhex(CHANNEL[2:]), "cumulativeAmount": amount},
        )
        signed = Account.sign_message(typed, KEY.secret)
        assert KEY.sign(VoucherDigest(CHAIN, ESCROW, CHANNEL)(amount)) == bytes(signed.signature)


def test_channel_id_same_as_abi_encoding():
    """The channel id is keccak256 of the ABI encoding of all seven fields."""
    from eth_abi import encode
    from eth_utils import keccak

    descriptor = ChannelDescriptor(
        payer=Address("0x19E7E376E7C213B7E7e7e46cc70A5dD086DAff2A"),
        payee=Address("0x" + "44" * 20),
        token=Address("0x" + "55" * 20),
        salt="0x" + "33" * 32,
        authorized_signer=Address("0x" + "66" * 20),
        escrow_contract=ESCROW,
        chain_id=CHAIN,
    )
    encoded = encode(
        ["address", "address", "address", "bytes32", "address", "address", "uint256"],
        [
            descriptor.payer,
            descriptor.payee,
            descriptor.token,
            b"\x33" * 32,
            descriptor.authorized_signer,
            ESCROW,
            CHAIN,
        ],
    )
    assert descriptor.channel_id() == hexed(keccak(encoded))


def test_signer_check():
    """The signer's signature passes, again and again; another key's does not."""
    digest = bytes.fromhex(DIGEST[2:])
    check = SignerCheck(KEY.address)
    other = VoucherKey(b"\x12" * 32)
    assert not check(digest, other.sign(digest))
    assert check(digest, KEY.sign(digest))
    assert check(digest, KEY.sign(digest))
    assert not check(digest, other.sign(digest))
    assert not check(b"\x01" * 32, KEY.sign(digest))


def _high_s(signature: bytes) -> bytes:
    s = ORDER - int.from_bytes(signature[32:64], "big")
    return signature[:32] + s.to_bytes(32, "big") + bytes((55 - signature[64],))


@pytest.mark.parametrize(
    ("forge", "said"),
    [
        (_high_s, "high s"),
        (lambda s: s[:64], "65 bytes"),
        (lambda s: s + b"\x00", "65 bytes"),
        (lambda s: s[:0], "65 bytes"),
        (lambda s: s[:64] + b"\x00", "v is 0"),
        (lambda s: s[:64] + b"\x1d", "v is 29"),
        (lambda s: b"\x00" * 64 + s[64:], "no key"),
        (lambda s: b"\xff" * 32 + s[32:], "no key"),
    ],
    ids=["high-s", "64-byte", "66-byte", "empty", "v-0", "v-29", "zero", "r-above-order"],
)
def test_signature_that_is_not_canonical(forge, said):
    """High s, EIP-2098, wrong v and impossible points are refused, even where they would recover."""
    digest = bytes.fromhex(DIGEST[2:])
    with pytest.raises(SignatureError, match=said):
        recover(digest, forge(KEY.sign(digest)))


def test_flipped_v_is_not_the_signer():
    """A signature whose v was flipped recovers somebody else, although it verifies without v."""
    digest = bytes.fromhex(DIGEST[2:])
    check = SignerCheck(KEY.address)
    assert check(digest, KEY.sign(digest))
    signature = KEY.sign(digest)
    assert not check(digest, signature[:64] + bytes((55 - signature[64],)))


def test_secret_not_shown():
    """A voucher key's repr shows its address alone."""
    secret = secrets.token_bytes(32)
    assert secret.hex() not in repr(VoucherKey(secret))
    assert VoucherKey(secret).address in repr(VoucherKey(secret))
    assert PrivateKey(secret).to_hex() == VoucherKey(secret).secret.hex()
