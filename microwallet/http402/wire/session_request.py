"""The `request` of a session challenge over an EVM chain. draft-evm-session-00, section "Request Schema"."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Self

from microwallet.domain.channel import ChannelDescriptor
from microwallet.domain.identifiers import Address, ChainId, ChannelId
from microwallet.domain.one_line import one_line
from microwallet.errors import MalformedMessage
from microwallet.http402.wire.wire_object import WireObject

METHOD = "evm"
INTENT = "session"
VERSION = 1
"""Of the method, by draft-httpauth-payment-00, section "Versioning"."""
REQUEST_UNIT = "request"
"""Of a price that is the same however much is answered."""
EVENT_UNIT = "event"
"""Of a price for each server-sent event."""


class CredentialType(StrEnum):
    """How a deposit gets onto the chain."""

    HASH = "hash"
    """The payer sent the transaction and tells its hash."""
    AUTHORIZATION = "authorization"
    """The server sends it, with the payer's EIP-3009 authorization."""
    PERMIT2 = "permit2"
    """The server sends it, with a Permit2 signature: the escrow does not take those."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionRequest:
    """What one unit costs, and through which escrow it is paid. Nothing in it is trusted."""

    amount: int
    """Base units per unit of service."""
    currency: Address
    """The token; the zero address is the chain's native coin."""
    recipient: Address
    """The payee."""
    chain_id: ChainId
    escrow_contract: Address
    unit_type: str | None = None
    suggested_deposit: int | None = None
    """Base units."""
    description: str | None = None
    external_id: str | None = None
    channel_id: ChannelId | None = None
    """A channel the server suggests to go on with."""
    min_voucher_delta: int = 0
    """Base units by which a voucher must exceed the one before."""
    max_units: int = 1
    """What a request may use at most, to be authorized beforehand: an addition to the draft."""
    fee_payer: bool = False
    """Whether the server pays the gas of open and top-up."""
    minimum_deposit: int = 0
    """Base units: the least deposit whose gas the server pays. An addition to the draft."""
    credential_types: Sequence[str] = (CredentialType.HASH,)
    """In the server's order of preference."""

    @classmethod
    def parse(cls, request: Mapping[str, Any]) -> Self:
        """The request in a decoded object; MalformedMessage if a field is missing or wrong."""
        top = WireObject(request, "request")
        details = top.child("methodDetails")
        version = details.number("version") if "version" in details else VERSION
        if version != VERSION:
            raise MalformedMessage(f"the offer is of version {version} of {METHOD}, which is not known here")
        channel_id = details.optional_bytes32("channelId")
        return cls(
            amount=top.amount("amount"),
            currency=top.address("currency"),
            recipient=top.address("recipient"),
            chain_id=ChainId(details.number("chainId")),
            escrow_contract=details.address("escrowContract"),
            unit_type=top.optional_text("unitType"),
            suggested_deposit=top.optional_amount("suggestedDeposit"),
            description=top.optional_text("description"),
            external_id=top.optional_text("externalId"),
            channel_id=None if channel_id is None else ChannelId(channel_id),
            min_voucher_delta=details.optional_amount("minVoucherDelta") or 0,
            max_units=details.number("maxUnits") if "maxUnits" in details else 1,
            fee_payer=details.flag("feePayer"),
            minimum_deposit=details.optional_amount("minimumDeposit") or 0,
            credential_types=(
                details.texts("credentialTypes") if "credentialTypes" in details else (CredentialType.HASH,)
            ),
        )

    @property
    def unit(self) -> str:
        """What one unit is called, safe to show; a request where nothing is told."""
        return one_line(self.unit_type or REQUEST_UNIT)

    def fits(self, descriptor: ChannelDescriptor) -> bool:
        """Whether a channel pays this payee, in this escrow, on this chain, with this token."""
        return (
            descriptor.payee,
            descriptor.escrow_contract,
            descriptor.chain_id,
            descriptor.token,
        ) == (self.recipient, self.escrow_contract, self.chain_id, self.currency)

    def to_object(self) -> dict[str, Any]:
        """The object to encode; what has its default is left out."""
        optional = {
            "unitType": self.unit_type,
            "suggestedDeposit": None if self.suggested_deposit is None else str(self.suggested_deposit),
            "description": self.description,
            "externalId": self.external_id,
        }
        optional_details = {
            "channelId": self.channel_id,
            "minVoucherDelta": str(self.min_voucher_delta) if self.min_voucher_delta else None,
            "maxUnits": self.max_units if self.max_units > 1 else None,
            "feePayer": self.fee_payer or None,
            "minimumDeposit": str(self.minimum_deposit) if self.minimum_deposit else None,
            "credentialTypes": (
                None
                if tuple(self.credential_types) == (CredentialType.HASH,)
                else list(self.credential_types)
            ),
        }
        return {
            "amount": str(self.amount),
            "currency": self.currency,
            "recipient": self.recipient,
            **_set(optional),
            "methodDetails": {
                "chainId": self.chain_id,
                "escrowContract": self.escrow_contract,
                **_set(optional_details),
            },
        }


def _set(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}
