"""Reverts in words: every error of the contract, a token's, and nonsense."""

from __future__ import annotations

import pytest
from eth_abi import encode

from microwallet.errors import InsufficientFunds, TransactionReverted
from microwallet.escrow.artifacts import artifact
from microwallet.escrow.calls import type_of
from microwallet.escrow.reader import selector
from microwallet.escrow.reverts import ContractReverted, contract_reverted, decoded_error, revert_of
from microwallet.escrow.rpc import RpcError

ADDRESS = "0x19E7E376E7C213B7E7e7e46cc70A5dD086DAff2A"
SAMPLES = {"address": ADDRESS, "bytes32": b"\xab" * 32, "uint256": 12345}
ERRORS = [entry for entry in artifact("ChannelEscrow").abi if entry["type"] == "error"]


def data_of(signature, *values):
    kinds = signature[signature.index("(") + 1 : -1]
    return selector(signature) + encode(kinds.split(",") if kinds else [], values)


@pytest.mark.parametrize("entry", ERRORS, ids=lambda entry: entry["name"])
def test_every_error_of_the_contract_is_told_with_its_values(entry):
    """Name and arguments are there for code, the values for a person."""
    kinds = [type_of(member) for member in entry["inputs"]]
    data = data_of(f"{entry['name']}({','.join(kinds)})", *(SAMPLES[kind] for kind in kinds))
    failure = contract_reverted(data, "close")
    assert isinstance(failure, ContractReverted)
    assert failure.exit_code == 8
    assert failure.name == entry["name"]
    assert list(failure.arguments) == [member["name"] for member in entry["inputs"]]
    assert failure.message.startswith("close reverts: ")
    assert "{" not in failure.message


def rpc_error(data):
    return RpcError("execution reverted", error_code=3, error_data="0x" + data.hex(), where="node")


def test_values_have_the_forms_used_everywhere():
    """Addresses are EIP-55 and ids lowercase hex."""
    _, arguments = decoded_error(data_of("NotPayee(address,address)", ADDRESS.lower(), ADDRESS))
    assert arguments == {"caller": ADDRESS, "payee": ADDRESS}
    _, arguments = decoded_error(data_of("ChannelNotFound(bytes32)", b"\xab" * 32))
    assert arguments == {"channelId": "0x" + "ab" * 32}


@pytest.mark.parametrize(
    "data",
    [
        data_of("ERC20InsufficientBalance(address,uint256,uint256)", ADDRESS, 5, 9),
        data_of("Error(string)", "ERC20: transfer amount exceeds balance"),
    ],
)
def test_too_little_of_a_token_is_insufficient_funds(data):
    """Old and new tokens say it differently; a person reads one thing, exit 4."""
    assert isinstance(revert_of(rpc_error(data), "open"), InsufficientFunds)


def test_a_plain_reason_is_passed_on_without_control_characters():
    """A token's words cannot move the cursor or fill the screen."""
    failure = contract_reverted(data_of("Error(string)", "no\x1b[2J" + "x" * 5000), "open")
    assert isinstance(failure, TransactionReverted)
    assert "\x1b" not in failure.message
    assert len(failure.message) < 400


def test_a_panic_is_named():
    """Solidity's own faults have a code."""
    assert "panic code 17" in contract_reverted(data_of("Panic(uint256)", 17), "open").message


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x01",
        b"\xde\xad\xbe\xef",
        selector("Error(string)"),
        selector("Error(string)") + b"\xff" * 64,
        selector("NotPayee(address,address)") + b"\xff" * 5,
        data_of("Error(string)", "x")[:-40],
        selector("Error(string)") + encode(["bytes"], [b"\xff\xfe"]),
    ],
)
def test_nonsense_is_a_revert_without_a_name(data):
    """Data that fits no error, or is cut short, never raises something else."""
    failure = revert_of(rpc_error(data), "open")
    assert isinstance(failure, ContractReverted)
    assert failure.name is None
    assert failure.message == "open reverts: execution reverted"
