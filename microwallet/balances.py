"""The balances of accounts on the network in use, out of the ledger and the chain."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from microwallet.errors import EscrowMissing
from microwallet.escrow.tokens import known_assets
from microwallet.keys.accounts import Account
from microwallet.payer.balance import Balance, balances
from microwallet.wallet import Wallet


def balances_of(wallet: Wallet, accounts: Sequence[Account], *, offline: bool) -> list[Balance]:
    """What accounts have, asset by asset, as the chain is now; `offline` from the ledger alone.

    Raises NetworkError.
    """
    chain_id = wallet.network.chain_id
    if not offline:
        _refresh(wallet)
    paying = [
        one for one in wallet.ledger.channels.list(finalized=False) if one.descriptor.chain_id == chain_id
    ]
    paid = [
        one for one in wallet.ledger.vouchers.list(finalized=False) if one.descriptor.chain_id == chain_id
    ]
    assets = known_assets(wallet.configuration, wallet.network)
    tokens = {asset.token for asset in assets} | {one.asset.token for one in (*paying, *paid)}
    addresses = [account.address for account in accounts]
    on_chain = {}
    if not offline:
        holdings = [(token, address) for token in sorted(tokens) for address in addresses]
        on_chain = dict(zip(holdings, wallet.reader.balances(holdings), strict=True))
    return balances(addresses, assets, on_chain, paying, paid)


def _refresh(wallet: Wallet) -> None:
    """Ask the chain about the channels: what a close has paid out is not locked as well."""
    from microwallet.payee.refresh import refresh as refresh_paid
    from microwallet.payer.refresh import refresh as refresh_paying

    chain_id, now = wallet.network.chain_id, wallet.now()
    paying = [
        one for one in wallet.ledger.channels.list(finalized=False) if one.descriptor.chain_id == chain_id
    ]
    with suppress(EscrowMissing):  # what it said last counts
        for note in refresh_paying(wallet.ledger, wallet.reader_of, paying, now=now).notes:
            wallet.reporter.say(note)
        refresh_paid(wallet.ledger.vouchers, chain_id, wallet.reader_of, now=now)
