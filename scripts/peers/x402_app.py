"""An application behind the x402 SDK's own middleware, for scripts/bench; runs where that SDK is installed.

Channels are put into the SDK's store as they are after their deposit was settled: from then on the SDK
verifies a voucher by itself and asks no facilitator until its view of the chain is five minutes old.
"""

from __future__ import annotations

import json
import os
import sys
import time

from eth_account import Account
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route
from x402 import x402ResourceServer
from x402.http.middleware.fastapi import PaymentMiddlewareASGI
from x402.http.types import PaymentOption, RouteConfig
from x402.http.utils import decode_payment_required_header, encode_payment_signature_header
from x402.mechanisms.evm.batch_settlement.authorizer_signer import LocalAuthorizerSigner
from x402.mechanisms.evm.batch_settlement.client.file_storage import (
    FileChannelStorageOptions,
    FileClientChannelStorage,
)
from x402.mechanisms.evm.batch_settlement.client.storage import BatchSettlementClientContext
from x402.mechanisms.evm.batch_settlement.client.voucher import sign_voucher
from x402.mechanisms.evm.batch_settlement.server import BatchSettlementEvmScheme
from x402.mechanisms.evm.batch_settlement.server.file_storage import FileChannelStorage
from x402.mechanisms.evm.batch_settlement.server.scheme import BatchSettlementEvmSchemeServerConfig
from x402.mechanisms.evm.batch_settlement.server.storage import Channel, InMemoryChannelStorage
from x402.mechanisms.evm.batch_settlement.types import ChannelConfig, VoucherPayload
from x402.mechanisms.evm.batch_settlement.utils import compute_channel_id
from x402.mechanisms.evm.signers import EthAccountSigner
from x402.schemas import PaymentPayload, SupportedKind, SupportedResponse

NETWORK = "eip155:84532"
TOKEN = "0x036CbD53842c5426634e7929541eC2318f3dCF7e"
PAYER = Account.from_key("0x" + "11" * 32)
PAYEE = Account.from_key("0x" + "44" * 32)
PRICE, DEPOSIT = 1_000, 10**12
SCHEME = "batch-settlement"


class Facilitator:
    """Says what it supports; vouchers on channels that are known never get to it."""

    def get_supported(self) -> SupportedResponse:
        return SupportedResponse(kinds=[SupportedKind(x402_version=2, scheme=SCHEME, network=NETWORK)])

    async def verify(self, *_: object) -> object:
        raise AssertionError("a voucher was verified elsewhere")

    async def settle(self, *_: object) -> object:
        raise AssertionError("a voucher was settled elsewhere")


async def answer(_: object) -> JSONResponse:
    """What everybody answers."""
    return JSONResponse({"answer": 42})


def unprotected() -> Starlette:
    """The application itself."""
    return Starlette(routes=[Route("/", answer)])


def protected() -> Starlette:
    """The application behind the middleware, with as many open channels as BENCH_CHANNELS says."""
    folder = os.environ.get("BENCH_STORE")
    store = FileChannelStorage(folder) if folder else InMemoryChannelStorage()
    for number in range(int(os.environ["BENCH_CHANNELS"])):
        store.update_channel(_channel(number).channel_id, lambda _, number=number: _channel(number))
    server = x402ResourceServer(Facilitator())
    config = BatchSettlementEvmSchemeServerConfig(
        storage=store, receiver_authorizer_signer=LocalAuthorizerSigner(PAYEE)
    )
    server.register(NETWORK, BatchSettlementEvmScheme(PAYEE.address, config))
    price = {"amount": str(PRICE), "asset": TOKEN, "extra": {"name": "USDC", "version": "2"}}
    option = PaymentOption(scheme=SCHEME, pay_to=PAYEE.address, price=price, network=NETWORK)
    app = unprotected()
    app.add_middleware(PaymentMiddlewareASGI, routes={"GET /": RouteConfig(accepts=option)}, server=server)
    return app


def config_of(number: int) -> ChannelConfig:
    """The configuration of one of the payer's channels."""
    return ChannelConfig(
        payer=PAYER.address,
        payer_authorizer=PAYER.address,
        receiver=PAYEE.address,
        receiver_authorizer=PAYEE.address,
        token=TOKEN,
        withdraw_delay=900,
        salt="0x" + number.to_bytes(32, "big").hex(),
    )


def _channel(number: int) -> Channel:
    config = config_of(number)
    return Channel(
        channel_id=compute_channel_id(config, NETWORK),
        channel_config=config,
        balance=str(DEPOSIT),
        onchain_synced_at=int(time.time() * 1000),
    )


def print_credentials(required: str, channels: int, count: int) -> None:
    """Print, a line for each channel, a JSON list of header values that pay one request each."""
    challenge = decode_payment_required_header(required)
    signer = EthAccountSigner(PAYER)
    for number in range(channels):
        config = config_of(number)
        channel_id = compute_channel_id(config, NETWORK)
        values = []
        for nth in range(1, count + 1):
            payload = VoucherPayload()
            payload.channel_config = config
            payload.voucher = sign_voucher(signer, channel_id, nth * PRICE, NETWORK)
            paid = PaymentPayload(
                payload=payload.to_dict(), accepted=challenge.accepts[0], resource=challenge.resource
            )
            values.append(encode_payment_signature_header(paid))
        print(json.dumps(values))


if __name__ == "__main__":
    if sys.argv[1] == "open":
        storage = FileClientChannelStorage(FileChannelStorageOptions(directory=sys.argv[2]))
        opened = BatchSettlementClientContext(charged_cumulative_amount="0", balance=str(DEPOSIT))
        storage.set(compute_channel_id(config_of(0), NETWORK), opened)
    else:
        print_credentials(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
