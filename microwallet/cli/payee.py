"""`microwallet payee`: channels you are paid through."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from microwallet.cli import completion
from microwallet.cli.command import Command, command, help_text, new_group
from microwallet.cli.context import open_wallet
from microwallet.cli.options import AccountName, Json, NetworkName, Offline, RpcUrl
from microwallet.cli.payee_accept import accept
from microwallet.cli.payee_backup import export, import_
from microwallet.cli.payee_settle import close, settle
from microwallet.cli.payee_watch import watch
from microwallet.cli.result import Result
from microwallet.domain.money import Amount, sum_text
from microwallet.errors import NetworkError

if TYPE_CHECKING:
    from microwallet.domain.channel import PayeeChannel
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

    with open_wallet(network=network, account=account, rpc_url=rpc_url) as wallet:
        _refresh(wallet, offline=offline)
        channels = wallet.ledger.vouchers.list(finalized=all)
        if account is not None:
            payee = wallet.account.address
            channels = [channel for channel in channels if channel.descriptor.payee == payee]
        data = {"channels": _documents(wallet, channels)}
        notes = _warnings(wallet, channels)
        now = wallet.now()
    if not channels:
        notes = [*notes, "no open channel pays this wallet: microwallet payee accept FILE"]
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

    with open_wallet(network=network, rpc_url=rpc_url) as wallet:
        wallet.ledger.vouchers.find(channel)
        _refresh(wallet, offline=offline)
        found = wallet.ledger.vouchers.find(channel)
        (document,) = _documents(wallet, [found])
        notes = _warnings(wallet, [found])
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


def _refresh(wallet: Wallet, *, offline: bool) -> None:
    from microwallet.payee.refresh import refresh

    if offline:
        return
    try:
        refresh(wallet.ledger.vouchers, wallet.network.chain_id, wallet.reader_of, now=wallet.now())
    except NetworkError as error:
        error.hint = "microwallet payee list --offline  (what the chain said last)"
        raise


def _documents(wallet: Wallet, channels: Sequence[PayeeChannel]) -> list[dict[str, Any]]:
    from microwallet.cli.channel_view import channel_document

    accepted_at = wallet.ledger.vouchers.accepted_at()
    now = wallet.now()
    return [
        channel_document(channel, now=now)
        | {
            "unsettled": str(channel.unsettled),
            "acceptedAt": accepted_at.get(channel.channel_id),
        }
        for channel in channels
    ]


def _warnings(wallet: Wallet, channels: Sequence[PayeeChannel]) -> list[str]:
    """Where money can be lost: a channel that is closing, or unsettled money nobody watches."""
    from microwallet.cli.channel_view import local_time, money
    from microwallet.payee.exclusive import is_held, watch_lock

    chain_id = wallet.network.chain_id
    at_risk = [channel for channel in channels if channel.unsettled]
    if is_held(watch_lock(wallet.paths.home, chain_id)):
        at_risk = [channel for channel in at_risk if channel.descriptor.chain_id != chain_id]
    if not at_risk:
        return []
    notes = [
        f"warning: the payer of {channel.channel_id} has requested a close; after"
        f" {local_time(channel.state.withdrawable_at)} your {money(channel, channel.unsettled)} can be gone:"
        f" microwallet payee close {channel.channel_id}"
        for channel in at_risk
        if channel.state.close_requested_at
    ]
    total = sum_text(Amount(channel.unsettled, channel.asset) for channel in at_risk)
    notes.append(
        f"warning: {total} is unsettled and nobody watches it, while a payer can take it"
        " back 15 minutes after requesting a close: microwallet payee watch"
    )
    return notes
