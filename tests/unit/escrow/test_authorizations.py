"""Authorizations, against an independent library's typed data."""

from __future__ import annotations

import pytest
from eth_abi import encode

from microwallet.domain.channel import ChannelDescriptor
from microwallet.domain.identifiers import keccak
from microwallet.escrow import authorizations
from microwallet.escrow.authorizations import TokenDomain, expiry

SECRET = b"\x61" * 32
PAYER = "0xeD5970f07eea5A9E7b359D3c5d3F82b34a8F1E15"
"""The address of that key."""
PAYEE = "0x4444444444444444444444444444444444444444"
TOKEN = "0x5555555555555555555555555555555555555555"
ESCROW = "0x5FbDB2315678afecb367f032d93F642f64180aa3"
DOMAIN = TokenDomain(name="USD Coin", version="2", chain_id=84532, token=TOKEN)
DESCRIPTOR = ChannelDescriptor(
    payer=PAYER,
    payee=PAYEE,
    token=TOKEN,
    salt="0x" + "33" * 32,
    authorized_signer="0x" + "00" * 20,
    escrow_contract=ESCROW,
    chain_id=84532,
)


def signed_by_another(domain, kind, members, message):
    """The signature eth-account makes over the same typed data."""
    from eth_account import Account
    from eth_account.messages import encode_typed_data

    typed = encode_typed_data(
        domain_data=domain,
        message_types={kind: [{"type": t, "name": n} for t, n in members]},
        message_data=message,
    )
    return bytes(Account.sign_message(typed, SECRET).signature)


def token_domain():
    return {"name": "USD Coin", "version": "2", "chainId": 84532, "verifyingContract": TOKEN}


def escrow_domain():
    return {
        "name": "EVM Payment Channel",
        "version": "1",
        "chainId": 84532,
        "verifyingContract": ESCROW,
    }


RECEIVE = [
    ("address", "from"),
    ("address", "to"),
    ("uint256", "value"),
    ("uint256", "validAfter"),
    ("uint256", "validBefore"),
    ("bytes32", "nonce"),
]


def test_an_open_is_authorized_for_exactly_this_channel():
    """The nonce is derived from payer, payee, token, salt and signer, as the draft says."""
    mine = authorizations.authorize_open(SECRET, DOMAIN, DESCRIPTOR, deposit=10**7, valid_before=1234)
    nonce = keccak(
        encode(
            ["address", "address", "address", "bytes32", "address"],
            [PAYER, PAYEE, TOKEN, b"\x33" * 32, "0x" + "00" * 20],
        )
    )
    message = {
        "from": PAYER,
        "to": ESCROW,
        "value": 10**7,
        "validAfter": 0,
        "validBefore": 1234,
        "nonce": nonce,
    }
    assert mine.nonce == nonce
    assert mine.signature == signed_by_another(token_domain(), "ReceiveWithAuthorization", RECEIVE, message)


def test_a_top_up_is_authorized_for_exactly_this_channel_and_amount():
    """Its nonce is derived from channel id, amount, payer and a salt of its own."""
    mine = authorizations.authorize_top_up(
        SECRET, DOMAIN, DESCRIPTOR, additional_deposit=5, top_up_salt=b"\x77" * 32, valid_before=99
    )
    channel_id = bytes.fromhex(DESCRIPTOR.channel_id()[2:])
    nonce = keccak(encode(["bytes32", "uint256", "address", "bytes32"], [channel_id, 5, PAYER, b"\x77" * 32]))
    message = {
        "from": PAYER,
        "to": ESCROW,
        "value": 5,
        "validAfter": 0,
        "validBefore": 99,
        "nonce": nonce,
    }
    assert (mine.nonce, mine.top_up_salt) == (nonce, b"\x77" * 32)
    assert mine.signature == signed_by_another(token_domain(), "ReceiveWithAuthorization", RECEIVE, message)


def test_a_permit_is_eip_2612():
    """Owner, spender, value, nonce and deadline in the token's domain."""
    mine = authorizations.sign_permit(
        SECRET, DOMAIN, owner=PAYER, spender=ESCROW, value=7, nonce=3, deadline=10**10
    )
    members = [
        ("address", "owner"),
        ("address", "spender"),
        ("uint256", "value"),
        ("uint256", "nonce"),
        ("uint256", "deadline"),
    ]
    message = {"owner": PAYER, "spender": ESCROW, "value": 7, "nonce": 3, "deadline": 10**10}
    assert mine.signature == signed_by_another(token_domain(), "Permit", members, message)


@pytest.mark.parametrize("kind", ["Settle", "Close"])
def test_a_payee_authorizes_one_capture(kind):
    """Channel, cumulative amount, capture amount, nonce and deadline in the escrow's domain."""
    mine = authorizations.authorize_capture(
        getattr(authorizations, f"{kind.upper()}_TYPE"),
        SECRET,
        DESCRIPTOR,
        cumulative_amount=100,
        capture_amount=60,
        nonce=2**255,
        deadline=5,
    )
    members = [
        ("bytes32", "channelId"),
        ("uint128", "cumulativeAmount"),
        ("uint128", "captureAmount"),
        ("uint256", "nonce"),
        ("uint256", "deadline"),
    ]
    message = {
        "channelId": bytes.fromhex(DESCRIPTOR.channel_id()[2:]),
        "cumulativeAmount": 100,
        "captureAmount": 60,
        "nonce": 2**255,
        "deadline": 5,
    }
    assert mine.signature == signed_by_another(escrow_domain(), f"{kind}Authorization", members, message)


def test_an_authorization_ends_soon_by_the_later_clock():
    """15 minutes after now or after the newest block, whichever is later."""
    assert expiry(chain_time=1000, now=5000) == 5900
    assert expiry(chain_time=9000, now=5000) == 9900
