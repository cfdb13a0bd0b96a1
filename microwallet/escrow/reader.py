"""What the chain says, read through hand-encoded calls: channels, balances, blocks, tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from microwallet.domain.channel import ChannelState
from microwallet.domain.identifiers import (
    NATIVE_TOKEN,
    Address,
    ChannelId,
    TxHash,
    hexed,
    keccak,
    word,
)
from microwallet.domain.ports import JournalEntry
from microwallet.errors import ChainStandsStill, EscrowMissing, NetworkError
from microwallet.escrow.devnet_notes import LOCAL_CHAIN_ID
from microwallet.escrow.rpc import Request, Rpc, RpcError

OLDEST_HEAD = 10 * 60
"""A public chain whose newest block is older than this has stopped, or the server has."""
CHANNELS_PER_CALL = 500
"""Channels asked for in one call; about 1.3 million gas, below every node's limit."""

T = TypeVar("T")

_TIME_LIMIT = 2**37
"""Unix seconds; in the year 6325."""
_WORD = 32
_STATE_WORDS = 4


def selector(signature: str) -> bytes:
    """First four bytes of the hash of a function's signature."""
    return keccak(signature.encode())[:4]


_GET_CHANNELS = selector("getChannels(bytes32[])")
_BALANCE_OF = selector("balanceOf(address)")
_ALLOWANCE = selector("allowance(address,address)")
_IS_VALID_SIGNATURE = selector("isValidSignature(bytes32,bytes)")
_SYMBOL = selector("symbol()")
_DECIMALS = selector("decimals()")


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """A block: its number, and its time in Unix seconds."""

    number: int
    timestamp: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Mined:
    """A transaction that is in a block, with the fields of its receipt; not `succeeded` is reverted."""

    succeeded: bool
    logs: tuple[Any, ...]
    fields: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenMetadata:
    """What a token says of itself; None where it says nothing. Not to be trusted."""

    symbol: str | None
    decimals: int | None


class EscrowReader:
    """Reads one escrow contract and the chain it is on. Never signs, never sends."""

    def __init__(self, rpc: Rpc, escrow_contract: Address) -> None:
        self.rpc = rpc
        self.escrow_contract = escrow_contract

    def head(self, block: str | int = "latest") -> Head:
        """The newest block, or another one by number or tag."""
        return read_head(self.rpc, block)

    def standstill(self, head: Head, *, now: int) -> ChainStandsStill | None:
        """What is wrong with a newest block that is old; nothing with that of a local chain, which sleeps, on
        this machine or, by its id, on another."""
        age = now - head.timestamp
        if age <= OLDEST_HEAD or self.rpc.is_local or self.rpc.chain_id == LOCAL_CHAIN_ID:
            return None
        return ChainStandsStill(
            f"block {head.number}, the newest that {self.rpc.shown} has, is {age} s old: the chain or its"
            " server stands still, or the clock of this machine is wrong",
            hint="try another --rpc-url",
        )

    def next_block_time(self) -> int:
        """Unix seconds the next block may carry: the pending one's, where the server tells it.

        An idle local chain's newest block may be hours old.
        """
        newest, pending = self.rpc.try_batch(
            [("eth_getBlockByNumber", [tag, False]) for tag in ("latest", "pending")]
        )
        if isinstance(newest, RpcError):
            raise newest
        head = _head(newest, self.rpc.shown)
        told = pending.get("timestamp") if isinstance(pending, dict) else None
        return head.timestamp if told is None else max(head.timestamp, _read_time(told, self.rpc.shown))

    def channel_state(self, channel_id: ChannelId, block: int | None = None) -> ChannelState:
        """The state of one channel; all zero when it does not exist."""
        return self.channel_states([channel_id], block)[channel_id]

    def channel_states(
        self, channel_ids: Sequence[ChannelId], block: int | None = None
    ) -> dict[ChannelId, ChannelState]:
        """The states of channels at `block` or at the newest one, by id; errors as encoded_states."""
        chunks = list(in_chunks(channel_ids))
        states: dict[ChannelId, ChannelState] = {}
        for chunk, encoded in zip(chunks, self.encoded_states(chunks, block), strict=True):
            states |= self.decoded_states(encoded, chunk)
        return states

    def encoded_states(
        self, chunks: Sequence[Sequence[ChannelId]], block: int | None = None
    ) -> Sequence[bytes]:
        """The states of each chunk of channels, as the escrow encodes them: the same while none changes.

        Raises NetworkError, EscrowMissing when there is no escrow at the address: that a channel does
        not exist is never concluded from a missing answer.
        """
        tag = block_tag("latest" if block is None else block)
        requests = [self.view(self.escrow_contract, _get_channels(chunk), tag) for chunk in chunks]
        encoded = [read_bytes(answer, self.rpc.shown) for answer in self.rpc.batch(requests)]
        if not all(encoded):
            raise EscrowMissing(f"there is no escrow contract at {self.escrow_contract} on this chain")
        return encoded

    def decoded_states(
        self, encoded: bytes, channel_ids: Sequence[ChannelId]
    ) -> dict[ChannelId, ChannelState]:
        """The states of one chunk of channels, by id; NetworkError if it is none of so many."""
        states = _states(encoded, len(channel_ids), self.rpc.shown)
        return dict(zip(channel_ids, states, strict=True))

    def code(self, address: Address, block: str | int = "latest") -> bytes:
        """The code at an address; empty for an account that has none."""
        answer = self.rpc.call("eth_getCode", [address, block_tag(block)])
        return read_bytes(answer, self.rpc.shown)

    def has_code(self, address: Address) -> bool:
        """Whether a contract is at this address."""
        return bool(self.code(address))

    def transaction_count(self, address: Address, block: str | int = "latest") -> int:
        """How many transactions an address has sent, up to a block: all its nonces below are used."""
        return transaction_count(self.rpc, address, block)

    def have_succeeded(self, hashes: Sequence[TxHash]) -> list[bool | None]:
        """Whether each transaction succeeded or reverted; None for one that is in no block now."""
        return [None if mined is None else mined.succeeded for mined in find_all_mined(self.rpc, hashes)]

    def native_balance(self, address: Address) -> int:
        """Wei an address holds."""
        return self.balances([(NATIVE_TOKEN, address)])[0]

    def token_balance(self, token: Address, owner: Address) -> int:
        """Base units of a token an address holds."""
        return self.balances([(token, owner)])[0]

    def balances(self, holdings: Sequence[tuple[Address, Address]]) -> list[int]:
        """Balances of (token, owner) pairs in one request; the zero address is the native coin."""
        requests: list[Request] = [
            ("eth_getBalance", [owner, "latest"])
            if token == NATIVE_TOKEN
            else self.view(token, _BALANCE_OF + word(owner))
            for token, owner in holdings
        ]
        answers = self.rpc.batch(requests)
        return [
            read_quantity(answer, self.rpc.shown)
            if token == NATIVE_TOKEN
            else self._number(answer, f"{token} is no token on this chain: it tells no balance")
            for (token, _), answer in zip(holdings, answers, strict=True)
        ]

    def allowance(self, token: Address, owner: Address, spender: Address) -> int:
        """Base units of `owner`'s tokens that `spender` may still take."""
        answer = self.rpc.call(*self.view(token, _ALLOWANCE + word(owner) + word(spender)))
        return self._number(answer, f"{token} is no token on this chain: it tells no allowance")

    def is_valid_signature(self, signer: Address, digest: bytes, signature: bytes) -> bool:
        """Whether a contract signer accepts a signature now (ERC-1271); an account without code does not."""
        padded = signature + b"\0" * (-len(signature) % _WORD)
        data = _IS_VALID_SIGNATURE + digest + word(2 * _WORD) + word(len(signature)) + padded
        answer = self.rpc.try_batch([self.view(signer, data)])[0]
        return bytes_if_any(answer)[:_WORD] == _IS_VALID_SIGNATURE.ljust(_WORD, b"\0")

    def allowances(self, grants: Sequence[tuple[Address, Address, Address]]) -> list[int | None]:
        """Allowances of (token, owner, spender) in one request; None where there is no such token."""
        requests = [
            self.view(token, _ALLOWANCE + word(owner) + word(spender)) for token, owner, spender in grants
        ]
        raws = [bytes_if_any(answer) for answer in self.rpc.try_batch(requests)]
        return [int.from_bytes(raw, "big") if len(raw) == _WORD else None for raw in raws]

    def token_metadata(self, token: Address) -> TokenMetadata:
        """Symbol and decimals as the token tells them."""
        symbol, decimals = self.rpc.try_batch([self.view(token, data) for data in (_SYMBOL, _DECIMALS)])
        return TokenMetadata(
            symbol=_text(bytes_if_any(symbol)), decimals=_small_number(bytes_if_any(decimals))
        )

    def view(self, to: Address, data: bytes, tag: str = "latest") -> Request:
        """The request of a read-only call."""
        return ("eth_call", [{"to": to, "data": hexed(data)}, tag])

    def _number(self, answer: Any, otherwise: str) -> int:
        raw = read_bytes(answer, self.rpc.shown)
        if len(raw) < _WORD:
            raise NetworkError(otherwise, hint="microwallet network token list")
        return int.from_bytes(raw[:_WORD], "big")


ReaderOf = Callable[[Address], EscrowReader]
"""Gives the reader of an escrow contract by its address."""


def in_chunks(items: Sequence[T]) -> Iterator[Sequence[T]]:
    """Channels, or what stands for them, in chunks that one call may ask for."""
    for start in range(0, len(items), CHANNELS_PER_CALL):
        yield items[start : start + CHANNELS_PER_CALL]


def block_tag(block: str | int) -> str:
    """A block as JSON-RPC names it."""
    return hex(block) if isinstance(block, int) else block


def read_bytes(answer: Any, where: str) -> bytes:
    """Bytes of a 0x answer; NetworkError if it is none."""
    if isinstance(answer, str) and answer.startswith("0x"):
        try:
            return bytes.fromhex(answer[2:])
        except ValueError:
            pass
    raise NetworkError(f"{where} answered something that is not 0x hexadecimal")


def bytes_if_any(answer: Any) -> bytes:
    """Bytes of a 0x answer of `try_batch`; empty for an error, or for what is none."""
    try:
        return read_bytes(answer, "")
    except NetworkError:
        return b""


def read_quantity(answer: Any, where: str) -> int:
    """A number of a 0x answer, below 2**256; NetworkError if it is none."""
    if isinstance(answer, str) and answer.startswith("0x") and len(answer) <= 2 + 2 * _WORD:
        try:
            return int(answer, 16)
        except ValueError:
            pass
    raise NetworkError(f"{where} answered something that is not a number")


def read_count(answer: Any, where: str) -> int:
    """A number of blocks, seconds, gas or transactions; NetworkError for one beyond 63 bits."""
    number = read_quantity(answer, where)
    if number >= 2**63:
        raise NetworkError(f"{where} answered a number that cannot be")
    return number


def _read_time(answer: Any, where: str) -> int:
    """Unix seconds; NetworkError for a time that no calendar tells."""
    seconds = read_count(answer, where)
    if seconds >= _TIME_LIMIT:
        raise NetworkError(f"{where} answered a time that cannot be")
    return seconds


def _get_channels(channel_ids: Sequence[ChannelId]) -> bytes:
    ids = b"".join(word(channel_id) for channel_id in channel_ids)
    return _GET_CHANNELS + word(_WORD) + word(len(channel_ids)) + ids


def _states(raw: bytes, count: int, where: str) -> list[ChannelState]:
    words = [int.from_bytes(raw[at : at + _WORD], "big") for at in range(0, len(raw), _WORD)]
    if len(raw) != _WORD * (2 + _STATE_WORDS * count) or words[:2] != [_WORD, count]:
        raise NetworkError(f"{where} answered something that is not the state of {count} channels")
    return [_state(words[at : at + _STATE_WORDS], where) for at in range(2, len(words), _STATE_WORDS)]


def _state(words: list[int], where: str) -> ChannelState:
    deposit, settled, close_requested_at, finalized = words
    if not (settled <= deposit < 2**96 and close_requested_at < _TIME_LIMIT and finalized <= 1):
        raise NetworkError(f"{where} answered a channel state that cannot be")
    return ChannelState(
        deposit=deposit,
        settled=settled,
        close_requested_at=close_requested_at,
        finalized=finalized == 1,
    )


def read_head(rpc: Rpc, block: str | int = "latest") -> Head:
    """The newest block of a chain, or another one by number or tag."""
    return _head(rpc.call("eth_getBlockByNumber", [block_tag(block), False]), rpc.shown)


def transaction_count(rpc: Rpc, address: Address, block: str | int = "latest") -> int:
    """How many nonces of an account are used up in blocks, as of one of them."""
    return read_count(rpc.call("eth_getTransactionCount", [address, block_tag(block)]), rpc.shown)


def start_of_chain(head: Callable[[int], Head]) -> int:
    """Unix seconds at which the chain of these blocks was started; 0 where that cannot be told."""
    try:
        first = head(0)
    except NetworkError:  # a server without the first block
        return 0
    return first.timestamp if first.number == 0 else 0


def of_this_chain(head: Callable[[int], Head], entries: Sequence[JournalEntry]) -> list[JournalEntry]:
    """Those signed since the chain was started; one that was started anew never had the others."""
    started = start_of_chain(head) if entries else 0
    return [entry for entry in entries if (entry.created_at or 0) >= started]


def _head(found: Any, where: str) -> Head:
    if not isinstance(found, dict):
        raise NetworkError(f"{where} does not have that block")
    return Head(
        number=read_count(found.get("number"), where),
        timestamp=_read_time(found.get("timestamp"), where),
    )


def find_mined(rpc: Rpc, transaction_hash: TxHash) -> Mined | None:
    """A transaction as it was mined; None while it is in no block."""
    return read_mined(rpc.call("eth_getTransactionReceipt", [transaction_hash]), rpc.shown)


def find_all_mined(rpc: Rpc, hashes: Sequence[TxHash]) -> list[Mined | None]:
    """As find_mined for each of many, asked for together."""
    receipts = rpc.batch([("eth_getTransactionReceipt", [one]) for one in hashes])
    return [read_mined(receipt, rpc.shown) for receipt in receipts]


def read_mined(receipt: Any, where: str) -> Mined | None:
    """What an answered receipt says; None for a transaction in no block, NetworkError if it is no receipt."""
    if receipt is None:
        return None
    if not isinstance(receipt, dict):
        raise NetworkError(f"{where} answered something that is not a receipt")
    if receipt.get("blockNumber") is None:
        return None  # some servers answer this while it is pending
    logs = receipt.get("logs")
    if not isinstance(logs, list):
        raise NetworkError(f"{where} answered a receipt without a list of logs")
    succeeded = read_quantity(receipt.get("status"), where) == 1
    return Mined(succeeded=succeeded, logs=tuple(logs), fields=receipt)


def _text(raw: bytes) -> str | None:
    """A `string` result, or the `bytes32` of older tokens."""
    if len(raw) == _WORD:
        content = raw.rstrip(b"\0")
    else:
        length = int.from_bytes(raw[_WORD : 2 * _WORD], "big")
        content = raw[2 * _WORD : 2 * _WORD + length]
        if int.from_bytes(raw[:_WORD], "big") != _WORD or len(content) != length:
            return None
    try:
        return content.decode() or None
    except UnicodeDecodeError:
        return None


def _small_number(raw: bytes) -> int | None:
    if len(raw) < _WORD:
        return None
    number = int.from_bytes(raw[:_WORD], "big")
    return number if number <= 255 else None
