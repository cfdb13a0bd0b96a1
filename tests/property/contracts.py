"""All accounts, the escrow, and a token that takes EIP-3009 and permits: a model that carries out real calls.

It is for what is sent in transactions; elsewhere the escrow of `model.py` will do, by the same rules. It
checks the signatures of vouchers and of permits, whose nonces come one after the other; those of payers under
other deposits and of payees under captures are for the tests of the contract.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, fields, replace
from functools import cache
from typing import Any, NamedTuple

from eth_abi.abi import decode
from model import TOKEN

from microwallet.domain.channel import CLOSE_GRACE_PERIOD, NO_CHANNEL, ChannelDescriptor, ChannelState
from microwallet.domain.identifiers import (
    NATIVE_TOKEN,
    Address,
    ChainId,
    ChannelId,
    checksum_address,
    hexed,
    word,
)
from microwallet.domain.voucher import SignatureError, SignerCheck, VoucherDigest
from microwallet.escrow.artifacts import artifact
from microwallet.escrow.authorizations import TokenDomain, permit_digest
from microwallet.escrow.calls import type_of
from microwallet.escrow.events import TOPICS
from microwallet.escrow.reader import selector

CHAIN = ChainId(31337)
CONTRACT = artifact("ChannelEscrow")
ESCROW = CONTRACT.address
DOMAIN = TokenDomain(name="USD Coin", version="2", chain_id=CHAIN, token=TOKEN)
_OF_THE_TOKEN = {
    "approve": ["address", "uint256"],
    "transfer": ["address", "uint256"],
    "allowance": ["address", "address"],
    "balanceOf": ["address"],
    "authorizationState": ["address", "bytes32"],
    "nonces": ["address"],
}


def _types(kind: str) -> dict[str, list[str]]:
    """Functions or errors of the escrow, and what each takes."""
    entries = [entry for entry in CONTRACT.abi if entry["type"] == kind]
    return {entry["name"]: [type_of(one) for one in entry["inputs"]] for entry in entries}


def _selector(name: str, types: list[str]) -> bytes:
    return selector(f"{name}({','.join(types)})")


FUNCTIONS = {
    _selector(name, types): (re.sub("(?=[A-Z])", "_", name).lower(), types)
    for name, types in (_types("function") | _OF_THE_TOKEN).items()
}
"""What they are called here, by the first bytes of a call."""


class Refused(Exception):
    """A contract reverted; named as the escrow's own error where it is one."""

    @property
    def data(self) -> bytes:
        """The bytes it returned, every argument zero."""
        name = str(self)
        types = _types("error").get(name)
        return b"" if types is None else _selector(name, types) + bytes(32 * len(types))


class Message(NamedTuple):
    """What a contract knows of a call."""

    sender: Address
    to: Address
    value: int
    now: int


@dataclass
class State:
    """All of it, after a block."""

    coin: dict[Address, int] = field(default_factory=dict)
    tokens: dict[Address, int] = field(default_factory=dict)
    allowed: dict[Address, int] = field(default_factory=dict)
    """What the escrow may take, by owner."""
    permits: dict[Address, int] = field(default_factory=dict)
    """How many each owner has had."""
    nonces: dict[Address, int] = field(default_factory=dict)
    channels: dict[ChannelId, ChannelState] = field(default_factory=dict)
    used: dict[tuple[str, bytes | int], bool] = field(default_factory=dict)
    """Authorizations by payer or channel and nonce, and whether they were carried out: not those that were
    cancelled."""
    logs: list[dict[str, Any]] = field(default_factory=list)
    """Of the last call."""

    def copy(self) -> State:
        return State(**{one.name: getattr(self, one.name).copy() for one in fields(self)})

    def call(self, sender: Address, to: Address, data: bytes, value: int, now: int) -> bytes:
        """Do a call; Refused if it reverts, and then nothing else of this state may be used."""
        self.logs = []
        self._move(self.coin, sender, to, value)
        if data[:4] not in FUNCTIONS:
            return b""
        name, types = FUNCTIONS[data[:4]]
        message = Message(sender, to, value, now)
        return getattr(self, f"_{name}")(message, *decode(types, data[4:])) or b""

    # The token

    def _approve(self, message: Message, _spender: str, amount: int) -> bytes:
        self.allowed[message.sender] = amount
        return word(True)

    def _transfer(self, message: Message, receiver: str, amount: int) -> bytes:
        self._move(self.tokens, message.sender, _address(receiver), amount)
        return word(True)

    def _allowance(self, _message: Message, owner: str, _spender: str) -> bytes:
        return word(self.allowed.get(_address(owner), 0))

    def _balance_of(self, _message: Message, owner: str) -> bytes:
        return word(self.tokens.get(_address(owner), 0))

    def _authorization_state(self, _message: Message, authorizer: str, nonce: bytes) -> bytes:
        return word((_address(authorizer), nonce) in self.used)

    def _nonces(self, _message: Message, owner: str) -> bytes:
        return word(self.permits.get(_address(owner), 0))

    # Deposits

    def _open(self, message: Message, *opening: Any) -> None:
        channel = channel_of(message.to, message.sender, *opening[:2], *opening[3:])
        self._pay_in(message, channel, opening[2])
        self._opened(channel, opening[2])

    def _open_with_authorization(self, message: Message, *opening: Any) -> None:
        payee, token, deposit, salt, signer, payer, *signed = opening
        channel = channel_of(message.to, payer, payee, token, salt, signer)
        self._authorized(message, channel, deposit, *signed)
        self._opened(channel, deposit)

    def _open_with_permit(self, message: Message, *opening: Any) -> None:
        self._permitted(message, opening[2], *opening[5:])
        self._open(message, *opening[:5])

    def _opened(self, channel: ChannelDescriptor, deposit: int) -> None:
        channel_id = _id(channel)
        if channel_id in self.channels:
            raise Refused("ChannelAlreadyExists")
        self.channels[channel_id] = replace(NO_CHANNEL, deposit=deposit)
        self._log("ChannelOpened", channel, channel.token, channel.salt, channel.authorized_signer, deposit)

    def _top_up(self, message: Message, parts: Any, amount: int) -> None:
        channel = self._by_payer(message, parts)
        self._pay_in(message, channel, amount)
        self._topped_up(channel, amount)

    def _top_up_with_authorization(
        self, message: Message, parts: Any, amount: int, _salt: bytes, *signed: Any
    ) -> None:
        channel = channel_of(message.to, *parts)
        self._authorized(message, channel, amount, *signed)
        self._topped_up(channel, amount)

    def _top_up_with_permit(self, message: Message, parts: Any, amount: int, *permit: Any) -> None:
        self._permitted(message, amount, *permit)
        self._top_up(message, parts, amount)

    def _topped_up(self, channel: ChannelDescriptor, amount: int) -> None:
        state = self._live(channel)
        deposit = state.deposit + amount
        self.channels[_id(channel)] = replace(state, deposit=deposit, close_requested_at=0)
        self._log("TopUp", channel, amount, deposit)

    def _pay_in(self, message: Message, channel: ChannelDescriptor, amount: int) -> None:
        payer = message.sender
        if channel.token == NATIVE_TOKEN:
            if message.value != amount:
                raise Refused("InvalidValue")
            return
        if self.allowed.get(payer, 0) < amount:
            raise Refused("allowance")
        self.allowed[payer] -= amount
        self._move(self.tokens, payer, message.to, amount)

    def _authorized(
        self,
        message: Message,
        channel: ChannelDescriptor,
        amount: int,
        after: int,
        before: int,
        nonce: bytes,
        _signature: bytes,
    ) -> None:
        if (channel.payer, nonce) in self.used or not after < message.now < before:
            raise Refused("authorization")
        self.used[channel.payer, nonce] = True
        self._move(self.tokens, channel.payer, message.to, amount)

    def _permitted(self, message: Message, amount: int, deadline: int, v: int, r: bytes, s: bytes) -> None:
        """A permit that is not valid changes nothing: there may be an allowance."""
        owner, nonce = message.sender, self.permits.get(message.sender, 0)
        digest = permit_digest(
            DOMAIN, owner=owner, spender=message.to, value=amount, nonce=nonce, deadline=deadline
        )
        if message.now <= deadline and SignerCheck(owner)(digest, r + s + bytes([v])):
            self.permits[owner] = nonce + 1
            self.allowed[owner] = amount

    # What the payee takes, and what the payer takes back

    def _settle(self, message: Message, parts: Any, *capture: Any) -> None:
        self._capture(message, self._by_payee(message, parts), *capture, is_close=False)

    def _close(self, message: Message, parts: Any, *capture: Any) -> None:
        self._capture(message, self._by_payee(message, parts), *capture, is_close=True)

    def _settle_batch(self, message: Message, captures: Any) -> None:
        for parts, *capture in captures:
            self._settle(message, parts, *capture)

    def _close_batch(self, message: Message, captures: Any) -> None:
        for parts, *capture in captures:
            self._close(message, parts, *capture)

    def _settle_with_authorization(self, message: Message, *signed: Any) -> None:
        self._capture(message, *self._by_authorization(message, *signed), is_close=False)

    def _close_with_authorization(self, message: Message, *signed: Any) -> None:
        self._capture(message, *self._by_authorization(message, *signed), is_close=True)

    def _by_payer(self, message: Message, parts: Any) -> ChannelDescriptor:
        channel = channel_of(message.to, *parts)
        if message.sender != channel.payer:
            raise Refused("NotPayer")
        return channel

    def _by_payee(self, message: Message, parts: Any) -> ChannelDescriptor:
        channel = channel_of(message.to, *parts)
        if message.sender != channel.payee:
            raise Refused("NotPayee")
        return channel

    def _by_authorization(self, message: Message, *signed: Any) -> tuple[Any, ...]:
        parts, cumulative, capture, nonce, deadline, _signature, voucher_signature = signed
        channel = channel_of(message.to, *parts)
        if message.now > deadline:
            raise Refused("AuthorizationExpired")
        if (_id(channel), nonce) in self.used:
            raise Refused("NonceAlreadyUsed")
        self.used[_id(channel), nonce] = True
        return channel, cumulative, capture, voucher_signature

    def _capture(
        self,
        message: Message,
        channel: ChannelDescriptor,
        cumulative: int,
        capture: int,
        signature: bytes,
        *,
        is_close: bool,
    ) -> None:
        state = self._live(channel)
        captured = capture - state.settled
        if captured < 0 or (captured == 0 and not is_close):
            raise Refused("AmountNotIncreasing")
        if capture > cumulative:
            raise Refused("CaptureAmountInvalid")
        if capture > state.deposit:
            raise Refused("AmountExceedsDeposit")
        if captured and not _is_signed(channel, cumulative, signature):
            raise Refused("InvalidSignature")
        self._pay(message, channel, channel.payee, captured)
        self.channels[_id(channel)] = replace(state, settled=capture)
        if is_close:
            self._finalize(message, channel)
        else:
            self._log("Settled", channel, captured, capture)

    def _request_close(self, message: Message, parts: Any) -> None:
        channel = self._by_payer(message, parts)
        state = self._live(channel)
        if not state.close_requested_at:
            self.channels[_id(channel)] = replace(state, close_requested_at=message.now)

    def _withdraw(self, message: Message, parts: Any) -> None:
        channel = self._by_payer(message, parts)
        state = self._live(channel)
        if not state.close_requested_at or message.now < state.close_requested_at + CLOSE_GRACE_PERIOD:
            raise Refused("CloseNotReady")
        self._finalize(message, channel)

    def _finalize(self, message: Message, channel: ChannelDescriptor) -> None:
        state = self._live(channel)
        self._pay(message, channel, channel.payer, state.deposit - state.settled)
        self.channels[_id(channel)] = replace(state, finalized=True)
        self._log("ChannelClosed", channel, state.settled, state.deposit - state.settled)

    def _get_channels(self, _message: Message, ids: Any) -> bytes:
        states = [self.channels.get(ChannelId(hexed(one)), NO_CHANNEL) for one in ids]
        words = [
            word(part)
            for one in states
            for part in (one.deposit, one.settled, one.close_requested_at, one.finalized)
        ]
        return word(32) + word(len(states)) + b"".join(words)

    def _live(self, channel: ChannelDescriptor) -> ChannelState:
        state = self.channels.get(_id(channel), NO_CHANNEL)
        if not state.exists:
            raise Refused("ChannelNotFound")
        if state.finalized:
            raise Refused("ChannelFinalized")
        return state

    def _pay(self, message: Message, channel: ChannelDescriptor, receiver: Address, amount: int) -> None:
        held = self.coin if channel.token == NATIVE_TOKEN else self.tokens
        self._move(held, message.to, receiver, amount)

    def _move(self, held: dict[Address, int], sender: Address, receiver: Address, amount: int) -> None:
        if held.get(sender, 0) < amount:
            raise Refused("balance")
        held[sender] = held.get(sender, 0) - amount
        held[receiver] = held.get(receiver, 0) + amount

    def _log(self, name: str, channel: ChannelDescriptor, *words: str | int) -> None:
        topics = [TOPICS[name], _id(channel), hexed(word(channel.payer)), hexed(word(channel.payee))]
        data = hexed(b"".join(map(word, words)))
        self.logs.append({"address": channel.escrow_contract, "topics": topics, "data": data})


def _address(text: str) -> Address:
    return checksum_address(bytes.fromhex(text[2:]))


@cache
def channel_of(
    escrow: Address, payer: str, payee: str, token: str, salt: bytes, signer: str
) -> ChannelDescriptor:
    return ChannelDescriptor(
        payer=_address(payer),
        payee=_address(payee),
        token=_address(token),
        salt=hexed(salt),
        authorized_signer=_address(signer),
        escrow_contract=escrow,
        chain_id=CHAIN,
    )


@cache
def _id(channel: ChannelDescriptor) -> ChannelId:
    return channel.channel_id()


def _is_signed(channel: ChannelDescriptor, cumulative: int, signature: bytes) -> bool:
    digest = VoucherDigest(channel.chain_id, channel.escrow_contract, _id(channel))(cumulative)
    try:
        return SignerCheck(channel.voucher_signer)(digest, signature)
    except SignatureError:
        return False
