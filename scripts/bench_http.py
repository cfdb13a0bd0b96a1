"""The HTTP rows of scripts/bench: paid requests through our middleware, beside those of other SDKs.

Every server is a process on the first processor and answers the same thing; requests are made in advance
and sent from the second. What is compared is measured in turn, several rounds of it; the median of the
rounds is told, with the least and the greatest.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from contextlib import ExitStack
from itertools import repeat
from pathlib import Path

from bench_contest import CONNECTIONS, Arena, Contestant
from bench_home import Row
from bench_load import Connection, Load, flood, pin, request
from bench_servers import Server

UNTOLD = ""


def http_rows(folder: Path, *, quick: bool) -> list[Row]:
    """All rows of HTTP; those of an SDK that cannot be installed are left out."""
    pin(1)
    seconds, rounds = (0.5, 3) if quick else (1.5, 5)
    with ExitStack() as stack:
        arena = Arena(folder, stack)
        contestants = arena.x402() + arena.pympp()
        return paid(contestants, seconds, rounds) + unpaid(contestants, seconds, rounds)


def paid(contestants: Sequence[Contestant], seconds: float, rounds: int) -> list[Row]:
    """Rows of paid requests, of each and against the application without the middleware."""
    bare = {one.bare.port: one.bare for one in contestants}
    rates: dict[str, list[float]] = {one.name: [] for one in contestants}
    shares: dict[str, list[float]] = {one.name: [] for one in contestants}
    for _ in range(rounds):
        floor = {port: same(server, 200, seconds).rate for port, server in bare.items()}
        for one in contestants:
            rates[one.name].append(one.paid(seconds).rate)
            shares[one.name].append(rates[one.name][-1] / floor[one.bare.port])
    return [
        (
            f"paid requests a second, {one.name}",
            f"{told(rates[one.name], ',.0f')}, {told(shares[one.name], '.3f')} of the same application",
            UNTOLD,
        )
        for one in contestants
    ]


def unpaid(contestants: Sequence[Contestant], seconds: float, rounds: int) -> list[Row]:
    """Rows of requests that are answered with a challenge."""
    rates: dict[str, list[float]] = {one.name: [] for one in contestants}
    for _ in range(rounds):
        for one in contestants:
            rates[one.name].append(same(one.server, 402, seconds).rate)
    return [
        (f"unpaid requests a second, {name}", told(measured, ",.0f"), UNTOLD)
        for name, measured in rates.items()
    ]


def same(server: Server, status: int, seconds: float) -> Load:
    """The same request from every connection, again and again."""
    with ExitStack() as stack:
        connections = [
            stack.enter_context(Connection(server.port, repeat(request()), status))
            for _ in range(CONNECTIONS)
        ]
        return flood(connections, seconds)


def told(values: Sequence[float], form: str = ".2f") -> str:
    """The median, with the least and the greatest."""
    return f"{statistics.median(values):{form}} ({min(values):{form}} to {max(values):{form}})"
