"""Where the escrow is on every chain, how it gets there, and which escrows the user trusts."""

from __future__ import annotations

from enum import StrEnum

from microwallet.config import Configuration
from microwallet.domain.identifiers import Address, checksum_address, keccak, parse_address
from microwallet.errors import NetworkError, NotTrusted
from microwallet.escrow.artifacts import Artifact, artifact
from microwallet.escrow.calls import Call
from microwallet.escrow.reader import EscrowReader


class Deployment(StrEnum):
    """What is found at an address where a contract should be."""

    MISSING = "missing"
    DEPLOYED = "deployed"
    OTHER_CODE = "other-code"


def escrow_address() -> Address:
    """The address of the escrow, the same on every chain. Reads the artifact; asks nobody."""
    return artifact("ChannelEscrow").address


def create2_address(factory: Address, salt: bytes, bytecode: bytes) -> Address:
    """EIP-1014: the last 20 bytes of keccak256(0xff ‖ factory ‖ salt ‖ keccak256(bytecode))."""
    return checksum_address(keccak(b"\xff" + bytes.fromhex(factory[2:]) + salt + keccak(bytecode))[12:])


def deployment_of(reader: EscrowReader, contract: Artifact) -> Deployment:
    """Whether exactly the artifact's code is at the artifact's address."""
    code = reader.code(contract.address)
    if not code:
        return Deployment.MISSING
    return Deployment.DEPLOYED if code == contract.deployed_bytecode else Deployment.OTHER_CODE


def deploy_call(reader: EscrowReader, contract: Artifact) -> Call | None:
    """The call that deploys a contract through the CREATE2 factory; None when it is there already.

    Anyone may send it, and whoever is first does it for all.
    """
    found = deployment_of(reader, contract)
    if found is Deployment.OTHER_CODE:
        raise NetworkError(f"the code at {contract.address} is not {contract.name}'s: do not use this chain")
    if found is Deployment.DEPLOYED:
        return None
    if not reader.has_code(contract.create2_factory):
        raise NetworkError(
            f"this chain has no CREATE2 factory at {contract.create2_factory}, so {contract.name} cannot"
            " be deployed to its address",
            hint="microwallet network list",
        )
    return Call(to=contract.create2_factory, data=contract.create2_salt + contract.bytecode)


def trusted_escrows(configuration: Configuration, chain_id: int) -> frozenset[Address]:
    """The escrows whose channels are accepted: the one whose address commits to its code, and the user's."""
    named = configuration.section("escrows").get(str(chain_id), [])
    return frozenset({escrow_address(), *(parse_address(str(address)) for address in named)})


def require_trusted(configuration: Configuration, chain_id: int, escrow_contract: Address) -> None:
    """NotTrusted unless the user trusts this escrow on this chain."""
    if escrow_contract not in trusted_escrows(configuration, chain_id):
        raise NotTrusted(
            f"the escrow {escrow_contract} on chain {chain_id} is not one you trust",
            hint=f"microwallet escrow trust {escrow_contract}",
        )


def trust_escrow(configuration: Configuration, chain_id: int, escrow_contract: Address) -> None:
    """Write into the user file that this escrow is trusted on this chain."""
    if escrow_contract in trusted_escrows(configuration, chain_id):
        return
    with configuration.editing() as content:
        content.setdefault("escrows", {}).setdefault(str(chain_id), []).append(escrow_contract)
