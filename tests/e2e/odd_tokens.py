"""Tokens that lack what others have."""

from __future__ import annotations

from microwallet.domain.identifiers import checksum_address, hexed, keccak
from microwallet.escrow.artifacts import artifact
from microwallet.escrow.reader import selector

RECEIVE = "receiveWithAuthorization(address,address,uint256,uint256,uint256,bytes32,bytes)"


def put_without(chain, *signatures: str, owner: str) -> str:
    """Put a copy of the test USDC on the chain that lacks some functions; its address."""
    code = artifact("TestUSDC").deployed_bytecode
    for number, signature in enumerate(signatures):
        asked, never = (
            b"\x63" + four + b"\x14" for four in (selector(signature), bytes((255, 0, 0, number)))
        )
        assert code.count(asked) == 1
        code = code.replace(asked, never)
    address = checksum_address(keccak(" ".join(signatures).encode())[12:])
    chain.rpc.call("anvil_setCode", [address, hexed(code)])
    chain.node.mint(address, owner, 10**9)
    return address
