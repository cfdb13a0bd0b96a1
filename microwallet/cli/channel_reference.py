"""Opening the wallet for a channel named on the command line, on that channel's own network."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from microwallet.cli import completion
from microwallet.cli.context import open_wallet
from microwallet.domain.channel import PayerChannel
from microwallet.errors import UsageError
from microwallet.wallet import Wallet

if TYPE_CHECKING:
    from microwallet.payer.paying_account import PayingAccount

_CHANNEL = typer.Argument(
    metavar="CHANNEL",
    help="Id, prefix, label, or a payee with one open channel.",
    autocompletion=completion.channels,
)
ChannelReference = Annotated[str, _CHANNEL]
OptionalChannelReference = Annotated[str | None, _CHANNEL]


@contextmanager
def wallet_of_channel(
    reference: str, *, network: str | None, rpc_url: str | None, password_file: str | None = None
) -> Iterator[tuple[Wallet, PayerChannel]]:
    """The wallet on the network of the channel that `reference` means, and that channel.

    UsageError if another network was named, or none with the channel's chain id is known.
    """
    with open_wallet(network=network, rpc_url=rpc_url, password_file=password_file) as wallet:
        channel = wallet.ledger.channels.find(reference)
        chain_id = channel.descriptor.chain_id
        if wallet.network.chain_id == chain_id:
            yield wallet, channel
            return
        own = _network_name(wallet, channel)
        if network is not None or rpc_url is not None:
            raise UsageError(
                f"channel {channel.channel_id} is on {own} (chain {chain_id}), not on {wallet.network.name}",
                hint=f"--network {own}",
            )
    with open_wallet(network=own, password_file=password_file) as wallet:
        yield wallet, channel


@contextmanager
def paying_account_of(
    reference: str, *, network: str | None, rpc_url: str | None, password_file: str | None
) -> Iterator[tuple[Wallet, PayerChannel, PayingAccount]]:
    """As wallet_of_channel, with the account that pays the channel; KeyUnavailable without its key."""
    with wallet_of_channel(reference, network=network, rpc_url=rpc_url, password_file=password_file) as found:
        wallet, channel = found
        yield wallet, channel, wallet.account_paying(channel)


def _network_name(wallet: Wallet, channel: PayerChannel) -> str:
    from microwallet.escrow.networks import network_of_chain

    chain_id = channel.descriptor.chain_id
    network = network_of_chain(wallet.configuration, chain_id)
    if network is None:
        raise UsageError(
            f"channel {channel.channel_id} is on chain {chain_id}, and no network here has that chain id",
            hint=f"microwallet network add NAME --chain-id {chain_id} --rpc-url URL",
        )
    return network.name
