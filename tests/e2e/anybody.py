"""Transactions of anybody, whose key no test has: a local chain takes them without a signature."""

from __future__ import annotations

import time
from typing import Any

from microwallet.devnet.local_chain import LocalChain
from microwallet.domain.identifiers import Address, TxHash
from microwallet.escrow.calls import Call


def send_as(sender: Address, call: Call, chain: LocalChain, **fields: str) -> TxHash:
    """Put a call of `sender`, who has coin for its gas, into the pool of a chain."""
    chain.rpc.call("anvil_impersonateAccount", [sender])
    request = call.request(sender) | {"gas": hex(500_000), **fields}
    return chain.rpc.call("eth_sendTransaction", [request])


def mined(sent: TxHash, chain: LocalChain) -> dict[str, Any]:
    """The receipt of a transaction, once it is in a block."""
    deadline = time.monotonic() + 10
    while (receipt := chain.rpc.call("eth_getTransactionReceipt", [sent])) is None:
        assert time.monotonic() < deadline, sent
        time.sleep(0.01)
    return receipt


def done_as(sender: Address, call: Call, chain: LocalChain) -> TxHash:
    """Send a call as `send_as` does; it is mined when this returns, and has succeeded."""
    sent = send_as(sender, call, chain)
    assert mined(sent, chain)["status"] == "0x1", sent
    return sent
