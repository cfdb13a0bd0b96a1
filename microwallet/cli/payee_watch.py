"""`microwallet payee watch`: close with the best voucher before a payer can take the money back."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from microwallet.cli.context import Stderr, open_wallet
from microwallet.cli.event_lines import event_line
from microwallet.cli.options import NetworkName, PasswordFile, RpcUrl
from microwallet.cli.payee_service import watch_service
from microwallet.cli.result import output_lost, streaming, writing
from microwallet.domain.duration import parse_duration, whole_seconds
from microwallet.errors import MicrowalletError, UsageError

if TYPE_CHECKING:
    from microwallet.wallet import Wallet

Interval = Annotated[str, typer.Option("--interval", metavar="DURATION", help="Between two looks: 5s, 1m.")]
Margin = Annotated[
    str,
    typer.Option(
        "--margin", metavar="DURATION", help="Close when this much of the grace period is left: 450s to 15m."
    ),
]


class _Terminated(BaseException):
    """SIGTERM: the orderly end of a service."""


def watch(
    interval: Interval = "5s",
    margin: Margin = "15m",
    once: Annotated[bool, typer.Option("--once", help="Look once, then end.")] = False,
    print_service: Annotated[
        bool, typer.Option("--print-service", help="Print a systemd unit that runs this, and stop.")
    ] = False,
    network: NetworkName = None,
    rpc_url: RpcUrl = None,
    password_file: PasswordFile = None,
    json: Annotated[bool, typer.Option("--json", help="Print what happens, a JSON object a line.")] = False,
) -> None:
    """Follow the chain, and close with the best voucher when a payer requests a close."""
    from microwallet.payee.exclusive import exclusive, is_watched, watch_lock
    from microwallet.payee.watch import Watch, check_margin

    seconds, left = _interval(interval), check_margin(whole_seconds(margin))
    events = _Events(as_json=json)
    try:
        with (
            streaming(enabled=json),
            open_wallet(network=network, rpc_url=rpc_url, password_file=password_file) as wallet,
        ):
            if print_service:
                _print_service(watch_service(wallet, interval, margin), as_json=json)
                return
            home, chain_id = wallet.paths.home, wallet.network.chain_id
            has_other = is_watched(home, chain_id)
            with _ending_on_sigterm(), exclusive(watch_lock(home, chain_id)) as free:
                if has_other or not free:
                    raise UsageError(
                        "another process, payee watch or a gateway (serve), watches"
                        f" {wallet.network.name} for this wallet already",
                        hint="microwallet payee list",
                    )
                watching = Watch(wallet.settlement, margin=left, clock=wallet.now, emit=events)
                if once:
                    outcome = watching.look()
                    _fail_for(outcome.error() or watching.flaw or events.lost)
                    if not outcome.channels:
                        Stderr().say(f"looked once at {wallet.network.name}: no close is due")
                    return
                _unlock_keys(wallet)
                network_in_use = {"network": wallet.network.name, "chainId": wallet.network.chain_id}
                events("watching", network_in_use)

                def wait(pause: float) -> None:
                    events.check_reader()
                    time.sleep(pause)
                    wallet.ledger.database.check_unchanged()  # now rather than when a close is due

                watching.run(interval=seconds, wait=wait)
    except _Terminated:
        events("stopped", {})


def _print_service(unit: str, *, as_json: bool) -> None:
    from microwallet.cli.result import print_json, success_envelope

    with writing():
        if as_json:
            print_json(success_envelope({"unit": unit}))
        else:
            sys.stdout.write(unit)


def _fail_for(error: MicrowalletError | None) -> None:
    if error is not None:
        raise error


def _unlock_keys(wallet: Wallet) -> None:
    """Those of all accounts that are paid already; of all that could be, if none is."""
    payees = {channel.descriptor.payee for channel in wallet.ledger.vouchers.list(finalized=False)}
    accounts = wallet.accounts.list()
    wallet.unlock(*([account for account in accounts if account.address in payees] or accounts))


@contextmanager
def _ending_on_sigterm() -> Iterator[None]:
    def end(_number: int, _frame: object) -> NoReturn:
        raise _Terminated

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class _Events:
    """Events as lines on stdout. Where that takes none, no close is kept from being sent: stderr has them."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self.lost: MicrowalletError | None = None
        """Why stdout did not take one of them."""
        self._has_reader = True

    def __call__(self, event: str, details: Mapping[str, Any]) -> None:
        """Print an event."""
        line = self._line(event, details)
        try:
            sys.stdout.write(line + "\n")
            sys.stdout.flush()
        except OSError as error:
            self.lost = output_lost(error)
            self._has_reader = not isinstance(error, BrokenPipeError)
            with suppress(OSError):
                sys.stderr.write(f"{self.lost.message}: {line}\n")

    def check_reader(self) -> None:
        """MicrowalletError once nobody reads any more."""
        if self.lost is not None and not self._has_reader:
            raise self.lost

    def _line(self, event: str, details: Mapping[str, Any]) -> str:
        if not self._as_json:
            return event_line(event, details)
        import json

        return json.dumps({"event": event, "time": int(time.time()), **details})


def _interval(text: str) -> float:
    interval = parse_duration(text)
    if not timedelta(milliseconds=10) <= interval <= timedelta(hours=1):
        raise UsageError(f"an interval of {text.strip()} is not between 10ms and 1h", hint="--interval 5s")
    return interval.total_seconds()
