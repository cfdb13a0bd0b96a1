"""`microwallet channel`: the channels this wallet pays through."""

from __future__ import annotations

from typing import Annotated

import typer

from microwallet.cli.channel_close import close
from microwallet.cli.channel_open import open_
from microwallet.cli.channel_reference import ChannelReference, wallet_of_channel
from microwallet.cli.channel_sync import sync
from microwallet.cli.channel_top_up import top_up
from microwallet.cli.channel_view import channel_details, channel_document, channel_table
from microwallet.cli.channel_withdraw import withdraw
from microwallet.cli.command import TakesAmount, command, new_group
from microwallet.cli.context import open_wallet, or_offline
from microwallet.cli.options import Json, NetworkName, Offline, RpcUrl
from microwallet.cli.result import Result
from microwallet.domain.channel import PayerChannel
from microwallet.wallet import Wallet

app = new_group("Channels you pay through.")

command(
    app,
    "open",
    'microwallet channel open 0xPAYEE "10 USDC" --label coffee',
    'microwallet channel open 0xPAYEE "0.5 ETH" --dry-run',
    cls=TakesAmount,
)(open_)
command(
    app,
    "top-up",
    'microwallet channel top-up coffee "5 USDC"',
    cls=TakesAmount,
)(top_up)
command(app, "close", "microwallet channel close coffee", "microwallet channel close --all")(close)
command(app, "withdraw", "microwallet channel withdraw coffee --wait")(withdraw)
command(app, "sync", "microwallet channel sync", "microwallet channel sync --voucher voucher.json")(sync)


@command(app, "list", "microwallet channel list", "microwallet channel list --all --offline")
def list_(
    everything: Annotated[bool, typer.Option("--all", help="Finalized and abandoned ones too.")] = False,
    offline: Offline = False,
    network: NetworkName = None,
    rpc_url: RpcUrl = None,
    json: Json = False,
) -> Result:
    """List channels; those of the network in use as the chain has them now."""
    from microwallet.payer.refresh import REORGANISATION_SECONDS

    with open_wallet(network=network, rpc_url=rpc_url) as wallet:
        since = wallet.now() - REORGANISATION_SECONDS
        channels = list(wallet.ledger.channels.list(finalized=everything, since=since))
        notes: list[str] = []
        if not offline:
            channels, notes = _refreshed(wallet, channels)
        shown = [one for one in channels if everything or not (one.state.finalized or one.is_abandoned)]
        now = wallet.now()
    data = {"channels": [channel_document(channel, now=now) for channel in shown]}
    if not shown:
        notes.append('no channel is open: microwallet channel open PAYEE "10 USDC"')
        return Result(data=data, notes=notes)
    return Result(data=data, text=lambda: channel_table(shown, now), notes=notes)


@command(app, "show", "microwallet channel show coffee", "microwallet channel show 0x1234ab")
def show(
    channel: ChannelReference,
    offline: Offline = False,
    network: NetworkName = None,
    rpc_url: RpcUrl = None,
    json: Json = False,
) -> Result:
    """Show everything about one channel."""
    with wallet_of_channel(channel, network=network, rpc_url=rpc_url) as (wallet, found):
        (newest,), notes = ([found], []) if offline else _refreshed(wallet, [found])
        now = wallet.now()
    return Result(data=channel_document(newest, now=now), text=channel_details(newest, now=now), notes=notes)


def _refreshed(wallet: Wallet, channels: list[PayerChannel]) -> tuple[list[PayerChannel], list[str]]:
    """The same channels, those of the network in use asked about anew."""
    from microwallet.payer.refresh import refresh

    chain_id = wallet.network.chain_id
    here = [channel for channel in channels if channel.descriptor.chain_id == chain_id]
    with or_offline():
        refreshed = refresh(wallet.ledger, wallet.reader_of, here, now=wallet.now())
    newest = {channel.channel_id: channel for channel in refreshed.channels}
    return [newest.get(channel.channel_id, channel) for channel in channels], list(refreshed.notes)
