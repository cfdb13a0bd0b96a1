"""Amounts: parsed digit by digit, exact, never of two assets."""

import dataclasses

import pytest

from microwallet.domain.identifiers import NATIVE_TOKEN, Address, ChainId
from microwallet.domain.money import Amount, Asset, format_units, sum_text
from microwallet.errors import InvalidAmount

USDC = Asset(chain_id=ChainId(31337), token=Address("0x" + "55" * 20), symbol="USDC", decimals=6)
ETH = Asset(chain_id=ChainId(31337), token=NATIVE_TOKEN, symbol="ETH", decimals=18)


@pytest.mark.parametrize(
    ("text", "asset", "base_units"),
    [
        ("1", USDC, 1_000_000),
        ("0.001 USDC", USDC, 1_000),
        ("0.000001", USDC, 1),
        ("00.10 usdc", USDC, 100_000),
        ("  1   USDC ", USDC, 1_000_000),
        ("0.5 ETH", ETH, 5 * 10**17),
        ("1000 wei", ETH, 1000),
        ("2 gwei", ETH, 2 * 10**9),
        ("0.000000000000000001", ETH, 1),
        (str(2**96 - 1) + " wei", ETH, 2**96 - 1),
    ],
)
def test_amount_as_typed(text, asset, base_units):
    """Digits, at most one point, and a unit that may be left out."""
    assert Amount.parse(text, asset).base_units == base_units


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "-1",
        "+1",
        "0",
        "0.0",
        "0 USDC",
        "1e3",
        "1E3 USDC",
        "NaN",
        "inf",
        "0x10",
        "1_000",
        "1,5",
        ".5",
        "5.",
        "1.2.3",
        "0.0000001",
        "0.0000010 USDC",
        "1 DAI",
        "1 wei",
        "1 USDC USDC",
        "1\u00a0USDC",
        "\u0661\u0662",
        "\uff11",
        "\u00b2",
        "1\n",
        "1 US\u0392C",
        str(2**96),
        "79228162514264337593543.950336",
        "9" * 5000,
        "1." + "0" * 5000,
    ],
)
def test_amount_refused(text):
    """Whatever is not plainly an amount of the asset is refused, naming the value."""
    with pytest.raises(InvalidAmount) as refused:
        Amount.parse(text, USDC)
    assert refused.value.exit_code == 2
    assert len(refused.value.message) < 400


@pytest.mark.parametrize("text", ["1 USDC", "1 kwei"])
def test_a_unit_that_is_not_the_coins(text):
    """What is in another unit is no amount of the chain's coin."""
    with pytest.raises(InvalidAmount, match="is not ETH"):
        Amount.parse(text, ETH)


def test_a_token_that_is_called_like_a_part_of_the_coin():
    """It has decimals of its own: one of them is not a wei."""
    token = dataclasses.replace(USDC, symbol="wei")
    assert Amount.parse("1 wei", token).base_units == 1_000_000


def test_boundary_of_a_deposit():
    """2**96 - 1 base units is the largest amount, 2**96 is refused."""
    assert Amount.parse("79228162514264337593543.950335", USDC).base_units == 2**96 - 1
    with pytest.raises(InvalidAmount, match="too large"):
        Amount.parse("79228162514264337593543.950336", USDC)


def test_excess_precision_names_the_asset():
    """Too many decimals is an error that says how many the asset has; never rounding."""
    with pytest.raises(InvalidAmount, match=r"0\.0000001.*USDC has 6"):
        Amount.parse("0.0000001", USDC)


def test_amounts_of_one_asset():
    """They are added, taken off and compared as whole numbers."""
    one, two = Amount(1, USDC), Amount(2, USDC)
    assert (one + two, two - one) == (Amount(3, USDC), one)
    assert (one < two, one < Amount(1, USDC), two < one) == (True, False, False)
    assert (one <= two, one <= Amount(1, USDC), two <= one) == (True, True, False)


def test_amounts_of_two_assets_do_not_mix():
    """Adding or comparing USDC and ETH raises."""
    for operation in (lambda a, b: a + b, lambda a, b: a - b, lambda a, b: a < b, lambda a, b: a <= b):
        with pytest.raises(InvalidAmount, match="do not mix"):
            operation(Amount(1, USDC), Amount(1, ETH))


def test_amount_below_zero():
    """A difference below zero raises instead of wrapping."""
    with pytest.raises(InvalidAmount, match="below zero"):
        Amount(1, USDC) - Amount(2, USDC)


@pytest.mark.parametrize(
    ("base_units", "decimals", "text"),
    [
        (0, 6, "0"),
        (1, 6, "0.000001"),
        (1_000_000, 6, "1"),
        (1_500_000, 6, "1.5"),
        (7, 0, "7"),
        (10**24 + 1, 18, "1000000.000000000000000001"),
    ],
)
def test_exact_decimal_text(base_units, decimals, text):
    """Base units are written out exactly, without trailing zeros."""
    assert format_units(base_units, decimals) == text


def test_sums_are_told_per_asset():
    """In the order the assets came."""
    assert sum_text([Amount(7, USDC), Amount(10**18, ETH), Amount(8, USDC)]) == "0.000015 USDC and 1 ETH"
    assert sum_text([Amount(0, USDC)]) == "0 USDC"
