"""Telling our form of an escrow from the draft's, by code alone."""

from __future__ import annotations

import pytest

from microwallet.escrow.artifacts import artifact
from microwallet.escrow.form import EscrowForm, escrow_form
from microwallet.escrow.reader import selector

DRAFT = [
    "open(address,address,uint128,bytes32,address)",
    "settle(bytes32,uint128,bytes)",
    "close(bytes32,uint128,bytes)",
    "topUp(bytes32,uint128)",
    "requestClose(bytes32)",
    "withdraw(bytes32)",
]
PROXY = bytes.fromhex("363d3d373d3d3d363d73" + "11" * 20 + "5af43d82803e903d91602b57fd5bf3")


def dispatcher(signatures) -> bytes:
    """Code that compares the called function with each of these, as a compiler writes it."""
    return b"\x5f\x35\x60\xe0\x1c" + b"".join(
        b"\x80\x63" + selector(signature) + b"\x14\x61\x00\x40\x57" for signature in signatures
    )


def test_ours_is_recognised():
    """The artifact's own code."""
    assert escrow_form(artifact("ChannelEscrow").deployed_bytecode) is EscrowForm.OURS


def test_the_drafts_own_form_is_recognised():
    """By its five calls that take the channel's id; with one missing it is anything."""
    assert escrow_form(dispatcher(DRAFT)) is EscrowForm.DRAFT
    for number in range(1, len(DRAFT)):
        assert escrow_form(dispatcher(DRAFT[:number] + DRAFT[number + 1 :])) is EscrowForm.UNKNOWN


@pytest.mark.parametrize(
    ("code", "form"),
    [
        (b"", EscrowForm.MISSING),
        (b"\x00", EscrowForm.UNKNOWN),
        (artifact("TestUSDC").deployed_bytecode, EscrowForm.UNKNOWN),
        (
            bytes.fromhex("363d3d373d3d3d363d73" + "11" * 20 + "5af43d82803e903d91602b57fd5bf3"),
            EscrowForm.UNKNOWN,
        ),
    ],
)
def test_what_is_none_of_them(code, form):
    """Nothing, a token, a proxy."""
    assert escrow_form(code) is form
