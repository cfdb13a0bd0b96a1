"""A payee over HTTP, written from the drafts: honest until a test twists it. It sees all that was signed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from anybody import done_as
from issuing import issue
from local_server import Handler, LocalServer

from microwallet.domain.channel import ChannelDescriptor
from microwallet.domain.identifiers import Address, checksum_address, keccak
from microwallet.domain.session import SessionAccount
from microwallet.domain.voucher import SignerCheck, VoucherDigest
from microwallet.escrow import calls
from microwallet.escrow.reader import EscrowReader
from microwallet.http402.charging.account import accept, charge
from microwallet.http402.charging.refusal import Refused
from microwallet.http402.wire.body_digest import body_digest, matches
from microwallet.http402.wire.challenge import Challenge, ChallengeSecrets
from microwallet.http402.wire.credential import Credential
from microwallet.http402.wire.encoding import encode_object
from microwallet.http402.wire.events import RECEIPT, NeedVoucher, encode_event
from microwallet.http402.wire.problems import MEDIA_TYPE, Problem, ProblemType
from microwallet.http402.wire.receipt import SessionReceipt
from microwallet.http402.wire.session_payload import (
    CloseAction,
    OpenAction,
    TopUpAction,
    VoucherAction,
    parse_payload,
)
from microwallet.http402.wire.session_request import INTENT, METHOD, SessionRequest

STREAM = "/stream"
PAID_BODY = b"an article worth paying for\n"


@dataclass(slots=True)
class Known:
    """A channel the payee was told of."""

    account: SessionAccount
    descriptor: ChannelDescriptor
    signature: bytes = b""
    stream: int = 0
    """The newest one: an older one ends."""
    bought: set[int] = field(default_factory=set)
    answers: dict[str, tuple[int, bytes]] = field(default_factory=dict)


@dataclass(slots=True, kw_only=True)
class Payee:
    """The payee's books, and what a test may twist."""

    chain: Any
    address: Address
    url: str = ""
    price: int = 1000
    suggested_deposit: int | None = 100_000
    min_voucher_delta: int = 0
    unit_type: str = "request"
    lifetime: int = 300
    """Seconds of a challenge."""
    bind_body: bool = False
    twist_request: Callable[[dict[str, Any]], dict[str, Any]] = lambda request: request
    twist_receipt: Callable[[dict[str, Any]], dict[str, Any] | None] = lambda receipt: receipt
    before: Callable[[Handler, Any], bool] = lambda _handler, _action: False
    """Called with each request and its action, or None; True if it has answered."""
    status: int = 200
    """Of the upstream."""
    units: int | None = None
    events: int = 5
    channels: dict[str, Known] = field(default_factory=dict)
    seen: list[tuple[str, str, Any]] = field(default_factory=list)
    """Method, path and action of every request."""
    changed: threading.Condition = field(default_factory=threading.Condition)
    secrets: ChallengeSecrets = field(default_factory=lambda: ChallengeSecrets([b"s" * 32]))

    @property
    def reader(self) -> EscrowReader:
        """The chain."""
        return EscrowReader(self.chain.rpc, self.chain.escrow_contract)

    @property
    def vouchers(self) -> list[tuple[str, int]]:
        """Channel and amount of every voucher that was handed over, in order."""
        actions = [action for _, _, action in self.seen if action is not None]
        return [
            (action.voucher.channel_id, action.voucher.cumulative_amount)
            for action in actions
            if not isinstance(action, TopUpAction)
        ]

    def highest(self) -> int:
        """All that was ever authorized to this payee, over all channels: what it could take."""
        best: dict[str, int] = {}
        for channel_id, amount in self.vouchers:
            best[channel_id] = max(best.get(channel_id, 0), amount)
        return sum(best.values())

    def request(self) -> dict[str, Any]:
        """The `request` of a challenge."""
        return self.twist_request(
            SessionRequest(
                amount=self.price,
                currency=self.chain.token,
                recipient=self.address,
                chain_id=self.chain.chain_id,
                escrow_contract=self.chain.escrow_contract,
                unit_type=self.unit_type,
                suggested_deposit=self.suggested_deposit,
                min_voucher_delta=self.min_voucher_delta,
            ).to_object()
        )

    def challenge(self, body: bytes) -> Challenge:
        """A fresh challenge."""
        return issue(
            self.secrets,
            self.request(),
            realm="test",
            method=METHOD,
            intent=INTENT,
            expires_at=int(time.time()) + self.lifetime,
            digest=body_digest(body) if self.bind_body else None,
        )

    def receipt(self, known: Known, challenge: Challenge, **more: Any) -> dict[str, Any] | None:
        """A receipt of how things stand."""
        account = known.account
        return self.twist_receipt(
            SessionReceipt(
                timestamp=int(time.time()),
                challenge_id=challenge.id,
                channel_id=account.channel_id,
                chain_id=self.chain.chain_id,
                accepted_cumulative=account.accepted,
                spent=account.spent,
                **more,
            ).to_object()
        )

    def asking_and_telling(self, channel_id: str, *, spent: int, units: int = 1) -> tuple[bytes, bytes]:
        """Events of a stream on a channel of which 2,000 were accepted: one asks for 3,000, a receipt tells
        what was `spent`."""
        told: dict[str, Any] = {"channel_id": channel_id, "accepted_cumulative": 2_000}
        need = NeedVoucher(required_cumulative=3_000, deposit=100_000, **told)
        receipt = SessionReceipt(
            timestamp=0, challenge_id="x", chain_id=self.chain.chain_id, spent=spent, units=units, **told
        )
        return need.to_event(), encode_event(RECEIPT, receipt.to_object())

    def capture(self, known: Known) -> str:
        """Close a channel on the chain, with what is spent of its best voucher; the transaction."""
        account, payee = known.account, known.descriptor.payee
        capture = calls.Capture(
            descriptor=known.descriptor,
            cumulative_amount=account.accepted,
            capture_amount=account.spent,
            signature=known.signature,
        )
        self.chain.node.add_native(payee, 10**18)
        return done_as(payee, calls.close(capture), self.chain)


@contextmanager
def serving(payee: Payee) -> Iterator[Payee]:
    """Serve on a free port of this machine."""

    class ForPayee(_Handler):
        pass

    ForPayee.payee = payee
    with LocalServer(ForPayee) as server:
        server.handle_error = lambda *_: None  # a client that goes away
        payee.url = server.url
        yield payee


def hang_up(handler, action):
    """The credential arrives, no answer goes back."""
    if action is None:
        return False
    handler.close_connection = True
    return True


def charge_and_hang_up(handler, action):
    """The credential arrives and is charged for, no answer goes back."""
    if action is not None:
        handler.answer = lambda *_: setattr(handler, "close_connection", True)
    return False


def break_off(handler: Handler, action: Any) -> bool:
    """What was paid for is answered, and the connection ends half-way."""

    def half(status: int, headers: dict[str, str], body: bytes = b"") -> None:
        handler.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(body[:10])
        handler.close_connection = True

    if action is not None:
        handler.answer = half
    return False


def drip(handler: Handler, status: int, headers: dict[str, str], *, most: int) -> bool:
    """An answer whose body comes byte by byte, ten a second, until it is not read any more or has so many."""
    handler.send_response(status)
    for name, value in {**headers, "Content-Length": str(most)}.items():
        handler.send_header(name, value)
    handler.end_headers()
    for _ in range(most):
        handler.wfile.write(b"x")
        time.sleep(0.1)
    return True


HEADERS_WITHOUT_END = (
    (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    (b"", b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"),
    (b"HTTP/1.1 200 OK\r\nX-Drip: ", b"x"),
)
"""How one begins, and what comes then again and again."""


def drip_header(handler: Handler, sent: tuple[bytes, bytes]) -> bool:
    """One of those, ten parts a second for twenty seconds, or until it is not read any more."""
    begin, again = sent
    handler.wfile.write(begin)
    for _ in range(200):
        handler.wfile.write(again)
        time.sleep(0.1)
    return True


class _Handler(Handler):
    protocol_version = "HTTP/1.1"
    payee: Payee

    def respond(self) -> None:
        self.body = self.read_body()
        field_value = self.headers.get("Authorization", "")
        credential = Credential.parse(field_value) if field_value.startswith("Payment ") else None
        action = None if credential is None else parse_payload(credential.payload)
        payee = self.payee
        payee.seen.append((self.command, self.path, action))
        if payee.before(self, action):
            return
        if credential is None:
            self.refuse(ProblemType.PAYMENT_REQUIRED, "pay for it")
            return
        try:
            self._paid(credential, action)
        except Refused as refused:
            self.refuse(refused.problem.type, refused.problem.detail, **refused.problem.extensions)

    def refuse(self, kind: ProblemType, detail: str, **extensions: Any) -> None:
        """A problem, with a fresh challenge where it is a 402."""
        headers = {"Content-Type": MEDIA_TYPE, "Cache-Control": "no-store"}
        if kind.status == 402:
            headers["WWW-Authenticate"] = self.payee.challenge(self.body).to_field()
        self.answer(kind.status, headers, Problem(type=kind, detail=detail, extensions=extensions).to_body())

    def stream(self, *events: bytes) -> None:
        """These events, whoever pays for them."""
        self.answer(200, {"Content-Type": "text/event-stream"}, b"".join(events))

    def _paid(self, credential: Credential, action: Any) -> None:
        payee, challenge = self.payee, credential.challenge
        if not payee.secrets.issued(challenge) or challenge.has_expired(int(time.time())):
            self.refuse(ProblemType.CHALLENGE_NOT_FOUND, "no such challenge")
            return
        if challenge.digest is not None and not matches(challenge.digest, self.body):
            self.refuse(ProblemType.INVALID_CHALLENGE, "for another body")
            return
        if isinstance(action, OpenAction):
            self._opened(credential, action)
        channel_id = action.channel_id if isinstance(action, TopUpAction) else action.voucher.channel_id
        known = payee.channels.get(channel_id)
        if known is None:
            self.refuse(ProblemType.CHANNEL_NOT_FOUND, "no such channel")
            return
        if isinstance(action, TopUpAction):
            state = payee.reader.channel_state(channel_id)
            known.account = _with_deposit(known.account, state.deposit)
            self._receipt_only(known, challenge)
            return
        self._vouched(known, challenge, action)

    def _vouched(self, known: Known, challenge: Challenge, action: Any) -> None:
        payee, voucher = self.payee, action.voucher
        channel_id, descriptor = voucher.channel_id, known.descriptor
        digest = VoucherDigest(descriptor.chain_id, descriptor.escrow_contract, channel_id)
        if not SignerCheck(descriptor.voucher_signer)(digest(voucher.cumulative_amount), voucher.signature):
            self.refuse(ProblemType.SIGNER_MISMATCH, "somebody else signed")
            return
        with payee.changed:
            if voucher.cumulative_amount > known.account.accepted:
                known.account = accept(
                    known.account, voucher.cumulative_amount, min_voucher_delta=payee.min_voucher_delta
                )
                known.signature = voucher.signature
            payee.changed.notify_all()
        if isinstance(action, CloseAction):
            self._close(known, challenge)
        elif self.command == "HEAD" and isinstance(action, VoucherAction):
            self._receipt_only(known, challenge)
        elif self.path == STREAM:
            self._stream(known, challenge, voucher.cumulative_amount)
        else:
            self._serve(known, challenge, voucher.cumulative_amount)

    def _opened(self, credential: Credential, action: OpenAction) -> None:
        payee = self.payee
        payer = credential.source.rpartition(":")[2]
        receipt = payee.chain.rpc.call("eth_getTransactionReceipt", [action.deposit.hash])
        assert receipt["status"] == "0x1"
        descriptor = ChannelDescriptor(
            payer=Address(payer),
            payee=payee.address,
            token=payee.chain.token,
            salt=action.salt,
            authorized_signer=action.authorized_signer,
            escrow_contract=payee.chain.escrow_contract,
            chain_id=payee.chain.chain_id,
        )
        assert descriptor.channel_id() == action.voucher.channel_id
        state = payee.reader.channel_state(action.voucher.channel_id)
        if state.finalized:
            raise Refused(Problem(type=ProblemType.CHANNEL_FINALIZED, detail="it is finalized"))
        with payee.changed:
            payee.channels.setdefault(
                action.voucher.channel_id,
                Known(
                    account=SessionAccount(channel_id=action.voucher.channel_id, deposit=state.deposit),
                    descriptor=descriptor,
                ),
            )

    def _serve(self, known: Known, challenge: Challenge, amount: int) -> None:
        payee, key = self.payee, self.headers.get("Idempotency-Key")
        with payee.changed:
            if key in known.answers:
                status, body = known.answers[key]
            else:
                if amount in known.bought:
                    self.refuse(ProblemType.VERIFICATION_FAILED, "this voucher has bought already")
                    return
                cost = payee.price * (payee.units or 1)
                reserved = charge(known.account, cost)
                status, body = payee.status, PAID_BODY
                if status < 500:
                    known.account = reserved
                    known.bought.add(amount)
                    known.answers[key] = (status, body)
            more = {} if payee.units is None else {"units": payee.units}
            receipt = payee.receipt(known, challenge, **more) if status < 400 else None
        headers = {"Content-Type": "text/plain"}
        if receipt is not None:
            headers["Payment-Receipt"] = _encoded(receipt)
        self.answer(status, headers, body)

    def _receipt_only(self, known: Known, challenge: Challenge) -> None:
        receipt = self.payee.receipt(known, challenge)
        self.answer(200, {} if receipt is None else {"Payment-Receipt": _encoded(receipt)}, b"")

    def _stream(self, known: Known, challenge: Challenge, amount: int) -> None:
        payee = self.payee
        charge(known.account, payee.price)
        known.bought.add(amount)
        known.stream = mine = known.stream + 1
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream; charset=utf-8")
        self.send_header("Payment-Receipt", _encoded(payee.receipt(known, challenge)))
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        for number in range(payee.events):
            while True:
                with payee.changed:
                    if known.stream != mine:
                        return
                    if known.account.available >= payee.price:
                        known.account = charge(known.account, payee.price)
                        break
                    account = known.account
                self.wfile.write(
                    NeedVoucher(
                        channel_id=account.channel_id,
                        required_cumulative=account.spent + payee.price,
                        accepted_cumulative=account.accepted,
                        deposit=account.deposit,
                    ).to_event()
                )
                with payee.changed:
                    if not payee.changed.wait_for(
                        lambda: known.account.available >= payee.price or known.stream != mine, timeout=5
                    ):
                        return
            self.wfile.write(b"data: event %d\n\n" % number)
        receipt = payee.receipt(known, challenge, units=payee.events)
        if receipt is not None:
            self.wfile.write(encode_event(RECEIPT, receipt))

    def _close(self, known: Known, challenge: Challenge) -> None:
        receipt = self.payee.receipt(known, challenge, transaction_hash=self.payee.capture(known))
        self.answer(200, {"Payment-Receipt": _encoded(receipt)}, b"")


def _with_deposit(account: SessionAccount, deposit: int) -> SessionAccount:
    return account._replace(deposit=deposit)


def _encoded(receipt: dict[str, Any] | str) -> str:
    return receipt if isinstance(receipt, str) else encode_object(receipt)


def payee_address(name: str = "payee") -> Address:
    """An address nobody has the key of."""
    return checksum_address(keccak(name.encode())[12:])
