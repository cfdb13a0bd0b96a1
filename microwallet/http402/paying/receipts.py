"""What a server's receipt says, held against the payer's own books: it is reported, never believed.

draft-evm-session-00, section "Receipt Generation".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from microwallet.domain.channel import PayerChannel
from microwallet.errors import MalformedMessage
from microwallet.http402.wire.encoding import decode_object
from microwallet.http402.wire.receipt import RECEIPT_LIMIT, SessionReceipt
from microwallet.http402.wire.session_request import INTENT, METHOD


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedReceipt:
    """A receipt as decoded, what it says if it can be read, and what is wrong with it."""

    document: Mapping[str, Any] | None = None
    receipt: SessionReceipt | None = None
    problems: Sequence[str] = ()

    def cost(self, price: int, *, reserved: int) -> int:
        """What the request cost: `units` at a price, where that is not above what was reserved for it."""
        if self.receipt is None or self.receipt.units is None:
            return reserved
        return min(self.receipt.units * price, reserved)


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What an honest receipt says. Base units."""

    channel: PayerChannel
    """As the books have it when the receipt is there: nothing above is right."""
    challenge_id: str | None
    """None where an earlier answer may be repeated."""
    least_accepted: int
    least_spent: int


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpPayment:
    """What a request cost, by the payer's own books."""

    channel: PayerChannel
    """As the books have it after the payment."""
    amount: int
    """Base units this request cost."""
    cumulative_amount: int
    """Of the last voucher that was signed for it."""
    idempotency_key: str
    receipt: Mapping[str, Any] | None
    """Decoded; None if the server sent none that can be decoded."""
    receipt_problems: Sequence[str] = field(default_factory=tuple)
    deposited: bool = False
    """Whether a channel was opened or topped up for it."""

    def document(self) -> dict[str, Any]:
        """The payment as JSON: amounts are decimal strings of base units."""
        channel = self.channel
        return {
            "method": METHOD,
            "intent": INTENT,
            "channelId": channel.channel_id,
            "amount": str(self.amount),
            "cumulativeAmount": str(self.cumulative_amount),
            "spent": str(channel.spent),
            "authorized": str(channel.authorized),
            "deposit": str(channel.state.deposit),
            "asset": channel.asset.symbol,
            "decimals": channel.asset.decimals,
            "token": channel.asset.token,
            "chainId": channel.descriptor.chain_id,
            "payee": channel.descriptor.payee,
            "idempotencyKey": self.idempotency_key,
            "deposited": self.deposited,
            "receipt": None if self.receipt is None else dict(self.receipt),
            "receiptProblems": list(self.receipt_problems),
        }


def check_receipt(value: str | Mapping[str, Any] | None, expected: Expected) -> CheckedReceipt:
    """Read a `Payment-Receipt` field, or the data of a stream's last event; raises nothing."""
    if value is None:
        return CheckedReceipt(problems=("no receipt came",))
    try:
        document = (
            decode_object(value, what="receipt", limit=RECEIPT_LIMIT) if isinstance(value, str) else value
        )
    except MalformedMessage as error:
        return CheckedReceipt(problems=(error.message,))
    try:
        receipt = SessionReceipt.from_object(dict(document))
    except MalformedMessage as error:
        return CheckedReceipt(document=document, problems=(error.message,))
    problems = _problems(receipt, expected)
    is_other = receipt.channel_id != expected.channel.channel_id
    return CheckedReceipt(document=document, receipt=None if is_other else receipt, problems=problems)


def _problems(receipt: SessionReceipt, expected: Expected) -> list[str]:
    channel = expected.channel
    told = [
        ("channelId", receipt.channel_id, channel.channel_id),
        ("chainId", receipt.chain_id, channel.descriptor.chain_id),
    ]
    if expected.challenge_id is not None:
        told.append(("challengeId", receipt.challenge_id, expected.challenge_id))
    problems = [f"the receipt's {name} is {said}, not {ours}" for name, said, ours in told if said != ours]
    for name, said, least, most in (
        ("acceptedCumulative", receipt.accepted_cumulative, expected.least_accepted, channel.authorized),
        ("spent", receipt.spent, expected.least_spent, channel.spent),
    ):
        if not least <= said <= most:
            ours = f"{most}" if least == most else f"{least} to {most}"
            problems.append(f"the receipt's {name} is {said}, by our books it is {ours}")
    return problems
