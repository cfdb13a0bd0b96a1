"""What settling and closing will do, and what it did, as text and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from microwallet.cli.channel_view import money, transaction_line
from microwallet.cli.max_fee import MaxFee
from microwallet.domain.money import Amount, sum_text
from microwallet.payee.captures import Action, PlannedCapture
from microwallet.payee.outcome import Outcome

if TYPE_CHECKING:
    from microwallet.domain.channel import PayeeChannel
    from microwallet.wallet import Wallet

_SHOWN = 20


def summary(action: Action, planned: Sequence[PlannedCapture], wallet: Wallet, fee: MaxFee) -> str:
    """One screen before anything is sent: amounts, payees, network and the most that the fee is."""
    count = f"{len(planned)} channels" if len(planned) > 1 else "1 channel"
    lines = [f"{action} {count} on {wallet.network.described}"]
    for item in planned[:_SHOWN]:
        channel = item.channel
        refund = ""
        if action is Action.CLOSE:
            refund = f", refunds {money(channel, item.refunded)} to {channel.descriptor.payer}"
        paid = f"pays {money(channel, item.captured)} to {channel.descriptor.payee}"
        lines.append(f"  {channel.channel_id}: {paid}{refund}")
    if len(planned) > _SHOWN:
        total = sum_text(Amount(item.captured, item.channel.asset) for item in planned)
        lines.append(f"  ... and {len(planned) - _SHOWN} more; {total} in all")
    payer = f", paid by {wallet.relayer.name}" if wallet.relayer else ""
    lines.append(f"  fee {fee.text}{payer}")
    return "\n".join(lines)


def plan_document(
    action: Action, planned: Sequence[PlannedCapture], fee: MaxFee, *, now: int
) -> dict[str, Any]:
    """What `--dry-run` tells: nothing was sent."""
    channels = [
        _document(item.channel, item.captured, item.refunded if action is Action.CLOSE else 0, now=now)
        for item in planned
    ]
    return {"dryRun": True, "channels": channels, "transactions": []} | fee.document


def outcome_document(outcome: Outcome, *, now: int) -> dict[str, Any]:
    """Everything that was achieved, and under `failed` what was not."""
    document: dict[str, Any] = {
        "channels": [
            _document(done.channel, done.captured, done.refunded, now=now)
            | {"transactionHash": done.transaction_hash, "gasUsed": done.gas_used}
            for done in outcome.channels
        ],
        "transactions": [
            {
                "transactionHash": transaction.hash,
                "gasUsed": transaction.gas_used,
                "channels": list(transaction.channel_ids),
            }
            for transaction in outcome.transactions
        ],
    }
    if outcome.failed:
        document["failed"] = [
            {
                "channelId": failure.channel.channel_id,
                "code": failure.code,
                "message": failure.error.message,
            }
            for failure in outcome.failed
        ]
    return document


def outcome_text(outcome: Outcome) -> str:
    """A line a channel and a line a transaction; empty if there was nothing."""
    lines = []
    for done in outcome.channels:
        channel, closed = done.channel, done.channel.state.finalized
        refund = f", refunded {money(channel, done.refunded)}" if closed else ""
        captured = f"captured {money(channel, done.captured)}"
        lines.append(f"{'closed' if closed else 'settled'} {channel.channel_id}: {captured}{refund}")
    sent = [transaction_line(transaction.hash, transaction.gas_used) for transaction in outcome.transactions]
    return ("\n".join(lines) + "".join(sent)).strip()


def _document(channel: PayeeChannel, captured: int, refunded: int, *, now: int) -> dict[str, Any]:
    """A channel that is settled or closed; its transaction is yet to come."""
    return {
        "channelId": channel.channel_id,
        "captured": str(captured),
        "refunded": str(refunded),
        "asset": channel.asset.symbol,
        "decimals": channel.asset.decimals,
        "status": str(channel.status(now=now)),
        "transactionHash": None,
        "gasUsed": None,
    }
