"""A model of a node and the chain behind it, for one account that sends payers' deposits: what can go wrong
there happens when a test says so."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import rlp
from hypothesis import event

from microwallet.domain.channel import NO_CHANNEL
from microwallet.domain.deposit import DepositKind
from microwallet.domain.identifiers import Address, ChannelId, TxHash, hexed, keccak, word
from microwallet.errors import NetworkError
from microwallet.escrow.events import TOPICS
from microwallet.escrow.reader import selector
from microwallet.escrow.rpc import RpcError

GWEI = 10**9
GAS = {"open": 100_000, "topUp": 60_000, "reverted": 40_000, "cancel": 21_000}
TOKENS = 300_000
"""Base units that a payer has at first."""
ASKED = {
    "eth_blockNumber": "number",
    "eth_call": "view",
    "eth_estimateGas": "estimate",
    "eth_getBalance": "balance",
    "eth_getBlockByNumber": "block",
    "eth_getLogs": "uses",
    "eth_getTransactionCount": "count",
    "eth_getTransactionReceipt": "receipt",
    "eth_maxPriorityFeePerGas": "tip",
    "eth_sendRawTransaction": "send",
}
GET_CHANNELS = selector("getChannels(bytes32[])")
AUTHORIZATION_STATE = selector("authorizationState(address,bytes32)")
BALANCE_OF = selector("balanceOf(address)")
MATTERS = ("error", "lost", "behind", "full", "refused")
"""What may be the matter with the answer to one question."""


class Killed(BaseException):
    """Stands for SIGKILL at one point."""


@dataclass
class State:
    """What a block leaves."""

    channels: dict = field(default_factory=dict)
    used: dict = field(default_factory=dict)
    """Authorizations, and whether they were carried out: not those that were cancelled."""
    spent: dict = field(default_factory=dict)
    """Base units that each payer has no more."""
    coin: int = 10**18
    nonce: int = 0


@dataclass
class Block:
    """A block; `receipts` by hash, each with its transaction."""

    number: int
    time: int
    state: State
    receipts: dict = field(default_factory=dict)


class Sent(NamedTuple):
    """A transaction of the account."""

    hash: TxHash
    nonce: int
    tip: int
    most: int
    data: bytes


class Node:
    """The node and the chain: stands for Rpc, and for the module `time`."""

    shown = "https://node.internal"

    def __init__(self, escrow_contract: Address, now: int):
        self.escrow_contract = escrow_contract
        self.seconds = float(now)
        self.blocks = [Block(number, now - 40 + number, State()) for number in range(1, 4)]
        self.pool = {}
        """By nonce."""
        self.deposits = {}
        """What call data does."""
        self.base_fee, self.is_mining = GWEI, True
        self.first_mined = {}
        """When each transaction was, and for how much: a reorganisation may have undone it since."""
        self.steps, self.coming = 0, {}
        """What happens at which step."""
        self.aim = None
        """The deposit that others meddle with."""
        self.others = {}
        """What else can happen, by name."""

    @property
    def head(self):
        return self.blocks[-1]

    # Time

    def monotonic(self):
        return self.seconds

    def sleep(self, seconds):
        self.seconds += seconds
        if self.is_mining and self.seconds > self.head.time + 2:
            self.mine()

    # What happens

    def step(self):
        """Something may happen here; what is the matter with the answer, if this was a question."""
        self.steps += 1
        what = self.coming.pop(self.steps, None)
        if what is None or what in MATTERS:
            return what
        self.happen(what)
        return None

    def happen(self, what):
        event(what)
        (self.others.get(what) or getattr(self, what))()

    def kill(self):
        raise Killed

    def mine(self, act=lambda _state, _time: None):
        """A block, in which somebody else acts before the account."""
        last = self.head
        state = copy.deepcopy(last.state)
        block = Block(last.number + 1, max(last.time + 1, int(self.seconds)), state)
        act(state, block.time)
        while (one := self.pool.get(state.nonce)) is not None and one.most >= self.base_fee:
            self.carry_out(self.pool.pop(one.nonce), block)
        self.blocks.append(block)

    def carry_out(self, one, block):
        deposit, what, logs = self.deposits.get(one.data), "cancel", []
        if deposit is not None:
            log = self.deposit(deposit, block.state, block.time)
            what, logs = ("reverted", []) if log is None else (deposit.kind, [log])
        price = min(one.most, self.base_fee + one.tip)
        block.state.nonce += 1
        block.state.coin -= GAS[what] * price
        self.first_mined.setdefault(one.hash, (block.time, GAS[what] * price))
        place = {"transactionHash": one.hash, "blockNumber": hex(block.number)}
        receipt = {
            "status": hex(what != "reverted"),
            "gasUsed": hex(GAS[what]),
            "effectiveGasPrice": hex(price),
        }
        block.receipts[one.hash] = one, {**place, **receipt, "logs": [{**log, **place} for log in logs]}

    def deposit(self, deposit, state, time):
        """Its event; None where it reverts."""
        authorization, payer = deposit.authorization, deposit.descriptor.payer
        exists = deposit.channel_id in state.channels
        if (
            not authorization.valid_after < time < authorization.valid_before
            or (payer, authorization.nonce) in state.used
            or state.spent.get(payer, 0) + authorization.value > TOKENS
            or exists is (deposit.kind is DepositKind.OPEN)
        ):
            return None
        state.used[payer, authorization.nonce] = True
        return self.put_in(deposit.descriptor, authorization.value, state)

    def put_in(self, descriptor, value, state):
        channel_id, payer = descriptor.channel_id(), descriptor.payer
        before = state.channels.get(channel_id, NO_CHANNEL)
        state.spent[payer] = state.spent.get(payer, 0) + value
        state.channels[channel_id] = after = replace(before, deposit=before.deposit + value)
        name, words = "TopUp", (value, after.deposit)
        if not before.exists:
            name = "ChannelOpened"
            words = (descriptor.token, descriptor.salt, descriptor.authorized_signer, value)
        topics = [TOPICS[name], channel_id, hexed(word(payer)), hexed(word(descriptor.payee))]
        return {"address": self.escrow_contract, "topics": topics, "data": hexed(b"".join(map(word, words)))}

    def drop(self):
        self.pool.clear()

    def reorganise(self):
        """The newest block is replaced by one with nothing in it; what it had waits again."""
        lost = self.blocks.pop()
        self.pool |= {one.nonce: one for one, _ in lost.receipts.values()}
        self.blocks.append(Block(lost.number, lost.time, copy.deepcopy(self.head.state)))

    def spend(self):
        """The payer's tokens go elsewhere, or come back."""
        payer = self.aim.descriptor.payer
        self.mine(
            lambda state, _: state.spent.update({payer: 0 if state.spent.get(payer, 0) >= TOKENS else TOKENS})
        )

    def submit(self):
        """Somebody else carries the deposit out."""
        self.mine(lambda state, time: self.deposit(self.aim, state, time))

    def open_directly(self):
        """The payer opens the channel with next to nothing in it."""

        def act(state, _):
            if self.aim.channel_id not in state.channels:
                self.put_in(self.aim.descriptor, 1, state)

        self.mine(act)

    def revoke(self):
        """The payer cancels the authorization."""
        key = self.aim.descriptor.payer, self.aim.authorization.nonce
        self.mine(lambda state, _: state.used.setdefault(key, False))

    def grow_dear(self):
        """So that what was sent is passed over; or cheap again."""
        self.base_fee = 3 * GWEI if self.base_fee == GWEI else GWEI

    def stop(self):
        """No blocks come by themselves; or they do again."""
        self.is_mining = not self.is_mining

    # What it is asked

    def call(self, method, params=()):
        return self.batch([(method, params)])[0]

    def batch(self, requests):
        answers = self.try_batch(requests)
        for answer in answers:
            if isinstance(answer, RpcError):
                raise answer
        return answers

    def try_batch(self, requests):
        matter = self.step()
        if matter == "error":
            raise NetworkError(f"{self.shown} timed out")
        blocks = self.blocks[:-1] if matter == "behind" else self.blocks
        answers = [self.answer(blocks, method, params, matter) for method, params in requests]
        if matter == "lost":
            raise NetworkError(f"{self.shown} timed out")
        return answers

    def answer(self, blocks, method, params, matter):
        try:
            if method == "eth_sendRawTransaction" and matter == "full":
                raise ValueError("txpool is full")
            if method == "eth_sendRawTransaction" and matter == "refused":
                raise ValueError("insufficient funds for gas * price + value")
            return getattr(self, ASKED[method])(blocks, *params)
        except ValueError as error:
            code = 3 if str(error) == "execution reverted" else -32000
            return RpcError(str(error), error_code=code, error_data="0x", where=self.shown)

    def number(self, blocks):
        return hex(blocks[-1].number)

    def at(self, blocks, tag):
        if tag in ("latest", "pending"):
            return blocks[-1]
        found = next((one for one in blocks if one.number == int(tag, 16)), None)
        if found is None:
            raise ValueError("header not found")
        return found

    def block(self, blocks, tag, _full):
        block = self.at(blocks, tag)
        numbers = {"number": block.number, "timestamp": block.time, "baseFeePerGas": self.base_fee}
        return {name: hex(number) for name, number in numbers.items()}

    def tip(self, _blocks):
        return hex(GWEI // 10)

    def balance(self, blocks, _address, _tag):
        return hex(blocks[-1].state.coin)

    def count(self, blocks, _address, tag):
        count = blocks[-1].state.nonce
        while tag == "pending" and count in self.pool:
            count += 1
        return hex(count)

    def receipt(self, blocks, hash):
        return next((one.receipts[hash][1] for one in blocks if hash in one.receipts), None)

    def uses(self, blocks, wanted):
        _, payer, nonce = wanted["topics"]
        used = blocks[-1].state.used.items()
        return [{}] * sum(
            (hexed(word(p)), hexed(n), True) == (payer, nonce, is_done) for (p, n), is_done in used
        )

    def estimate(self, blocks, request, _tag="latest"):
        data = bytes.fromhex(request["data"][2:])
        if data not in self.deposits:
            return hex(GAS["cancel"])
        self.simulate(self.deposits[data], blocks[-1].state, int(self.seconds) + 1)
        return hex(GAS["open"])

    def simulate(self, deposit, state, time):
        if self.deposit(deposit, copy.deepcopy(state), time) is None:
            raise ValueError("execution reverted")

    def view(self, blocks, request, tag):
        data, block = bytes.fromhex(request["data"][2:]), self.at(blocks, tag)
        state, words = block.state, [data[at : at + 32] for at in range(4, len(data), 32)]
        if data in self.deposits:
            self.simulate(self.deposits[data], state, block.time)
        elif data[:4] == GET_CHANNELS:
            told = [32, len(words) - 2]
            for channel_id in words[2:]:
                one = state.channels.get(ChannelId(hexed(channel_id)), NO_CHANNEL)
                told += [one.deposit, one.settled, one.close_requested_at, int(one.finalized)]
            return hexed(b"".join(map(word, told)))
        elif data[:4] == AUTHORIZATION_STATE:
            used = [[word(payer), nonce] for payer, nonce in state.used]
            return hexed(word(int(words[:2] in used)))
        elif data[:4] == BALANCE_OF:
            spent = sum(spent for payer, spent in state.spent.items() if word(payer) == words[0])
            return hexed(word(TOKENS - spent))
        return "0x"

    def send(self, _blocks, raw):
        raw = bytes.fromhex(raw[2:])
        fields = rlp.decode(raw[1:])
        nonce, tip, most = (int.from_bytes(one, "big") for one in fields[1:4])
        one, before = Sent(TxHash(hexed(keccak(raw))), nonce, tip, most, fields[7]), self.pool.get(nonce)
        if nonce < self.head.state.nonce:
            raise ValueError("nonce too low")
        if before is not None and before.hash == one.hash:
            raise ValueError("already known")
        if before is not None and most * 10 < before.most * 11:
            raise ValueError("replacement transaction underpriced")
        self.pool[nonce] = one
        return one.hash
