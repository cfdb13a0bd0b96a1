"""The HTTP rows of scripts/bench: paid requests through our middleware, beside those of other SDKs.

Every server is a process on the first processor and answers the same thing; requests are made in advance
and sent from the second. What is compared is measured in turn, several rounds of it; the median of the
rounds is told, with the least and the greatest.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain, repeat
from pathlib import Path

from bench_contest import CONNECTIONS, PYMPP, X402, Arena, Contestant, Purse
from bench_gateway import OURS, OURS_FASTAPI, UNPROTECTED, Till
from bench_home import Row, anvil, in_turn, timed
from bench_load import Connection, Load, flood, pace, pinned, request, slow_share
from bench_servers import Server
from bench_vouchers import challenge_in, paid_requests

from microwallet.devnet.local_chain import local_chain

NOTE = f"""
Every server is one uvicorn process with uvloop and httptools on one processor, with Python's collector set
as `serve` sets it, and {CONNECTIONS} connections that pay it through a channel each. The application is the
same one of Starlette, but for the row that names FastAPI. Medians of rounds, with the least and the
greatest. Ours verifies each voucher, and the disk has it before the application is asked; store, chain
(Anvil) and what runs beside are those of `serve`. The x402 SDK's `batch-settlement` channels are past their
deposit: it verifies vouchers by itself and asks neither facilitator nor chain, which is its fastest way, and
keeps them in memory but for its file store. pympp has no session for EVM chains: a method made for this
checks each voucher's signature by eth-account, with no channel and no store.
"""
MANY_CHANNELS = 10_000
HALF = 0.5
"""Of the paid requests that can be served: the load at which latency is measured."""

Rates = dict[str, list[float]]
"""Requests a second by contestant, one figure a round."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How long and how often things are measured."""

    seconds: float
    rounds: int
    channels: int


def http_rows(folder: Path, *, quick: bool, alone: bool = False) -> list[Row]:
    """All rows of HTTP; those of an SDK that cannot be installed are left out, with `alone` of all."""
    effort = (
        Effort(seconds=0.5, rounds=3, channels=1_000)
        if quick
        else Effort(seconds=1.0, rounds=5, channels=MANY_CHANNELS)
    )
    with ExitStack() as stack:
        stack.enter_context(pinned(1))
        arena = Arena(folder, stack)
        till = Till(folder / "payee", stack.enter_context(local_chain(anvil())))
        ours = arena.ours(till)
        others = [] if alone else [*arena.x402(), *arena.pympp()]
        return [
            *paid(ours, [arena.ours_with_fastapi(till), *others], effort),
            *unpaid(ours, others, effort),
            *added_latency(arena.again(ours, till.supplies), effort),
            two_workers(arena.again(ours, till.supplies), arena, till, effort),
            *many_channels(arena, till, effort),
            *fetch(ours, arena, till, None if alone else arena.x402_client(), effort),
        ]


def paid(ours: Contestant, others: Sequence[Contestant], effort: Effort) -> list[Row]:
    """Rows of paid requests: of the application without middleware, and of what others reach."""
    everybody = (ours, *others)
    bare = {one.bare.port: one.bare for one in everybody}
    rates: Rates = {one.name: [] for one in everybody}
    shares: Rates = {one.name: [] for one in everybody}
    for _ in range(effort.rounds):
        floor = {port: same(server, 200, effort.seconds).rate for port, server in bare.items()}
        for one in everybody:
            rates[one.name].append(one.paid(effort.seconds).rate)
            shares[one.name].append(rates[one.name][-1] / floor[one.bare.port])
    return [
        (
            f"paid requests, {name}",
            f"{told(shares[name], '.3f')} of the same application unprotected, {a_second(rates[name])}",
            "0.35" if name in (OURS, OURS_FASTAPI) else "",
        )
        for name in rates
    ] + [
        row
        for group, goal in ((X402, "15"), (PYMPP, "8"))
        for row in against(f"paid requests, against the best of {group}", rates, named(others, group), goal)
    ]


def unpaid(ours: Contestant, others: Sequence[Contestant], effort: Effort) -> list[Row]:
    """Rows of requests that are answered with a fresh challenge; an SDK's forms do not differ in it."""
    first = {one.group: one for one in reversed((ours, *others)) if one.group}
    rates: Rates = {group: [] for group in first}
    for _ in range(effort.rounds):
        for group, one in first.items():
            rates[group].append(same(one.server, 402, effort.seconds).rate)
    rows = [(f"unpaid requests, {group}", a_second(found), "") for group, found in rates.items()]
    others_by_group = [group for group in first if group != OURS]
    return rows + against("unpaid requests, against the best", rates, others_by_group, "3")


def named(contestants: Sequence[Contestant], group: str) -> list[str]:
    """The names of those of a group."""
    return [one.name for one in contestants if one.group == group]


def against(what: str, rates: Rates, others: Sequence[str], goal: str) -> list[Row]:
    """The row of our rate over the best of others, round by round; none without others."""
    if not others:
        return []
    ratios = [
        one / max(found) for one, *found in zip(rates[OURS], *(rates[name] for name in others), strict=True)
    ]
    return [(what, f"{told(ratios, '.1f')} x", goal)]


def added_latency(ours: Contestant, effort: Effort) -> list[Row]:
    """Rows of how much later an answer comes through the middleware, at half of what it can serve then; and
    of what no middleware can help: how steady the processor is, as where others share it."""
    rates: list[float] = []
    slow: list[float] = []
    added: dict[float, list[float]] = {0.50: [], 0.99: []}
    for _ in range(effort.rounds):
        slow.append(100 * slow_share(0, effort.seconds))
        rates.append(HALF * ours.paid(effort.seconds).rate)
        bare = paced_same(ours.bare, effort.seconds, rates[-1])
        through = ours.paced(effort.seconds, rates[-1])
        for share, found in added.items():
            found.append(1_000 * (through.percentile(share) - bare.percentile(share)))
    goals = {0.50: "2 ms", 0.99: "10 ms"}
    what = f"latency added to {a_second(rates)}, half of what is possible"
    return [
        *((f"{what}, p{one * 100:.0f}", f"{told(found)} ms", goals[one]) for one, found in added.items()),
        ("time in which the servers' processor is slow by itself", f"{told(slow, '.1f')} %", ""),
    ]


def two_workers(ours: Contestant, arena: Arena, till: Till, effort: Effort) -> Row:
    """The row of a second process on the same store; the load has to share the second processor with it."""
    second = arena.serve(till.application, processor=1)
    half = CONNECTIONS // 2
    ports = {
        Purse(supply): server.port
        for server in (ours.server, second)
        for supply in till.supplies(server, half)
    }
    pair = arena.connect("two workers", "", ours.server, ours.bare, ports)
    ratios, rates = [], []
    for _ in range(effort.rounds):
        one = ours.paid(effort.seconds).rate
        rates.append(pair.paid(effort.seconds).rate)
        ratios.append(rates[-1] / one)
    return (
        "paid requests, two workers on one store against one",
        f"{told(ratios)} x, {a_second(rates)}",
        "1.4",
    )


def many_channels(arena: Arena, till: Till, effort: Effort) -> list[Row]:
    """Rows of a server whose payers use ten thousand channels in turn, against one channel a connection."""
    few = arena.enter("few channels", "", till.application, arena.serve(UNPROTECTED), till.supplies)
    few.paid(effort.seconds)
    before = few.server.memory()
    challenges = few.server.fields("www-authenticate", effort.channels)
    supplies = [
        paid_requests(till.payer, one.channel_id(), challenge_in(challenge))
        for one, challenge in zip(till.open(effort.channels), challenges, strict=True)
    ]
    purses = [Purse(in_turn_from(supplies[number::CONNECTIONS])) for number in range(CONNECTIONS)]
    many = arena.connect("many channels", "", few.server, few.bare, dict.fromkeys(purses, few.server.port))
    many.send(effort.channels)  # each of them once
    after = few.server.memory()
    ratios = []
    for _ in range(effort.rounds):
        rate = HALF * few.paid(effort.seconds).rate
        through_few, through_many = few.paced(effort.seconds, rate), many.paced(effort.seconds, rate)
        ratios.append(through_many.percentile(0.5) / through_few.percentile(0.5))
    what = f"with {effort.channels:,} open channels"
    grown = (after - before) * 1024 / effort.channels
    return [
        (f"latency at half load {what}, p50", f"{told(ratios)} x that with {CONNECTIONS}", "flat"),
        (
            f"memory {what}",
            f"{after:.0f} MiB, {before:.0f} MiB with {CONNECTIONS}: {grown:.1f} KiB a channel",
            "flat",
        ),
    ]


def fetch(ours: Contestant, arena: Arena, till: Till, theirs: list[str] | None, effort: Effort) -> list[Row]:
    """The row of one `fetch` as a process, in turn with the x402 SDK's client, if there is one."""
    payer = till.payer_home(arena.folder / "payer")
    command = ("fetch", f"http://127.0.0.1:{ours.server.port}/")
    if theirs is None:
        return [("`fetch` of a paid URL, start to exit", f"{payer.run(*command):.2f} s", "")]
    one, other = in_turn(lambda: payer.run(*command), lambda: timed(theirs, dict(os.environ)), effort.rounds)
    measured = f"{one / other:.2f} of the x402 SDK's client ({one:.2f} s beside {other:.2f} s)"
    return [("`fetch` of a paid URL, start to exit", measured, "0.35")]


def in_turn_from(supplies: Sequence[Iterator[bytes]]) -> Iterator[bytes]:
    """One of each, again and again."""
    return chain.from_iterable(zip(*supplies, strict=True))


def same(server: Server, status: int, seconds: float) -> Load:
    """The same request from every connection, as fast as can be."""
    with ExitStack() as stack:
        return flood(_repeating(stack, server, status), seconds)


def paced_same(server: Server, seconds: float, rate: float) -> Load:
    """The same request at a steady rate."""
    with ExitStack() as stack:
        return pace(_repeating(stack, server, 200), seconds, rate)


def _repeating(stack: ExitStack, server: Server, status: int) -> list[Connection]:
    return [
        stack.enter_context(Connection(server.port, repeat(request()), status)) for _ in range(CONNECTIONS)
    ]


def told(values: Sequence[float], form: str = ".2f") -> str:
    """The median, with the least and the greatest."""
    return f"{statistics.median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


def a_second(rates: Sequence[float]) -> str:
    """A rate, told as a median."""
    return f"{statistics.median(rates):,.0f} a second"
