"""What would be lost with a key: the channels that hold money of an address."""

from __future__ import annotations

from microwallet.domain.channel import PayeeChannel
from microwallet.domain.identifiers import Address
from microwallet.domain.money import Amount
from microwallet.ledger.ledger import Ledger


def money_at_risk(ledger: Ledger, address: Address) -> list[str]:
    """One line a channel that holds money of `address`, as its payer or its payee."""
    holding = [
        f"{channel.name} holds {Amount(channel.state.refundable, channel.asset)}"
        for channel in ledger.channels.list(finalized=False)
        if channel.descriptor.payer == address and not channel.is_abandoned
    ]
    owing = [
        f"{received.channel_id} owes {Amount(owed, received.asset)}"
        for received in ledger.vouchers.list(finalized=False)
        if received.descriptor.payee == address and (owed := _owed(received))
    ]
    return holding + owing


def _owed(channel: PayeeChannel) -> int:
    """Base units. Where the chain was never asked, as of one that was restored, it may be all that was
    charged."""
    return channel.spent if channel.as_of is None else channel.unsettled
