"""A throw-away Anvil with escrow and test USDC, for the demo and for tests."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from microwallet.devnet.background import DevnetFolder
from microwallet.devnet.node import AnvilNode
from microwallet.devnet.process import AttachedAnvil
from microwallet.domain.identifiers import Address, ChainId
from microwallet.domain.ports import Quiet
from microwallet.escrow.devnet_notes import LOCAL_CHAIN_ID
from microwallet.escrow.rpc import Rpc

RPC_SECONDS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalChain:
    """A running local chain: where it is, what is on it, and what can be done to it."""

    rpc_url: str
    chain_id: ChainId
    escrow_contract: Address
    token: Address
    pid: int
    rpc: Rpc
    node: AnvilNode


@contextmanager
def local_chain(anvil: Path, *, chain_id: int = LOCAL_CHAIN_ID, port: int = 0) -> Iterator[LocalChain]:
    """Start Anvil with the contracts on it, on `port` or any free one, and end it on leaving.

    It never outlives this process on Linux. Raises NetworkError when it does not start.
    """
    process = AttachedAnvil.start(anvil, ["--chain-id", str(chain_id), "--accounts", "3"], port=port)
    try:
        with _connected(f"http://127.0.0.1:{process.port}", chain_id, process.pid) as chain:
            yield chain
    finally:
        process.stop()


@contextmanager
def kept_chain(anvil: Path, folder: Path) -> Iterator[LocalChain]:
    """A local chain on a free port that stays when this process ends; `folder` is the home's that
    `microwallet devnet down` ends it in."""
    devnet = DevnetFolder(folder).up(
        lambda: anvil, Quiet(), port=_free_port(), chain_id=LOCAL_CHAIN_ID, keep_state=False
    )
    with _connected(devnet.rpc_url, devnet.chain_id, devnet.pid) as chain:
        yield chain


@contextmanager
def _connected(url: str, chain_id: int, pid: int) -> Iterator[LocalChain]:
    with Rpc([url], timeout=RPC_SECONDS, chain_id=chain_id) as rpc:
        node = AnvilNode(rpc)
        contracts = node.deploy_contracts(chain_id)
        yield LocalChain(
            rpc_url=url,
            chain_id=ChainId(chain_id),
            escrow_contract=contracts.escrow_contract,
            token=contracts.token,
            pid=pid,
            rpc=rpc,
            node=node,
        )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
