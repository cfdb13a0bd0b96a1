"""Channels as rows: the columns that the payer's and the payee's tables share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from microwallet.domain.channel import Channel, ChannelDescriptor, ChannelState
from microwallet.domain.identifiers import Address, ChainId, ChannelId
from microwallet.domain.money import Asset
from microwallet.ledger.database import to_text

COLUMNS = (
    "channel_id",
    "payer",
    "payee",
    "token",
    "salt",
    "authorized_signer",
    "escrow_contract",
    "chain_id",
    "symbol",
    "decimals",
    "deposit",
    "settled",
    "close_requested_at",
    "finalized",
    "authorized",
    "spent",
    "as_of",
)
SELECTED = ", ".join(COLUMNS)
STATE_ASSIGNMENTS = "deposit = ?, settled = ?, close_requested_at = ?, finalized = ?, as_of = ?"
STATE_CONDITIONS = "deposit = ? AND settled = ? AND close_requested_at = ? AND finalized = ?"


def channel_values(channel: Channel) -> tuple[Any, ...]:
    """The values of COLUMNS for a channel."""
    descriptor, state = channel.descriptor, channel.state
    return (
        channel.channel_id,
        descriptor.payer,
        descriptor.payee,
        descriptor.token,
        descriptor.salt,
        descriptor.authorized_signer,
        descriptor.escrow_contract,
        descriptor.chain_id,
        channel.asset.symbol,
        channel.asset.decimals,
        to_text(state.deposit),
        to_text(state.settled),
        state.close_requested_at,
        int(state.finalized),
        to_text(channel.authorized),
        to_text(channel.spent),
        channel.as_of,
    )


def channel_fields(values: Sequence[Any]) -> dict[str, Any]:
    """The fields of Channel from the values of COLUMNS."""
    channel_id, payer, payee, token, salt, signer, escrow_contract, chain_id, symbol, decimals = values[:10]
    deposit, settled, close_requested_at, finalized, authorized, spent, as_of = values[10:]
    chain_id, token = ChainId(chain_id), Address(token)
    return {
        "channel_id": ChannelId(channel_id),
        "descriptor": ChannelDescriptor(
            payer=Address(payer),
            payee=Address(payee),
            token=token,
            salt=salt,
            authorized_signer=Address(signer),
            escrow_contract=Address(escrow_contract),
            chain_id=chain_id,
        ),
        "asset": Asset(chain_id=chain_id, token=token, symbol=symbol, decimals=decimals),
        "state": ChannelState(
            deposit=int(deposit),
            settled=int(settled),
            close_requested_at=close_requested_at,
            finalized=bool(finalized),
        ),
        "authorized": int(authorized),
        "spent": int(spent),
        "as_of": as_of,
    }


def state_values(state: ChannelState) -> tuple[Any, ...]:
    """The values of STATE_CONDITIONS, and of STATE_ASSIGNMENTS but for the last, `as_of`."""
    return (
        to_text(state.deposit),
        to_text(state.settled),
        state.close_requested_at,
        int(state.finalized),
    )
