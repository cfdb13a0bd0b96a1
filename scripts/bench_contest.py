"""Who takes part in the HTTP rows of scripts/bench: our middleware, and those of other SDKs."""

from __future__ import annotations

import json
import subprocess
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from bench_gateway import FASTAPI, OURS, OURS_FASTAPI, UNPROTECTED, Till
from bench_load import Connection, Load, flood, pace, request
from bench_servers import PEERS, Application, Server, environment_of, serving
from bench_vouchers import Payer, challenge_in, paid_requests

from microwallet.domain.identifiers import Address, ChainId, ChannelId
from microwallet.domain.voucher import VoucherKey

CONNECTIONS = 32
WARM_UP_SECONDS = 0.3
SPARE = 1.5
"""How many more requests are ready than a run will need if it is as fast as the one before."""
X402, PYMPP = "x402 SDK 2.25.0", "pympp 0.16.0"
X402_CREDENTIALS = 64
"""For each connection: they take 5 ms each to sign."""
UNVERIFIED = "nothing checked but its own challenge"
"""No payment is verified, so it is told, but nothing is compared to it."""
_PURE_PYTHON = {"ECC_BACKEND_CLASS": "eth_keys.backends.NativeECCBackend"}
"""What eth-keys takes by itself where coincurve is not installed, as both SDKs leave it."""
_X402_FORMS: Mapping[str, Mapping[str, str]] = {
    "coincurve": {},
    "as installed": _PURE_PYTHON,
    "coincurve, file store": {"BENCH_STORE": "x402-store"},
}
_PYMPP_FORMS: Mapping[str, Mapping[str, str]] = {
    "voucher checked by coincurve": {},
    "voucher checked as installed": _PURE_PYTHON,
    UNVERIFIED: {"BENCH_VERIFY": "nothing"},
}

Supplies = Callable[[Server, int], list[Iterator[bytes]]]
"""Paid requests of so many channels for a server, in order."""


class Purse:
    """Requests of one channel that are ready to be sent, and where more come from."""

    def __init__(self, supply: Iterator[bytes]) -> None:
        self._supply = supply
        self._ready: deque[bytes] = deque()

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        if not self._ready:
            raise StopIteration
        return self._ready.popleft()

    def fill(self, count: int) -> None:
        """Have `count` requests ready, or as many as there are."""
        self._ready.extend(islice(self._supply, max(0, count - len(self._ready))))


@dataclass(slots=True, kw_only=True)
class Contestant:
    """Somebody's middleware, and connections that pay it."""

    name: str
    group: str
    """Whose it is, where it counts in comparisons; else empty."""
    server: Server
    bare: Server
    """The same application without the middleware."""
    connections: Sequence[Connection]
    purses: Sequence[Purse]
    rate: float = 100.0
    """Paid requests a second, as far as is known."""

    def paid(self, seconds: float) -> Load:
        """As many paid requests as can be served."""
        self._fill(seconds * self.rate)
        load = flood(self.connections, seconds)
        self.rate = load.rate
        return load

    def paced(self, seconds: float, rate: float) -> Load:
        """Paid requests at a steady rate."""
        self._fill(seconds * rate * 2)  # some connections send more than others
        return pace(self.connections, seconds, rate)

    def send(self, count: int) -> None:
        """So many paid requests, in equal parts."""
        self._fill(count / SPARE)
        flood(self.connections, float("inf"))

    def _fill(self, count: float) -> None:
        for purse in self.purses:
            purse.fill(int(count * SPARE / len(self.purses)) + 2)


class Arena:
    """Starts servers, all on the first processor, and ends them."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        folder.mkdir()
        self.folder = folder
        self.stack = stack
        self._started = 0

    def serve(self, application: Application, *, processor: int = 0) -> Server:
        """Serve an application until the end of the run."""
        self._started += 1
        log = self.folder / f"server-{self._started}.log"
        return self.stack.enter_context(serving(application, log, processor=processor))

    def enter(
        self, name: str, group: str, application: Application, bare: Server, supplies: Supplies
    ) -> Contestant:
        """Serve an application, and connect to it with one channel a connection."""
        server = self.serve(application)
        purses = [Purse(supply) for supply in supplies(server, CONNECTIONS)]
        return self.connect(name, group, server, bare, dict.fromkeys(purses, server.port))

    def connect(
        self, name: str, group: str, server: Server, bare: Server, ports: Mapping[Purse, int]
    ) -> Contestant:
        """A connection for each purse, to its port, warmed up."""
        connections = [self.stack.enter_context(Connection(port, purse)) for purse, port in ports.items()]
        contestant = Contestant(
            name=name, group=group, server=server, bare=bare, connections=connections, purses=list(ports)
        )
        contestant.paid(WARM_UP_SECONDS)
        return contestant

    def again(self, contestant: Contestant, supplies: Supplies) -> Contestant:
        """The same server with new connections, channels and challenges: those expire."""
        server = contestant.server
        ports = {Purse(supply): server.port for supply in supplies(server, CONNECTIONS)}
        return self.connect(contestant.name, contestant.group, server, contestant.bare, ports)

    def ours(self, till: Till) -> Contestant:
        """Our middleware."""
        return self.enter(OURS, OURS, till.application, self.serve(UNPROTECTED), till.supplies)

    def ours_with_fastapi(self, till: Till) -> Contestant:
        """Our middleware before an application of FastAPI, which is compared with that application alone."""
        return self.enter(OURS_FASTAPI, "", till.fastapi, self.serve(FASTAPI), till.supplies)

    def pympp(self) -> list[Contestant]:
        """pympp, which is among the packages for tests."""
        bare = self.serve(Application(factory="pympp_app:unprotected", folder=PEERS))
        return [
            self.enter(
                f"{PYMPP}, {form}",
                "" if form == UNVERIFIED else PYMPP,
                Application(factory="pympp_app:protected", folder=PEERS, environment=environment),
                bare,
                _for_pympp,
            )
            for form, environment in _PYMPP_FORMS.items()
        ]

    def x402(self) -> list[Contestant]:
        """The x402 SDK, if it is there or can be installed."""
        python = environment_of(PEERS / "x402.lock")
        if python is None:
            return []
        signed: list[list[bytes]] = []

        def supplies(server: Server, channels: int) -> list[Iterator[bytes]]:
            signed.extend(_sign_for_x402(python, server, channels) if not signed else [])
            return [iter(requests) for requests in signed]

        bare = self.serve(Application(factory="x402_app:unprotected", folder=PEERS, python=python))
        contestants = []
        for form, environment in _X402_FORMS.items():
            application = self._x402(python, CONNECTIONS, environment)
            contestants.append(self.enter(f"{X402}, {form}", X402, application, bare, supplies))
        return contestants

    def x402_client(self) -> list[str] | None:
        """The command that pays a server of the x402 SDK by that SDK, with its channel open."""
        python = environment_of(PEERS / "x402.lock")
        if python is None:
            return None
        server = self.serve(self._x402(python, 1, {}))
        channels = str(self.folder / "x402-channels")
        subprocess.run([python, PEERS / "x402_app.py", "open", channels], check=True)
        url = f"http://127.0.0.1:{server.port}/"
        return [str(python), str(PEERS / "x402_fetch.py"), url, channels]

    def _x402(self, python: Path, channels: int, environment: Mapping[str, str]) -> Application:
        told = {"BENCH_CHANNELS": str(channels), **environment}
        if "BENCH_STORE" in told:
            told["BENCH_STORE"] = str(self.folder / told["BENCH_STORE"])
        return Application(factory="x402_app:protected", folder=PEERS, python=python, environment=told)


def _for_pympp(server: Server, channels: int) -> list[Iterator[bytes]]:
    payer = Payer(
        key=VoucherKey(b"\x11" * 32),
        chain_id=ChainId(31337),
        escrow_contract=Address("0x5FbDB2315678afecb367f032d93F642f64180aa3"),
    )
    return [
        paid_requests(
            payer,
            ChannelId("0x" + number.to_bytes(32, "big").hex()),
            challenge_in(server.field("www-authenticate")),
        )
        for number in range(channels)
    ]


def _sign_for_x402(python: Path, server: Server, channels: int) -> list[list[bytes]]:
    """The SDK signs by itself: a line of header values for each channel."""
    program = [str(python), str(PEERS / "x402_app.py"), server.field("payment-required")]
    told = subprocess.run(
        [*program, str(channels), str(X402_CREDENTIALS)], stdout=subprocess.PIPE, check=True
    )
    return [
        [request(payment_signature=value) for value in json.loads(line)] for line in told.stdout.splitlines()
    ]
