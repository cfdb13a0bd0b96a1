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
    chain_id, token = ChainId(values[7]), Address(values[3])
    return {
        "channel_id": ChannelId(values[0]),
        "descriptor": ChannelDescriptor(
            payer=Address(values[1]),
            payee=Address(values[2]),
            token=token,
            salt=values[4],
            authorized_signer=Address(values[5]),
            escrow_contract=Address(values[6]),
            chain_id=chain_id,
        ),
        "asset": Asset(chain_id=chain_id, token=token, symbol=values[8], decimals=values[9]),
        "state": ChannelState(
            deposit=int(values[10]),
            settled=int(values[11]),
            close_requested_at=values[12],
            finalized=bool(values[13]),
        ),
        "authorized": int(values[14]),
        "spent": int(values[15]),
        "as_of": values[16],
    }


def state_values(state: ChannelState) -> tuple[Any, ...]:
    """The values of STATE_CONDITIONS, and of STATE_ASSIGNMENTS but for the last, `as_of`."""
    return (
        to_text(state.deposit),
        to_text(state.settled),
        state.close_requested_at,
        int(state.finalized),
    )
