"""The escrow's events: how a payer finds its channels on chain, and what a transaction did to one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from microwallet.domain.channel import ChannelDescriptor
from microwallet.domain.identifiers import (
    Address,
    ChainId,
    ChannelId,
    TxHash,
    checksum_address,
    hexed,
    keccak,
    word,
)
from microwallet.errors import NetworkError
from microwallet.escrow.reader import EscrowReader, read_bytes, read_count
from microwallet.escrow.rpc import RpcError

FIRST_RANGE = 50_000
"""Blocks asked for at first; halved when a server refuses, doubled when it answers."""

_HEAD = "(bytes32,address,address"
_SIGNATURES = {
    "ChannelOpened": f"ChannelOpened{_HEAD},address,bytes32,address,uint256)",
    "TopUp": f"TopUp{_HEAD},uint256,uint256)",
    "Settled": f"Settled{_HEAD},uint256,uint256)",
    "CloseRequested": f"CloseRequested{_HEAD},uint256)",
    "CloseRequestCancelled": f"CloseRequestCancelled{_HEAD})",
    "ChannelClosed": f"ChannelClosed{_HEAD},uint256,uint256)",
}
TOPICS = {name: hexed(keccak(signature.encode())) for name, signature in _SIGNATURES.items()}
_NAMES = {topic: name for name, topic in TOPICS.items()}
_WORDS = {
    "ChannelOpened": 4,
    "TopUp": 2,
    "Settled": 2,
    "CloseRequested": 1,
    "CloseRequestCancelled": 0,
    "ChannelClosed": 2,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelEvent:
    """Something that happened to a channel, and where in the chain."""

    channel_id: ChannelId
    payer: Address
    payee: Address
    block_number: int
    transaction_hash: TxHash


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelOpened(ChannelEvent):
    """A channel was opened; its id was recomputed from the descriptor."""

    descriptor: ChannelDescriptor
    deposit: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TopUp(ChannelEvent):
    """The deposit grew, and a pending close request was cancelled."""

    additional_deposit: int
    deposit: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled(ChannelEvent):
    """The payee was paid `captured`; `settled` is the new total."""

    captured: int
    settled: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CloseRequested(ChannelEvent):
    """The payer started the grace period, which ends at `withdrawable_at`."""

    withdrawable_at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CloseRequestCancelled(ChannelEvent):
    """A top up cancelled the pending close request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelClosed(ChannelEvent):
    """The channel is finalized, by close or withdraw; `settled` is the total over its life."""

    settled: int
    refunded: int


class EscrowEvents:
    """Reads one escrow's events."""

    def __init__(self, reader: EscrowReader, chain_id: ChainId) -> None:
        self._reader = reader
        self._rpc = reader.rpc
        self._escrow_contract = reader.escrow_contract
        self._chain_id = chain_id

    def opened(self, *, payer: Address, from_block: int, to_block: int) -> list[ChannelOpened]:
        """The channels opened by a payer in these blocks, the last one included, oldest first.

        What a server adds of other contracts or payers is left out; a channel id that does not
        fit its descriptor, or a malformed log, is a NetworkError.
        """
        topics = [TOPICS["ChannelOpened"], None, hexed(word(payer))]
        found = (self.decode(log) for log in self._logs(topics, from_block, to_block))
        return [event for event in found if isinstance(event, ChannelOpened) and event.payer == payer]

    def decode(self, log: Any) -> ChannelEvent | None:
        """The event of one log, such as a receipt's; None for a log of another contract or kind."""
        try:
            address = checksum_address(bytes.fromhex(log["address"][2:]))
            topics = [str(topic) for topic in log["topics"]]
            name = _NAMES.get(topics[0]) if topics else None
        except (KeyError, TypeError, ValueError) as error:
            raise NetworkError(f"{self._rpc.shown} answered a malformed log") from error
        if name is None or address != self._escrow_contract:
            return None
        return self._event(name, topics, log)

    def first_block(self) -> int:
        """A block before which the escrow was not there: where a full search may start.

        Found by bisection over historic code; 0 where the server keeps no history.
        """
        low, high = 0, self._reader.head().number
        try:
            while low < high:
                middle = (low + high) // 2
                if self._reader.code(self._escrow_contract, middle):
                    high = middle
                else:
                    low = middle + 1
        except RpcError:
            return 0
        return low

    def _logs(self, topics: list[str | None], first: int, last: int) -> Iterator[Any]:
        size = FIRST_RANGE
        while first <= last:
            end = min(last, first + size - 1)
            wanted = {
                "address": self._escrow_contract,
                "topics": topics,
                "fromBlock": hex(first),
                "toBlock": hex(end),
            }
            try:
                found = self._rpc.call("eth_getLogs", [wanted])
            except RpcError:
                # Servers limit range or results, each with words of its own: ask for less.
                if size == 1:
                    raise
                size = max(1, min(size, end - first + 1) // 4)
                continue
            if not isinstance(found, list):
                raise NetworkError(f"{self._rpc.shown} answered logs that are not a list")
            yield from found
            first = end + 1
            size *= 2

    def _event(self, name: str, topics: list[str], log: Any) -> ChannelEvent:
        where = self._rpc.shown
        try:
            data = read_bytes(log["data"], where)
            place: dict[str, Any] = {
                "channel_id": ChannelId(topics[1].lower()),
                "payer": checksum_address(bytes.fromhex(topics[2][-40:])),
                "payee": checksum_address(bytes.fromhex(topics[3][-40:])),
                "block_number": read_count(log["blockNumber"], where),
                "transaction_hash": TxHash(str(log["transactionHash"]).lower()),
            }
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise NetworkError(f"{where} answered a malformed {name} event") from error
        words = [data[at : at + 32] for at in range(0, len(data), 32)]
        if len(data) != 32 * _WORDS[name]:
            raise NetworkError(f"{where} answered a malformed {name} event")
        if name == "ChannelOpened":
            return self._opened(place, words)
        numbers = [int.from_bytes(item, "big") for item in words]
        match name:
            case "TopUp":
                return TopUp(**place, additional_deposit=numbers[0], deposit=numbers[1])
            case "Settled":
                return Settled(**place, captured=numbers[0], settled=numbers[1])
            case "CloseRequested":
                return CloseRequested(**place, withdrawable_at=numbers[0])
            case "ChannelClosed":
                return ChannelClosed(**place, settled=numbers[0], refunded=numbers[1])
            case _:
                return CloseRequestCancelled(**place)

    def _opened(self, place: dict[str, Any], words: list[bytes]) -> ChannelOpened:
        descriptor = ChannelDescriptor(
            payer=place["payer"],
            payee=place["payee"],
            token=checksum_address(words[0][12:]),
            salt=hexed(words[1]),
            authorized_signer=checksum_address(words[2][12:]),
            escrow_contract=self._escrow_contract,
            chain_id=self._chain_id,
        )
        if descriptor.channel_id() != place["channel_id"]:
            raise NetworkError(
                f"{self._rpc.shown} answered a ChannelOpened event whose channel id does not fit it"
            )
        return ChannelOpened(**place, descriptor=descriptor, deposit=int.from_bytes(words[3], "big"))
