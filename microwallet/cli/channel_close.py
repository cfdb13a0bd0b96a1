"""`microwallet channel close`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from microwallet.cli import channel_close_view as view
from microwallet.cli.channel_close_all import close_all
from microwallet.cli.channel_close_run import Chosen, How
from microwallet.cli.channel_reference import OptionalChannelReference, paying_account_of
from microwallet.cli.channel_withdraw import Wait, ending_fee
from microwallet.cli.context import confirm, open_wallet
from microwallet.cli.options import DryRun, Json, NetworkName, PasswordFile, RpcUrl, Yes
from microwallet.cli.result import Result
from microwallet.errors import UsageError

if TYPE_CHECKING:
    from microwallet.wallet import Wallet


def close(
    channel: OptionalChannelReference = None,
    everything: Annotated[bool, typer.Option("--all", help="Every channel of the network in use.")] = False,
    wait: Wait = False,
    on_chain: Annotated[
        bool, typer.Option("--on-chain", help="Do not ask the payee over HTTP first.")
    ] = False,
    network: NetworkName = None,
    rpc_url: RpcUrl = None,
    password_file: PasswordFile = None,
    yes: Yes = False,
    dry_run: DryRun = False,
    json: Json = False,
) -> Result:
    """Ask for the money back.

    A payee that was paid over HTTP is asked to close at once. Any other has 15 minutes to take what it
    is owed; withdraw then.
    """
    if (channel is None) is not everything:
        raise UsageError("name one channel, or say --all", hint="microwallet channel list")
    how = How(wait=wait, on_chain=on_chain, yes=yes, dry_run=dry_run)
    flags = {"network": network, "rpc_url": rpc_url, "password_file": password_file}
    if channel is None:
        with open_wallet(**flags) as wallet:
            return close_all(wallet, how)
    with paying_account_of(channel, **flags) as (wallet, known, paying):
        return _close_one(wallet, Chosen.of(wallet, known, paying, how), how)


def _close_one(wallet: Wallet, one: Chosen, how: How) -> Result:
    from microwallet.escrow import calls

    channel = one.channel
    if how.dry_run or (not how.yes and one.is_open):
        fee = ending_fee(wallet, one.paying, calls.request_close(channel.descriptor), "requestClose")
        summary = view.summary_of_one(wallet, channel, fee, on_chain=how.on_chain)
        if how.dry_run:
            planned = view.plan_document(channel, one.by_hand, now=wallet.now())
            return Result(data=planned | {"dryRun": True} | fee.document, text=summary)
        confirm(summary, yes=False)
    return one.result(wallet, one.close(wallet, how), how)
