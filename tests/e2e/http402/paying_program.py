"""A program that pays: `python paying_program.py URL NAME COUNT DEPOSIT [again]`, request after request.

Most have a key and are asked for until they are answered, some are asked for once. Writes a line of JSON for
each: method, path, key, and what became of it each time. With `again`, what has a key is asked for again.
"""

from __future__ import annotations

import json
import random
import sys
import time

import httpx
from gateway_process import LARGE, units

from microwallet.errors import MicrowalletError
from microwallet.http402.paying.transport import PayingTransport
from microwallet.paying import limits_of, paying_client
from microwallet.wallet import Wallet

TRIES = 20
UNKNOWN = 6
"""So often it is not known, and never will be."""
SECONDS = 0.7
"""For which an answer is waited for."""
KINDS = ["GET fixed"] * 6 + ["POST fixed"] * 5 + ["GET metered"] * 2 + ["POST metered"] * 2 + [
    "GET stream", "GET stream", "POST stream", "GET large", "POST large",
]  # fmt: skip
ENDINGS = [""] * 12 + ["-missing", "-broken"]
DONE = ("served", "missing", "broken", "cut off")


def plan(name: str, count: int) -> list[dict[str, str | None]]:
    """What a program of that name asks for."""
    chance = random.Random(name)
    made = []
    for number in range(count):
        method, kind = chance.choice(KINDS).split()
        ending = chance.choice(ENDINGS) if kind in ("fixed", "metered") else ""
        key = f"{name}-{number}" if chance.random() < 0.75 else None
        made.append({"method": method, "path": f"/{kind}/{name}-{number}{ending}", "key": key})
    return made


def ask(client: httpx.Client, url: str, wanted: dict) -> str:
    """Ask once; what became of it. A stream that broke off is not asked for again."""
    _, kind, name = wanted["path"].split("/")
    begun = False
    try:
        with client.stream(
            wanted["method"],
            url + wanted["path"],
            content=wanted["path"].encode() if wanted["method"] == "POST" else None,
            extensions={"timeout": httpx.Timeout(SECONDS).as_dict(), "idempotency_key": wanted["key"]},
        ) as answer:
            begun = kind == "stream" and answer.status_code == 200
            body = b"".join(answer.iter_raw())
    except MicrowalletError as error:
        return "cut off" if begun else error.code
    except httpx.HTTPError as error:
        return "cut off" if begun else type(error).__name__
    if answer.status_code != 200:
        expected = {404: "missing", 503: "broken"}.get(answer.status_code)
        return expected if name.endswith(expected or "?") else f"status {answer.status_code}"
    if kind == "stream":
        got = [line for line in body.decode().splitlines() if line.startswith(f"data: {name} ")]
        return "served" if len(got) == units(name) else "cut off"
    return "served" if body == (LARGE if kind == "large" else name.encode()) else f"odd {body[:80]!r}"


def pay(client: httpx.Client, url: str, wanted: dict) -> list[str]:
    """Ask as often as it takes, or once without a key."""
    outcomes: list[str] = []
    for _ in range(TRIES if wanted["key"] else 1):
        outcomes.append(ask(client, url, wanted))
        if outcomes[-1] in DONE or outcomes.count("outcome-unknown") == UNKNOWN:
            break
        time.sleep(0.03)
    return outcomes


def main(url: str, name: str, count: int, deposit: str, *, again: bool) -> None:
    with Wallet.open() as wallet:
        limits = limits_of(wallet, deposit=deposit)
        paying = paying_client(wallet, limits, confirm=lambda *_: None)
        with httpx.Client(transport=PayingTransport(lambda: paying, httpx.HTTPTransport())) as client:
            for wanted in plan(name, count):
                if wanted["key"] or not again:
                    told = {**wanted, "outcomes": pay(client, url, wanted)}
                    sys.stdout.write(json.dumps(told) + "\n")
                    sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4], again=sys.argv[5:] == ["again"])
