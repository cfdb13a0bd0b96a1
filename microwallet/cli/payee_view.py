"""Channels you are paid through as the command line shows them, and what can be lost of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from microwallet.cli.channel_view import channel_document, local_time, money
from microwallet.domain.channel import PayeeChannel
from microwallet.domain.money import Amount, sum_text
from microwallet.payee.exclusive import is_watched
from microwallet.wallet import Wallet


def payee_documents(wallet: Wallet, channels: Sequence[PayeeChannel]) -> list[dict[str, Any]]:
    """The objects of `--json`, with what is unsettled and when it was last accepted."""
    accepted_at = wallet.ledger.vouchers.accepted_at()
    now = wallet.now()
    return [
        channel_document(channel, now=now)
        | {
            "unsettled": str(channel.unsettled),
            "acceptedAt": accepted_at.get(channel.channel_id),
        }
        for channel in channels
    ]


def loss_warnings(wallet: Wallet, channels: Sequence[PayeeChannel]) -> list[str]:
    """Where money can be lost: a channel that is gone or closing, or unsettled money nobody watches."""
    return _missing(channels) + _at_risk(wallet, channels)


def _missing(channels: Sequence[PayeeChannel]) -> list[str]:
    """Channels were on the chain when their vouchers were accepted; about imported ones it may not have been
    asked yet."""
    missing = [channel for channel in channels if channel.as_of is not None and not channel.state.exists]
    if not missing:
        return []
    total = sum_text(Amount(channel.spent, channel.asset) for channel in missing)
    which = f"channel {missing[0].channel_id} is" if len(missing) == 1 else f"{len(missing)} channels are"
    warning = (
        f"warning: {which} not on the chain any more, which was reorganised or started anew; what authorizes"
        f" {total} is kept, should the chain give that back"
    )
    return [warning]


def _at_risk(wallet: Wallet, channels: Sequence[PayeeChannel]) -> list[str]:
    chain_id = wallet.network.chain_id
    at_risk = [channel for channel in channels if channel.unsettled]
    if is_watched(wallet.paths.home, chain_id):
        at_risk = [channel for channel in at_risk if channel.descriptor.chain_id != chain_id]
    if not at_risk:
        return []
    notes = [
        f"warning: the payer of {channel.channel_id} has requested a close; after"
        f" {local_time(channel.state.withdrawable_at)} your {money(channel, channel.unsettled)} can be gone:"
        f" microwallet payee close {channel.channel_id}"
        for channel in at_risk
        if channel.state.close_requested_at
    ]
    total = sum_text(Amount(channel.unsettled, channel.asset) for channel in at_risk)
    notes.append(
        f"warning: {total} is unsettled and nobody watches it, while a payer can take it"
        " back 15 minutes after requesting a close: microwallet payee watch"
    )
    return notes
