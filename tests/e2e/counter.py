"""A gateway before a small application, in this process: a real ledger, and a chain that counts questions."""

from __future__ import annotations

import asyncio
import json
from contextlib import nullcontext

import httpx

from microwallet.domain.channel import ChannelDescriptor, ChannelState, PayeeChannel
from microwallet.domain.identifiers import Address, ChainId, TxHash, checksum_address
from microwallet.domain.money import Amount, Asset
from microwallet.domain.voucher import VoucherDigest, VoucherKey
from microwallet.http402.charging.desk import Desk
from microwallet.http402.charging.gateway import Gateway
from microwallet.http402.charging.middleware import PaymentMiddleware
from microwallet.http402.charging.offers import Terms
from microwallet.http402.charging.refusal import Refused
from microwallet.http402.charging.rotating_secrets import RotatingSecrets
from microwallet.http402.charging.routes import parse_routes
from microwallet.http402.wire.challenge import offered_challenges
from microwallet.http402.wire.credential import Credential
from microwallet.http402.wire.problems import Problem, ProblemType
from microwallet.http402.wire.receipt import SessionReceipt
from microwallet.http402.wire.session_payload import (
    CloseAction,
    OpenAction,
    SentTransaction,
    SignedVoucher,
    TopUpAction,
    VoucherAction,
    payload_object,
)
from microwallet.ledger.ledger import Ledger
from microwallet.payee.in_hand import InHandHere

CHAIN_ID = ChainId(31337)
ESCROW = Address("0x33e4C0e1b572086ec47A7C02F3496120837f5CAc")
PAYEE = checksum_address(b"\x44" * 20)
USDC = Asset(chain_id=CHAIN_ID, token=checksum_address(b"\x55" * 20), symbol="USDC", decimals=6)
EURC = Asset(chain_id=CHAIN_ID, token=checksum_address(b"\x66" * 20), symbol="EURC", decimals=6)
DEPOSIT = 1_000_000
NOW = 1_800_000_000


class CountingChain:
    """Says what the test wants, and how often it was asked."""

    def __init__(self):
        self.asked = 0
        self.channels = {}

    def states(self, channel_ids):
        self.asked += 1
        return {one: self.channels[one] for one in channel_ids}

    def opened(self, _transaction_hash, channel_id):
        self.asked += 1
        if channel_id not in self.channels:
            raise Refused(Problem(type=ProblemType.VERIFICATION_FAILED, detail="no such open"))
        return self.channels[channel_id]

    def topped_up(self, _transaction_hash, channel_id, _amount):
        self.asked += 1
        return self.channels[channel_id]


class ChannelPayer:
    """One channel, and what its key signs."""

    def __init__(self, key, **descriptor):
        self.key = key
        self.descriptor = ChannelDescriptor(authorized_signer=key.address, **descriptor)
        self.address = self.descriptor.payer
        self.channel_id = self.descriptor.channel_id()

    def voucher(self, amount, *, key=None):
        descriptor = self.descriptor
        digest = VoucherDigest(descriptor.chain_id, descriptor.escrow_contract, self.channel_id)(amount)
        return SignedVoucher(
            channel_id=self.channel_id, cumulative_amount=amount, signature=(key or self.key).sign(digest)
        )

    def pay(self, amount, **options):
        return VoucherAction(voucher=self.voucher(amount, **options))

    def opening(self, amount, deposit):
        """The action that tells of a deposit, and pays."""
        return OpenAction(
            voucher=self.voucher(amount),
            salt=self.descriptor.salt,
            authorized_signer=self.key.address,
            deposit=deposit,
        )

    @property
    def source(self):
        return f"did:pkh:eip155:{self.descriptor.chain_id}:{self.address}"


class Payer(ChannelPayer):
    """One whose channel is there when the chain says so, and who sends its own transactions."""

    def __init__(self, number=1, *, payee=PAYEE, asset=USDC, deposit=DEPOSIT):
        super().__init__(
            VoucherKey(number.to_bytes(32, "big")),
            payer=checksum_address(number.to_bytes(20, "big")),
            payee=payee,
            token=asset.token,
            salt="0x" + "33" * 32,
            escrow_contract=ESCROW,
            chain_id=CHAIN_ID,
        )
        self.state = ChannelState(deposit=deposit, settled=0, close_requested_at=0, finalized=False)
        self.channel = PayeeChannel(
            channel_id=self.channel_id,
            descriptor=self.descriptor,
            asset=asset,
            state=self.state,
            authorized=0,
            spent=0,
            as_of=None,
            signature=bytes(65),
        )

    def open(self, amount):
        return self.opening(amount, SentTransaction(hash=TxHash("0x" + "77" * 32)))

    def top_up(self, amount):
        return TopUpAction(
            channel_id=self.channel_id,
            additional_deposit=amount,
            deposit=SentTransaction(hash=TxHash("0x" + "78" * 32)),
        )

    def close(self, amount):
        return CloseAction(voucher=self.voucher(amount))


class Application:
    """What is sold: it remembers what it was asked, and answers as it is told."""

    def __init__(self):
        self.requests = []
        self.status = 200
        self.headers = []
        self.body = b"served"
        self.chunks = None
        self.fails = False
        self.reads = True

    async def __call__(self, scope, receive, send):
        body = (await receive()).get("body", b"") if self.reads else b""
        self.requests.append((scope["method"], scope["raw_path"].decode(), dict(scope["headers"]), body))
        if self.fails:
            raise RuntimeError("the application fell over")
        headers = [(b"content-type", b"text/plain"), *self.headers]
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        if self.chunks is None:
            await send({"type": "http.response.body", "body": self.body})
            return
        async for chunk in self.chunks():
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


class Counter:
    """A client's way to the gateway."""

    def __init__(
        self,
        folder,
        routes=({"path": "/**", "price": "1000"},),
        *,
        realm="shop",
        header=None,
        in_hand_of=None,
    ):
        """`in_hand_of`: the home of another gateway, which sees what is being served here."""
        self.ledger = Ledger.open(folder / "ledger.sqlite3")
        self.chain = CountingChain()
        self.now = NOW
        self.app = Application()
        self.closed = []
        self.in_hand = InHandHere(in_hand_of or folder)
        self.desk = Desk("chain", lambda: nullcontext(self.chain))
        self.openings = Desk("openings", lambda: nullcontext(self.chain))
        try:
            self.gateway = Gateway(
                Terms(
                    realm=realm,
                    payee=PAYEE,
                    network="anvil",
                    chain_id=CHAIN_ID,
                    escrow_contract=ESCROW,
                    secrets=RotatingSecrets(b"k" * 32, lambda: self.now),
                    header=header,
                ),
                parse_routes(routes, lambda text: Amount(int(text), USDC)),
                self.ledger.sessions,
                self.desk,
                self.in_hand,
                openings=self.openings,
                relay=Desk("deposits", self._no_relay),
                close_channel=self._close,
                clock=lambda: self.now,
            )
        except BaseException:
            self.close()
            raise
        self.application = PaymentMiddleware(self.app, self.gateway)

    def _no_relay(self):
        raise AssertionError("no token is relayed here")

    async def _close(self, channel_id):
        self.closed.append(channel_id)
        return TxHash("0x" + "99" * 32)

    def close(self):
        self.desk.close(within=5)
        self.openings.close(within=5)
        self.in_hand.close()
        self.ledger.close()

    def know(self, payer):
        """Make a payer's channel one that was told of before, with nothing paid."""
        self.ledger.sessions.add_channel(payer.channel, now=self.now)
        self.chain.channels[payer.channel_id] = payer.state

    def account(self, payer):
        with self.ledger.sessions.transaction() as rows:
            return rows.account(payer.channel_id)

    def ask(self, method="GET", path="/", *, headers=None, **request):
        """One request, as it is."""
        return asyncio.run(self.asked(method, path, headers=headers, **request))

    async def asked(self, method="GET", path="/", *, headers=None, **request):
        transport = httpx.ASGITransport(app=self.application, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            return await client.request(method, path, headers=headers, **request)

    def challenge(self, method="GET", path="/", **request):
        """A fresh challenge for a request."""
        return only_challenge(self.ask(method, path, **request))

    def pay(self, payer, action, method="GET", path="/", **request):
        """A request with a credential, for a fresh challenge unless one is given."""
        return asyncio.run(self.paid(payer, action, method, path, **request))

    async def paid(self, payer, action, method="GET", path="/", *, challenge=None, headers=None, **request):
        if challenge is None:
            told = await self.asked("GET" if method in ("HEAD", "POST") else method, path)
            challenge = only_challenge(told)
        fields = {"authorization": credential(payer, action, challenge), **(headers or {})}
        return await self.asked(method, path, headers=fields, **request)


PAYER = Payer()
"""Whom the counters of the fixtures know."""


def amounts(counter, payer=PAYER):
    """What of a payer is accepted and spent."""
    account = counter.account(payer)
    return account.accepted, account.spent


def credential(payer, action, challenge):
    """The value of an Authorization field; it names its payer, if there is one."""
    payload = action if isinstance(action, dict) else payload_object(action)
    return Credential(challenge=challenge, payload=payload, source=payer and payer.source).to_field()


def only_challenge(response):
    """The one challenge of an answer."""
    return offered_challenges(response.headers.get_list("www-authenticate")).challenges[0]


def receipt(response):
    """The receipt of an answer, or None."""
    value = response.headers.get("payment-receipt")
    return None if value is None else SessionReceipt.parse(value)


def problem(response):
    """The name of a problem, after the last part of its base."""
    assert response.headers["content-type"] == "application/problem+json"
    document = json.loads(response.content)
    assert document["status"] == response.status_code
    return document["type"].removeprefix("https://paymentauth.org/problems/")
