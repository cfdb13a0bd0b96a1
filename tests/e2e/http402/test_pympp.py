"""Payments with code that nobody here wrote: pympp at the other end, signatures by eth-account.

pympp knows no session over an EVM chain; the method it is given here is written from the draft alone
and uses nothing of ours: eth-abi, eth-account and JSON-RPC.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
from eth_abi import encode
from eth_utils import keccak, to_checksum_address
from local_server import Handler, LocalServer
from mpp import Challenge, Credential, Receipt
from mpp.client.transport import PaymentTransport
from mpp.errors import PaymentError, VerificationFailedError
from mpp.methods import Method
from mpp.runtime import ClientMethod, CredentialParams
from mpp.server.verify import verify_or_challenge
from pydantic import BaseModel

from microwallet.escrow.reader import EscrowReader

PRICE = 1_000
DEPOSIT = 1_000_000
ARTICLE = b"an article worth paying for\n"


def voucher_data(details: dict[str, Any], channel_id: str, amount: int) -> Any:
    """The typed data of a voucher, as the draft writes it."""
    from eth_account.messages import encode_typed_data

    return encode_typed_data(
        domain_data={
            "name": "EVM Payment Channel",
            "version": "1",
            "chainId": details["chainId"],
            "verifyingContract": details["escrowContract"],
        },
        message_types={
            "Voucher": [
                {"name": "channelId", "type": "bytes32"},
                {"name": "cumulativeAmount", "type": "uint128"},
            ]
        },
        message_data={"channelId": bytes.fromhex(channel_id[2:]), "cumulativeAmount": amount},
    )


def channel_id_of(request: dict[str, Any], payer: str, salt: str, signer: str) -> str:
    """The draft's formula."""
    details = request["methodDetails"]
    types = ["address", "address", "address", "bytes32", "address", "address", "uint256"]
    values = [
        payer,
        request["recipient"],
        request["currency"],
        bytes.fromhex(salt[2:]),
        signer,
        details["escrowContract"],
        details["chainId"],
    ]
    return "0x" + keccak(encode(types, values)).hex()


# Their client pays our gateway


@dataclass
class Payer:
    """One account with one channel, and the method `evm` with the intent `session` for pympp's client."""

    chain: Any
    account: Any
    channel_id: str | None = None
    authorized: int = 0
    closes: bool = False
    """Whether the next credential asks for the close."""

    async def credential(self, params: CredentialParams) -> str:
        """An answer to a challenge: the open first, then vouchers, the close in the end."""
        challenge = params.challenge
        request = challenge.request
        if self.closes:
            payload = {"action": "close", **self._voucher(request, 0)}
        elif self.channel_id is None:
            salt = "0x" + secrets.token_hex(32)
            sent = self._open(request, salt)
            self.channel_id = channel_id_of(request, self.account.address, salt, self.account.address)
            payload = {
                "action": "open",
                "type": "hash",
                "hash": sent,
                "salt": salt,
                "authorizedSigner": self.account.address.lower(),
                **self._voucher(request, int(request["amount"])),
            }
        else:
            payload = {"action": "voucher", **self._voucher(request, int(request["amount"]))}
        source = f"did:pkh:eip155:{request['methodDetails']['chainId']}:{self.account.address}"
        return Credential(challenge=challenge.to_echo(), payload=payload, source=source).to_authorization()

    def _voucher(self, request: dict[str, Any], cost: int) -> dict[str, str]:
        self.authorized += cost
        data = voucher_data(request["methodDetails"], self.channel_id, self.authorized)
        return {
            "channelId": self.channel_id,
            "cumulativeAmount": str(self.authorized),
            "signature": "0x" + bytes(self.account.sign_message(data).signature).hex(),
        }

    def _open(self, request: dict[str, Any], salt: str) -> str:
        """Approve, then the draft's own `open`."""
        escrow = request["methodDetails"]["escrowContract"]
        approval = encode(["address", "uint256"], [escrow, DEPOSIT])
        self._send(request["currency"], "approve(address,uint256)", approval)
        opening = encode(
            ["address", "address", "uint128", "bytes32", "address"],
            [
                request["recipient"],
                request["currency"],
                DEPOSIT,
                bytes.fromhex(salt[2:]),
                self.account.address,
            ],
        )
        return self._send(escrow, "open(address,address,uint128,bytes32,address)", opening)

    def _send(self, to: str, function: str, arguments: bytes) -> str:
        rpc = self.chain.rpc
        count = rpc.call("eth_getTransactionCount", [self.account.address, "latest"])
        signed = self.account.sign_transaction(
            {
                "to": to,
                "data": keccak(text=function)[:4] + arguments,
                "value": 0,
                "gas": 300_000,
                "maxFeePerGas": 10**11,
                "maxPriorityFeePerGas": 10**9,
                "nonce": int(count, 16),
                "chainId": self.chain.chain_id,
            }
        )
        sent = rpc.call("eth_sendRawTransaction", ["0x" + bytes(signed.raw_transaction).hex()])
        while (mined := rpc.call("eth_getTransactionReceipt", [sent])) is None:
            time.sleep(0.01)
        assert mined["status"] == "0x1"
        return sent


class Anything(BaseModel, extra="allow"):
    """What a request or a payload holds; the draft's fields are read where they are used."""


SESSION = Method(name="evm", intent="session", request_model=Anything, payload_model=Anything)


@pytest.mark.parametrize("requires_auth", [False, True])
def test_their_client_pays_our_gateway(serve, chain, upstream, requires_auth):
    """An open on chain, vouchers and a close by pympp's client; the chain pays what was used. Where what is
    sold uses Authorization itself, it gets that as it was sent."""
    from eth_account import Account

    account = Account.from_key(keccak(text="a payer of pympp"))
    chain.node.add_native(account.address, 10**18)
    chain.node.mint(chain.token, account.address, DEPOSIT)
    payer = Payer(chain=chain, account=account)
    gateway = serve(*(["--requires-auth"] if requires_auth else []))
    own = {"Authorization": "Bearer t"} if requires_auth else {}
    method = ClientMethod(method=SESSION, create_credential=payer.credential)

    async def program() -> list[Receipt]:
        receipts = []
        async with httpx.AsyncClient(transport=PaymentTransport(methods=[method])) as client:
            for payer.closes in (False, False, False, True):
                answer = await client.get(gateway.url, headers=own)
                body = b"" if payer.closes else b"you asked for /"
                assert (answer.status_code, answer.content) == (200, body)
                receipts.append(Receipt.from_payment_receipt(answer.headers["payment-receipt"]))
        return receipts

    receipts = asyncio.run(program())
    assert {fields.get("authorization") for _, fields in upstream.asked} == {own.get("Authorization")}
    assert not any("payment-authorization" in fields for _, fields in upstream.asked)
    assert {(one.status, one.method, one.reference) for one in receipts} == {
        ("success", "evm", payer.channel_id)
    }
    assert [one.extensions["spent"] for one in receipts] == ["1000", "2000", "3000", "3000"]
    closing = chain.rpc.call("eth_getTransactionReceipt", [receipts[-1].extensions["txHash"]])
    assert closing["status"] == "0x1"
    reader = EscrowReader(chain.rpc, chain.escrow_contract)
    state = reader.channel_state(payer.channel_id)
    assert (state.finalized, state.settled) == (True, 3 * PRICE)
    assert reader.token_balance(chain.token, account.address) == DEPOSIT - 3 * PRICE


# Our client pays their server


@dataclass
class Session:
    """The intent `session` for pympp's server: one price, and channels by id. Nothing is kept for replays."""

    chain: Any
    name: str = "session"
    signers: dict[str, str] = field(default_factory=dict)
    spent: dict[str, int] = field(default_factory=dict)
    actions: list[str] = field(default_factory=list)

    async def verify(self, credential: Credential, request: dict[str, Any]) -> Receipt:
        """Verify what a credential carries, and charge the price where it is a voucher."""
        from eth_account import Account

        payload = credential.payload
        channel_id, amount = payload["channelId"], int(payload["cumulativeAmount"])
        self.actions.append(payload["action"])
        if payload["action"] == "open":
            self._opened(credential, request)
        data = voucher_data(request["methodDetails"], channel_id, amount)
        if Account.recover_message(data, signature=payload["signature"]) != self.signers.get(channel_id):
            raise VerificationFailedError("the voucher is signed by somebody else")
        spent = self.spent.get(channel_id, 0) + int(request["amount"])
        if amount < spent:
            raise VerificationFailedError(f"{amount} is authorized, {spent} is needed")
        self.spent[channel_id] = spent
        return Receipt(
            status="success",
            timestamp=datetime.now(UTC),
            reference=channel_id,
            method="evm",
            extensions={
                "intent": "session",
                "challengeId": credential.challenge.id,
                "channelId": channel_id,
                "chainId": request["methodDetails"]["chainId"],
                "acceptedCumulative": str(amount),
                "spent": str(spent),
            },
        )

    def _opened(self, credential: Credential, request: dict[str, Any]) -> None:
        payload = credential.payload
        payer, signer = credential.source.rpartition(":")[2], payload["authorizedSigner"]
        mined = self.chain.rpc.call("eth_getTransactionReceipt", [payload["hash"]])
        if channel_id_of(request, payer, payload["salt"], signer) != payload["channelId"]:
            raise VerificationFailedError("another channel")
        if mined is None or mined["status"] != "0x1":
            raise VerificationFailedError("not opened")
        self.signers[payload["channelId"]] = to_checksum_address(signer)


@contextmanager
def their_server(intent: Session, request: dict[str, Any], header: str | None):
    """pympp's verification behind HTTP; its URL. With a `header` of its own for payments, what is sold there
    is for whoever has a token."""

    class TheirServer(Handler):
        def respond(self) -> None:
            try:
                outcome = asyncio.run(
                    verify_or_challenge(
                        authorization=self.headers.get(header or "Authorization"),
                        intent=intent,
                        request=request,
                        realm="their shop",
                        secret_key="s" * 32,
                        method="evm",
                        header=header,
                    )
                )
            except PaymentError as error:
                self.answer(error.status, {}, str(error).encode())
                return
            if header and self.headers.get("Authorization") != "Bearer t":
                self.answer(401, {}, b"")
            elif isinstance(outcome, Challenge):
                field = outcome.to_www_authenticate("their shop")
                self.answer(402, {"WWW-Authenticate": field}, b"pay")
            else:
                _, receipt = outcome
                self.answer(200, {"Payment-Receipt": receipt.to_payment_receipt()}, ARTICLE)

    with LocalServer(TheirServer) as server:
        yield server.url


@pytest.mark.parametrize("header", [None, "Payment-Authorization"])
def test_our_fetch_pays_their_server(alice, chain, header):
    """The open and two vouchers of ours are verified by pympp and eth-account; we read their receipts. Where
    payments have a field of their own, the request's Authorization goes beside them."""
    payee = to_checksum_address(keccak(text="a payee of pympp")[12:])
    request = {
        "amount": str(PRICE),
        "currency": chain.token,
        "recipient": payee,
        "methodDetails": {"chainId": chain.chain_id, "escrowContract": chain.escrow_contract},
    }
    intent = Session(chain=chain)
    own = ("-H", "Authorization: Bearer t") if header else ()
    with their_server(intent, request, header) as url:
        first = alice.run("fetch", url, *own, "--deposit", "1 USDC", "--yes", "--json").data
        second = alice.run("fetch", url, *own, "--json").data
    assert [one["body"].encode() for one in (first, second)] == [ARTICLE, ARTICLE]
    payments = [one["payment"] for one in (first, second)]
    assert [one["receiptProblems"] for one in payments] == [[], []]
    assert [one["receipt"]["spent"] for one in payments] == ["1000", "2000"]
    assert intent.actions == ["open", "voucher"]
    assert intent.spent == {payments[0]["channelId"]: 2 * PRICE}
