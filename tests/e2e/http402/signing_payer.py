"""A gateway on the real chain, in this process, and a payer that has tokens and no coin for gas."""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import itertools
import time

import httpx
from anybody import send_as
from counter import Application, ChannelPayer, credential, only_challenge, problem

from microwallet.assortment import Assortment
from microwallet.domain.identifiers import Address, hexed, keccak
from microwallet.domain.money import Amount
from microwallet.domain.voucher import VoucherKey
from microwallet.escrow.authorizations import (
    TokenDomain,
    TransferAuthorization,
    authorize_open,
    authorize_top_up,
    receive_digest,
    sign,
)
from microwallet.escrow.calls import Call
from microwallet.escrow.reader import EscrowReader
from microwallet.http402.charging.fee_policy import FeePolicy
from microwallet.http402.charging.middleware import PaymentMiddleware
from microwallet.http402.charging.routes import parse_routes
from microwallet.http402.charging.settling import SettlingPolicy
from microwallet.http402.wire.session_payload import (
    MergedOpen,
    MergedTopUp,
    OpenAction,
    SignedTransfer,
    TopUpAction,
    VoucherAction,
)
from microwallet.selling import Shop
from microwallet.wallet import Wallet

PRICE = 1000
LEAST = 100_000
BUDGET = 10**16
SOON = 2**40
SALT = b"\1" * 32

_numbers = itertools.count(1)


class SigningPayer(ChannelPayer):
    """One who has tokens and no coin, and opens and tops up a new channel by signatures alone."""

    def __init__(self, chain, payee: Address, *, usdc=10_000_000, token: Address | None = None):
        self.chain = chain
        self.secret = keccak(b"signing payer %d" % next(_numbers))
        self.domain = TokenDomain(
            name="USDC", version="2", chain_id=chain.chain_id, token=token or chain.token
        )
        super().__init__(
            VoucherKey(keccak(self.secret)),
            payer=VoucherKey(self.secret).address,
            payee=payee,
            token=token or chain.token,
            salt=hexed(keccak(b"salt" + self.secret)),
            escrow_contract=chain.escrow_contract,
            chain_id=chain.chain_id,
        )
        if usdc:
            chain.node.mint(token or chain.token, self.address, usdc)

    def with_salt(self, salt: str) -> SigningPayer:
        """The same payer with another channel."""
        other = copy.copy(self)
        other.descriptor = dataclasses.replace(self.descriptor, salt=salt)
        other.channel_id = other.descriptor.channel_id()
        return other

    def open_authorization(self, value, *, valid_before=SOON) -> TransferAuthorization:
        return authorize_open(
            self.secret, self.domain, self.descriptor, deposit=value, valid_before=valid_before
        )

    def top_up_authorization(self, value, *, salt=SALT, valid_before=SOON) -> TransferAuthorization:
        return authorize_top_up(
            self.secret,
            self.domain,
            self.descriptor,
            additional_deposit=value,
            top_up_salt=salt,
            valid_before=valid_before,
        )

    def signed_again(self, transfer: SignedTransfer, **changes) -> SignedTransfer:
        """A transfer with other members, rightly signed by the payer all the same."""
        changed = dataclasses.replace(transfer, **changes)
        digest = receive_digest(
            self.domain,
            sender=changed.payer,
            receiver=changed.to,
            value=changed.value,
            valid_after=changed.valid_after,
            valid_before=changed.valid_before,
            nonce=bytes.fromhex(changed.nonce[2:]),
        )
        return dataclasses.replace(changed, signature=sign(self.secret, digest))

    def transfer(self, authorization: TransferAuthorization, **changes) -> SignedTransfer:
        transfer = SignedTransfer(
            payer=self.address,
            to=self.chain.escrow_contract,
            value=authorization.value,
            valid_after=authorization.valid_after,
            valid_before=authorization.valid_before,
            nonce=hexed(authorization.nonce),
            signature=authorization.signature,
        )
        return dataclasses.replace(transfer, **changes)

    def open(self, value=1_000_000, *, amount=PRICE, **changes) -> OpenAction:
        return self.opening(amount, self.transfer(self.open_authorization(value), **changes))

    def top_up(self, value=500_000, *, salt=SALT, **changes) -> TopUpAction:
        transfer = self.transfer(self.top_up_authorization(value, salt=salt), **changes)
        return TopUpAction(
            channel_id=self.channel_id, additional_deposit=value, deposit=transfer, salt=hexed(salt)
        )

    def merged_open(self, value=1_000_000, *, amount=PRICE, **changes) -> VoucherAction:
        opened = self.open(value, amount=amount, **changes)
        merged = MergedOpen(
            salt=opened.salt, authorized_signer=opened.authorized_signer, deposit=opened.deposit
        )
        return VoucherAction(voucher=opened.voucher, merged=merged)

    def merged_top_up(self, value=500_000, *, amount, salt=SALT, **changes) -> VoucherAction:
        topped = self.top_up(value, salt=salt, **changes)
        return VoucherAction(
            voucher=self.voucher(amount), merged=MergedTopUp(salt=topped.salt, deposit=topped.deposit)
        )


class PayingShop:
    """A shop of a home that pays the gas of payers' deposits, and its customers' way to it."""

    def __init__(self, home, chain, *, least=LEAST, budget=BUDGET, token=None):
        self.chain = chain
        self.reader = EscrowReader(chain.rpc, chain.escrow_contract)
        self.events = []
        self.app = Application()
        self.wallet = Wallet.open(environment=home.environment)
        asset = self.wallet.resolve_asset(token)
        self.payee = self.wallet.account.address
        self.shop = Shop(
            self.wallet,
            Assortment(
                routes=parse_routes(
                    [{"path": "/**", "price": str(PRICE)}], lambda text: Amount(int(text), asset)
                ),
                policy=SettlingPolicy(payee=self.payee, chain_id=chain.chain_id),
                fees=FeePolicy(min_deposits={asset.token: least}, gas_budget=budget),
            ),
            realm="shop",
            emit=lambda event, details: self.events.append((event, details)),
        )
        self.application = PaymentMiddleware(self.app, self.shop.gateway)

    def close(self):
        self.shop.close(within=10)
        self.wallet.__exit__()

    def pay(self, *actions, method="GET"):
        """One request for each action, all at the same time; the one answer, or all of them."""
        answers = asyncio.run(self._all(method, actions))
        return answers[0] if len(actions) == 1 else answers

    async def _all(self, method, actions):
        transport = httpx.ASGITransport(app=self.application, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://shop") as client:
            return await asyncio.gather(*(self._pay(client, method, action) for action in actions))

    async def _pay(self, client, method, action):
        asked = await client.get("/")
        field = credential(None, action, only_challenge(asked))
        return await client.request(method, "/", headers={"authorization": field})

    def request(self):
        """The session request of a fresh challenge."""

        async def ask():
            transport = httpx.ASGITransport(app=self.application)
            async with httpx.AsyncClient(transport=transport, base_url="http://shop") as client:
                return await client.get("/")

        return only_challenge(asyncio.run(ask())).request_object()

    def refused(self, *actions, **options):
        """Status and problem of what is refused."""
        answer = self.pay(*actions, **options)
        return answer.status_code, problem(answer)

    def sent(self, address=None) -> int:
        """Transactions that the payee, or somebody else, has sent."""
        return self.reader.transaction_count(address or self.payee)

    def state(self, payer):
        return self.reader.channel_state(payer.channel_id)

    def send_as(self, sender: Address, call: Call, *, tip=None) -> str:
        """A transaction of anybody, in the pool when this returns."""
        self.chain.node.add_native(sender, 10**18)
        fees = {} if tip is None else {"maxFeePerGas": hex(tip + 10**10), "maxPriorityFeePerGas": hex(tip)}
        return send_as(sender, call, self.chain, **fees)

    def wait_for_pooled(self, sender: Address) -> None:
        """Until the node holds a transaction of `sender` that is not mined."""
        deadline = time.monotonic() + 20
        while sender.lower() not in {one.lower() for one in self.chain.rpc.call("txpool_content")["pending"]}:
            assert time.monotonic() < deadline
            time.sleep(0.01)
