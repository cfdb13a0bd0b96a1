"""What a request costs: a table of routes, of which the first that fits counts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from microwallet.domain.money import Amount
from microwallet.errors import InvalidAmount, MalformedMessage, UsageError, did_you_mean
from microwallet.http402.charging.paths import canonical_path

ANY_METHOD = "*"
_OF_INTERMEDIARIES = ("CONNECT", "TRACE")
"""Methods that ask for a tunnel or an echo, and for nothing that could be sold."""
DEFAULT_REQUEST_UNITS = 1


class Unit(StrEnum):
    """What a price is for."""

    REQUEST = "request"
    EVENT = "event"
    """A server-sent event."""
    HEADER = "header"
    """As many units as the upstream says in a header of its answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """What one unit costs, and what a channel for it should look like."""

    amount: Amount
    unit: Unit
    header: str | None = None
    """Where the upstream says how many units were used, in lowercase; the client never sees it."""
    max_units: int = DEFAULT_REQUEST_UNITS
    """Units reserved before the upstream is asked: the most that a request by header can cost."""
    min_voucher_delta: int = 0
    suggested_deposit: int | None = None
    description: str | None = None

    @property
    def unit_type(self) -> str:
        """What one unit is called on the wire."""
        return "unit" if self.unit is Unit.HEADER else str(self.unit)

    def __str__(self) -> str:
        most = f", at most {Amount(self.reserved, self.amount.asset)}" if self.unit is Unit.HEADER else ""
        return (
            str(self.amount)
            if self.unit is Unit.REQUEST
            else f"{self.amount} for each {self.unit_type}{most}"
        )

    @property
    def reserved(self) -> int:
        """Base units that must be available before the upstream is asked."""
        return self.amount.base_units * self.max_units

    def units_used(self, cost: int) -> int | None:
        """The units that a request by header was charged for; None where the price is for something else."""
        amount = self.amount.base_units
        return cost // amount if self.unit is Unit.HEADER and amount else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """Requests that cost the same; free ones have no price."""

    method: str
    """In capitals, or `*`."""
    pattern: Sequence[str]
    """Segments of a path: `*` stands for one, a last `**` for any number."""
    price: Price | None

    def fits(self, method: str, segments: Sequence[str]) -> bool:
        """Whether a request is one of these. A HEAD costs what the GET does."""
        if self.method not in (ANY_METHOD, "GET" if method == "HEAD" else method):
            return False
        pattern = self.pattern
        if pattern and pattern[-1] == "**":
            pattern, segments = pattern[:-1], segments[: len(pattern) - 1]
        return len(pattern) == len(segments) and all(
            wanted in ("*", given) for wanted, given in zip(pattern, segments, strict=True)
        )


@dataclass(frozen=True, slots=True)
class Routes:
    """The table; a request that fits no route is refused."""

    routes: Sequence[Route]

    def find(self, method: str, path: str) -> Route | None:
        """The route of a request by its canonical path, or None."""
        if method in _OF_INTERMEDIARIES:
            return None
        segments = path[1:].split("/")
        return next((route for route in self.routes if route.fits(method, segments)), None)

    def names(self, path: str) -> bool:
        """Whether a route is for this path by its name, not by a `*`."""
        return any("/" + "/".join(route.pattern) == path for route in self.routes)


def parse_routes(tables: Iterable[Mapping[str, Any]], amount: Callable[[str], Amount]) -> Routes:
    """The routes that the `[[routes]]` tables of a configuration describe.

    `amount` reads a price. UsageError names the table and what is wrong with it.
    """
    return Routes([_route(number, table, amount) for number, table in enumerate(tables, start=1)])


_KEYS = {
    "method": str,
    "path": str,
    "free": bool,
    "price": str,
    "per": str,
    "units-header": str,
    "max-units": int,
    "min-voucher-delta": str,
    "suggested-deposit": str,
    "description": str,
}
EXPECTED = {str: "a text", int: "a number", bool: "true or false", list: "a list"}
"""What is said of the types of settings."""
_PAID_KEYS = set(_KEYS) - {"method", "path", "free"}


def _route(number: int, table: Mapping[str, Any], amount: Callable[[str], Amount]) -> Route:
    def fail(message: str, hint: str | None = None) -> UsageError:
        return UsageError(f"route {number}: {message}", hint=hint)

    for key, value in table.items():
        if key not in _KEYS:
            raise fail(f"there is no setting {key!r}; {did_you_mean(key, _KEYS)}")
        if type(value) is not _KEYS[key]:
            raise fail(f"{key} is {value!r}; {EXPECTED[_KEYS[key]]} is expected")
    if "path" not in table:
        raise fail('it has no path, such as "/articles/**"')
    free = table.get("free", False)
    if free and (superfluous := sorted(_PAID_KEYS & set(table))):
        raise fail(f"it is free, so it has no {superfluous[0]}")
    if not free and "price" not in table:
        raise fail("it has neither a price nor free = true")
    try:
        price = None if free else _price(table, amount)
        return Route(method=_method(table), pattern=_pattern(table["path"]), price=price)
    except (UsageError, MalformedMessage) as error:
        raise fail(error.message, error.hint) from error


def _method(table: Mapping[str, Any]) -> str:
    method: str = table.get("method", ANY_METHOD)
    if method != ANY_METHOD and not (method.isascii() and method.isalpha() and method.isupper()):
        raise UsageError(f"{method!r} is no method: GET, POST or * is expected")
    return method


def _pattern(path: str) -> Sequence[str]:
    if not path.startswith("/"):
        raise UsageError(f"{path!r} is no path that can be forwarded", hint=f'path = "/{path}"')
    if canonical_path(path) != path:
        raise UsageError(f"{path!r} is not canonical: write {canonical_path(path)}")
    segments = path[1:].split("/")
    if any("*" in segment and segment not in ("*", "**") for segment in segments) or "**" in segments[:-1]:
        raise UsageError(f"{path!r}: * stands for a whole segment, ** for all that follow, at the end")
    return segments


def _price(table: Mapping[str, Any], amount: Callable[[str], Amount]) -> Price:
    unit = table.get("per", Unit.REQUEST)
    if unit not in tuple(Unit):
        raise UsageError(f"per is {unit!r}; {did_you_mean(unit, Unit)}")
    header, max_units = table.get("units-header"), table.get("max-units")
    if (unit == Unit.HEADER) != (header is not None and max_units is not None):
        raise UsageError('units-header and max-units go together with per = "header"')
    if max_units is not None and max_units < 1:
        raise UsageError(f"max-units is {max_units}; at least 1 is expected")
    price = amount(table["price"])

    def base_units(key: str) -> int | None:
        if key not in table:
            return None
        other = amount(table[key])
        if other.asset != price.asset:
            raise InvalidAmount(f"{key} is in {other.asset.symbol}, the price in {price.asset.symbol}")
        return other.base_units

    return Price(
        amount=price,
        unit=Unit(unit),
        header=None if header is None else header.lower(),
        max_units=max_units or DEFAULT_REQUEST_UNITS,
        min_voucher_delta=base_units("min-voucher-delta") or 0,
        suggested_deposit=base_units("suggested-deposit"),
        description=table.get("description"),
    )
