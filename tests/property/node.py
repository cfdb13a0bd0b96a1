"""A node of a chain that mines, drops and undoes transactions: a model in memory, spoken to as JSON-RPC."""

from __future__ import annotations

import copy
import secrets
from dataclasses import dataclass, field, replace
from typing import Any

import rlp
from eth_abi.abi import decode
from model import CHAIN, PAYEE, TOKEN

from microwallet.domain.channel import CLOSE_GRACE_PERIOD, NO_CHANNEL, ChannelDescriptor, ChannelState
from microwallet.domain.identifiers import NATIVE_TOKEN, checksum_address, hexed, keccak, word
from microwallet.errors import NetworkError
from microwallet.escrow.artifacts import artifact
from microwallet.escrow.reader import selector
from microwallet.escrow.rpc import RpcError

CONTRACT = artifact("ChannelEscrow")
ESCROW = CONTRACT.address
GWEI = 10**9
GAS = 100_000
"""What each transaction takes."""
_FUNCTIONS = {
    selector(f"{name}({types})"): (name, types)
    for name, types in {
        "open": "address,address,uint128,bytes32,address",
        "openWithAuthorization": (
            "address,address,uint128,bytes32,address,address,uint256,uint256,bytes32,bytes"
        ),
        "topUp": "(address,address,address,bytes32,address),uint128",
        "topUpWithAuthorization": (
            "(address,address,address,bytes32,address),uint128,bytes32,uint256,uint256,bytes32,bytes"
        ),
        "requestClose": "(address,address,address,bytes32,address)",
        "withdraw": "(address,address,address,bytes32,address)",
        "getChannels": "bytes32[]",
        "approve": "address,uint256",
        "transfer": "address,uint256",
        "allowance": "address,address",
        "balanceOf": "address",
        "authorizationState": "address,bytes32",
    }.items()
}


def _types(text: str) -> list[str]:
    """The arguments of a signature, tuples kept whole."""
    if not text.startswith("("):
        return text.split(",")
    end = text.index(")") + 1
    return [text[:end], *text[end + 1 :].split(",")] if text[end:] else [text]


class Refused(Exception):
    """A contract reverted."""


@dataclass
class State:
    """All accounts and contracts after a block."""

    coin: dict[str, int] = field(default_factory=dict)
    tokens: dict[str, int] = field(default_factory=dict)
    allowed: dict[str, int] = field(default_factory=dict)
    """What the escrow may take, by owner."""
    nonces: dict[str, int] = field(default_factory=dict)
    channels: dict[str, ChannelState] = field(default_factory=dict)
    used: set[bytes] = field(default_factory=set)
    """Authorizations that were carried out."""
    burned: int = 0

    def call(self, sender: str, to: str, data: bytes, value: int, now: int) -> bytes:
        """Do a call; Refused if it reverts, and then nothing else of this state may be used."""
        self._move(self.coin, sender, to, value)
        if not data:
            return b""
        name, types = _FUNCTIONS[data[:4]]
        arguments = decode(_types(types), data[4:])
        if to == TOKEN:
            return self._token(name, arguments, sender)
        return getattr(self, f"_{name}")(sender, value, now, *arguments) or b""

    def _token(self, name: str, arguments: Any, sender: str) -> bytes:
        if name == "approve":
            self.allowed[sender] = arguments[1]
        elif name == "transfer":
            self._move(self.tokens, sender, _address(arguments[0]), arguments[1])
        elif name == "allowance":
            return word(self.allowed.get(_address(arguments[0]), 0))
        elif name == "balanceOf":
            return word(self.tokens.get(_address(arguments[0]), 0))
        else:
            return word(arguments[1] in self.used)
        return word(True)

    def _getChannels(self, _sender: str, _value: int, _now: int, ids: Any) -> bytes:  # noqa: N802
        states = [self.channels.get(hexed(one), NO_CHANNEL) for one in ids]
        words = [
            word(part)
            for one in states
            for part in (one.deposit, one.settled, one.close_requested_at, one.finalized)
        ]
        return word(32) + word(len(states)) + b"".join(words)

    def _open(self, sender: str, value: int, _now: int, *parts: Any) -> None:
        channel_id = _id(sender, *parts[:2], *parts[3:])
        self._pay_in(sender, _address(parts[1]), parts[2], value)
        self._opened(channel_id, parts[2])

    def _openWithAuthorization(self, _sender: str, _value: int, now: int, *parts: Any) -> None:  # noqa: N802
        payer = _address(parts[5])
        channel_id = _id(payer, *parts[:2], *parts[3:5])
        self._authorized(payer, parts[2], parts[7], parts[8], now)
        self._opened(channel_id, parts[2])

    def _opened(self, channel_id: str, deposit: int) -> None:
        if channel_id in self.channels:
            raise Refused("ChannelExists")
        self.channels[channel_id] = replace(NO_CHANNEL, deposit=deposit)

    def _topUp(self, sender: str, value: int, _now: int, parts: Any, amount: int) -> None:  # noqa: N802
        self._pay_in(sender, _address(parts[2]), amount, value)
        self._topped_up(parts, amount)

    def _topUpWithAuthorization(  # noqa: N802
        self, _sender: str, _value: int, now: int, parts: Any, amount: int, *signed: Any
    ) -> None:
        self._authorized(_address(parts[0]), amount, signed[2], signed[3], now)
        self._topped_up(parts, amount)

    def _topped_up(self, parts: Any, amount: int) -> None:
        channel_id, state = self._live(parts)
        self.channels[channel_id] = replace(state, deposit=state.deposit + amount, close_requested_at=0)

    def _requestClose(self, _sender: str, _value: int, now: int, parts: Any) -> None:  # noqa: N802
        channel_id, state = self._live(parts)
        if state.close_requested_at:
            raise Refused("CloseAlreadyRequested")
        self.channels[channel_id] = replace(state, close_requested_at=now)

    def _withdraw(self, sender: str, _value: int, now: int, parts: Any) -> None:
        channel_id, state = self._live(parts)
        if not state.close_requested_at or now < state.close_requested_at + CLOSE_GRACE_PERIOD:
            raise Refused("CloseNotReady")
        held = self.coin if _address(parts[2]) == NATIVE_TOKEN else self.tokens
        self._move(held, ESCROW, sender, state.deposit - state.settled)
        self.channels[channel_id] = replace(state, finalized=True)

    def _live(self, parts: Any) -> tuple[str, ChannelState]:
        channel_id = _id(*parts)
        state = self.channels.get(channel_id, NO_CHANNEL)
        if state.finalized or not state.exists:
            raise Refused("not live")
        return channel_id, state

    def _pay_in(self, payer: str, token: str, amount: int, value: int) -> None:
        if token == NATIVE_TOKEN:
            if value != amount:
                raise Refused("value")
            return
        if self.allowed.get(payer, 0) < amount:
            raise Refused("allowance")
        self.allowed[payer] -= amount
        self._move(self.tokens, payer, ESCROW, amount)

    def _authorized(self, payer: str, amount: int, ends: int, nonce: bytes, now: int) -> None:
        if nonce in self.used or now >= ends:
            raise Refused("authorization")
        self.used.add(nonce)
        self._move(self.tokens, payer, ESCROW, amount)

    def _move(self, held: dict[str, int], sender: str, receiver: str, amount: int) -> None:
        if held.get(sender, 0) < amount:
            raise Refused("balance")
        held[sender] = held.get(sender, 0) - amount
        held[receiver] = held.get(receiver, 0) + amount


def _address(text: str) -> str:
    return checksum_address(bytes.fromhex(text[2:]))


def _id(*parts: Any) -> str:
    """The id of the channel of payer, payee, token, salt and authorized signer."""
    payer, payee, token, salt, signer = parts
    return ChannelDescriptor(
        payer=_address(payer),
        payee=_address(payee),
        token=_address(token),
        salt=hexed(salt),
        authorized_signer=_address(signer),
        escrow_contract=ESCROW,
        chain_id=CHAIN,
    ).channel_id()


@dataclass(frozen=True, kw_only=True)
class Transaction:
    """A signed transaction, read."""

    hash: str
    raw: bytes
    nonce: int
    tip: int
    max_fee: int
    to: str
    value: int
    data: bytes
    is_foreign: bool = False
    """Whether another wallet with the same key sent it: that sends it again itself."""

    @classmethod
    def read(cls, raw: bytes) -> Transaction:
        fields = rlp.decode(raw[1:])
        number = [int.from_bytes(one, "big") for one in fields[:7]]
        return cls(
            hash=hexed(keccak(raw)),
            raw=raw,
            nonce=number[1],
            tip=number[2],
            max_fee=number[3],
            to=checksum_address(fields[5]),
            value=number[6],
            data=fields[7],
        )


@dataclass(frozen=True)
class Block:
    """A block and all there is after it."""

    time: int
    mined: list[tuple[Transaction, bool]]
    state: State


class Node:
    """Implements what Rpc does. All transactions are of one sender, the payer."""

    shown = "the node"
    is_local = True
    chain_id = CHAIN

    def __init__(self, *, now: int, payer: str) -> None:
        self.now = now
        self.payer = payer
        self.blocks = [Block(now, [], State(coin={payer: 10**20}, tokens={payer: 10**9}))]
        self.pool: dict[str, Transaction] = {}
        self.automines = True
        self.behind = 0
        """By how many blocks each answer is."""
        self.before: Any = str
        """Told of each method that is asked for; and of each that is answered."""
        self.after: Any = str

    # What happens on the chain

    @property
    def state(self) -> State:
        return self.blocks[-1].state

    def mine(self) -> None:
        """One more block, with all of the pool that is next in line."""
        self.now += 1
        state, mined = copy.deepcopy(self.state), []
        while (best := self._next(state)) is not None:
            del self.pool[best.hash]
            state, succeeded = self._executed(state, best)
            mined.append((best, succeeded))
        for old in [one for one in self.pool.values() if one.nonce < state.nonces.get(self.payer, 0)]:
            del self.pool[old.hash]
        self.blocks.append(Block(self.now, mined, state))

    def _next(self, state: State) -> Transaction | None:
        nonce = state.nonces.get(self.payer, 0)
        ready = [
            one
            for one in self.pool.values()
            if one.nonce == nonce and one.value + GAS * one.max_fee <= state.coin.get(self.payer, 0)
        ]
        return max(ready, key=lambda one: one.max_fee, default=None)

    def _executed(self, state: State, one: Transaction) -> tuple[State, bool]:
        fee = GAS * min(one.max_fee, GWEI + one.tip)
        state.nonces[self.payer] = one.nonce + 1
        state.coin[self.payer] -= fee
        state.burned += fee
        tried = copy.deepcopy(state)
        try:
            tried.call(self.payer, one.to, one.data, one.value, self.now)
        except Refused:
            return state, False
        return tried, True

    def undo(self, count: int, *, keeps: bool) -> None:
        """Take the newest blocks back, for empty ones; what was in them waits again, or is gone."""
        count = min(count, len(self.blocks) - 1)
        undone, self.blocks = self.blocks[len(self.blocks) - count :], self.blocks[: len(self.blocks) - count]
        back = [one for block in undone for one, _ in block.mined if keeps or one.is_foreign]
        self.pool |= {one.hash: one for one in back}
        for _ in range(count):
            self.blocks.append(Block(self.now, [], copy.deepcopy(self.state)))

    def forget(self) -> None:
        """Drop what waits."""
        self.pool = {one.hash: one for one in self.pool.values() if one.is_foreign}

    def replace_first(self) -> None:
        """Another wallet with the same key uses up the next nonce."""
        nonce = self.state.nonces.get(self.payer, 0)
        raw = secrets.token_bytes(32)
        for old in [one for one in self.pool.values() if one.nonce == nonce]:
            del self.pool[old.hash]
        foreign = Transaction(
            hash=hexed(keccak(raw)),
            raw=raw,
            nonce=nonce,
            tip=1,
            max_fee=10**12,
            to=PAYEE,
            value=0,
            data=b"",
            is_foreign=True,
        )
        self.pool[foreign.hash] = foreign
        self.mine()

    def submit(self, call: Any) -> None:
        """Somebody else sends what the payer authorized."""
        self.now += 1
        state = copy.deepcopy(self.state)
        try:
            state.call(PAYEE, call.to, call.data, 0, self.now)
        except Refused:
            return
        self.blocks.append(Block(self.now, [], state))

    def mined(self) -> dict[str, bool]:
        """Whether each transaction on the chain succeeded, by its hash."""
        return {one.hash: succeeded for block in self.blocks for one, succeeded in block.mined}

    # What it is asked

    def call(self, method: str, params: Any = ()) -> Any:
        answer = self._asked(method, params)
        if isinstance(answer, RpcError):
            raise answer
        return answer

    def batch(self, requests: Any) -> list[Any]:
        return [self.call(*request) for request in requests]

    def try_batch(self, requests: Any) -> list[Any]:
        return [self._asked(*request) for request in requests]

    def _asked(self, method: str, params: Any) -> Any:
        self.before(method)
        answer = getattr(self, f"_{method}")(*params)
        self.after(method)
        return answer

    def _view(self, tag: str) -> list[Block]:
        seen = self.blocks[: max(1, len(self.blocks) - self.behind)]
        if tag in ("latest", "pending"):
            return seen
        if int(tag, 16) >= len(seen):
            raise NetworkError("unknown block")
        return seen[: int(tag, 16) + 1]

    def _error(self, message: str, code: int = -32000) -> RpcError:
        return RpcError(message, error_code=code, error_data=None, where=self.shown)

    def _eth_chainId(self) -> str:  # noqa: N802
        return hex(CHAIN)

    def _eth_blockNumber(self) -> str:  # noqa: N802
        return hex(len(self._view("latest")) - 1)

    def _eth_getCode(self, _address: str, _tag: str) -> str:  # noqa: N802
        return hexed(CONTRACT.deployed_bytecode)

    def _eth_getLogs(self, _wanted: Any) -> list[Any]:  # noqa: N802
        return []

    def _eth_maxPriorityFeePerGas(self) -> str:  # noqa: N802
        return hex(GWEI)

    def _eth_getBlockByNumber(self, tag: str, _full: bool) -> Any:  # noqa: N802
        seen = self._view(tag)
        time = self.now + 1 if tag == "pending" else seen[-1].time
        return {"number": hex(len(seen) - 1), "timestamp": hex(time), "baseFeePerGas": hex(GWEI)}

    def _eth_getBalance(self, address: str, tag: str) -> str:  # noqa: N802
        return hex(self._view(tag)[-1].state.coin.get(address, 0))

    def _eth_getTransactionCount(self, address: str, tag: str) -> str:  # noqa: N802
        count = self._view(tag)[-1].state.nonces.get(address, 0)
        if tag == "pending":
            waiting = {one.nonce for one in self.pool.values()}
            while count in waiting:
                count += 1
        return hex(count)

    def _eth_getTransactionReceipt(self, wanted: str) -> Any:  # noqa: N802
        for number, block in enumerate(self._view("latest")):
            for one, succeeded in block.mined:
                if one.hash == wanted:
                    return {
                        "transactionHash": wanted,
                        "blockNumber": hex(number),
                        "gasUsed": hex(GAS),
                        "effectiveGasPrice": hex(GWEI + one.tip),
                        "status": hex(succeeded),
                        "logs": [],
                    }
        return None

    def _eth_call(self, request: Any, tag: str) -> Any:
        block = self._view(tag)[-1]
        return self._simulated(copy.deepcopy(block.state), request, block.time)

    def _eth_estimateGas(self, request: Any, tag: str = "pending") -> Any:  # noqa: N802
        state = copy.deepcopy(self._view("latest")[-1].state)
        while tag == "pending" and (best := self._next(state)) is not None:
            state, _ = self._executed(state, best)
        answer = self._simulated(state, request, self.now + 1)
        return answer if isinstance(answer, RpcError) else hex(GAS)

    def _simulated(self, state: State, request: Any, now: int) -> Any:
        data, to = bytes.fromhex(request["data"][2:]), request["to"]
        if to not in (ESCROW, TOKEN) and data:
            return "0x"
        try:
            value = int(request.get("value", "0x0"), 16)
            return hexed(state.call(request.get("from", PAYEE), to, data, value, now))
        except Refused as refused:
            return self._error(f"execution reverted: {refused}", 3)

    def _eth_sendRawTransaction(self, text: str) -> Any:  # noqa: N802
        one = Transaction.read(bytes.fromhex(text[2:]))
        seen = self._view("latest")[-1].state
        if one.hash in self.pool:
            return self._error("already known")
        if one.nonce < seen.nonces.get(self.payer, 0):
            return self._error("nonce too low")
        if one.value + GAS * one.max_fee > seen.coin.get(self.payer, 0):
            return self._error("insufficient funds for gas * price + value")
        for rival in [two for two in self.pool.values() if two.nonce == one.nonce]:
            if 10 * one.max_fee < 11 * rival.max_fee or 10 * one.tip < 11 * rival.tip:
                return self._error("replacement transaction underpriced")
            del self.pool[rival.hash]
        self.pool[one.hash] = one
        if self.automines:
            self.mine()
        return one.hash
