"""`microwallet serve`: put a price on what an upstream serves."""

from __future__ import annotations

import socket
import sys
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from microwallet.cli.command import Command, help_text
from microwallet.cli.context import Stderr, open_wallet
from microwallet.cli.options import AccountName, Json, NetworkName, PasswordFile, RelayerName, RpcUrl
from microwallet.cli.serve_fees import GasBudget, PayFeesFrom, fee_policy
from microwallet.errors import MicrowalletError, PortTaken, UsageError

if TYPE_CHECKING:
    from microwallet.http402.charging.routes import Routes
    from microwallet.selling import FeePolicy
    from microwallet.wallet import Wallet

app = typer.Typer()
DEFAULT_PORT = 8402

Upstream = Annotated[
    str | None, typer.Option("--upstream", metavar="URL", help="What stands behind: http://127.0.0.1:9000.")
]
PriceText = Annotated[
    str | None, typer.Option("--price", metavar="AMOUNT", help='What every request costs: "0.001 USDC".')
]
Host = Annotated[str, typer.Option("--host", metavar="ADDRESS", help="Address to listen on.")]
Port = Annotated[int, typer.Option("--port", metavar="PORT", help="Port to listen on.")]


def serve(
    upstream: Upstream = None,
    price: PriceText = None,
    host: Annotated[
        str, typer.Option("--host", metavar="ADDRESS", help="Address to listen on.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", metavar="PORT", help="Port to listen on.")] = DEFAULT_PORT,
    pay_fees_from: PayFeesFrom = None,
    gas_budget: GasBudget = None,
    relayer: RelayerName = None,
    account: AccountName = None,
    network: NetworkName = None,
    rpc_url: RpcUrl = None,
    password_file: PasswordFile = None,
    json: Json = False,
) -> None:
    """Charge for what an upstream serves: a reverse proxy that is paid through channels."""
    try:
        with open_wallet(
            network=network,
            account=account,
            rpc_url=rpc_url,
            password_file=password_file,
            relayer=relayer,
        ) as wallet:
            fees = fee_policy(wallet, pay_fees_from, gas_budget)
            _serve(wallet, _routes(wallet, price), upstream, host, port, fees=fees, as_json=json)
    except MicrowalletError as error:
        error.streamed = json
        raise


app.command(
    "serve",
    cls=Command,
    help=help_text(serve, 'microwallet serve --upstream http://127.0.0.1:9000 --price "0.001 USDC"'),
)(serve)


def _routes(wallet: Wallet, price: str | None) -> Routes:
    from microwallet.domain.money import Amount, unit_of
    from microwallet.http402.charging.routes import parse_routes

    if price is None:
        raise UsageError("what does a request cost?", hint='--price "0.001 USDC"')

    def amount(text: str) -> Amount:
        return Amount.parse(text, wallet.resolve_asset(unit_of(text)))

    return parse_routes([{"path": "/**", "price": price}], amount)


def _serve(
    wallet: Wallet,
    routes: Routes,
    upstream: str | None,
    host: str,
    port: int,
    *,
    fees: FeePolicy | None,
    as_json: bool,
) -> None:
    from microwallet.http402.charging.middleware import PaymentMiddleware
    from microwallet.http402.charging.proxy import ReverseProxy
    from microwallet.http402.charging.server import serve as serve_application
    from microwallet.http402.charging.settling import SettlingPolicy
    from microwallet.selling import Shop

    if upstream is None:
        raise UsageError("what is served?", hint="--upstream http://127.0.0.1:9000")
    proxy = ReverseProxy(upstream)
    account = wallet.account
    for one in {account, wallet.relayer or account}:
        wallet.accounts.secret(one.name)  # locked keys are found out now, not when a close is due
    listening = _listen(host, port)
    where = f"http://{host}:{listening.getsockname()[1]}"
    emit = _emitter(as_json)
    shop = Shop(
        wallet,
        routes,
        SettlingPolicy(payee=account.address),
        realm=where.removeprefix("http://"),
        fees=fees,
        emit=emit,
    )

    def ready() -> None:
        emit("listening", {"url": where, "upstream": upstream, "payee": account.address})

    try:
        serve_application(
            PaymentMiddleware(proxy, shop.gateway),
            listening,
            ready=ready,
            background=(shop.look, shop.tidy),
        )
    finally:
        shop.close()
    emit("stopped", {})


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
    except OSError as error:
        raise PortTaken(f"{host}:{port} cannot be listened on: {error.strerror}", hint="--port 0") from error
    listening.listen(1024)
    listening.setblocking(False)
    return listening


def _emitter(as_json: bool) -> Any:
    def emit(event: str, details: dict[str, Any]) -> None:
        if as_json:
            import json

            line = json.dumps({"event": event, "time": int(time.time()), **details})
        else:
            line = "  ".join([event, *(str(value) for value in details.values())])
        sys.stdout.write(line + "\n")
        sys.stdout.flush()

    Stderr()
    return emit
