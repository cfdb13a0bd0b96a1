"""Options that many commands share."""

from __future__ import annotations

from typing import Annotated

import typer

from microwallet.cli import completion

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would happen, and stop.")]
NetworkName = Annotated[
    str | None,
    typer.Option("--network", metavar="NAME", help="Network to work on.", autocompletion=completion.networks),
]
RpcUrl = Annotated[str | None, typer.Option("--rpc-url", metavar="URL", help="RPC address to use instead.")]
Offline = Annotated[bool, typer.Option("--offline", help="Do not ask the chain.")]
AccountName = Annotated[
    str | None,
    typer.Option("--account", metavar="NAME", help="Account to use.", autocompletion=completion.accounts),
]
Token = Annotated[str | None, typer.Option("--token", metavar="TOKEN", help="Token: symbol or address.")]
PasswordFile = Annotated[
    str | None,
    typer.Option("--password-file", metavar="FILE", help="File with the password of the keys."),
]
IdempotencyKey = Annotated[
    str | None,
    typer.Option("--idempotency-key", metavar="KEY", help="The same key never moves money twice."),
]
RelayerName = Annotated[
    str | None,
    typer.Option(
        "--relayer",
        metavar="NAME",
        help="Account that pays the gas instead of the payee.",
        autocompletion=completion.accounts,
    ),
]
