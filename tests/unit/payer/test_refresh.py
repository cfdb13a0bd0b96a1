"""What the chain says of the payer's channels."""

from __future__ import annotations

from dataclasses import replace

from model import keyed

from microwallet.errors import EscrowMissing
from microwallet.escrow.reader import EscrowReader, Head
from microwallet.payer.refresh import refresh


class NoEscrow(EscrowReader):
    """Of a chain without the escrow."""

    def __init__(self):
        pass

    def head(self, _block="latest"):
        return Head(number=10, timestamp=9)

    def encoded_states(self, _chunks, _block=None):
        raise EscrowMissing("there is no escrow")


def test_channels_whose_escrow_is_not_there_are_as_they_were(ledger):
    """One that is closed too, as it is looked at again for a while."""
    for number, is_closed in ((1, False), (2, True)):
        channel = keyed(number).payer_channel(deposit=10)
        ledger.channels.add(replace(channel, state=replace(channel.state, finalized=is_closed)), now=0)
    channels = ledger.channels.list(finalized=True)
    found = refresh(ledger, lambda _: NoEscrow(), channels, now=9)
    assert (len(channels), found.channels, len(found.missing)) == (2, channels, 1)
