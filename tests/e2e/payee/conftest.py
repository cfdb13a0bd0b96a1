"""A payee's home, and payers that do on chain what they like, hostile things included."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

import pytest
from anybody import done_as

from microwallet.domain.channel import ChannelDescriptor
from microwallet.domain.identifiers import NATIVE_TOKEN, Address, checksum_address, keccak
from microwallet.domain.money import Asset
from microwallet.domain.voucher import VoucherDigest, VoucherKey
from microwallet.domain.voucher_document import voucher_writer
from microwallet.escrow import calls
from microwallet.escrow.events import TOPICS
from microwallet.escrow.reader import EscrowReader

REFUSES = "0x60006000fd"
"""Code that reverts whatever it is sent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """A channel on chain, and the key of its authorized signer."""

    descriptor: ChannelDescriptor
    channel_id: str
    asset: Asset
    deposit: int
    key: VoucherKey

    def voucher(self, amount: int) -> str:
        """The line a payer hands over for a cumulative amount."""
        descriptor = self.descriptor
        digest = VoucherDigest(descriptor.chain_id, descriptor.escrow_contract, self.channel_id)(amount)
        write = voucher_writer(descriptor, self.channel_id, self.asset)
        return write(amount, amount, max(self.deposit, amount), self.key.sign(digest)) + "\n"


@dataclass(slots=True, kw_only=True)
class Payers:
    """Payers whose transactions the chain takes without a signature."""

    chain: object
    reader: EscrowReader
    _numbers: itertools.count = field(default_factory=lambda: itertools.count(1))

    def open(
        self,
        payee: Address,
        deposit: int = 10_000_000,
        *,
        native: bool = False,
        token: Address | None = None,
    ) -> Opened:
        """A channel of a new payer, opened on chain, in the test USDC unless told otherwise."""
        number = next(self._numbers)
        payer = checksum_address(keccak(b"payer %d" % number)[12:])
        token = NATIVE_TOKEN if native else token or self.chain.token
        key = VoucherKey(keccak(b"voucher key %d" % number))
        descriptor = ChannelDescriptor(
            payer=payer,
            payee=payee,
            token=token,
            salt="0x" + keccak(b"salt %d" % number).hex(),
            authorized_signer=key.address,
            escrow_contract=self.chain.escrow_contract,
            chain_id=self.chain.chain_id,
        )
        self._bring(descriptor, deposit)
        symbol, decimals = ("ETH", 18) if native else ("USDC", 6)
        return Opened(
            descriptor=descriptor,
            channel_id=descriptor.channel_id(),
            asset=Asset(chain_id=self.chain.chain_id, token=token, symbol=symbol, decimals=decimals),
            deposit=deposit,
            key=key,
        )

    def open_again(self, opened: Opened) -> None:
        """A reorganisation took the open out of the chain: it is in again."""
        self._bring(opened.descriptor, opened.deposit)

    def _bring(self, descriptor: ChannelDescriptor, deposit: int) -> None:
        payer, token = descriptor.payer, descriptor.token
        native = token == NATIVE_TOKEN
        self.chain.node.add_native(payer, 10**18 + (deposit if native else 0))
        if not native:
            self.chain.node.mint(token, payer, deposit)
            self.send(payer, calls.approve(token, self.chain.escrow_contract, deposit))
        self.send(payer, calls.open_channel(descriptor, deposit))

    def send(self, sender: Address, call: calls.Call) -> None:
        """A transaction of a payer, mined before this returns; it must succeed."""
        done_as(sender, call, self.chain)

    def request_close(self, opened: Opened) -> int:
        """The payer requests a close; Unix seconds at which it may withdraw."""
        self.send(opened.descriptor.payer, calls.request_close(opened.descriptor))
        return self.reader.channel_state(opened.channel_id).withdrawable_at

    def withdraw(self, opened: Opened) -> None:
        """The payer takes the deposit back."""
        self.send(opened.descriptor.payer, calls.withdraw(opened.descriptor))

    def become(self, opened: Opened, code: str = REFUSES) -> None:
        """The payer's address turns out to be a contract, one that takes no coin unless told otherwise."""
        self.chain.rpc.call("anvil_setCode", [opened.descriptor.payer, code])

    def closes(self, opened: Opened) -> int:
        """How often a channel was closed on the chain as it is now."""
        topics = [TOPICS["ChannelClosed"], opened.channel_id]
        wanted = {"address": self.reader.escrow_contract, "topics": topics, "fromBlock": "0x0"}
        return len(self.chain.rpc.call("eth_getLogs", [wanted]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Payee:
    """A home that is paid, its address, and what the chain says it holds."""

    home: object
    address: Address
    reader: EscrowReader
    token: Address

    def run(self, *arguments, **options):
        """Run `microwallet payee ARGUMENTS --json`."""
        return self.home.run("payee", *arguments, "--json", **options)

    def accept(self, *lines: str):
        """Accept vouchers, all of them good."""
        return self.run("accept", "-", input="".join(lines)).data

    def holds(self) -> int:
        """Base units of the test USDC."""
        return self.reader.token_balance(self.token, self.address)

    def holds_native(self) -> int:
        """Wei."""
        return self.reader.native_balance(self.address)

    def sent(self) -> int:
        """How many transactions it has sent."""
        return self.reader.transaction_count(self.address)


@pytest.fixture
def make_payee(make_home, chain):
    """Makes a home with an account of its own and a little native coin on this test's chain."""

    def make(name: str = "bob") -> Payee:
        home = make_home(name, chain).with_account(name)
        chain.node.add_native(home.address, 10**18)
        return Payee(
            home=home,
            address=home.address,
            reader=EscrowReader(chain.rpc, chain.escrow_contract),
            token=chain.token,
        )

    return make


@pytest.fixture
def payee(make_payee):
    """A home that is paid."""
    return make_payee()


@pytest.fixture
def payers(chain):
    """Payers on this test's chain."""
    return Payers(chain=chain, reader=EscrowReader(chain.rpc, chain.escrow_contract))
