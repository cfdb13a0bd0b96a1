"""Transactions beside the command under test: anybody's, whose key no test has, and what is in the pool."""

from __future__ import annotations

import time
from typing import Any

from microwallet.devnet.local_chain import LocalChain
from microwallet.domain.identifiers import Address, TxHash
from microwallet.escrow.calls import Call


def send_as(sender: Address, call: Call, chain: LocalChain, **fields: str) -> TxHash:
    """Put a call of `sender`, who has coin for its gas, into the pool of a chain, without a signature."""
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


def pooled(chain: LocalChain) -> list[TxHash]:
    """The transactions that wait in the pool of a chain."""
    content = chain.rpc.call("txpool_content")
    return [
        entry["hash"]
        for senders in content.values()
        for nonces in senders.values()
        for entry in nonces.values()
    ]
