"""`microwallet account export`: a copy of a key, encrypted or bare."""

from __future__ import annotations

import json as json_text
from pathlib import Path
from typing import Annotated, Any

import typer

from microwallet.cli.account_view import Confirm, OptionalReference
from microwallet.cli.context import confirm_by_name, open_wallet
from microwallet.cli.options import Json, PasswordFile
from microwallet.cli.result import Result
from microwallet.errors import KeyUnavailable, UsageError
from microwallet.keys.key_files import Store
from microwallet.keys.private_files import create_private_file


def export(
    account: OptionalReference = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="FILE", help="A new file, for its owner alone; else stdout."),
    ] = None,
    raw: Annotated[bool, typer.Option("--raw", help="The bare private key, not encrypted.")] = False,
    confirm: Confirm = None,
    password_file: PasswordFile = None,
    json: Json = False,
) -> Result:
    """Print an account's key as a V3 keystore, under the password of this wallet or a new one."""
    with open_wallet(account=account, password_file=password_file) as wallet:
        chosen = wallet.account
        if raw:
            warning = f"whoever sees the private key of {chosen.name} owns its money"
            confirm_by_name(chosen.name, confirm, warning)
            exported: Any = "0x" + wallet.accounts.secret(chosen.name).hex()
        else:
            what = f"the key of account {chosen.name}"
            password = wallet.passwords.password(what, new=chosen.store is Store.KEYRING)
            exported = wallet.accounts.export_keystore(chosen.name, password)
    text = exported if raw else json_text.dumps(exported)
    data: dict[str, Any] = {"name": chosen.name, "address": chosen.address}
    if output is None or str(output) == "-":
        return Result(data={**data, "privateKey" if raw else "keystore": exported}, text=text)
    try:
        create_private_file(output, text + "\n")
    except FileExistsError:
        raise UsageError(f"{output} exists already, and is left as it is") from None
    except KeyUnavailable as error:
        raise UsageError(error.message, hint=error.hint) from error
    return Result(data={**data, "output": str(output)}, text=f"the key of {chosen.name} is in {output}")
