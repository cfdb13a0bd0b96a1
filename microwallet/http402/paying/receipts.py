"""A server's receipt, checked against the payer's own books.

What it says is reported. It is believed only where it lowers what counts as spent without a receipt.

draft-evm-session-00, section "Receipt Generation".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from microwallet.domain.channel import PayerChannel
from microwallet.errors import MalformedMessage
from microwallet.http402.wire.encoding import decode_object
from microwallet.http402.wire.receipt import RECEIPT_LIMIT, SessionReceipt
from microwallet.http402.wire.session_request import INTENT, METHOD
from microwallet.ledger.purchases import Confirmation, Unconfirmed


@dataclass(frozen=True, slots=True, kw_only=True)
class ToldReceipt:
    """A receipt: the decoded JSON, what it says, and what is wrong with it if that cannot be read."""

    document: Mapping[str, Any] | None = None
    receipt: SessionReceipt | None = None
    problem: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Books:
    """What the payer knows when a receipt comes, in base units."""

    channel: PayerChannel
    """As it is now, with what other requests have in flight."""
    challenge_id: str | None
    """None if the receipt may be an earlier one, for another challenge, that is repeated."""
    cumulative_amount: int
    """Of the voucher that bought; of a stream's vouchers, the first: others may follow after the receipt."""
    reserved: int
    price: int
    """Of one unit."""
    agreed: int
    """What the request may cost at most."""
    delivered: int
    """What was received costs, by our own count; 0 if it cannot be counted. A payee may have charged it to
    vouchers of other requests."""
    least_spent: int
    """What counts as charged on the channel before this request, `unconfirmed` included."""
    most_spent: int
    """What it can have charged on the channel at most, this request included."""
    unconfirmed: Unconfirmed
    """What counted as spent without a receipt when the request was reserved."""
    is_final: bool
    """Whether the payee can no longer charge what is unconfirmed and it had not charged by then."""

    def cost(self, told: ToldReceipt) -> int:
        """What the request cost: by the receipt, else all that was reserved; what was received at least."""
        return max(self._told_cost(told), self._received)

    def _told_cost(self, told: ToldReceipt) -> int:
        units = self._units(told)
        return self._most if units is None else min(units * self.price, self._most)

    def confirmation(
        self, told: ToldReceipt, *, problems: Sequence[str], is_by_use: bool, charged_until: int
    ) -> Confirmation:
        """What a receipt with these problems confirms, and what it leaves open.

        There is no receipt with an error, nor for a stream that was left, which the payee may go on charging
        until `charged_until`. Their cost counts as spent until a later receipt tells of less, and so does
        what was received beyond the units in a receipt.
        """
        cost = self.cost(told)
        is_told = self.is_counted(told) if is_by_use else told.receipt is not None
        uncharged = 0
        if told.receipt is not None and not problems and self.is_final:
            uncharged = max(0, self.least_spent + cost - told.receipt.spent)
        return Confirmation(
            untold=cost - self._told_cost(told) if is_told else cost - self.delivered,
            uncharged=uncharged,
            known=self.unconfirmed,
            charged_until=charged_until,
        )

    def is_counted(self, told: ToldReceipt) -> bool:
        """Whether a receipt says what was used."""
        return self._units(told) is not None

    def _units(self, told: ToldReceipt) -> int | None:
        receipt = told.receipt
        if receipt is None or receipt.channel_id != self.channel.channel_id:
            return None
        return receipt.units

    @property
    def _received(self) -> int:
        return min(self.delivered, self.agreed)

    @property
    def _most(self) -> int:
        return max(self.reserved, self._received)

    def problems(self, told: ToldReceipt) -> list[str]:
        """What in a receipt cannot be true."""
        if told.receipt is None:
            return [] if told.problem is None else [told.problem]
        receipt, channel = told.receipt, self.channel
        same = [
            ("channelId", receipt.channel_id, channel.channel_id),
            ("chainId", receipt.chain_id, channel.descriptor.chain_id),
            ("challengeId", receipt.challenge_id, self.challenge_id or receipt.challenge_id),
        ]
        found = [f"the receipt's {name} is {said}, not {ours}" for name, said, ours in same if said != ours]
        units_cost = (receipt.units or 0) * self.price
        ranges = [
            (
                "acceptedCumulative",
                receipt.accepted_cumulative,
                self.cumulative_amount,
                max(channel.authorized, self.cumulative_amount),
            ),
            (
                "spent",
                receipt.spent,
                max(0, self.least_spent - self.unconfirmed.amount) + self._told_cost(told),
                max(channel.spent, self.most_spent),
            ),
            ("cost by units", units_cost, 0 if receipt.units is None else self._received, self._most),
        ]
        for name, said, least, most in ranges:
            if not least <= said <= most:
                ours = f"{most}" if least == most else f"{least} to {most}"
                found.append(f"the receipt's {name} is {said}, by our books it is {ours}")
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class BookedPayment:
    """What a request cost, by the payer's own books."""

    channel: PayerChannel
    """As the books have it after the payment."""
    amount: int
    """Base units this request cost, or at most cost where it `is_most`."""
    taken: int
    """Base units that are taken of its limit: what it cost, or what was signed for it where that is more."""
    is_most: bool
    """Whether it may have cost less: it is paid for by what is used, and nothing said how much that was."""
    signed_before: int = 0
    """Base units of the `amount` that were signed for other requests, and may have been charged for it."""
    cumulative_amount: int
    """Of the last voucher that was signed for it."""
    idempotency_key: str
    receipt: Mapping[str, Any] | None
    """Decoded; None if the server sent none that can be decoded."""
    receipt_problems: Sequence[str] = field(default_factory=tuple)
    deposited: bool = False
    """Whether a channel was opened or topped up for it."""
    paid_before: bool = False
    """Whether it was paid under the same key in an earlier run, and nothing new was."""

    def document(self) -> dict[str, Any]:
        """The payment as JSON: amounts are decimal strings of base units."""
        channel = self.channel
        return {
            "method": METHOD,
            "intent": INTENT,
            "channelId": channel.channel_id,
            "amount": str(self.amount),
            "isMost": self.is_most,
            "signedBefore": str(self.signed_before),
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
            "paidBefore": self.paid_before,
            "receipt": None if self.receipt is None else dict(self.receipt),
            "receiptProblems": list(self.receipt_problems),
        }


def read_receipt(value: str | Mapping[str, Any] | None) -> ToldReceipt:
    """What a `Payment-Receipt` field, or the data of a stream's last event, says; raises nothing."""
    if value is None:
        return ToldReceipt(problem="no receipt came")
    document: Mapping[str, Any] | None = None
    try:
        if isinstance(value, str):
            document = decode_object(value, what="receipt", limit=RECEIPT_LIMIT)
        else:
            document = value
        told = ToldReceipt(document=document, receipt=SessionReceipt.from_object(dict(document)))
    except MalformedMessage as error:
        told = ToldReceipt(document=document, problem=error.message)
    try:
        orjson.dumps(document)
    except orjson.JSONEncodeError:  # at a depth that whoever shows it can bear
        return ToldReceipt(problem="the receipt nests too deeply to be shown")
    return told
