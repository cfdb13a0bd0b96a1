"""`microwallet channel sync`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from microwallet.cli.channel_deposit import recorded_deposit
from microwallet.cli.channel_view import channel_document, channel_table, local_time, money
from microwallet.cli.context import open_wallet
from microwallet.cli.options import AccountName, Json, NetworkName, PasswordFile, RpcUrl
from microwallet.cli.result import Result
from microwallet.cli.source import read_all
from microwallet.errors import KeyUnavailable, UnknownReference
from microwallet.wallet import Wallet

if TYPE_CHECKING:
    from collections.abc import Sequence

    from microwallet.payer.import_voucher import ImportedVoucher
    from microwallet.payer.sync import SettledDeposit, Synced

_INPUT_LIMIT = 16 * 1024 * 1024


def sync(
    voucher: Annotated[
        str | None,
        typer.Option("--voucher", metavar="FILE", help="Highest voucher of a rebuilt channel; - for stdin."),
    ] = None,
    network: NetworkName = None,
    account: AccountName = None,
    rpc_url: RpcUrl = None,
    password_file: PasswordFile = None,
    json: Json = False,
) -> Result:
    """Find your channels on the chain again, and settle what a crash left unfinished.

    A channel found again does not pay until its highest voucher, which the payee has, is imported.
    """
    from microwallet.payer.import_voucher import Imported, import_vouchers
    from microwallet.payer.sync import sync as sync_with_chain

    content = b"" if voucher is None else read_all(voucher, limit=_INPUT_LIMIT, what="vouchers")
    with open_wallet(
        network=network, account=account, rpc_url=rpc_url, password_file=password_file
    ) as wallet:
        accounts = [wallet.account] if account else wallet.accounts.list()
        if not accounts:
            raise UnknownReference("this wallet has no account", hint="microwallet account import NAME")
        paying = [wallet.paying_account(one) for one in accounts]
        synced = sync_with_chain(paying, wallet.trusted_escrows, wallet.asset_of)
        imported = Imported() if voucher is None else import_vouchers(wallet.ledger, content.splitlines())
        notes = [note for one in imported.vouchers for note in _keep_key(wallet, one)]
        if imported.others:
            count = len(imported.others)
            notes.append(f"left out: {count} of the file's channels, which this wallet does not pay through")
        return _result(wallet, synced, imported.vouchers, notes)


def _result(wallet: Wallet, synced: Synced, imported: Sequence[ImportedVoucher], notes: list[str]) -> Result:
    now = wallet.now()
    channels = [wallet.ledger.channels.newest(channel) for channel in synced.channels]
    data = {
        "channels": [channel_document(channel, now=now) for channel in channels],
        "added": list(synced.added),
        "deposits": [recorded_deposit(settled) for settled in synced.deposits],
        "transactions": [
            {
                "purpose": resumed.purpose,
                "channelId": resumed.channel_id,
                "status": str(resumed.status),
                "transactionHash": resumed.receipt.hash if resumed.receipt else None,
                "gasUsed": resumed.receipt.gas_used if resumed.receipt else None,
            }
            for resumed in synced.transactions
        ],
        "imported": [
            {"channelId": one.channel.channel_id, "cumulativeAmount": str(one.cumulative_amount)}
            for one in imported
        ],
    }
    lines = [
        *(f"found channel {channel_id}" for channel_id in synced.added),
        *(_deposit_line(settled) for settled in synced.deposits),
        *(f"{one.purpose} at an earlier run: {one.status}" for one in synced.transactions),
        *(
            f"channel {one.channel.name} pays again:"
            f" {money(one.channel, one.channel.authorized)} is authorized"
            for one in imported
        ),
    ]
    lines.append(channel_table(channels, now) if channels else "no channel is open")
    waiting = [channel.channel_id for channel in channels if not channel.voucher_known]
    if waiting:
        notes.append(
            "a channel whose voucher is unknown does not pay: ask its payee for the highest one, then:"
            " microwallet channel sync --voucher FILE"
        )
    return Result(data=data, text="\n".join(lines), notes=[*synced.notes, *notes])


def _deposit_line(settled: SettledDeposit) -> str:
    deposit = settled.deposit
    line = f"{deposit.kind} {deposit.idempotency_key} of channel {deposit.channel_id}: {settled.status}"
    if settled.expires_at is None:
        return line
    return f"{line}; what was signed for it expires at {local_time(settled.expires_at)}"


def _keep_key(wallet: Wallet, imported: ImportedVoucher) -> list[str]:
    """Store the voucher key of a channel that pays again; a note if it cannot be had."""
    try:
        wallet.voucher_key(imported.channel)
    except KeyUnavailable as error:
        return [f"it cannot sign yet: {error.message}" + (f" ({error.hint})" if error.hint else "")]
    return []
