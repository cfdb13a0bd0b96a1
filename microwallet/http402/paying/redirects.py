"""A request and the redirects that follow from it share one idempotency key and one limit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import takewhile

import httpx

from microwallet.domain.money import Amount, Asset
from microwallet.domain.secret_fields import without_secrets
from microwallet.errors import AboveLimit, NetworkError, OutcomeUnknown, UsageError
from microwallet.http402.paying.client import PayingClient
from microwallet.http402.paying.deposit_size import DepositAboveLimit
from microwallet.http402.paying.exchange import Asked
from microwallet.http402.paying.messages import asked_by, booked
from microwallet.http402.paying.origins import Origin
from microwallet.http402.paying.receipts import BookedPayment

_HOPS = "hops"
"""Extension of a request: the hops up to it. httpx hands the extensions on to a redirect."""


@dataclass(slots=True, kw_only=True)
class Hop:
    """One of those requests, and what became of it. A request that is sent again is the same hop."""

    request: httpx.Request
    asked: Asked
    before: Sequence[Hop]
    outcome: object = None
    """A BookedPayment, or a MeteredStream whose payment is known before the next hop."""
    unanswered: OutcomeUnknown | None = None
    """What may have been paid without an answer, if Ctrl-C ended it."""

    @classmethod
    def of(cls, request: httpx.Request) -> Hop:
        """The next hop. The request's body must have been read. NetworkError for a redirect to no URL."""
        hops: list[Hop] = request.extensions.setdefault(_HOPS, [])
        before = tuple(takewhile(lambda hop: hop.request is not request, hops))
        asked = asked_by(request)
        if before:
            _check_target(before[-1].asked.url, asked.url)
            first = before[0].asked
            is_told = any(hop.payment is not None for hop in before)
            key = first.key if is_told else first.idempotency_key
            asked = replace(asked, idempotency_key=key, new_key=first.new_key, hop=len(before))
        hops[:] = [*before, cls(request=request, asked=asked, before=before)]
        return hops[-1]

    @property
    def payment(self) -> BookedPayment | None:
        """What was paid for it."""
        return booked(self.outcome)

    def within(self, client: PayingClient) -> PayingClient:
        """The client with what the hops before have left of its limit."""
        taken, most = self._taken(), client.limits.max_amounts
        if not taken:
            return client
        left = {
            token: max(0, amount - sum(taken[asset] for asset in taken if asset.token == token))
            for token, amount in most.items()
        }
        return replace(client, limits=replace(client.limits, max_amounts=left))

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Have an AboveLimit that is raised inside also say what the hops before have taken."""
        try:
            yield
        except DepositAboveLimit:
            raise
        except AboveLimit as error:
            if not (taken := self._taken()):
                raise
            told = " and ".join(str(Amount(base_units, asset)) for asset, base_units in taken.items())
            raise AboveLimit(
                f"{error.message}; what led to it has taken {told} of the limit",
                hint="--max-amount AMOUNT  (for all redirects together)",
            ) from error

    def _taken(self) -> Counter[Asset]:
        """Base units that the hops before it have taken of the limit."""
        taken: Counter[Asset] = Counter()
        for hop in self.before:
            if (payment := hop.payment) is not None:
                taken[payment.channel.asset] += payment.taken
        return taken


def unanswered(request: httpx.Request) -> OutcomeUnknown | None:
    """What may have been paid for a request that Ctrl-C has ended, or for what it has led to."""
    hops: list[Hop] = request.extensions.get(_HOPS, [])
    return hops[-1].unanswered if hops else None


def _check_target(url: str, target: str) -> None:
    try:
        Origin.of(target)
    except UsageError as error:
        raise NetworkError(
            f"the redirect of {without_secrets(url)} cannot be followed: {error.message}",
            hint="without --follow the answer that leads there is printed",
        ) from error
