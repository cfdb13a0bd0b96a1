"""Where the escrow is on every chain, how it gets there, and which escrows the user trusts."""

from __future__ import annotations

from enum import StrEnum

from microwallet.config import Configuration
from microwallet.domain.identifiers import Address, parse_address
from microwallet.errors import NetworkError
from microwallet.escrow.artifacts import Artifact, artifact
from microwallet.escrow.calls import Call
from microwallet.escrow.reader import EscrowReader


class Deployment(StrEnum):
    """What is found at an address where a contract should be."""

    MISSING = "missing"
    DEPLOYED = "deployed"
    OTHER_CODE = "other-code"


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
    return frozenset({artifact("ChannelEscrow").address, *(parse_address(str(address)) for address in named)})


def trust_escrow(configuration: Configuration, chain_id: int, escrow_contract: Address) -> None:
    """Write into the user file that this escrow is trusted on this chain."""
    if escrow_contract in trusted_escrows(configuration, chain_id):
        return
    with configuration.editing() as content:
        content.setdefault("escrows", {}).setdefault(str(chain_id), []).append(escrow_contract)
