"""The channels from one account to an offer's payee, in its token, as the ledger has them."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from microwallet.domain.channel import ChannelStatus, PayerChannel
from microwallet.domain.identifiers import ChannelId
from microwallet.http402.paying.choice import Choice
from microwallet.http402.paying.client import PayingClient


class PayeeChannels:
    """Asks the ledger each time: other processes open, use and close channels meanwhile."""

    def __init__(self, client: PayingClient, choice: Choice) -> None:
        self._client = client
        self._request = choice.request

    def live(self) -> Sequence[PayerChannel]:
        """Every one that is not finalized, oldest first."""
        live = self._client.ledger.channels.list(finalized=False)
        return [channel for channel in live if self.has(channel)]

    def has(self, channel: PayerChannel) -> bool:
        """Whether a channel is from this account to this payee, in this token."""
        descriptor = channel.descriptor
        return descriptor.payer == self._client.payer and self._request.fits(descriptor)

    def usable(self, without: Collection[ChannelId]) -> Sequence[PayerChannel]:
        """Those that can pay, or can once they are topped up."""
        return [
            channel for channel in self._open() if channel.voucher_known and channel.channel_id not in without
        ]

    def silent(self) -> str | None:
        """Which open channel does not pay, and why: nothing on the chain tells its highest voucher."""
        silent = next((channel for channel in self._open() if not channel.voucher_known), None)
        if silent is None:
            return None
        return f"channel {silent.name} does not pay: its highest voucher is not known"

    def busy(self) -> str | None:
        """Which open channel pays for nobody else now, and why."""
        busy = next((one for one in self._open() if one.channel_id in self._client.sessions), None)
        return None if busy is None else f"a stream that runs has channel {busy.name} to itself"

    def closing(self) -> PayerChannel | None:
        """One whose close is requested: what is deposited in it does not pay, and comes back."""
        return next((one for one in self.live() if one.state.close_requested_at), None)

    def _open(self) -> Sequence[PayerChannel]:
        now = self._client.clock()
        return [one for one in self.live() if one.status(now=now) is ChannelStatus.OPEN]
