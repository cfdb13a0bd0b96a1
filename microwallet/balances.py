"""The balances of accounts on the network in use, out of the ledger and the chain."""

from __future__ import annotations

from collections.abc import Sequence

from microwallet.escrow.tokens import known_assets
from microwallet.keys.accounts import Account
from microwallet.payer.balance import Balance, balances
from microwallet.wallet import Wallet


def balances_of(wallet: Wallet, accounts: Sequence[Account], *, offline: bool) -> list[Balance]:
    """What accounts have, asset by asset; `offline` from the ledger alone. Raises NetworkError."""
    chain_id = wallet.network.chain_id
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
