"""`microwallet payee`: channels you are paid through."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from microwallet.cli import completion
from microwallet.cli.command import Command, command, help_text, new_group
from microwallet.cli.context import open_wallet, or_offline
from microwallet.cli.options import AccountName, Json, NetworkName, Offline, RpcUrl
from microwallet.cli.payee_accept import accept
from microwallet.cli.payee_backup import export, import_
from microwallet.cli.payee_settle import close, settle
from microwallet.cli.payee_watch import watch
from microwallet.cli.result import Result
from microwallet.errors import EscrowMissing

if TYPE_CHECKING:
    from microwallet.wallet import Wallet

app = new_group("Channels you are paid through.")

command(
    app,
    "accept",
    'microwallet pay coffee "0.001 USDC" | microwallet payee accept -',
    "microwallet payee accept vouchers.jsonl",
)(accept)


@command(app, "list", "microwallet payee list --all")
def list_(
    all: Annotated[bool, typer.Option("--all", help="Finalized channels too.")] = False,
    offline: Offline = False,
    network: NetworkName = None,
    account: AccountName = None,
    rpc_url: RpcUrl = None,
    json: Json = False,
) -> Result:
    """List the channels you are paid through, as the chain has them now."""
    from microwallet.cli.channel_view import channel_table
    from microwallet.cli.payee_view import loss_warnings, payee_documents

    with open_wallet(network=network, account=account, rpc_url=rpc_url) as wallet:
        unknown = [] if offline else _refresh(wallet)
        channels = wallet.ledger.vouchers.list(finalized=all)
        if account is not None:
            payee = wallet.account.address
            channels = [channel for channel in channels if channel.descriptor.payee == payee]
        data = {"channels": payee_documents(wallet, channels)}
        notes = [*loss_warnings(wallet, channels), *unknown]
        now = wallet.now()
        have_ended = not (channels or all) and wallet.ledger.vouchers.list(finalized=True)
    if not channels:
        then = "list --all" if have_ended else "accept FILE"
        notes = [*notes, f"no open channel pays this wallet: microwallet payee {then}"]
        return Result(data=data, notes=notes)
    return Result(data=data, text=lambda: channel_table(channels, now), notes=notes)


@command(app, "show", "microwallet payee show 0x1234ab")
def show(
    channel: Annotated[
        str,
        typer.Argument(
            metavar="CHANNEL", help="Id, or the start of one.", autocompletion=completion.paying_channels
        ),
    ],
    offline: Offline = False,
    network: NetworkName = None,
    rpc_url: RpcUrl = None,
    json: Json = False,
) -> Result:
    """Show one channel."""
    from microwallet.cli.channel_view import channel_details, local_time, money
    from microwallet.cli.payee_view import loss_warnings, payee_documents

    with open_wallet(network=network, rpc_url=rpc_url) as wallet:
        wallet.ledger.vouchers.find(channel)
        unknown = [] if offline else _refresh(wallet)
        found = wallet.ledger.vouchers.find(channel)
        (document,) = payee_documents(wallet, [found])
        notes = [*loss_warnings(wallet, [found]), *unknown]
        more = (
            ("unsettled", money(found, found.unsettled)),
            ("accepted", local_time(document["acceptedAt"])),
        )
        text = channel_details(found, now=wallet.now(), more=more)
    return Result(data=document, text=text, notes=notes)


command(
    app,
    "settle",
    'microwallet payee settle --all --min "1 USDC"',
    "microwallet payee settle 0x1234ab",
)(settle)
command(app, "close", "microwallet payee close --all", "microwallet payee close 0x1234ab")(close)
command(app, "export", "microwallet payee export vouchers.jsonl")(export)
command(app, "import", "microwallet payee import vouchers.jsonl")(import_)
app.command(
    "watch",
    cls=Command,
    help=help_text(watch, "microwallet payee watch", "microwallet payee watch --print-service"),
)(watch)


def _refresh(wallet: Wallet) -> list[str]:
    """Ask the chain about the channels; what it could not tell."""
    from microwallet.payee.refresh import refresh

    try:
        with or_offline():
            refresh(wallet.ledger.vouchers, wallet.network.chain_id, wallet.reader_of, now=wallet.now())
    except EscrowMissing as error:
        return [error.note]
    return []
