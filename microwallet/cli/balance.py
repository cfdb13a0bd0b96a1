"""`microwallet balance`: what the accounts have, on chain and in channels."""

from __future__ import annotations

from typing import Any

from microwallet.balances import balances_of
from microwallet.cli.command import command, new_group
from microwallet.cli.context import open_wallet, or_offline
from microwallet.cli.options import AccountName, Json, NetworkName, Offline, RpcUrl
from microwallet.cli.result import Result
from microwallet.cli.table import table
from microwallet.domain.identifiers import Address
from microwallet.domain.money import format_units
from microwallet.payer.balance import Balance

app = new_group("What is on chain, locked, authorized and free.")


@command(app, "balance", "microwallet balance", "microwallet balance --account alice --offline")
def balance(
    network: NetworkName = None,
    account: AccountName = None,
    rpc_url: RpcUrl = None,
    offline: Offline = False,
    json: Json = False,
) -> Result:
    """What the accounts have: on chain, locked in channels, authorized, free, unsettled.

    ON CHAIN is in the account itself. LOCKED is what it has deposited in channels that are not ended, less
    what their payees have taken; of that, AUTHORIZED is what its vouchers promise to payees, and FREE is
    what can still be paid. UNSETTLED is what the vouchers that it was paid with have still to bring.
    """
    with open_wallet(network=network, account=account, rpc_url=rpc_url) as wallet:
        accounts = [wallet.account] if account else wallet.accounts.list()
        if not accounts:
            raise wallet.no_account
        with or_offline():
            found = balances_of(wallet, accounts, offline=offline)
        names = {account.address: account.name for account in accounts}
        return Result(
            data={
                "network": wallet.network.name,
                "chainId": wallet.network.chain_id,
                "asOf": None if offline else wallet.now(),
                "balances": [_document(one, names[one.address]) for one in found],
            },
            text=lambda: _table(found, names),
        )


def _document(one: Balance, name: str) -> dict[str, Any]:
    return {
        "account": name,
        "address": one.address,
        "asset": one.asset.symbol,
        "decimals": one.asset.decimals,
        "token": one.asset.token,
        "onChain": None if one.on_chain is None else str(one.on_chain),
        "locked": str(one.locked),
        "authorized": str(one.authorized),
        "free": str(one.free),
        "unsettled": str(one.unsettled),
    }


def _table(found: list[Balance], names: dict[Address, str]) -> str:
    amounts = ("ON CHAIN", "LOCKED", "AUTHORIZED", "FREE", "UNSETTLED")
    rows = []
    for one in found:
        cells = (one.on_chain, one.locked, one.authorized, one.free, one.unsettled)
        shown = ["-" if cell is None else format_units(cell, one.asset.decimals) for cell in cells]
        rows.append([names[one.address], one.asset.symbol, *shown])
    return table(("ACCOUNT", "ASSET", *amounts), rows, right=amounts)
