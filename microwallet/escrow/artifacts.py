"""The compiled contracts that ship with the package."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from microwallet.domain.identifiers import Address, parse_address, unhexed

_PACKAGE = Path(__file__).parent.parent
_FOLDERS = {"ChannelEscrow": "escrow", "TestUSDC": "devnet"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """A compiled contract and the one address CREATE2 gives it on every chain."""

    name: str
    abi: tuple[dict[str, Any], ...]
    bytecode: bytes
    deployed_bytecode: bytes
    create2_factory: Address
    create2_salt: bytes
    address: Address


@cache
def artifact(name: str) -> Artifact:
    """The artifact of `ChannelEscrow` or `TestUSDC`; read in under a millisecond, once."""
    path = _PACKAGE / _FOLDERS[name] / "contract" / f"{name}.json"
    content = json.loads(path.read_bytes())
    create2 = content["create2"]
    return Artifact(
        name=name,
        abi=tuple(content["abi"]),
        bytecode=unhexed(content["bytecode"]),
        deployed_bytecode=unhexed(content["deployedBytecode"]),
        create2_factory=parse_address(create2["factory"]),
        create2_salt=unhexed(create2["salt"]),
        address=parse_address(create2["address"]),
    )
