"""Channels as rows: the columns that the payer's and the payee's tables share."""

from __future__ import annotations

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
    "as_of",
)
SELECTED = ", ".join(COLUMNS)
STATE_ASSIGNMENTS = "deposit = ?, settled = ?, close_requested_at = ?, finalized = ?, as_of = ?"


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
        channel.as_of,
    )


def channel_fields(row: tuple[Any, ...]) -> dict[str, Any]:
    """The fields of Channel from the values of COLUMNS."""
    chain_id, token = ChainId(row[7]), Address(row[3])
    return {
        "channel_id": ChannelId(row[0]),
        "descriptor": ChannelDescriptor(
            payer=Address(row[1]),
            payee=Address(row[2]),
            token=token,
            salt=row[4],
            authorized_signer=Address(row[5]),
            escrow_contract=Address(row[6]),
            chain_id=chain_id,
        ),
        "asset": Asset(chain_id=chain_id, token=token, symbol=row[8], decimals=row[9]),
        "state": ChannelState(
            deposit=int(row[10]),
            settled=int(row[11]),
            close_requested_at=row[12],
            finalized=bool(row[13]),
        ),
        "authorized": int(row[14]),
        "as_of": row[15],
    }


def state_values(state: ChannelState, as_of: int) -> tuple[Any, ...]:
    """The values of STATE_ASSIGNMENTS."""
    return (
        to_text(state.deposit),
        to_text(state.settled),
        state.close_requested_at,
        int(state.finalized),
        as_of,
    )
