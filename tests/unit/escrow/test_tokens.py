"""Assets by symbol and address, and symbols that would deceive."""

from __future__ import annotations

import pytest

from microwallet.domain.identifiers import NATIVE_TOKEN
from microwallet.domain.money import Asset
from microwallet.errors import NotTrusted, UnknownReference, UsageError
from microwallet.escrow.network import built_in_networks
from microwallet.escrow.tokens import add_token, asset_of, known_assets, looks_like, resolve_asset

SEPOLIA = built_in_networks()["sepolia"]
AMOY = built_in_networks()["polygon-amoy"]
OTHER = "0x1111111111111111111111111111111111111111"


@pytest.mark.parametrize("text", [None, "USDC", "usdc", SEPOLIA.usdc, SEPOLIA.usdc.lower()])
def test_usdc_is_known_without_asking_the_chain(configured, text):
    """Each network's USDC has 6 decimals, by symbol in any case or by address."""
    asset = resolve_asset(configured(), SEPOLIA, None, text)
    assert (asset.symbol, asset.decimals, asset.token) == ("USDC", 6, SEPOLIA.usdc)


@pytest.mark.parametrize(("network", "symbol"), [(SEPOLIA, "ETH"), (AMOY, "POL")])
def test_the_coin_has_the_symbol_of_its_chain(configured, network, symbol):
    """The zero address and the symbol are the chain's own coin, with 18 decimals."""
    for text in (symbol, symbol.lower(), NATIVE_TOKEN):
        asset = resolve_asset(configured(), network, None, text)
        assert (asset.symbol, asset.decimals, asset.is_native) == (symbol, 18, True)


def test_the_setting_chooses_the_asset_of_bare_amounts(configured):
    """`token` in the configuration stands in where no unit is named."""
    assert resolve_asset(configured(token="ETH"), SEPOLIA, None).symbol == "ETH"


def test_a_misspelt_symbol_gets_a_suggestion(configured):
    """Close symbols are suggested, never taken; another chain's coin is unknown here."""
    with pytest.raises(UnknownReference, match="did you mean USDC"):
        resolve_asset(configured(), SEPOLIA, None, "USDX")
    with pytest.raises(UnknownReference, match="there are: POL, USDC"):
        resolve_asset(configured(), AMOY, None, "DOGE")


@pytest.mark.parametrize(
    ("text", "amount", "setting", "hint"),
    [
        ("USD", "0.001 USD", None, '"0.001 USDC"'),
        ("usd", " 5  usd", None, '"5  USDC"'),
        ("USD", "all USD", None, '"all USDC"'),
        ("USDX", "5", None, "--token USDC"),
        (None, "5", "USDX", "microwallet config set token USDC"),
        ("DOGE", "1 DOGE", None, "microwallet network token add ADDRESS"),
    ],
)
def test_the_hint_is_the_amount_or_the_token_that_was_meant(configured, text, amount, setting, hint):
    """As it was typed but for its unit; a token is to be added only where none is near."""
    settings = {} if setting is None else {"token": setting}
    with pytest.raises(UnknownReference) as caught:
        resolve_asset(configured(**settings), SEPOLIA, None, text, amount=amount)
    assert caught.value.hint == hint


def test_an_added_token_is_known_on_its_chain_alone(configured):
    """The user's file keeps symbol, address and decimals by chain."""
    configuration = configured()
    asset = Asset(chain_id=SEPOLIA.chain_id, token=OTHER, symbol="EURX", decimals=2)
    add_token(configuration, SEPOLIA, asset)
    assert resolve_asset(configuration, SEPOLIA, None, "eurx") == asset
    assert asset_of(configuration, SEPOLIA, OTHER) == asset
    assert asset_of(configuration, AMOY, OTHER) is None
    renamed = Asset(chain_id=SEPOLIA.chain_id, token=OTHER, symbol="EURY", decimals=2)
    add_token(configuration, SEPOLIA, renamed)
    assert [known.symbol for known in known_assets(configuration, SEPOLIA)] == ["ETH", "USDC", "EURY"]


def test_a_symbol_that_another_process_gave_away_meanwhile_is_refused(configured):
    """It stays the other token's, or amounts in it would mean something else from now on."""
    first, second = configured(), configured()
    one, other = (
        Asset(chain_id=SEPOLIA.chain_id, token=token, symbol="EURX", decimals=2)
        for token in (OTHER, AMOY.usdc)
    )
    add_token(first, SEPOLIA, one)
    with pytest.raises(NotTrusted, match="EURX is 0x1111"):
        add_token(second, SEPOLIA, other)
    assert resolve_asset(configured(**first.user), SEPOLIA, None, "EURX") == one


@pytest.mark.parametrize(
    "entry",
    [
        {"X": 5},
        {"X": {"address": OTHER}},
        {"X": {"address": OTHER, "decimals": "6"}},
        {"X": {"address": OTHER, "decimals": -1}},
        {"X": {"address": OTHER, "decimals": 200}},
        {"X": {"address": "0x11", "decimals": 6}},
        {"\x1b[31m": {"address": OTHER, "decimals": 6}},
        "a text",
    ],
)
def test_a_malformed_token_in_the_file_is_a_usage_error(configured, entry):
    """Wrong decimals would be wrong money."""
    with pytest.raises(UsageError):
        known_assets(configured(tokens={str(SEPOLIA.chain_id): entry}), SEPOLIA)


@pytest.mark.parametrize("other", ["USDC", "usdc", "U-S-D-C", "USDC.", "U5DC"])
def test_symbols_a_person_could_confuse_count_as_one(other):
    """Case, points, dashes and digits that resemble letters do not make another symbol."""
    assert looks_like("USDC", other)
    assert not looks_like("USDC", "USDT")
