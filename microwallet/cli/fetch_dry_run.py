"""What `microwallet fetch --dry-run` says: the price, the payee, and by which way it would be paid."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from microwallet.cli.result import print_json, success_envelope

if TYPE_CHECKING:
    from collections.abc import Callable

    import httpx

    from microwallet.http402.paying.handshake import WouldPay


def show_dry_run(
    response: httpx.Response, network: str, write: Callable[[bytes], None], *, as_json: bool
) -> None:
    """Where a dry run on a network stopped: before the payment, or at an answer that costs nothing."""
    would = response.extensions.get("would_pay")
    if as_json:
        document = None if would is None else _document(would, network)
        print_json(success_envelope({"wouldPay": document}))
    else:
        text = f"{response.status_code}: nothing to pay" if would is None else _text(would)
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
    preview, request = would.preview, would.choice.request
    name = preview.channel.name if preview.channel else ""
    ways = {
        "channel": f"from channel {name}",
        "open": f"after opening a channel with {preview.deposit}",
        "topUp": f"after topping up channel {name} by {preview.deposit}",
    }
    unit = request.unit_type or "request"
    return f"would pay {would.choice.price} for each {unit} to {request.recipient}, {ways[preview.way]}"
