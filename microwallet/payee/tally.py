"""What became of lines of vouchers: how many were taken, and which were not, each with its reason."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from microwallet.domain.channel import ChannelState
from microwallet.domain.identifiers import Address, ChannelId
from microwallet.domain.money import Asset
from microwallet.domain.voucher_document import VoucherDocument

REJECTED_LIMIT = 1000
"""Rejected lines that are remembered one by one; more are only counted."""
DETAIL_LIMIT = 120
"""Characters that are told of what is wrong with a malformed line."""

WRONG_ID = "channelId is not the one that its descriptor makes"


class Rejection(StrEnum):
    """Why a line was not accepted: the draft's problem names, and what a stream of lines adds."""

    MALFORMED = "malformed"
    TOO_LONG = "too-long"
    WRONG_CHAIN = "wrong-chain"
    WRONG_ESCROW = "wrong-escrow"
    WRONG_PAYEE = "wrong-payee"
    WRONG_TOKEN = "wrong-token"  # noqa: S105  # no password
    INVALID_SIGNATURE = "invalid-signature"
    SIGNER_MISMATCH = "signer-mismatch"
    CHANNEL_NOT_FOUND = "channel-not-found"
    CHANNEL_FINALIZED = "channel-finalized"
    CLOSE_PENDING = "close-pending"
    AMOUNT_EXCEEDS_DEPOSIT = "amount-exceeds-deposit"


def rejection_by_state(cumulative_amount: int, state: ChannelState) -> Rejection | None:
    """What the chain's state of its channel says against a voucher that is rightly signed."""
    if not state.exists:
        return Rejection.CHANNEL_NOT_FOUND
    if state.finalized:
        return Rejection.CHANNEL_FINALIZED
    if state.close_requested_at:
        return Rejection.CLOSE_PENDING
    if cumulative_amount > state.deposit:
        return Rejection.AMOUNT_EXCEEDS_DEPOSIT
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class RejectedLine:
    """A line that was not accepted. All but `line` and `reason` is what the line says of itself."""

    line: int
    """Its number in the input, from 1."""
    reason: Rejection
    detail: str | None = None
    """What makes it malformed, if it is; printable, whatever the line holds."""
    channel_id: ChannelId | None = None
    cumulative_amount: int | None = None
    asset: Asset | None = None
    """Of the amount, where the payee knows its token."""


@dataclass(slots=True, kw_only=True)
class Tally:
    """What became of the lines so far."""

    accepted: int = 0
    duplicates: int = 0
    rejected_by_reason: Counter[Rejection] = field(default_factory=Counter)
    rejected_lines: list[RejectedLine] = field(default_factory=list)
    """The first REJECTED_LIMIT of them, in the order of the input."""
    channels: dict[ChannelId, None] = field(default_factory=dict)
    """Ids of channels with an accepted or duplicate voucher, in the order they came."""
    wrong_token: Address | None = None
    """The last token that was refused."""

    @property
    def rejected(self) -> int:
        return sum(self.rejected_by_reason.values())

    def reject(
        self,
        line: int,
        reason: Rejection,
        *,
        detail: str | None = None,
        document: VoucherDocument | None = None,
        asset: Asset | None = None,
    ) -> None:
        """Count a line that was not accepted; `document` is the voucher in it, where there is one."""
        self.rejected_by_reason[reason] += 1
        self.rejected_lines.append(
            RejectedLine(
                line=line,
                reason=reason,
                detail=None if detail is None else detail[:DETAIL_LIMIT],
                channel_id=document.channel_id if document else None,
                cumulative_amount=document.cumulative_amount if document else None,
                asset=asset,
            )
        )

    def copy(self) -> Tally:
        """One that counts on from here and leaves this as it is."""
        return Tally(
            accepted=self.accepted,
            duplicates=self.duplicates,
            rejected_by_reason=self.rejected_by_reason.copy(),
            rejected_lines=self.rejected_lines.copy(),
            channels=self.channels.copy(),
            wrong_token=self.wrong_token,
        )

    def add(self, batch: Tally) -> None:
        """Count what became of the lines that came next."""
        self.accepted += batch.accepted
        self.duplicates += batch.duplicates
        self.rejected_by_reason.update(batch.rejected_by_reason)
        self.rejected_lines += batch.rejected_lines
        self.rejected_lines.sort(key=lambda one: one.line)
        del self.rejected_lines[REJECTED_LIMIT:]
        self.channels.update(batch.channels)
        self.wrong_token = batch.wrong_token or self.wrong_token


def tally_document(tally: Tally) -> dict[str, Any]:
    """A tally as JSON: `rejectedLines` are the first REJECTED_LIMIT, their amounts in base units."""
    return {
        "accepted": tally.accepted,
        "duplicates": tally.duplicates,
        "rejected": tally.rejected,
        "rejectedByReason": {str(reason): count for reason, count in tally.rejected_by_reason.items()},
        "rejectedLines": [_rejected_document(one) for one in tally.rejected_lines],
        "channels": list(tally.channels),
    }


def _rejected_document(rejected: RejectedLine) -> dict[str, Any]:
    amount, asset = rejected.cumulative_amount, rejected.asset
    return {
        "line": rejected.line,
        "reason": str(rejected.reason),
        "detail": rejected.detail,
        "channelId": rejected.channel_id,
        "cumulativeAmount": None if amount is None else str(amount),
        "asset": asset.symbol if asset else None,
        "decimals": asset.decimals if asset else None,
    }
