"""Call data: what an independent encoder makes from the artifact's ABI."""

from __future__ import annotations

import pytest

from microwallet.domain.channel import ChannelDescriptor
from microwallet.domain.identifiers import NATIVE_TOKEN
from microwallet.errors import UsageError
from microwallet.escrow import calls
from microwallet.escrow.artifacts import artifact
from microwallet.escrow.authorizations import PayeeAuthorization, Permit, TransferAuthorization
from microwallet.escrow.calls import Call, Capture

ESCROW = "0x5FbDB2315678afecb367f032d93F642f64180aa3"
TOKEN = "0x5555555555555555555555555555555555555555"
SIGNATURE = bytes(range(65))
AUTHORIZATION = TransferAuthorization(
    value=9, valid_after=0, valid_before=77, nonce=b"\x01" * 32, signature=SIGNATURE, top_up_salt=b"\x02" * 32
)
PERMIT = Permit(deadline=88, signature=SIGNATURE)
PAYEES_WORD = PayeeAuthorization(
    cumulative_amount=50, capture_amount=40, nonce=6, deadline=99, signature=b"\x03" * 65
)


def descriptor(token=TOKEN, escrow=ESCROW):
    return ChannelDescriptor(
        payer="0x19E7E376E7C213B7E7e7e46cc70A5dD086DAff2A",
        payee="0x4444444444444444444444444444444444444444",
        token=token,
        salt="0x" + "33" * 32,
        authorized_signer="0x223D1b4aE7E38B265FD324fcfD10dbf8504a5E4e",
        escrow_contract=escrow,
        chain_id=31337,
    )


TUPLE = (
    "0x19E7E376E7C213B7E7e7e46cc70A5dD086DAff2A",
    "0x4444444444444444444444444444444444444444",
    TOKEN,
    b"\x33" * 32,
    "0x223D1b4aE7E38B265FD324fcfD10dbf8504a5E4e",
)
OPENING = (TUPLE[1], TOKEN, 9, TUPLE[3], TUPLE[4])
SPLIT = (88, SIGNATURE[64], SIGNATURE[:32], SIGNATURE[32:64])
ITEM = Capture(descriptor=descriptor(), cumulative_amount=50, capture_amount=40, signature=SIGNATURE)
ITEM_TUPLE = (TUPLE, 50, 40, SIGNATURE)
TOP_UP_WORD = (b"\x02" * 32, 0, 77, b"\x01" * 32, SIGNATURE)
PAYEES_WORDS = (TUPLE, 50, 40, 6, 99, b"\x03" * 65, SIGNATURE)


@pytest.fixture(scope="module")
def contract():
    """The escrow as web3 knows it, without a chain."""
    from web3 import Web3

    return Web3().eth.contract(address=ESCROW, abi=artifact("ChannelEscrow").abi)


@pytest.mark.parametrize(
    ("call", "name", "arguments"),
    [
        (calls.open_channel(descriptor(), 9), "open", OPENING),
        (
            calls.open_with_authorization(descriptor(), 9, AUTHORIZATION),
            "openWithAuthorization",
            (*OPENING, TUPLE[0], 0, 77, b"\x01" * 32, SIGNATURE),
        ),
        (calls.open_with_permit(descriptor(), 9, PERMIT), "openWithPermit", (*OPENING, *SPLIT)),
        (calls.top_up(descriptor(), 9), "topUp", (TUPLE, 9)),
        (
            calls.top_up_with_authorization(descriptor(), 9, AUTHORIZATION),
            "topUpWithAuthorization",
            (TUPLE, 9, *TOP_UP_WORD),
        ),
        (calls.top_up_with_permit(descriptor(), 9, PERMIT), "topUpWithPermit", (TUPLE, 9, *SPLIT)),
        (calls.settle(ITEM), "settle", ITEM_TUPLE),
        (calls.close(ITEM), "close", ITEM_TUPLE),
        (calls.settle_batch([ITEM, ITEM]), "settleBatch", ([ITEM_TUPLE, ITEM_TUPLE],)),
        (calls.close_batch([ITEM]), "closeBatch", ([ITEM_TUPLE],)),
        (
            calls.settle_with_authorization(descriptor(), PAYEES_WORD, SIGNATURE),
            "settleWithAuthorization",
            PAYEES_WORDS,
        ),
        (
            calls.close_with_authorization(descriptor(), PAYEES_WORD, SIGNATURE),
            "closeWithAuthorization",
            PAYEES_WORDS,
        ),
        (calls.request_close(descriptor()), "requestClose", (TUPLE,)),
        (calls.withdraw(descriptor()), "withdraw", (TUPLE,)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_call_is_encoded_as_web3_encodes_it(contract, call, name, arguments):
    """Every function of the escrow that changes something, byte for byte, and without value."""
    assert call == Call(to=ESCROW, data=bytes.fromhex(contract.encode_abi(name, arguments)[2:]), value=0)


def test_every_function_that_changes_something_has_a_builder():
    """A function added to the contract needs its place here."""
    changing = {
        entry["name"]
        for entry in artifact("ChannelEscrow").abi
        if entry["type"] == "function" and entry["stateMutability"] in ("payable", "nonpayable")
    }
    assert changing == {
        "open", "openWithAuthorization", "openWithPermit", "topUp", "topUpWithAuthorization",
        "topUpWithPermit", "settle", "close", "settleBatch", "closeBatch", "settleWithAuthorization",
        "closeWithAuthorization", "requestClose", "withdraw",
    }  # fmt: skip


def test_the_native_coin_is_sent_along():
    """For the zero address as token the value is the deposit; for a token it is nothing."""
    native = descriptor(token=NATIVE_TOKEN)
    assert calls.open_channel(native, 9).value == 9
    assert calls.top_up(native, 4).value == 4
    assert calls.open_channel(descriptor(), 9).value == 0


def test_approvals_and_transfers():
    """ERC-20 `approve` and `transfer`, and a plain transfer for the native coin."""
    from web3 import Web3

    erc20 = Web3().eth.contract(address=TOKEN, abi=artifact("TestUSDC").abi)
    approve = bytes.fromhex(erc20.encode_abi("approve", (ESCROW, 5))[2:])
    transfer = bytes.fromhex(erc20.encode_abi("transfer", (TUPLE[1], 5))[2:])
    assert calls.approve(TOKEN, ESCROW, 5) == Call(to=TOKEN, data=approve)
    assert calls.transfer(TOKEN, TUPLE[1], 5) == Call(to=TOKEN, data=transfer)
    assert calls.transfer(NATIVE_TOKEN, TUPLE[1], 5) == Call(to=TUPLE[1], value=5)


def test_a_batch_is_for_one_escrow():
    """Channels of two escrows, or of none, cannot be one call."""
    other = Capture(descriptor=descriptor(escrow=TOKEN), cumulative_amount=1, capture_amount=1, signature=b"")
    for captures in ([ITEM, other], []):
        with pytest.raises(UsageError, match="one escrow"):
            calls.close_batch(captures)


def test_an_open_authorization_tops_nothing_up():
    """The two are derived differently, so mixing them up is found before it is sent."""
    opening = TransferAuthorization(
        value=9, valid_after=0, valid_before=77, nonce=bytes(32), signature=SIGNATURE
    )
    with pytest.raises(UsageError, match="salt of its own"):
        calls.top_up_with_authorization(descriptor(), 9, opening)
