"""`Accept-Payment`: which methods and intents a client takes, and the order of offers by it.

draft-httpauth-payment-00, section "Client Payment Preferences". For servers with several offers: the
gateway has one a route, and makes it whatever a client prefers, as the draft allows where none else fits.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from microwallet.http402.wire.weights import WEIGHT, thousandths

Offer = TypeVar("Offer")

_LIMIT = 4096
_RANGE = re.compile(
    rf"(?P<method>[a-z]+|\*)/(?P<intent>[A-Za-z0-9-]+|\*)(?:{WEIGHT})?",
    re.ASCII,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PaymentRange:
    """A method and an intent, each possibly `*`, and how much they are wanted: 0 to 1000 thousandths."""

    method: str
    intent: str
    weight: int

    def specificity(self, method: str, intent: str) -> int | None:
        """How narrowly it describes a method and intent; None if it does not."""
        if self.method not in ("*", method) or self.intent not in ("*", intent):
            return None
        return 2 * (self.method != "*") + (self.intent != "*")


def parse_accept_payment(value: str) -> Sequence[PaymentRange]:
    """The ranges of a field; none if it is malformed, which is as good as absent."""
    if len(value) > _LIMIT:
        return ()
    parts = [part.strip(" \t") for part in value.split(",")]
    matches = [_RANGE.fullmatch(part) for part in parts if part]
    return () if None in matches else tuple(_range(match) for match in matches if match is not None)


def preferred(
    offers: Sequence[Offer], ranges: Sequence[PaymentRange], kind: Callable[[Offer], tuple[str, str]]
) -> list[Offer]:
    """The offers a client takes, most wanted first, the server's order kept among equals.

    All of them if there are no ranges or none fits; `kind` tells an offer's method and intent.
    """
    weighed = [(_weight(ranges, *kind(offer)), offer) for offer in offers]
    wanted = [(weight, offer) for weight, offer in weighed if weight > 0]
    if not wanted:
        return list(offers)
    return [offer for _, offer in sorted(wanted, key=lambda pair: -pair[0])]


def _weight(ranges: Sequence[PaymentRange], method: str, intent: str) -> int:
    fitting = [
        (narrow, one.weight) for one in ranges if (narrow := one.specificity(method, intent)) is not None
    ]
    return max(fitting, default=(0, 0))[1]


def _range(match: re.Match[str]) -> PaymentRange:
    return PaymentRange(method=match["method"], intent=match["intent"], weight=thousandths(match["weight"]))
