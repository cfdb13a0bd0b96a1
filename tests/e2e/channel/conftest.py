"""Tokens of every kind on the local chain, and a look at what really happened there."""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from urllib.parse import urlsplit

import pytest
from anybody import done_as, pooled
from local_server import Handler, LocalServer
from odd_tokens import put_without

from microwallet.domain.channel import ChannelDescriptor
from microwallet.domain.identifiers import checksum_address, keccak
from microwallet.escrow import calls
from microwallet.escrow.events import EscrowEvents
from microwallet.escrow.reader import EscrowReader


@dataclass(frozen=True, slots=True, kw_only=True)
class Ledgered:
    """What the chain holds of one payer: channels opened, base units in them, transactions sent."""

    opened: list[str]
    deposit: int
    transactions: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Witness:
    """Reads the chain beside the command under test."""

    chain: object
    reader: EscrowReader

    def of(self, payer: str) -> Ledgered:
        """Everything a payer did on chain."""
        events = EscrowEvents(self.reader, self.chain.chain_id)
        found = events.opened(payer=payer, from_block=0, to_block=self.reader.head().number)
        opened = [event.channel_id for event in found]
        states = self.reader.channel_states(opened).values()
        return Ledgered(
            opened=opened,
            deposit=sum(state.deposit for state in states),
            transactions=self.reader.transaction_count(payer),
        )

    def mine(self) -> None:
        """One more block."""
        self.chain.rpc.call("evm_mine")

    def allowance(self, token: str, owner: str) -> int:
        """What the escrow may still take."""
        return self.reader.allowance(token, owner, self.reader.escrow_contract)

    def pooled(self) -> list[str]:
        """Hashes of the transactions that wait in the node's pool."""
        return pooled(self.chain)


@pytest.fixture
def coffee(alice, bob) -> dict:
    """What `channel open` told of a channel from alice to bob with 10 USDC."""
    return alice.run("channel", "open", bob.address, "10 USDC", "--label", "coffee", "--yes", "--json").data


@pytest.fixture
def witness(chain) -> Witness:
    """Reads the chain beside the command under test."""
    return Witness(chain=chain, reader=EscrowReader(chain.rpc, chain.escrow_contract))


@pytest.fixture
def token_without(chain) -> Callable[..., str]:
    """Puts a copy of the test USDC on the chain that lacks some functions; its address."""

    return partial(put_without, chain)


@pytest.fixture
def grudging_token(chain) -> Callable[[str], str]:
    """Puts a token on the chain that changes an allowance only from or to nothing, as some do; its address.

    A hand-made front that asks itself for the allowance, then hands everything to the test USDC.
    """

    def make(owner: str) -> str:
        check = (
            "60003560e01c63095ea7b31415"  # not approve?
            "61____57"
            "6024351561____57"  # approve of nothing?
            "63dd62ed3e60e01b600052336004526004356024526020606060446000305afa50"  # allowance(caller, spender)
            "6060511561____57"
            "60006000fd"
        )
        forward = f"5b3660006000376000600036600073{chain.token[2:]}5af43d600060003e60@@573d6000fd5b3d6000f3"
        start = len(check) // 2
        end = start + forward.index("5b3d6000f3") // 2
        code = check.replace("____", f"{start:04x}") + forward.replace("@@", f"{end:02x}")
        address = checksum_address(keccak(b"grudging")[12:])
        chain.rpc.call("anvil_setCode", [address, "0x" + code])
        chain.node.mint(address, owner, 10**9)
        return address

    return make


@dataclass(slots=True)
class Faults:
    """A proxy before the chain, and what it does to it."""

    url: str = ""
    drop_answer_of: str | None = None
    """A request of this method reaches the chain; its answer, and all after it, do not come back."""
    dead: bool = False
    when_asked: dict[str, Callable[[], object]] = field(default_factory=dict)
    """Called when the chain has a request of a method, before it is answered."""


@pytest.fixture
def faults(chain) -> Iterator[Faults]:
    """A proxy that forwards to the chain until it is told to fail."""
    state = Faults()
    target = urlsplit(chain.rpc_url)

    class Proxy(Handler):
        protocol_version = "HTTP/1.1"

        def respond(self) -> None:
            body = self.read_body()
            document = json.loads(body)
            methods = [one["method"] for one in (document if isinstance(document, list) else [document])]
            if state.dead:
                self.close_connection = True
                return
            connection = http.client.HTTPConnection(target.hostname, target.port, timeout=20)
            connection.request("POST", "/", body, {"Content-Type": "application/json"})
            answer = connection.getresponse().read()
            connection.close()
            for method in methods:
                if (call := state.when_asked.get(method)) is not None:
                    call()
            if state.drop_answer_of in methods:
                state.dead = True
                self.close_connection = True
                return
            self.answer(200, {}, answer)

    with LocalServer(Proxy) as server:
        state.url = server.url
        yield state


@pytest.fixture
def payee_takes(chain) -> Callable[..., None]:
    """The payee settles or closes on chain, with the voucher that is kept in a channel's data."""

    def take(channel: dict, capture: int, *, close: bool) -> None:
        voucher = channel["voucher"]
        descriptor = ChannelDescriptor(
            payer=channel["payer"],
            payee=channel["payee"],
            token=channel["token"],
            salt=channel["salt"],
            authorized_signer=channel["authorizedSigner"],
            escrow_contract=channel["escrowContract"],
            chain_id=channel["chainId"],
        )
        taken = calls.Capture(
            descriptor=descriptor,
            cumulative_amount=int(voucher["cumulativeAmount"]),
            capture_amount=capture,
            signature=bytes.fromhex(voucher["signature"][2:]),
        )
        call = calls.close(taken) if close else calls.settle(taken)
        done_as(channel["payee"], call, chain)

    return take
