"""The default account of a new home."""

from __future__ import annotations

from microwallet.cli.account_view import added
from microwallet.keys import keystore
from microwallet.wallet import Wallet


def test_one_of_the_accounts_made_at_the_same_moment_is_the_default(home, monkeypatch):
    """Two are there when the first of their processes comes to choose: it chooses its own."""
    monkeypatch.setattr(keystore, "STANDARD_COST", 2)  # a real one takes a second of scrypt
    with Wallet.open(environment=home.environment) as wallet:

        def make_alice_beside_bob():
            wallet.accounts.create("bob")
            return wallet.accounts.create("alice")

        added(wallet, make_alice_beside_bob)
    assert home.run("account", "show", "--json").data["name"] == "alice"
