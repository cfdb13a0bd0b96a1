"""Running `serve`: the wallet opened, the socket bound, the workers forked, and each of them at work."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import typer

from microwallet.assortment import Assortment
from microwallet.cli.context import Stderr, open_wallet, verbosity
from microwallet.cli.result import print_result, streaming
from microwallet.cli.serve_view import serve_line, unsettled, what_is_sold
from microwallet.domain.ports import Quiet
from microwallet.errors import Interrupted, LedgerChanged, LedgerUnwritable, UsageError
from microwallet.http402.charging.asgi import Application
from microwallet.http402.serving.line_log import LineLog, write_line
from microwallet.http402.serving.listening import (
    bind,
    certificate_warnings,
    check_is_private,
    tls_context,
    url_of,
)
from microwallet.http402.serving.proxy import ReverseProxy
from microwallet.http402.serving.renewal import Certificate
from microwallet.http402.serving.request_log import request_line
from microwallet.http402.serving.settings import Settings
from microwallet.http402.serving.workers import Worker, Workers
from microwallet.payee.exclusive import is_held, settling_lock
from microwallet.selling import work
from microwallet.wallet import Wallet

_LONGEST_PORT = 65535  # in place of one that is free, which is not known before it listens


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """How events are told: JSON or text, requests among them or not."""

    as_json: bool
    quiet: bool

    def events(self) -> LineLog:
        """What happens, on stdout."""
        return LineLog(sys.stdout.fileno(), None if self.as_json else serve_line)

    def requests(self) -> LineLog | None:
        """A line for each request, on stderr."""
        if self.quiet or verbosity.quiet:
            return None
        return LineLog(sys.stderr.fileno(), None if self.as_json else request_line)


def run_gateway(
    config: Path | None,
    flags: Mapping[str, Any],
    wallet_flags: Mapping[str, str | None],
    *,
    dry_run: bool,
    output: Output,
) -> None:
    """`serve` by its flags, until a signal ends it; with `dry_run` only what would be sold is told."""
    with streaming(enabled=output.as_json and not dry_run):
        settings = Settings.read(config, flags)
        settings.require("upstream", "what is served?")
        settings.require("routes", "what does a request cost?")
        with settings.names.naming("upstream"):
            proxy = ReverseProxy(settings.upstream or "")
            if proxy.leads_to(settings.host, settings.port):
                raise UsageError(
                    f"{settings.upstream} is where the gateway itself listens",
                    hint="give the upstream's own port, or another --port to the gateway",
                )
        check_is_private(settings)
        tls_context(settings)  # files that are none are refused now too
        with open_wallet(
            network=settings.network, account=settings.account, relayer=settings.relayer, **wallet_flags
        ) as wallet:
            _check_names(wallet, settings)
            assortment = Assortment.of(wallet, settings)
            url = url_of(settings, settings.port or _LONGEST_PORT)
            assortment.check_offers(wallet, _realm(settings, url))
            if dry_run:
                for warning in _warnings(wallet, settings, assortment):
                    Stderr().say(f"warning: {warning}")
                print_result(what_is_sold(wallet, settings, assortment), as_json=output.as_json)
                return
            code = sell(wallet, settings, assortment, proxy, output)
    raise typer.Exit(code)


def sell(
    wallet: Wallet,
    settings: Settings,
    assortment: Assortment,
    app: Application,
    output: Output,
    *,
    then: Callable[[str], tuple[str, Mapping[str, Any]]] | None = None,
) -> int:
    """Sell what `app` serves until a signal comes; the exit code. `then`, of a trial whose wallet is thrown
    away, makes an event of the address, to be told when it listens.

    Nothing is opened before the fork but what processes may share: the keys, unlocked, and the socket.
    """
    listening, certificate = bind(settings), Certificate.load(settings)
    url = url_of(settings, listening.getsockname()[1])
    wallet.unlock(wallet.account)
    warnings = _warnings(wallet, settings, assortment)

    def work_as(worker: Worker) -> None:
        emit, log = output.events(), output.requests()

        def listens() -> None:
            if worker.number == 0 and worker.is_first:
                _tell_start(emit, warnings, _about(wallet, settings, url))
                if then is not None:
                    emit(*then(url))

        with (
            closing(emit),
            nullcontext() if log is None else closing(log),
            wallet.twin(reporter=Quiet()) as own,  # events tell it
        ):
            work(
                own,
                settings,
                assortment,
                app,
                listening,
                realm=_realm(settings, url),
                certificate=certificate,
                ready=listens,
                emit=emit,
                log=log,
                until_closed=worker.parent,
                tells_of_chain=worker.number == 0,
                tracebacks=verbosity.debug,
            )

    forced: Interrupted | None = None
    try:
        if settings.workers == 1:
            code, forced = 0, _forced(work_as)
        else:
            text = None if output.as_json else serve_line
            emit = partial(write_line, sys.stdout.fileno(), text=text)
            role = Workers(settings.workers, listening, emit).run()
            if isinstance(role, Worker):
                return role.run(work_as)
            code = role
        owed = unsettled(wallet, assortment.policy.payee) if then is None else []
    except (LedgerChanged, LedgerUnwritable) as error:
        _tell(output, "interrupted", {"code": error.code, "message": error.message})
        raise
    _tell(output, "stopped", {"unsettled": owed})
    if forced is not None:
        raise forced
    return code


def _check_names(wallet: Wallet, settings: Settings) -> None:
    """UsageError for what is none now, not when a payer comes: by where it was written, if it is a setting
    of the gateway's own."""
    for key in ("network", "account", "relayer"):
        with nullcontext() if getattr(settings, key) is None else settings.names.naming(key):
            getattr(wallet, key)
    _ = wallet.rpc


def _realm(settings: Settings, url: str) -> str:
    """What challenges call the gateway at an address."""
    return settings.realm or url.partition("//")[2]


def _forced(work_as: Callable[[Worker], None]) -> Interrupted | None:
    """Work alone; what a second Ctrl-C has raised."""
    try:
        work_as(Worker(number=0, is_first=True))
    except Interrupted as error:
        return error
    return None


def _warnings(wallet: Wallet, settings: Settings, assortment: Assortment) -> list[str]:
    """What keeps requests from being sold, or settled as is asked for, though it serves."""
    found = [*assortment.routes.warnings(), *certificate_warnings(settings, now=wallet.now())]
    policy = assortment.policy
    if is_held(settling_lock(wallet.paths.home, policy.chain_id, policy.payee)):
        found.append(
            "another gateway with this account in this home settles, as its own settings say, while it runs"
        )
    return found


def _tell_start(emit: LineLog, warnings: Sequence[str], about: Mapping[str, Any]) -> None:
    for warning in warnings:
        emit("warning", {"message": warning})
    emit("listening", about)


def _about(wallet: Wallet, settings: Settings, url: str) -> dict[str, Any]:
    return {
        "url": url,
        "upstream": settings.upstream,
        "payee": wallet.account.address,
        "network": wallet.network.name,
        "workers": settings.workers,
    }


def _tell(output: Output, event: str, details: Mapping[str, Any]) -> None:
    """Tell how it has ended: once, however many workers there were."""
    with closing(output.events()) as emit:
        emit(event, details)
