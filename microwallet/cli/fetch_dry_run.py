"""What `microwallet fetch --dry-run` says: the price, the payee, and by which way it would be paid."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from microwallet.cli.result import print_json, success_envelope
from microwallet.cli.table import named
from microwallet.domain.one_line import one_line

if TYPE_CHECKING:
    from collections.abc import Callable

    import httpx

    from microwallet.http402.paying.handshake import WouldPay


def show_dry_run(
    response: httpx.Response, network: str, write: Callable[[bytes], None], *, as_json: bool
) -> None:
    """Where a dry run on a network stopped: before the payment, or at an answer that costs nothing."""
    from microwallet.http402.paying.messages import WOULD_PAY

    would: WouldPay | None = response.extensions.get(WOULD_PAY)
    if as_json:
        document = None if would is None else _document(would, network)
        print_json(success_envelope({"dryRun": True, "wouldPay": document}))
    else:
        text = f"{response.status_code}: nothing would be paid" if would is None else _text(would)
        write((text + "\n").encode())


def _document(would: WouldPay, network: str) -> dict[str, Any]:
    """What a dry run found out."""
    request, price, preview = would.choice.request, would.choice.price, would.preview
    challenge = would.choice.challenge
    return {
        "method": challenge.method,
        "intent": challenge.intent,
        "amount": str(price.base_units),
        "asset": price.asset.symbol,
        "decimals": price.asset.decimals,
        "token": price.asset.token,
        "unitType": request.unit_type,
        "maxUnits": request.max_units,
        "maxAmount": str(would.most.base_units),
        "payee": request.recipient,
        "network": network,
        "chainId": request.chain_id,
        "escrowContract": request.escrow_contract,
        "description": request.description or challenge.description,
        "way": preview.way,
        "channelId": None if preview.channel is None else preview.channel.channel_id,
        "deposit": None if preview.deposit is None else str(preview.deposit.base_units),
    }


def _text(would: WouldPay) -> str:
    """The same for a person."""
    preview, choice = would.preview, would.choice
    request = choice.request
    name = preview.channel.name if preview.channel else ""
    ways = {
        "channel": f"channel {name}",
        "open": f"a channel that is opened with {preview.deposit}",
        "topUp": f"channel {name}, topped up by {preview.deposit}",
    }
    description = request.description or choice.challenge.description
    lines = [
        ("would pay", choice.terms),
        *([("for", one_line(description))] if description else []),
        ("to", request.recipient),
        ("from", ways[preview.way]),
        ("at most", f"{would.most}, whatever the server asks for (--max-amount)"),
    ]
    return named(lines)
