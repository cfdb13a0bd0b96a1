"""Channels as the command line shows them: one JSON object each, or a table."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

from microwallet.cli.table import named, table
from microwallet.domain.channel import Channel, ChannelStatus, PayeeChannel
from microwallet.domain.identifiers import TxHash
from microwallet.domain.money import Amount, format_units

_SHORT_ID = len("0x123456")


def channel_document(channel: Channel, *, now: int) -> dict[str, Any]:
    """The object of `--json`: amounts in base units.

    `asOf` is null if the chain never said a state; `authorized` and `remaining` are null for a
    rebuilt channel whose highest voucher is not known.
    """
    descriptor, state = channel.descriptor, channel.state
    known = channel.voucher_known
    status = status_of(channel, now=now)
    closing = status in (ChannelStatus.CLOSING, ChannelStatus.WITHDRAWABLE)
    return {
        "channelId": channel.channel_id,
        "payer": descriptor.payer,
        "payee": descriptor.payee,
        "token": descriptor.token,
        "authorizedSigner": descriptor.authorized_signer,
        "salt": descriptor.salt,
        "escrowContract": descriptor.escrow_contract,
        "chainId": descriptor.chain_id,
        "deposit": str(state.deposit),
        "settled": str(state.settled),
        "authorized": str(channel.authorized) if known else None,
        "spent": str(channel.spent) if known else None,
        "remaining": str(channel.remaining) if known else None,
        "asset": channel.asset.symbol,
        "decimals": channel.asset.decimals,
        "status": str(status),
        "label": channel.label,
        "asOf": channel.as_of,
        "withdrawableAt": state.withdrawable_at if closing else None,
    }


def channel_table(channels: Sequence[Channel], now: int) -> str:
    """One line a channel; with the payer where it is not the same of all."""
    received = all(isinstance(channel, PayeeChannel) for channel in channels)
    tells_payer = received or len({channel.descriptor.payer for channel in channels}) > 1
    amounts = ("DEPOSIT", "AUTHORIZED", "SETTLED", *(("UNSETTLED",) if received else ()))
    payer = ("PAYER",) if tells_payer else ()
    parties = payer if received else ("LABEL", *payer, "PAYEE")
    headers = ("CHANNEL", *parties, *amounts, "ASSET", "STATUS")
    rows = [_row(channel, now, tells_payer=tells_payer) for channel in channels]
    return table(headers, rows, right=amounts)


def channel_details(channel: Channel, *, now: int, more: Sequence[tuple[str, str]] = ()) -> str:
    """Every field of one channel, one a line, and `more` after them."""
    document = channel_document(channel, now=now)
    shown = [
        ("channel", document["channelId"]),
        ("label", document["label"] or "-"),
        ("status", status_text(channel, now=now)),
        ("payer", document["payer"]),
        ("payee", document["payee"]),
        ("deposit", money(channel, channel.state.deposit)),
        ("authorized", authorized_text(channel)),
        ("spent", money(channel, channel.spent) if channel.voucher_known else "unknown"),
        ("settled", money(channel, channel.state.settled)),
        *_left(channel),
        ("token", document["token"]),
        ("authorized signer", document["authorizedSigner"]),
        ("salt", document["salt"]),
        ("escrow", f"{document['escrowContract']} on chain {document['chainId']}"),
        ("as of", "never read from the chain" if channel.as_of is None else local_time(channel.as_of)),
    ]
    return named([*shown, *more])


def _left(channel: Channel) -> Iterator[tuple[str, str]]:
    """What a channel has left, or where that went."""
    state, is_known = channel.state, channel.voucher_known
    if not state.finalized:
        yield "remaining", money(channel, channel.remaining) if is_known else "unknown"
        return
    yield "refunded", money(channel, state.refundable)
    if is_known and channel.unpaid:
        spent = money(channel, channel.unpaid)
        yield "not captured", f"{spent} was spent and not taken by the payee: refunded"


def status_of(channel: Channel, *, now: int) -> ChannelStatus:
    """The status; a chain that said its state at a later time than this machine's clock is believed."""
    return channel.status(now=_clock(channel, now))


def status_text(channel: Channel, *, now: int) -> str:
    """The status, and how long until a requested close may be withdrawn."""
    status = status_of(channel, now=now)
    if status is ChannelStatus.CLOSING:
        at = channel.state.withdrawable_at
        return f"{status}, withdrawable at {local_time(at)} (in {at - _clock(channel, now)} s)"
    return str(status)


def money(channel: Channel, base_units: int) -> str:
    """Base units of the channel's asset, as a person reads them."""
    return str(Amount(base_units, channel.asset))


def authorized_text(channel: Channel) -> str:
    """What is authorized, as a person reads it."""
    return money(channel, channel.authorized) if channel.voucher_known else "unknown"


def local_time(timestamp: int) -> str:
    """Unix seconds in the time zone of this machine."""
    return datetime.fromtimestamp(timestamp).astimezone().strftime("%Y-%m-%d %H:%M:%S %Z")


def id_and_label(channel: Channel) -> str:
    """The whole id, and the label beside it."""
    return f"{channel.channel_id} ({channel.label})" if channel.label else channel.channel_id


def transaction_line(transaction_hash: TxHash | None, gas_used: int | None) -> str:
    """A transaction for a person, on a line of its own; empty where none was sent."""
    return "" if transaction_hash is None else f"\ntransaction {transaction_hash}, {gas_used} gas"


def _clock(channel: Channel, now: int) -> int:
    return max(now, channel.as_of or 0)


def _row(channel: Channel, now: int, *, tells_payer: bool) -> tuple[str, ...]:
    descriptor, state = channel.descriptor, channel.state
    known, decimals = channel.voucher_known, channel.asset.decimals
    owed: tuple[str, ...] = ()
    parties: tuple[str, ...] = (shortened(descriptor.payer),) if tells_payer else ()
    if isinstance(channel, PayeeChannel):
        owed = (format_units(channel.unsettled, decimals),)
    else:
        parties = (channel.label or "-", *parties, shortened(descriptor.payee))
    return (
        shortened(channel.channel_id),
        *parties,
        format_units(state.deposit, decimals),
        format_units(channel.authorized, decimals) if known else "unknown",
        format_units(state.settled, decimals),
        *owed,
        channel.asset.symbol,
        str(status_of(channel, now=now)),
    )


def shortened(text: str) -> str:
    """Ids are cut for eyes only: what is piped elsewhere stays whole."""
    return text[:_SHORT_ID] if sys.stdout.isatty() else text
