"""A node and the chain behind it: what it mines, drops and undoes, and what is the matter with its answers.

It is a model in memory, spoken to as JSON-RPC, and its clock is the only one.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import rlp
from coincurve import PublicKey
from contracts import CHAIN, CONTRACT, ESCROW, FUNCTIONS, Refused, State

from microwallet.domain.identifiers import Address, TxHash, checksum_address, hexed, keccak, word
from microwallet.domain.voucher import address_of
from microwallet.errors import NetworkError
from microwallet.escrow.rpc import RpcError

GWEI = 10**9
GAS = {"": 21_000, "open_with_authorization": 100_000, "top_up_with_authorization": 60_000}
MOST_GAS, REVERTED_GAS = 100_000, 40_000
MATTERS = ("error", "lost", "behind", "full", "refused")
"""What may be the matter with the answer to one question."""
ASKED = {
    "eth_blockNumber": "number",
    "eth_call": "view",
    "eth_estimateGas": "estimate",
    "eth_getBalance": "balance",
    "eth_getBlockByNumber": "block",
    "eth_getCode": "code",
    "eth_getLogs": "uses",
    "eth_getTransactionCount": "count",
    "eth_getTransactionReceipt": "receipt",
    "eth_maxPriorityFeePerGas": "tip",
    "eth_sendRawTransaction": "send",
}

Act = Callable[[State, int], object]
"""What somebody else does to the state at a time; Refused if that reverts."""


@dataclass(frozen=True, kw_only=True)
class Transaction:
    """A signed transaction, read."""

    hash: TxHash
    sender: Address
    nonce: int
    tip: int = 1
    max_fee: int = 10**12
    gas: int = GAS[""]
    to: Address = ESCROW
    value: int = 0
    data: bytes = b""
    is_foreign: bool = False
    """Whether another wallet with the same key sent it: that sends it again itself."""

    @classmethod
    def read(cls, raw: bytes) -> Transaction:
        fields = rlp.decode(raw[1:])
        r, s = (part.rjust(32, b"\0") for part in fields[10:])
        signature = r + s + (fields[9] or b"\0")
        signed = keccak(raw[:1] + rlp.encode(fields[:9]))
        number = [int.from_bytes(one, "big") for one in fields[:7]]
        return cls(
            hash=TxHash(hexed(keccak(raw))),
            sender=address_of(PublicKey.from_signature_and_message(signature, signed, hasher=None)),
            nonce=number[1],
            tip=number[2],
            max_fee=number[3],
            gas=number[4],
            to=checksum_address(fields[5]),
            value=number[6],
            data=fields[7],
        )

    @property
    def most(self) -> int:
        """Wei that it takes at most."""
        return self.value + self.gas * self.max_fee


@dataclass(frozen=True)
class Block:
    """A block, and all there is after it; `mined` by hash, each with its receipt."""

    time: int
    state: State
    mined: dict[TxHash, tuple[Transaction, dict[str, Any]]] = field(default_factory=dict)


class Node:
    """Stands for Rpc, and for the module `time`."""

    shown = "https://node.internal"
    is_local = True
    chain_id = CHAIN

    def __init__(
        self, *, now: int, coin: dict[Address, int], tokens: dict[Address, int], block_seconds: int
    ) -> None:
        self.now = float(now)
        self.blocks = [Block(now, State(coin=coin, tokens=tokens))]
        self.pool: dict[tuple[Address, int], Transaction] = {}
        """By sender and nonce."""
        self.base_fee = GWEI
        self.block_seconds = block_seconds
        """From one block to the next; 0 where each transaction has its own at once, as Anvil's do."""
        self.is_mining = True
        self.behind = 0
        """By how many blocks each answer is."""
        self.first_mined: dict[TxHash, tuple[int, int]] = {}
        """When each transaction was, and for how much: a reorganisation may have undone it since."""
        self.before: Callable[[], str | None] = lambda: None
        """Called before each request; may say what is the matter with its answer."""
        self.after: Callable[[], object] = lambda: None
        """Called after each."""

    # Time

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        """Wait; blocks come meanwhile."""
        self.now += seconds
        if self.is_mining and self.now > self.head.time + self.block_seconds:
            self.mine()

    # What happens on the chain

    @property
    def head(self) -> Block:
        return self.blocks[-1]

    @property
    def state(self) -> State:
        return self.head.state

    def mine(self, act: Act | None = None) -> None:
        """One more block: what somebody else does, then all of the pool that is next in line."""
        time = max(self.head.time + 1, int(self.now))
        self.now = max(self.now, time)
        block = Block(time, self._acted(self.state, act, time))
        state = block.state
        while (one := self._next(state)) is not None:
            del self.pool[one.sender, one.nonce]
            state, gas, succeeded = self._executed(state, one, time)
            price = min(one.max_fee, self.base_fee + one.tip)
            self.first_mined.setdefault(one.hash, (time, gas * price))
            block.mined[one.hash] = one, self._receipt(one, gas, price, state.logs, succeeded=succeeded)
        self.pool = {
            key: one for key, one in self.pool.items() if one.nonce >= state.nonces.get(one.sender, 0)
        }
        self.blocks.append(Block(time, state, block.mined))

    def _acted(self, state: State, act: Act | None, time: int) -> State:
        acted = state.copy()
        try:
            if act is not None:
                act(acted, time)
        except Refused:
            return state.copy()
        return acted

    def _next(self, state: State) -> Transaction | None:
        ready = (
            one
            for one in self.pool.values()
            if one.nonce == state.nonces.get(one.sender, 0)
            and one.max_fee >= self.base_fee
            and one.most <= state.coin.get(one.sender, 0)
        )
        return next(ready, None)

    def _executed(self, before: State, one: Transaction, time: int) -> tuple[State, int, bool]:
        """The state after it, the gas it took, and whether it succeeded."""

        def paid(gas: int) -> State:
            state = before.copy()
            state.logs.clear()
            state.nonces[one.sender] = one.nonce + 1
            state.coin[one.sender] -= gas * min(one.max_fee, self.base_fee + one.tip)
            return state

        gas = GAS.get(FUNCTIONS[one.data[:4]][0] if one.data else "", MOST_GAS)
        after = paid(gas)
        try:
            after.call(one.sender, one.to, one.data, one.value, time)
        except Refused:
            return paid(REVERTED_GAS), REVERTED_GAS, False
        return after, gas, True

    def _receipt(
        self, one: Transaction, gas: int, price: int, logs: Any, *, succeeded: bool
    ) -> dict[str, Any]:
        place = {"transactionHash": one.hash, "blockNumber": hex(len(self.blocks))}
        numbers = {"status": hex(succeeded), "gasUsed": hex(gas), "effectiveGasPrice": hex(price)}
        return {**place, **numbers, "logs": [log | place for log in logs]}

    def undo(self, count: int = 1, *, keeps: bool = True) -> None:
        """Take the newest blocks back, for empty ones; what was in them waits again, or is gone."""
        count = min(count, len(self.blocks) - 1)
        undone, self.blocks = self.blocks[len(self.blocks) - count :], self.blocks[: len(self.blocks) - count]
        for block in undone:
            for one, _ in block.mined.values():
                if keeps or one.is_foreign:
                    self._put(one)
            self.blocks.append(Block(block.time, self.state.copy()))

    def _put(self, one: Transaction) -> None:
        """Into the pool; of two at one nonce the one that offers more."""
        rival = self.pool.get((one.sender, one.nonce))
        if rival is None or rival.max_fee <= one.max_fee:
            self.pool[one.sender, one.nonce] = one

    def drop(self) -> None:
        """What waits is forgotten."""
        self.pool = {key: one for key, one in self.pool.items() if one.is_foreign}

    def replace_first(self, sender: Address) -> None:
        """Another wallet with the same key uses up the next nonce."""
        hash, nonce = TxHash(hexed(secrets.token_bytes(32))), self.state.nonces.get(sender, 0)
        self.pool[sender, nonce] = Transaction(hash=hash, sender=sender, nonce=nonce, is_foreign=True)
        self.mine()

    def mined(self) -> dict[TxHash, bool]:
        """Whether each transaction on the chain succeeded, by its hash."""
        return {
            hash: receipt["status"] == "0x1"
            for block in self.blocks
            for hash, (_, receipt) in block.mined.items()
        }

    # What it is asked

    def call(self, method: str, params: Any = ()) -> Any:
        return self.batch([(method, params)])[0]

    def batch(self, requests: Any) -> list[Any]:
        answers = self.try_batch(requests)
        for answer in answers:
            if isinstance(answer, RpcError):
                raise answer
        return answers

    def try_batch(self, requests: Any) -> list[Any]:
        matter = self.before()
        if matter == "error":
            raise NetworkError(f"{self.shown} timed out")
        missing = self.behind + (matter == "behind")
        seen = self.blocks[: max(1, len(self.blocks) - missing)]
        answers = [self._answer(seen, method, params, matter) for method, params in requests]
        self.after()
        if matter == "lost":
            raise NetworkError(f"{self.shown} timed out")
        return answers

    def _answer(self, seen: list[Block], method: str, params: Any, matter: str | None) -> Any:
        try:
            if method == "eth_sendRawTransaction" and matter == "full":
                raise self._error("txpool is full")
            if method == "eth_sendRawTransaction" and matter == "refused":
                raise self._error("insufficient funds for gas * price + value")
            return getattr(self, ASKED[method])(seen, *params)
        except RpcError as error:
            return error

    def _error(self, message: str) -> RpcError:
        return RpcError(message, error_code=-32000, error_data=None, where=self.shown)

    def _at(self, seen: list[Block], tag: str) -> Block:
        if tag in ("latest", "pending"):
            return seen[-1]
        if int(tag, 16) >= len(seen):
            raise self._error("header not found")
        return seen[int(tag, 16)]

    def number(self, seen: list[Block]) -> str:
        return hex(len(seen) - 1)

    def code(self, _seen: list[Block], _address: str, _tag: str) -> str:
        return hexed(CONTRACT.deployed_bytecode)

    def tip(self, _seen: list[Block]) -> str:
        return hex(GWEI // 10)

    def block(self, seen: list[Block], tag: str, _full: bool) -> dict[str, str]:
        block = self._at(seen, tag)
        time = int(self.now) + 1 if tag == "pending" else block.time
        number = len(seen) - 1 if tag in ("latest", "pending") else int(tag, 16)
        return {"number": hex(number), "timestamp": hex(time), "baseFeePerGas": hex(self.base_fee)}

    def balance(self, seen: list[Block], address: Address, tag: str) -> str:
        return hex(self._at(seen, tag).state.coin.get(address, 0))

    def count(self, seen: list[Block], address: Address, tag: str) -> str:
        count = self._at(seen, tag).state.nonces.get(address, 0)
        while tag == "pending" and (address, count) in self.pool:
            count += 1
        return hex(count)

    def receipt(self, seen: list[Block], hash: TxHash) -> dict[str, Any] | None:
        return next((block.mined[hash][1] for block in seen if hash in block.mined), None)

    def uses(self, seen: list[Block], wanted: Any) -> list[Any]:
        """Logs of authorizations that were carried out; none of other events."""
        if wanted["address"] == ESCROW:
            return []
        _, payer, nonce = wanted["topics"]
        used = seen[-1].state.used.items()
        done = [key for key, is_done in used if is_done and isinstance(key[1], bytes)]
        return [{} for one, its in done if (hexed(word(one)), hexed(its)) == (payer, nonce)]

    def view(self, seen: list[Block], request: Any, tag: str) -> str:
        block = self._at(seen, tag)
        return self._simulated(block.state.copy(), request, block.time)

    def estimate(self, seen: list[Block], request: Any, tag: str = "pending") -> str:
        state, time = seen[-1].state.copy(), int(self.now) + 1
        while tag == "pending" and (one := self._next(state)) is not None:
            state, *_ = self._executed(state, one, time)
        self._simulated(state, request, time)
        return hex(MOST_GAS if request["data"] != "0x" else GAS[""])

    def _simulated(self, state: State, request: Any, time: int) -> str:
        data, value = bytes.fromhex(request["data"][2:]), int(request.get("value", "0x0"), 16)
        try:
            return hexed(state.call(request.get("from", ESCROW), request["to"], data, value, time))
        except Refused as refused:
            message = f"execution reverted: {refused}"
            raise RpcError(message, error_code=3, error_data=hexed(refused.data), where=self.shown) from None

    def send(self, seen: list[Block], text: str) -> TxHash:
        one = Transaction.read(bytes.fromhex(text[2:]))
        rival = self.pool.get((one.sender, one.nonce))
        if rival is not None and rival.hash == one.hash:
            raise self._error("already known")
        if one.nonce < seen[-1].state.nonces.get(one.sender, 0):
            raise self._error("nonce too low")
        if one.most > seen[-1].state.coin.get(one.sender, 0):
            raise self._error("insufficient funds for gas * price + value")
        if rival and (10 * one.max_fee < 11 * rival.max_fee or 10 * one.tip < 11 * rival.tip):
            raise self._error("replacement transaction underpriced")
        self.pool[one.sender, one.nonce] = one
        return one.hash
