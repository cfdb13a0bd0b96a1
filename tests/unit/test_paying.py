"""The limits of a client that pays, out of settings."""

from __future__ import annotations

import pytest

from microwallet.errors import UsageError
from microwallet.paying import limits_of
from microwallet.wallet import Wallet


@pytest.mark.parametrize(
    ("variable", "value", "code", "said"),
    [
        ("MICROWALLET_MAX_AMOUNT", "much", "invalid-amount", "max-amount: 'much' is not an amount: "),
        ("MICROWALLET_MAX_AMOUNT", "0 USDC", "invalid-amount", "max-amount: '0 USDC' is zero"),
        ("MICROWALLET_MAX_DEPOSIT", "1 DAI", "not-found", "max-deposit: there is no token 'DAI' on anvil"),
    ],
)
def test_a_setting_that_is_no_limit_is_named(tmp_path, variable, value, code, said):
    """Nobody typed it now: the hint changes it where it is kept."""
    environment = {"MICROWALLET_HOME": str(tmp_path), variable: value}
    with Wallet.open(environment=environment) as wallet, pytest.raises(UsageError) as raised:
        limits_of(wallet)
    assert raised.value.message.startswith(said)
    assert raised.value.code == code
    default = "0.01 USDC" if variable.endswith("AMOUNT") else "1 USDC"
    assert raised.value.hint == f"export {variable}='{default}'"
    with Wallet.open(environment=environment) as wallet:
        limits_of(wallet, max_amount="1 USDC", max_deposit="1 USDC")  # which it does not count for


MINE = """[networks.mine]
chain-id = {}
testnet = true
rpc-urls = [{}]
"""


@pytest.fixture
def on_network(tmp_path):
    """Opens a wallet on a network of the user's own, with its chain id and URLs as written."""

    def opened(*fields):
        (tmp_path / "config.toml").write_text(MINE.format(*fields))
        return Wallet.open(environment={"MICROWALLET_HOME": str(tmp_path), "MICROWALLET_NETWORK": "mine"})

    return opened


def test_a_network_without_the_token_of_a_default(on_network):
    """Of that nothing is paid without a limit that is named; it stops nobody before."""
    with on_network(5, '"http://127.0.0.1:9"') as wallet:
        limits = limits_of(wallet)
    assert (limits.max_amounts, limits.max_deposits) == ({}, {})


def test_what_is_wrong_with_a_network_is_not_said_of_a_limit(on_network):
    """Nor is a hint given to change the limit."""
    with on_network(5, "") as wallet, pytest.raises(UsageError) as raised:
        limits_of(wallet)
    assert raised.value.message.startswith("[networks.mine] ")
