"""The limits of a client that pays, out of settings."""

from __future__ import annotations

import pytest

from microwallet.errors import UsageError
from microwallet.paying import limits_of
from microwallet.wallet import Wallet


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("MICROWALLET_MAX_AMOUNT", "much", "max-amount: 'much' is not an amount: "),
        ("MICROWALLET_MAX_AMOUNT", "0 USDC", "max-amount: '0 USDC' is zero"),
        ("MICROWALLET_MAX_DEPOSIT", "1 DAI", "max-deposit: there is no token 'DAI' on anvil"),
    ],
)
def test_a_setting_that_is_no_limit_is_named(tmp_path, variable, value, said):
    """Nobody typed it now: the hint changes it where it is kept."""
    environment = {"MICROWALLET_HOME": str(tmp_path), variable: value}
    with Wallet.open(environment=environment) as wallet, pytest.raises(UsageError) as raised:
        limits_of(wallet)
    assert raised.value.message.startswith(said)
    default = "0.01 USDC" if variable.endswith("AMOUNT") else "1 USDC"
    assert raised.value.hint == f"export {variable}='{default}'"
    with Wallet.open(environment=environment) as wallet:
        limits_of(wallet, max_amount="1 USDC", max_deposit="1 USDC")  # which it does not count for
