"""The escrow's address: the same on every chain, and committed to by its code."""

from __future__ import annotations

import pytest
import tomli_w

from microwallet.config import Configuration, Paths
from microwallet.domain.identifiers import hexed, keccak
from microwallet.errors import NotTrusted
from microwallet.escrow.artifacts import artifact
from microwallet.escrow.calls import type_of
from microwallet.escrow.deployment import (
    create2_address,
    escrow_address,
    require_trusted,
    trust_escrow,
    trusted_escrows,
)
from microwallet.escrow.events import _WORDS, TOPICS

OTHER = "0x1111111111111111111111111111111111111111"


@pytest.fixture
def configuration(tmp_path):
    """An empty configuration."""
    return Configuration(Paths.from_environment({"MICROWALLET_HOME": str(tmp_path)}), {})


@pytest.mark.parametrize("name", ["ChannelEscrow", "TestUSDC"])
def test_the_address_commits_to_the_code(name):
    """The artifact's address is CREATE2 of its own bytecode, by the canonical factory."""
    contract = artifact(name)
    assert contract.create2_factory == "0x4e59b44847b379578588920cA78FbF26c0B4956C"
    computed = create2_address(contract.create2_factory, contract.create2_salt, contract.bytecode)
    assert computed == contract.address
    assert len(contract.deployed_bytecode) <= 24_576


def test_one_bit_of_code_is_another_address():
    """Code that was tampered with cannot be at the trusted address."""
    contract = artifact("ChannelEscrow")
    changed = contract.bytecode[:-1] + bytes([contract.bytecode[-1] ^ 1])
    assert create2_address(contract.create2_factory, contract.create2_salt, changed) != escrow_address()


def test_any_other_escrow_is_trusted_by_name_alone(configuration):
    """The known address is always trusted, another one on the chain it was named for."""
    require_trusted(configuration, 31337, escrow_address())
    with pytest.raises(NotTrusted) as caught:
        require_trusted(configuration, 31337, OTHER)
    assert caught.value.hint == f"microwallet escrow trust {OTHER}"
    trust_escrow(configuration, 31337, OTHER)
    trust_escrow(configuration, 31337, OTHER)
    require_trusted(configuration, 31337, OTHER)
    assert trusted_escrows(configuration, 84532) == {escrow_address()}
    assert configuration.user["escrows"] == {"31337": [OTHER]}


def test_trust_survives_the_file(configuration, tmp_path):
    """What was written is what the next process reads."""
    (tmp_path / "config.toml").write_bytes(tomli_w.dumps({"escrows": {"5": [OTHER.lower()]}}).encode())
    again = Configuration(configuration.paths, {})
    assert OTHER in trusted_escrows(again, 5)


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
