"""The escrow's address: the same on every chain, and committed to by its code."""

from __future__ import annotations

import pytest

from microwallet.domain.identifiers import Address, checksum_address, hexed, keccak
from microwallet.escrow.artifacts import Artifact, artifact
from microwallet.escrow.calls import type_of
from microwallet.escrow.deployment import trust_escrow, trusted_escrows
from microwallet.escrow.events import _WORDS, TOPICS

ESCROW = artifact("ChannelEscrow").address
OTHER = "0x1111111111111111111111111111111111111111"


def create2_address(contract: Artifact, bytecode: bytes) -> Address:
    """EIP-1014: the last 20 bytes of keccak256(0xff ‖ factory ‖ salt ‖ keccak256(bytecode))."""
    factory = bytes.fromhex(contract.create2_factory[2:])
    return checksum_address(keccak(b"\xff" + factory + contract.create2_salt + keccak(bytecode))[12:])


@pytest.mark.parametrize("name", ["ChannelEscrow", "TestUSDC"])
def test_the_address_commits_to_the_code(name):
    """The artifact's address is CREATE2 of its own bytecode, by the canonical factory."""
    contract = artifact(name)
    assert contract.create2_factory == "0x4e59b44847b379578588920cA78FbF26c0B4956C"
    assert create2_address(contract, contract.bytecode) == contract.address
    assert len(contract.deployed_bytecode) <= 24_576


def test_one_bit_of_code_is_another_address():
    """Code that was tampered with cannot be at the trusted address."""
    contract = artifact("ChannelEscrow")
    changed = contract.bytecode[:-1] + bytes([contract.bytecode[-1] ^ 1])
    assert create2_address(contract, changed) != contract.address


def test_any_other_escrow_is_trusted_by_name_alone(configured):
    """The known address is always trusted, another one on the chain it was named for."""
    configuration = configured()
    assert trusted_escrows(configuration, 31337) == {ESCROW}
    trust_escrow(configuration, 31337, OTHER)
    trust_escrow(configuration, 31337, OTHER)
    assert trusted_escrows(configuration, 31337) == {ESCROW, OTHER}
    assert trusted_escrows(configuration, 84532) == {ESCROW}
    assert configuration.user["escrows"] == {"31337": [OTHER]}


def test_trust_survives_the_file(configured):
    """What was written is what the next process reads."""
    assert OTHER in trusted_escrows(configured(escrows={"5": [OTHER.lower()]}), 5)


def test_the_events_are_those_of_the_contract():
    """Topic and number of data words of each event, as the artifact's ABI has them."""
    topics, words = {}, {}
    for entry in artifact("ChannelEscrow").abi:
        if entry["type"] == "event":
            kinds = ",".join(type_of(member) for member in entry["inputs"])
            topics[entry["name"]] = hexed(keccak(f"{entry['name']}({kinds})".encode()))
            words[entry["name"]] = sum(not member["indexed"] for member in entry["inputs"])
    assert topics == TOPICS
    assert words == _WORDS
