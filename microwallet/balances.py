"""The balances of accounts on the network in use, out of the ledger and the chain."""

from __future__ import annotations

from collections.abc import Sequence

from microwallet.domain.channel import PayerChannel
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
    paying = _paying(wallet)
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

    notes = list(refresh_paying(wallet.ledger, wallet.reader_of, _paying(wallet), now=wallet.now()).notes)
    try:
        refresh_paid(wallet.ledger.vouchers, wallet.network.chain_id, wallet.reader_of, now=wallet.now())
    except EscrowMissing as error:
        notes.append(error.note)
    for note in dict.fromkeys(notes):
        wallet.reporter.say(note)


def _paying(wallet: Wallet) -> Sequence[PayerChannel]:
    """The channels paid through on the network in use that are not finalized."""
    chain_id = wallet.network.chain_id
    return [
        one for one in wallet.ledger.channels.list(finalized=False) if one.descriptor.chain_id == chain_id
    ]
