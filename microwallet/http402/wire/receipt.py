"""Session receipts: what a server says it accepted and charged.

draft-evm-session-00, section "Receipt Generation".
"""

from __future__ import annotations

from typing import Any, NamedTuple, Self

import orjson

from microwallet.domain.identifiers import ChainId, ChannelId, TxHash
from microwallet.errors import MalformedMessage
from microwallet.http402.wire.encoding import base64url, decode_object
from microwallet.http402.wire.session_request import INTENT, METHOD
from microwallet.http402.wire.timestamps import parse_rfc3339, rfc3339
from microwallet.http402.wire.wire_object import WireObject

RECEIPT_LIMIT = 8 * 1024
"""Characters of an encoded receipt."""


class SessionReceipt(NamedTuple):
    """Issued with successful answers only. What it says is the server's word, no more."""

    timestamp: int
    """Unix seconds."""
    challenge_id: str
    channel_id: ChannelId
    chain_id: ChainId
    accepted_cumulative: int
    spent: int
    units: int | None = None
    """Consumed by this request."""
    transaction_hash: TxHash | None = None
    """Where a settle or close was sent."""
    confirmations: int | None = None

    @classmethod
    def parse(cls, value: str) -> Self:
        """The receipt in a `Payment-Receipt` field; MalformedMessage if it is none of a session."""
        return cls.from_object(decode_object(value, what="receipt", limit=RECEIPT_LIMIT))

    @classmethod
    def from_object(cls, document: dict[str, Any]) -> Self:
        """The receipt in a decoded object, as the last event of a stream carries it."""
        receipt = WireObject(document, "receipt")
        receipt.one_of("method", (METHOD,))
        receipt.one_of("intent", (INTENT,))
        receipt.one_of("status", ("success",))
        channel_id = ChannelId(receipt.bytes32("channelId"))
        if receipt.text("reference").lower() != channel_id:
            raise MalformedMessage("receipt.reference is not the channel's id")
        transaction_hash = receipt.optional_bytes32("txHash")
        return cls(
            timestamp=parse_rfc3339(receipt.text("timestamp")),
            challenge_id=receipt.text("challengeId"),
            channel_id=channel_id,
            chain_id=ChainId(receipt.number("chainId")),
            accepted_cumulative=receipt.amount("acceptedCumulative"),
            spent=receipt.amount("spent"),
            units=receipt.optional_count("units"),
            transaction_hash=None if transaction_hash is None else TxHash(transaction_hash),
            confirmations=receipt.optional_count("confirmations"),
        )

    def with_transaction(self, transaction_hash: TxHash | None) -> Self:
        """The same receipt for a transaction that was sent."""
        return self._replace(transaction_hash=transaction_hash)

    def to_object(self) -> dict[str, Any]:
        """The object to encode."""
        optional = {
            "units": self.units,
            "txHash": self.transaction_hash,
            "confirmations": self.confirmations,
        }
        return {
            "method": METHOD,
            "intent": INTENT,
            "status": "success",
            "timestamp": rfc3339(self.timestamp),
            "reference": self.channel_id,
            "challengeId": self.challenge_id,
            "channelId": self.channel_id,
            "acceptedCumulative": str(self.accepted_cumulative),
            "spent": str(self.spent),
            "chainId": self.chain_id,
            **{name: value for name, value in optional.items() if value is not None},
        }

    def to_field(self) -> str:
        """The value of a `Payment-Receipt` field: canonical JSON, written out by hand for speed."""
        timestamp, challenge, channel, chain, accepted, spent, units, transaction, confirmations = self
        more = "" if confirmations is None else f',"confirmations":{confirmations}'
        last = "" if transaction is None else f',"txHash":"{transaction}"'
        if units is not None:
            last += f',"units":{units}'
        return base64url(
            f'{{"acceptedCumulative":"{accepted}","chainId":{chain},"challengeId":'
            f'{orjson.dumps(challenge).decode()},"channelId":"{channel}"{more},"intent":"{INTENT}"'
            f',"method":"{METHOD}","reference":"{channel}","spent":"{spent}","status":"success"'
            f',"timestamp":"{rfc3339(timestamp)}"{last}}}'.encode()
        )
