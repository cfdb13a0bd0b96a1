"""`microwallet fetch`: an HTTP client that pays where a server wants to be paid."""

from __future__ import annotations

from typing import Annotated

import typer

from microwallet.cli.command import Command, help_text, new_group
from microwallet.cli.options import (
    AccountName,
    DryRun,
    IdempotencyKey,
    Json,
    NetworkName,
    PasswordFile,
    RpcUrl,
    Yes,
)

app = new_group("Fetch a URL, and pay for it.")

Texts = list[str] | None


def fetch(
    context: typer.Context,
    first: Annotated[
        str,
        typer.Argument(metavar="METHOD|URL", help="A method may come first: else GET, or POST with data."),
    ],
    second: Annotated[str | None, typer.Argument(metavar="URL", help="Where a method came first.")] = None,
    header: Annotated[
        Texts, typer.Option("-H", "--header", metavar="HEADER", help='Such as "Accept: text/plain".')
    ] = None,
    data: Annotated[
        Texts,
        typer.Option("-d", "--data", metavar="DATA", help="The body: text, @FILE or -; joined by &."),
    ] = None,
    form: Annotated[
        Texts,
        typer.Option("-F", "--form", metavar="FIELD", help="Of a form: name=text, name=@FILE or name=<FILE."),
    ] = None,
    output: Annotated[
        str | None, typer.Option("-o", "--output", metavar="FILE", help="Where the body goes.")
    ] = None,
    include: Annotated[bool, typer.Option("-i", "--include", help="Print the headers too.")] = False,
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="Say on stderr what is sent.")] = False,
    follow: Annotated[bool, typer.Option("-L", "--follow", help="Follow redirects.")] = False,
    timeout: Annotated[
        str | None,
        typer.Option("--timeout", metavar="DURATION", help="For each wait: 0.5, 500ms, 90s; else 30."),
    ] = None,
    proxy: Annotated[
        str | None, typer.Option("-x", "--proxy", metavar="URL", help="http, https or socks5.")
    ] = None,
    fail: Annotated[
        bool, typer.Option("-f", "--fail", help="Exit 4 for a status from 400 on, after its body.")
    ] = False,
    max_amount: Annotated[
        str | None,
        typer.Option(
            "--max-amount",
            metavar="AMOUNT",
            help="The most this request may cost; else the setting max-amount.",
        ),
    ] = None,
    deposit: Annotated[
        str | None,
        typer.Option(
            "--deposit", metavar="AMOUNT", help="Opens a channel, or tops up one that is short; else unused."
        ),
    ] = None,
    payee: Annotated[
        str | None, typer.Option("--payee", metavar="ADDRESS", help="Pay this one, whoever was paid before.")
    ] = None,
    gasless: Annotated[
        bool, typer.Option("--gasless", help="Only sign deposits: the payee pays the gas, if it offers that.")
    ] = False,
    no_pay: Annotated[bool, typer.Option("--no-pay", help="Take a 402 for an answer.")] = False,
    idempotency_key: IdempotencyKey = None,
    network: NetworkName = None,
    account: AccountName = None,
    rpc_url: RpcUrl = None,
    password_file: PasswordFile = None,
    yes: Yes = False,
    dry_run: DryRun = False,
    json: Json = False,
) -> None:
    """Fetch a URL; where the server wants to be paid, pay from the channel with it, or open one.

    The body goes to stdout as it comes, everything else to stderr.
    """
    from microwallet.cli.fetch_again import repeats
    from microwallet.cli.fetch_flags import FetchFlags
    from microwallet.cli.fetch_request import check_units, wanted
    from microwallet.cli.fetch_run import run

    words = [first] if second is None else [first, second]
    check_units(words, {"--max-amount": max_amount, "--deposit": deposit})
    run(
        wanted(words, header or (), data or (), form or ()),
        FetchFlags(
            output=output,
            include=include,
            verbose=verbose,
            follow=follow,
            timeout=timeout,
            proxy=proxy,
            fail=fail,
            max_amount=max_amount,
            deposit=deposit,
            payee=payee,
            gasless=gasless,
            no_pay=no_pay,
            idempotency_key=idempotency_key,
            yes=yes,
            dry_run=dry_run,
            json=json,
            repeats=repeats(context),
        ),
        network=network,
        account=account,
        rpc_url=rpc_url,
        password_file=password_file,
    )


app.command(
    "fetch",
    help=help_text(
        fetch,
        "microwallet fetch https://example.com/article",
        'microwallet fetch https://example.com/ask -d @q.json --max-amount "0.05 USDC"',
        "microwallet fetch https://example.com/article --dry-run",
    ),
    cls=Command,
)(fetch)
