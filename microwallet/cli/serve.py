"""`microwallet serve`: put a price on what an upstream serves."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from microwallet.cli.command import Command, help_text, new_group
from microwallet.cli.options import AccountName, DryRun, NetworkName, PasswordFile, RelayerName, RpcUrl

app = new_group("Put a price on what an upstream serves.")

WHAT, WHERE, HOW = "What is sold", "Where it listens", "How it is paid"


def _option(name: str, metavar: str, help: str, panel: str) -> typer.models.OptionInfo:
    option: typer.models.OptionInfo = typer.Option(name, metavar=metavar, help=help, rich_help_panel=panel)
    return option


def serve(
    upstream: Annotated[
        str | None, _option("--upstream", "URL", "What stands behind: http://127.0.0.1:9000.", WHAT)
    ] = None,
    price: Annotated[
        str | None, _option("--price", "AMOUNT", 'What everything costs: "0.001 USDC".', WHAT)
    ] = None,
    per: Annotated[
        str | None, _option("--per", "UNIT", "What the price is for: request, or event of a stream.", WHAT)
    ] = None,
    free: Annotated[
        list[str] | None, _option("--free", "PATH", "What costs nothing: /docs/**; again for more.", WHAT)
    ] = None,
    description: Annotated[
        str | None, _option("--description", "TEXT", "What is sold, in words for people.", WHAT)
    ] = None,
    suggested_deposit: Annotated[
        str | None, _option("--suggested-deposit", "AMOUNT", "What payers might deposit.", WHAT)
    ] = None,
    requires_auth: Annotated[
        bool,
        typer.Option(
            "--requires-auth", help="Leave Authorization to what stands behind.", rich_help_panel=WHAT
        ),
    ] = False,
    config: Annotated[
        Path | None,
        _option("--config", "FILE", "TOML with routes and all this; see: help selling.", WHAT),
    ] = None,
    host: Annotated[
        str | None, _option("--host", "ADDRESS", "Address to listen on; default: 127.0.0.1.", WHERE)
    ] = None,
    port: Annotated[
        int | None, _option("--port", "PORT", "Port to listen on; 0: any; default: 8402.", WHERE)
    ] = None,
    tls_cert: Annotated[
        str | None, _option("--tls-cert", "FILE", "Certificate chain in PEM: https.", WHERE)
    ] = None,
    tls_key: Annotated[str | None, _option("--tls-key", "FILE", "Its key in PEM.", WHERE)] = None,
    behind_tls_proxy: Annotated[
        list[str] | None,
        _option("--behind-tls-proxy", "ADDRESS", "A proxy in front that does TLS, and is believed.", WHERE),
    ] = None,
    realm: Annotated[
        str | None, _option("--realm", "NAME", "What challenges call this; default: HOST:PORT.", WHERE)
    ] = None,
    workers: Annotated[int | None, _option("--workers", "N", "Processes; default: 1.", WHERE)] = None,
    settle_above: Annotated[
        list[str] | None,
        _option("--settle-above", "AMOUNT", "Unsettled on a channel; default: 1 USDC.", HOW),
    ] = None,
    settle_idle: Annotated[
        str | None,
        _option("--settle-idle", "DURATION", "Settle channels unused for so long: 1d.", HOW),
    ] = None,
    pay_fees_from: Annotated[
        str | None,
        _option("--pay-fees-from", "AMOUNT", "Pay the gas of deposits by signature, from so much on.", HOW),
    ] = None,
    gas_budget: Annotated[
        str | None, _option("--gas-budget", "AMOUNT", "Most for that in an hour; default: 0.01 ETH.", HOW)
    ] = None,
    relayer: RelayerName = None,
    account: AccountName = None,
    network: NetworkName = None,
    rpc_url: RpcUrl = None,
    password_file: PasswordFile = None,
    dry_run: DryRun = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No line for each request.")] = False,
    try_out: Annotated[
        bool, typer.Option("--try", help="Sell samples on a throw-away chain, and say how to pay.")
    ] = False,
    json: Annotated[
        bool, typer.Option("--json", help="Events on stdout and requests on stderr, a JSON object a line.")
    ] = False,
) -> None:
    """Charge for what an upstream serves: a reverse proxy that is paid through channels."""
    from microwallet.cli.serve_run import Output, run_gateway

    flags = {
        "upstream": upstream,
        "price": price,
        "per": per,
        "free": free,
        "description": description,
        "suggested-deposit": suggested_deposit,
        "requires-auth": requires_auth or None,
        "host": host,
        "port": port,
        "tls-cert": tls_cert,
        "tls-key": tls_key,
        "behind-tls-proxy": behind_tls_proxy,
        "realm": realm,
        "workers": workers,
        "settle-above": settle_above,
        "settle-idle": settle_idle,
        "pay-fees-from": pay_fees_from,
        "gas-budget": gas_budget,
        "relayer": relayer,
        "account": account,
        "network": network,
    }
    output = Output(as_json=json, quiet=quiet)
    if try_out:
        from microwallet.cli.serve_try import run_trial

        unused = {"config": config, "rpc-url": rpc_url, "password-file": password_file}
        run_trial(flags | unused | {"dry-run": dry_run or None}, output)
    wallet_flags = {"rpc_url": rpc_url, "password_file": password_file}
    run_gateway(config, flags, wallet_flags, dry_run=dry_run, output=output)


app.command(
    "serve",
    cls=Command,
    help=help_text(
        serve,
        'microwallet serve --upstream http://127.0.0.1:9000 --price "0.001 USDC"',
        "microwallet serve --config gateway.toml --dry-run",
        "microwallet serve --try",
    ),
)(serve)
