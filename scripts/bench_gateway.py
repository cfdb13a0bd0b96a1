"""Our side of the HTTP rows of scripts/bench: a payee's home, and open channels to it on a real chain.

Ten thousand channels are not opened one by one: their states are written into the escrow's storage, and
the payee's ledger knows each by a voucher over nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from bench_home import Home
from bench_servers import SCRIPTS, Application, Server
from bench_vouchers import Payer, challenge_in, paid_requests

from microwallet.devnet.local_chain import LocalChain
from microwallet.domain.channel import NO_CHANNEL, ChannelDescriptor, PayeeChannel, PayerChannel
from microwallet.domain.identifiers import Address, ChannelId, hexed, keccak, word
from microwallet.domain.voucher import VoucherDigest, VoucherKey

OURS = "microwallet"
OURS_FASTAPI = f"{OURS}, with FastAPI"
UNPROTECTED = Application(factory="bench_app:starlette", folder=SCRIPTS)
FASTAPI = Application(factory="bench_app:fastapi", folder=SCRIPTS)
SECRET = b"\x11" * 32
DEPOSIT = 10**12
OPENED = replace(NO_CHANNEL, deposit=DEPOSIT)
_AT_ONCE = 1_000
"""Storage slots written by one call."""


class Till:
    """A payee that sells over HTTP, and channels to it that one payer opened."""

    def __init__(self, folder: Path, chain: LocalChain) -> None:
        self.home = Home(folder, chain)
        self.chain = chain
        key = VoucherKey(SECRET)
        self.payer = Payer(key=key, chain_id=chain.chain_id, escrow_contract=chain.escrow_contract)
        with self.home.wallet() as wallet:
            self.payee = wallet.accounts.create("payee").address
            self.asset = wallet.asset_of(chain.token)
        self._opened = 0

    @property
    def application(self) -> Application:
        """The application behind the middleware, of which several may be served."""
        return self._protecting("bench_app:protected_starlette")

    @property
    def fastapi(self) -> Application:
        """FastAPI's behind the middleware."""
        return self._protecting("bench_app:protected_fastapi")

    def _protecting(self, factory: str) -> Application:
        return Application(factory=factory, folder=SCRIPTS, environment=self.home.environment)

    def open(self, count: int, payer: Address | None = None) -> list[ChannelDescriptor]:
        """Open so many new channels."""
        descriptors = [
            ChannelDescriptor(
                payer=payer or self.payer.key.address,
                payee=self.payee,
                token=self.asset.token,
                salt="0x" + number.to_bytes(32, "big").hex(),
                authorized_signer=self.payer.key.address,
                escrow_contract=self.chain.escrow_contract,
                chain_id=self.chain.chain_id,
            )
            for number in range(self._opened, self._opened + count)
        ]
        self._opened += count
        ids = [one.channel_id() for one in descriptors]
        for begin in range(0, count, _AT_ONCE):
            self.chain.rpc.batch(
                [
                    ("anvil_setStorageAt", [self.chain.escrow_contract, _slot(one), hexed(word(DEPOSIT))])
                    for one in ids[begin : begin + _AT_ONCE]
                ]
            )
        self.chain.rpc.call("evm_mine")
        channels = [self._known(*pair) for pair in zip(ids, descriptors, strict=True)]
        with self.home.wallet() as wallet:
            wallet.ledger.vouchers.accept(ids, lambda *_: channels, now=wallet.now())
        return descriptors

    def payer_home(self, folder: Path) -> Home:
        """The home of a payer that has opened one of the channels."""
        home = Home(folder, self.chain)
        with home.wallet() as wallet:
            account = wallet.accounts.create("payer")
            (descriptor,) = self.open(1, account.address)
            new = PayerChannel.new(descriptor, self.asset, label="channel-0", voucher_known=True)
            channel = replace(new, state=OPENED, as_of=wallet.now())
            wallet.voucher_keys.put(channel.channel_id, self.payer.key, account.store)
            wallet.ledger.channels.add(channel, now=wallet.now())
        return home

    def supplies(self, server: Server, count: int) -> list[Iterator[bytes]]:
        """Paid requests of so many new channels."""
        return [self.requests(server, one.channel_id()) for one in self.open(count)]

    def requests(self, server: Server, channel_id: ChannelId) -> Iterator[bytes]:
        """Paid requests of a new channel, in order."""
        return paid_requests(self.payer, channel_id, challenge_in(server.field("www-authenticate")))

    def _known(self, channel_id: ChannelId, descriptor: ChannelDescriptor) -> PayeeChannel:
        digest = VoucherDigest(descriptor.chain_id, descriptor.escrow_contract, channel_id)
        return PayeeChannel(
            channel_id=channel_id,
            descriptor=descriptor,
            asset=self.asset,
            state=OPENED,
            authorized=0,
            spent=0,
            as_of=0,
            signature=self.payer.key.sign(digest(0)),
        )


def _slot(channel_id: ChannelId) -> str:
    """Where the escrow keeps a channel's state: the first of its mappings."""
    return hexed(keccak(word(channel_id) + word(0)))
