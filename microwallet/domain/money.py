"""Amounts: whole base units of one asset, parsed digit by digit, never a float."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from microwallet.domain.identifiers import NATIVE_TOKEN, Address, ChainId
from microwallet.errors import InvalidAmount, ZeroAmount

DEPOSIT_LIMIT = 2**96
"""A deposit is kept in 96 bits by the escrow; no amount reaches this bound."""

_AMOUNT = re.compile(r"([0-9]+)(?:\.([0-9]+))?(?:[ ]+([A-Za-z][A-Za-z0-9.\-]{0,19}))?", re.ASCII)
_UNITS_OF_ETHER = {"wei": 0, "gwei": 9}


@dataclass(frozen=True, slots=True, kw_only=True)
class Asset:
    """A token, or the native coin, of one chain."""

    chain_id: ChainId
    token: Address
    symbol: str
    decimals: int

    @property
    def is_native(self) -> bool:
        """Whether it is the coin of its chain."""
        return self.token == NATIVE_TOKEN


@dataclass(frozen=True, slots=True, order=False)
class Amount:
    """A number of base units of one asset; never negative, never of two assets at once."""

    base_units: int
    asset: Asset

    def __post_init__(self) -> None:
        if self.base_units < 0:
            raise InvalidAmount(f"an amount cannot be below zero: {self.base_units} base units")

    def __add__(self, other: Amount) -> Amount:
        return Amount(self.base_units + self._same_asset(other), self.asset)

    def __sub__(self, other: Amount) -> Amount:
        return Amount(self.base_units - self._same_asset(other), self.asset)

    def __lt__(self, other: Amount) -> bool:
        return self.base_units < self._same_asset(other)

    def __le__(self, other: Amount) -> bool:
        return self.base_units <= self._same_asset(other)

    def __str__(self) -> str:
        return f"{format_units(self.base_units, self.asset.decimals)} {self.asset.symbol}"

    def _same_asset(self, other: Amount) -> int:
        if other.asset != self.asset:
            raise InvalidAmount(
                f"amounts of two assets do not mix: {self.asset.symbol} and {other.asset.symbol}"
            )
        return other.base_units

    @classmethod
    def parse(cls, text: str, asset: Asset) -> Self:
        """The amount that `text` names, in `asset`: `0.001`, `0.001 USDC`, `1000 wei`.

        Raises InvalidAmount for anything else: signs, exponents, other scripts' digits, more
        decimals than the asset has, zero, and 2**96 base units or more.
        """
        match = _AMOUNT.fullmatch(text.strip(" "))
        if match is None:
            raise _not_an_amount(text, f"{asset.symbol} has {asset.decimals} decimals")
        whole, fraction, unit = match.group(1), match.group(2) or "", match.group(3)
        decimals = _decimals_of(unit, asset, text)
        if len(fraction) > decimals:
            raise InvalidAmount(
                f"{_shown(text)} has {len(fraction)} decimals; {unit or asset.symbol} has {decimals}"
            )
        if len(whole) > 40:
            raise _too_large(text, asset)
        base_units = int(whole + fraction.ljust(decimals, "0"))
        if base_units == 0:
            raise ZeroAmount(f"{_shown(text)} is zero; {_smallest(asset)}")
        if base_units >= DEPOSIT_LIMIT:
            raise _too_large(text, asset)
        return cls(base_units, asset)


def check_amount(given: object) -> str | Amount:
    """What a program gives for an amount; InvalidAmount for a number: it has no unit, and may be rounded."""
    if isinstance(given, str | Amount):
        return given
    raise InvalidAmount(
        f"{given!r}, of type {type(given).__name__}, is not an amount",
        hint='text with a unit, such as "0.01 USDC", or an Amount',
    )


def unit_of(text: str) -> str | None:
    """The unit named in an amount as typed, or None for a bare number."""
    match = _AMOUNT.fullmatch(text.strip(" "))
    if match is None:
        raise _not_an_amount(text, "USDC has 6 decimals, ETH 18")
    return match.group(3)


def format_units(base_units: int, decimals: int) -> str:
    """Decimal text of base units, exact, without trailing zeros."""
    digits = str(base_units).rjust(decimals + 1, "0")
    whole, fraction = digits[: len(digits) - decimals], digits[len(digits) - decimals :]
    fraction = fraction.rstrip("0")
    return f"{whole}.{fraction}" if fraction else whole


def sum_text(amounts: Iterable[Amount]) -> str:
    """The sums of amounts, one for each symbol: an asset has the same one on every chain."""
    sums: dict[tuple[str, int], int] = {}
    for amount in amounts:
        key = (amount.asset.symbol, amount.asset.decimals)
        sums[key] = sums.get(key, 0) + amount.base_units
    return " and ".join(
        f"{format_units(base_units, decimals)} {symbol}" for (symbol, decimals), base_units in sums.items()
    )


def names_asset(unit: str, asset: Asset) -> bool:
    """Whether a unit as typed belongs to `asset`."""
    if asset.is_native and unit.lower() in _UNITS_OF_ETHER:
        return True
    return unit.lower() == asset.symbol.lower()


def _shown(text: str) -> str:
    return repr(text if len(text) <= 80 else text[:77] + "...")


def _not_an_amount(text: str, precision: str) -> InvalidAmount:
    return InvalidAmount(
        f"{_shown(text)} is not an amount: digits with at most one point, then a unit; {precision}",
        hint='write it like "0.001 USDC", "0.5 ETH" or "1000 wei"',
    )


def _decimals_of(unit: str | None, asset: Asset, text: str) -> int:
    if unit is None:
        return asset.decimals
    if not names_asset(unit, asset):
        raise InvalidAmount(
            f"{_shown(text)}: the unit {unit!r} is not {asset.symbol} ({asset.decimals} decimals)",
            hint=f'write it like "0.001 {asset.symbol}"',
        )
    if asset.is_native:
        return _UNITS_OF_ETHER.get(unit.lower(), asset.decimals)
    return asset.decimals


def _smallest(asset: Asset) -> str:
    return (
        f"the smallest amount is {format_units(1, asset.decimals)} {asset.symbol} ({asset.decimals} decimals)"
    )


def _too_large(text: str, asset: Asset) -> InvalidAmount:
    return InvalidAmount(
        f"{_shown(text)} is too large: an amount stays below 2**96 base units"
        f" ({asset.symbol} has {asset.decimals} decimals)"
    )
