"""An application behind pympp's own decorator, for scripts/bench.

pympp ships no session method for EVM chains, so this adds one as its documentation says: a voucher is
checked by eth-account, as its own charge method does, and there is no channel and no store. With
BENCH_VERIFY=nothing not even a signature is checked: what remains is pympp itself.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from typing import Any

from eth_account import Account
from eth_account.messages import encode_typed_data
from mpp import Receipt
from mpp.errors import VerificationError
from mpp.methods import Method
from mpp.server import Mpp, ServerMethod, VerifyContext, pay
from pydantic import BaseModel
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

SIGNER = "0x19E7E376E7C213B7E7e7e46cc70A5dD086DAff2A"
ESCROW = "0x5FbDB2315678afecb367f032d93F642f64180aa3"
DOMAIN = {"name": "EVM Payment Channel", "version": "1", "chainId": 31337, "verifyingContract": ESCROW}
TYPES = {
    "Voucher": [{"name": "channelId", "type": "bytes32"}, {"name": "cumulativeAmount", "type": "uint128"}]
}


class SessionRequest(BaseModel):
    amount: str
    currency: str
    recipient: str
    methodDetails: dict[str, Any]  # noqa: N815


class Voucher(BaseModel):
    action: str
    channelId: str  # noqa: N815
    cumulativeAmount: str  # noqa: N815
    signature: str


async def verify(context: VerifyContext) -> Receipt:
    """Accept a voucher that the one known signer signed."""
    voucher: Voucher = context.credential.payload
    if os.environ.get("BENCH_VERIFY") != "nothing":
        message = {
            "channelId": bytes.fromhex(voucher.channelId[2:]),
            "cumulativeAmount": int(voucher.cumulativeAmount),
        }
        signed = encode_typed_data(domain_data=DOMAIN, message_types=TYPES, message_data=message)
        if Account.recover_message(signed, signature=voucher.signature) != SIGNER:
            raise VerificationError("signed by somebody else")
    return Receipt(status="success", timestamp=datetime.now(UTC), reference=voucher.channelId, method="evm")


async def answer(_: Request) -> JSONResponse:
    """What everybody answers."""
    return JSONResponse({"answer": 42})


def unprotected() -> Starlette:
    """The application itself."""
    return Starlette(routes=[Route("/", answer)])


def protected() -> Starlette:
    """The application with its one endpoint behind the decorator."""
    method = ServerMethod(
        method=Method(name="evm", intent="session", request_model=SessionRequest, payload_model=Voucher),
        verify=verify,
    )
    mpp = Mpp(methods=method, realm="bench", secret_key="s" * 32)
    offer = mpp.session(
        amount="1000",
        currency="0x" + "55" * 20,
        recipient="0x" + "44" * 20,
        methodDetails={"chainId": 31337, "escrowContract": ESCROW},
        expires_in=timedelta(hours=1),
    )

    @pay(offer)
    async def paid(request: Request, credential: object, receipt: object) -> JSONResponse:  # noqa: ARG001
        return await answer(request)

    return Starlette(routes=[Route("/", paid)])
