"""Signed transactions, against an independent library."""

from __future__ import annotations

from dataclasses import replace

import pytest

from microwallet.domain.identifiers import hexed
from microwallet.errors import LedgerCorrupt
from microwallet.escrow.calls import Call
from microwallet.escrow.fees import Fees
from microwallet.escrow.signing import Intent, sign_transaction, signed_call

INTENT = Intent(operation="key", purpose="open", channel_id=None)
TO = "0x5FbDB2315678afecb367f032d93F642f64180aa3"


def signed(secret, *, nonce, call, gas=21_000, fees=(10**9, 1), chain_id=31337):
    from eth_account import Account

    offered = Fees(max_fee_per_gas=fees[0], max_priority_fee_per_gas=fees[1])
    return sign_transaction(
        secret,
        Account.from_key(secret).address,
        chain_id,
        INTENT,
        nonce=nonce,
        call=call,
        gas=gas,
        fees=offered,
    )


@pytest.mark.parametrize("secret", [bytes([byte]) * 32 for byte in (0x11, 0x61, 0xEE)])
@pytest.mark.parametrize("nonce", [0, 1, 127, 128, 2**32])
@pytest.mark.parametrize(
    ("value", "data"), [(0, b""), (1, b"\0"), (10**18, b"\x7f"), (2**95, b"\x80" * 55), (0, bytes(5000))]
)
def test_the_bytes_are_those_of_an_independent_library(secret, nonce, value, data):
    """eth-account signs the same transaction to the same bytes and hash, zeros and all."""
    from eth_account import Account

    call = Call(to=TO, value=value, data=data)
    mine = signed(secret, nonce=nonce, call=call, gas=123_456, fees=(30 * 10**9, 0), chain_id=84532)
    theirs = Account.sign_transaction(
        {
            "type": 2,
            "chainId": 84532,
            "nonce": nonce,
            "maxFeePerGas": 30 * 10**9,
            "maxPriorityFeePerGas": 0,
            "gas": 123_456,
            "to": TO,
            "value": value,
            "data": data,
        },
        secret,
    )
    assert mine.raw == bytes(theirs.raw_transaction)
    assert mine.hash == hexed(bytes(theirs.hash))


def test_a_journaled_transaction_gives_its_call_back():
    """What is needed to offer a higher fee is all in the stored bytes."""
    call = Call(to=TO, value=10**18, data=b"\x01\x02")
    assert signed_call(signed(b"\x11" * 32, nonce=3, call=call, gas=77_777)) == (call, 77_777)


@pytest.mark.parametrize("raw", [b"", b"\x02", b"\x02\xc0", b"\x01\xc0", b"\x02" + b"\xff" * 9])
def test_a_damaged_journal_is_told_as_such(raw):
    """Bytes that are no transaction are a corrupt ledger, not an unexpected error."""
    transaction = signed(b"\x11" * 32, nonce=0, call=Call(to=TO))
    with pytest.raises(LedgerCorrupt, match="cannot be read"):
        signed_call(replace(transaction, raw=raw))
