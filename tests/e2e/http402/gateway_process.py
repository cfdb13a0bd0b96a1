"""A gateway in a process of its own, that may be killed: `python gateway_process.py PORT LOG`.

What it serves is written to a log before it is answered, a line a request or an event.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from microwallet.assortment import Assortment
from microwallet.http402.serving.listening import bind
from microwallet.http402.serving.settings import Settings
from microwallet.selling import work
from microwallet.wallet import Wallet

PRICE = 100
MOST_UNITS = 5
ROUTES = [
    {"path": "/fixed/*", "price": "0.0001 USDC"},
    {"path": "/large/*", "price": "0.0001 USDC"},
    {"path": "/metered/*", "price": "0.0001 USDC", "per": "header", "units-header": "x-units",
     "max-units": MOST_UNITS},
    {"path": "/stream/*", "price": "0.0001 USDC", "per": "event"},
]  # fmt: skip
LARGE = b"x" * 70_000
"""More than a gateway keeps for the same request again."""


def units(name: str) -> int:
    """How many units a metered request uses, or how many events a stream has."""
    return sum(name.encode()) % MOST_UNITS + 1


class Application:
    """What is sold."""

    def __init__(self, log: int) -> None:
        self._log = log

    async def __call__(self, scope, receive, send):
        while (await receive()).get("more_body"):
            pass
        _, kind, name = scope["path"].split("/")
        headers, body = [], name.encode()
        status = 404 if name.endswith("missing") else 503 if name.endswith("broken") else 200
        if kind == "metered":
            headers.append((b"x-units", b"%d" % units(name)))
        elif kind == "large":
            body = LARGE
        elif kind == "stream":
            headers.append((b"content-type", b"text/event-stream"))
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            for number in range(units(name)):
                self._write(f"{scope['method']} {kind} {name}")
                event = b"data: %s %d\n\n" % (name.encode(), number)
                await send({"type": "http.response.body", "body": event, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
            return
        if status < 500:
            self._write(f"{scope['method']} {kind} {name}")
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    def _write(self, line: str) -> None:
        os.write(self._log, line.encode() + b"\n")


def main(port: int, log: str) -> None:
    settings = Settings(routes=ROUTES, port=port)
    listening = bind(settings)

    def ready() -> None:
        sys.stdout.write(f"{listening.getsockname()[1]}\n")
        sys.stdout.flush()

    with Wallet.open() as wallet:
        work(
            wallet,
            settings,
            Assortment.of(wallet, settings),
            Application(os.open(Path(log), os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600)),
            listening,
            realm="shop",
            ready=ready,
            emit=lambda _event, _details: None,
            log=None,
        )


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
