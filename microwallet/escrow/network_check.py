"""Proof that a network can be used: each question with its answer, asked in order."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from microwallet.errors import MicrowalletError, NetworkError
from microwallet.escrow.artifacts import artifact
from microwallet.escrow.deployment import Deployment, deployment_of
from microwallet.escrow.network import Network
from microwallet.escrow.reader import EscrowReader, read_quantity
from microwallet.escrow.rpc import Rpc

CLOCK_SKEW = 60
"""Seconds the newest block may be in this machine's future before its clock is called wrong."""

_PINGS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One question about a network. `error` is what to raise if the network must be usable."""

    name: str
    detail: str
    error: MicrowalletError | None = None

    @property
    def ok(self) -> bool:
        return self.error is None


def check_network(rpc: Rpc, network: Network, *, now: int) -> list[Check]:
    """Chain id, age of the newest block, escrow code and latency; `now` in Unix seconds.

    Where the chain id is not told, or is another, nothing else is asked.
    """
    checks: list[Check] = []
    for name, question in _questions(rpc, network, now):
        try:
            checks.append(Check(name=name, detail=question()))
        except NetworkError as error:
            checks.append(Check(name=name, detail=error.message, error=error))
            if name == "chain-id":
                break
    return checks


def _questions(rpc: Rpc, network: Network, now: int) -> Iterator[tuple[str, Callable[[], str]]]:
    reader = EscrowReader(rpc, artifact("ChannelEscrow").address)
    yield "chain-id", lambda: _chain_id(rpc)
    yield "head", lambda: _head(reader, now)
    yield "escrow", lambda: escrow_found(reader, network)
    yield "latency", lambda: _latency(rpc)


def _chain_id(rpc: Rpc) -> str:
    found = read_quantity(rpc.call("eth_chainId"), rpc.shown)
    return f"{found}, told by {rpc.shown}"


def _head(reader: EscrowReader, now: int) -> str:
    head = reader.head()
    age = now - head.timestamp
    said = f"block {head.number}, " + (f"{age} s old" if age >= 0 else f"{-age} s ahead of this clock")
    if reader.rpc.is_local:
        return said  # a local chain sleeps between transactions, and its clock can be moved
    if (standstill := reader.standstill(head, now=now)) is not None:
        raise standstill
    if age < -CLOCK_SKEW:
        raise NetworkError(
            f"block {head.number} is {-age} s in the future: the clock of this machine is wrong",
            hint="set the clock",
        )
    return said


def escrow_found(reader: EscrowReader, network: Network) -> str:
    """Where the escrow is, in words; NetworkError unless its own code is there."""
    contract = artifact("ChannelEscrow")
    found = deployment_of(reader, contract)
    if found is Deployment.MISSING:
        raise NetworkError(
            f"{contract.address} has no code: the escrow is not deployed on {network.name}",
            hint=f"microwallet escrow deploy --network {network.name}",
        )
    if found is Deployment.OTHER_CODE:
        raise NetworkError(
            f"{contract.address} has other code than the escrow's: do not use this chain",
            hint="microwallet network list",
        )
    return f"{contract.address}, the code is the escrow's"


def _latency(rpc: Rpc) -> str:
    times = []
    for _ in range(_PINGS):
        started = time.monotonic()
        rpc.call("eth_blockNumber")
        times.append(time.monotonic() - started)
    return f"{sorted(times)[_PINGS // 2] * 1000:.1f} ms"
