"""What the shell offers at the tab key: channels, accounts, networks, settings, topics.

Nothing is created, asked or said here: what cannot be read offers nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from microwallet.cli.context import open_wallet
from microwallet.errors import MicrowalletError
from microwallet.wallet import Wallet

Offer = tuple[str, str]
"""A word and what it stands for."""


def _offered(words: Callable[[Wallet], Iterable[Offer]]) -> Callable[[str], list[Offer]]:
    def complete(incomplete: str) -> list[Offer]:
        try:
            with open_wallet() as wallet:
                return [offer for offer in words(wallet) if offer[0].startswith(incomplete)]
        except MicrowalletError:
            return []

    return complete


@_offered
def channels(wallet: Wallet) -> Iterable[Offer]:
    """Labels and ids of the live channels this wallet pays through."""
    if not wallet.paths.ledger.exists():
        return
    for channel in wallet.ledger.channels.list(finalized=False):
        payee = f"to {channel.descriptor.payee}"
        if channel.label and channel.name == channel.label:
            yield channel.label, payee
        yield channel.channel_id, channel.label or payee


@_offered
def paying_channels(wallet: Wallet) -> Iterable[Offer]:
    """Ids of the live channels that pay this wallet."""
    if not wallet.paths.ledger.exists():
        return
    for channel in wallet.ledger.vouchers.list(finalized=False):
        yield channel.channel_id, f"from {channel.descriptor.payer}"


@_offered
def accounts(wallet: Wallet) -> Iterable[Offer]:
    """Names of the accounts."""
    return ((account.name, account.address) for account in wallet.accounts.list())


@_offered
def networks(wallet: Wallet) -> Iterable[Offer]:
    """Names of the networks."""
    from microwallet.escrow.networks import known_networks

    known = known_networks(wallet.configuration).values()
    return ((network.name, f"chain {network.chain_id}") for network in known)


@_offered
def settings(_: Wallet) -> Iterable[Offer]:
    """Names of the settings."""
    from microwallet.config import SETTINGS

    return ((name, setting.help) for name, setting in SETTINGS.items())
