"""What a request costs: a table of routes, of which the first that fits counts."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from microwallet.domain.money import Amount
from microwallet.errors import UsageError, did_you_mean
from microwallet.http402.charging.paths import canonical_path, without_parameters
from microwallet.http402.charging.setting_names import SettingNames
from microwallet.http402.wire.auth_fields import TCHARS
from microwallet.http402.wire.session_request import EVENT_UNIT, REQUEST_UNIT

ANY_METHOD = "*"
_OF_INTERMEDIARIES = ("CONNECT", "TRACE")
"""Methods that ask for a tunnel or an echo, and for nothing that could be sold."""
DEFAULT_REQUEST_UNITS = 1


class Unit(StrEnum):
    """What a price is for."""

    REQUEST = REQUEST_UNIT
    EVENT = EVENT_UNIT
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
        """The units that a request was charged for; None where the price is for all of it."""
        return None if self.unit is Unit.REQUEST else cost // self.amount.base_units


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
        pattern, takes_more = _split(self.pattern)
        if takes_more:
            segments = segments[: len(pattern)]
        return len(pattern) == len(segments) and all(
            wanted in ("*", given) for wanted, given in zip(pattern, segments, strict=True)
        )

    def in_small_letters(self) -> Route:
        """The same for a path in small letters."""
        return replace(self, pattern=[segment.lower() for segment in self.pattern])

    def covers(self, other: Route) -> bool:
        """Whether every request that `other` fits is one of these."""
        if self.method not in (ANY_METHOD, other.method):
            return False
        prefix, takes_more = _split(self.pattern)
        other_prefix, other_takes_more = _split(other.pattern)
        if len(other_prefix) < len(prefix) or (
            not takes_more and (other_takes_more or len(other_prefix) > len(prefix))
        ):
            return False
        return all(wanted in ("*", given) for wanted, given in zip(prefix, other_prefix, strict=False))

    @property
    def words(self) -> str:
        """Its method and path."""
        return f"{self.method} /{'/'.join(self.pattern)}"


def _split(pattern: Sequence[str]) -> tuple[Sequence[str], bool]:
    """The segments that a path has to have, and whether others may follow."""
    return (pattern[:-1], True) if pattern[-1] == "**" else (pattern, False)


def _loose(segments: Sequence[str]) -> Sequence[str]:
    """Segments in small letters, without a slash at the end."""
    small = [segment.lower() for segment in segments]
    return small[:-1] if len(small) > 1 and not small[-1] else small


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

    def may_cost(self, method: str, path: str, found: Route) -> bool:
        """Whether applications may take a path for one of another route than `found`, which has a price: to
        many, capitals are small letters, and a slash at the end is none. What `found` names whole is meant.
        """
        if list(found.pattern) == path[1:].split("/"):
            return False
        segments = _loose(without_parameters(path)[1:].split("/"))
        small = (route.in_small_letters() for route in self.routes)
        other = next((route for route in small if route.fits(method, segments)), None)
        if other is None or other.price is None:
            return False
        return _loose(other.pattern) != _loose(found.pattern)

    def unreachable(self) -> list[tuple[int, str]]:
        """Numbers of the routes that no request reaches, from 1, and why."""
        found = []
        for number, route in enumerate(self.routes, start=1):
            if route.method == "HEAD":
                found.append((number, "a HEAD is of the route for its GET"))
            elif route.method in _OF_INTERMEDIARIES:
                found.append((number, f"{route.method} is refused"))
            else:
                earlier = enumerate(self.routes[: number - 1], start=1)
                by = next((one for one in earlier if one[1].covers(route)), None)
                if by is not None:
                    found.append((number, f"route {by[0]}, {by[1].words}, comes first"))
        return found

    def warnings(self) -> list[str]:
        """What is said of the routes that no request reaches, and of those that few payers will pay for."""
        told = [
            f"no request reaches route {number}, {self.routes[number - 1].words}: {why}"
            for number, why in self.unreachable()
        ]
        for number, route in enumerate(self.routes, start=1):
            if route.price is not None and (why := _excessive_step(route.price)) is not None:
                told.append(f"route {number}, {route.words}: {why}")
        return told

    def names(self, path: str) -> bool:
        """Whether a route is for this path by its name, not by a `*`."""
        return any("/" + "/".join(route.pattern) == path for route in self.routes)


def _excessive_step(price: Price) -> str | None:
    """What is said of a voucher step above all that a request can cost; a stream goes on, and may cost it."""
    if price.unit is Unit.EVENT or price.min_voucher_delta <= price.reserved:
        return None
    step, most = (Amount(one, price.amount.asset) for one in (price.min_voucher_delta, price.reserved))
    return f"a payer has to authorize {step}, its min-voucher-delta, for what costs {most}"


def parse_routes(
    tables: Iterable[Mapping[str, Any]],
    amount: Callable[[str], Amount],
    names: SettingNames = SettingNames(),  # noqa: B008  # frozen
) -> Routes:
    """The routes that the `[[routes]]` tables of a configuration describe.

    `amount` reads a price. UsageError names the table and what is wrong with it, by `names`.
    """
    return Routes([_route(number, table, amount, names) for number, table in enumerate(tables, start=1)])


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
_PAID_KEYS = set(_KEYS) - {"method", "path", "free"}


def _route(
    number: int, table: Mapping[str, Any], amount: Callable[[str], Amount], names: SettingNames
) -> Route:
    place = names.place(number)
    for key, value in table.items():
        if key not in _KEYS:
            raise names.unknown(key, _KEYS, number)
        if type(value) is not _KEYS[key]:
            raise names.mistyped(key, value, _KEYS[key], number)
    if "path" not in table:
        raise UsageError(f"{place} it has no path", hint=names.example("path"))
    free = table.get("free", False)
    if free and (superfluous := sorted(_PAID_KEYS & set(table))):
        raise UsageError(
            f"{place} it is free, so it has no {superfluous[0]}", hint=f"leave out {superfluous[0]}, or free"
        )
    if not free and "price" not in table:
        raise UsageError(f"{place} it has neither a price nor free = true", hint=names.example("price"))
    with names.naming("method", number):
        method = _method(table)
    with names.naming("path", number):
        pattern = _pattern(table["path"])
    price = None if free else _price(table, amount, names, number)
    return Route(method=method, pattern=pattern, price=price)


def _method(table: Mapping[str, Any]) -> str:
    method: str = table.get("method", ANY_METHOD)
    if method != ANY_METHOD and not (method.isascii() and method.isalpha() and method.isupper()):
        raise UsageError(f"{method!r} is no method: GET, POST or * is expected")
    return method


def _pattern(path: str) -> Sequence[str]:
    if not path.startswith("/"):
        raise UsageError(f"{path!r} is no path that can be forwarded: it does not begin with /")
    if "{" in path:
        raise UsageError(
            f"{path!r}: a part of a path that varies is written *",
            hint=f'path = "{re.sub("{[^}]*}?", "*", path)}"',
        )
    if "?" in path:
        raise UsageError(
            f"{path!r} has a query: a route is found by its path alone",
            hint=f'path = "{path.partition("?")[0]}"',
        )
    if ";" in path:
        raise UsageError(
            f"{path!r} has parameters: a route is found without them",
            hint=f'path = "{without_parameters(path)}"',
        )
    if canonical_path(path) != path:
        raise UsageError(f"{path!r} is not canonical: write {canonical_path(path)}")
    segments = path[1:].split("/")
    if any("*" in segment and segment not in ("*", "**") for segment in segments) or "**" in segments[:-1]:
        raise UsageError(f"{path!r}: * stands for a whole segment, ** for all that follow, at the end")
    return segments


def _price(
    table: Mapping[str, Any], amount: Callable[[str], Amount], names: SettingNames, number: int
) -> Price:
    unit = table.get("per", Unit.REQUEST)
    if unit not in tuple(Unit):
        raise names.wrong("per", f"is {unit!r}; {did_you_mean(unit, Unit)}", number)
    header, max_units = table.get("units-header"), table.get("max-units")
    if {header is not None, max_units is not None} != {unit == Unit.HEADER}:
        keys = ("units-header", "max-units")
        raise UsageError(
            f'{names.place(number)} units-header and max-units go together with per = "header"',
            hint=", ".join(['per = "header"', *(names.example(key) for key in keys)]),
        )
    if header is not None and not re.fullmatch(TCHARS, header):
        raise names.wrong("units-header", f"is {header!r}; the name of a field is expected", number)
    if max_units is not None and max_units < 1:
        raise names.wrong("max-units", f"is {max_units}; at least 1 is expected", number)
    with names.naming("price", number):
        price = amount(table["price"])

    def base_units(key: str) -> int | None:
        if key not in table:
            return None
        with names.naming(key, number):
            other = amount(table[key])
        if other.asset != price.asset:
            with names.naming(key, number):
                message = f"it is in {other.asset.symbol}, the price in {price.asset.symbol}"
                raise UsageError(message, hint=f'--{key} "{price}"')
        return other.base_units

    priced = Price(
        amount=price,
        unit=Unit(unit),
        header=None if header is None else header.lower(),
        max_units=max_units or DEFAULT_REQUEST_UNITS,
        min_voucher_delta=base_units("min-voucher-delta") or 0,
        suggested_deposit=base_units("suggested-deposit"),
        description=table.get("description"),
    )
    if priced.suggested_deposit is not None and priced.suggested_deposit < priced.reserved:
        least = Amount(priced.reserved, price.asset)
        with names.naming("suggested-deposit", number):
            raise UsageError(f"one request takes {least}", hint=f'--suggested-deposit "{least}"')
    return priced
