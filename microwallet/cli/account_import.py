"""`microwallet account import`: a key from elsewhere."""

from __future__ import annotations

import json as json_text
from typing import Annotated, Any

import typer

from microwallet.cli.account_view import NewName, added, other_passwords
from microwallet.cli.context import ask_secret, has_terminal, open_wallet
from microwallet.cli.options import Json, PasswordFile
from microwallet.cli.result import Result
from microwallet.cli.source import read_all
from microwallet.errors import UsageError
from microwallet.keys.keystore import decrypt
from microwallet.keys.private_keys import from_mnemonic, parse_private_key

_INPUT_LIMIT = 64 * 1024


def import_(
    name: NewName,
    private_key_file: Annotated[
        str | None, typer.Option(metavar="FILE", help="64 hexadecimal digits; - for stdin.")
    ] = None,
    keystore: Annotated[
        str | None, typer.Option(metavar="FILE", help="A V3 keystore of any wallet; - for stdin.")
    ] = None,
    mnemonic_file: Annotated[
        str | None, typer.Option(metavar="FILE", help="BIP-39 words; - for stdin.")
    ] = None,
    index: Annotated[int, typer.Option(metavar="N", help="Which key of the mnemonic: m/44'/60'/0'/0/N.")] = 0,
    keystore_password_file: Annotated[
        str | None, typer.Option(metavar="FILE", help="The keystore's password, if it is another.")
    ] = None,
    password_file: PasswordFile = None,
    json: Json = False,
) -> Result:
    """Make an account with a key from elsewhere."""
    sources = [source for source in (private_key_file, keystore, mnemonic_file) if source is not None]
    if len(sources) != 1:
        raise UsageError(
            "name one source: --private-key-file, --keystore or --mnemonic-file",
            hint=f"microwallet account import {name} --private-key-file -",
        )
    with open_wallet(password_file=password_file) as wallet:
        if private_key_file is not None:
            secret = parse_private_key(_read_secret(private_key_file, "Private key: "))
        elif mnemonic_file is not None:
            secret = from_mnemonic(_read_secret(mnemonic_file, "Mnemonic: "), index=index)
        else:
            document = _parsed_keystore(_read_secret(sources[0], "Keystore: "))
            what = f"the keystore {sources[0]}"
            file = keystore_password_file or wallet.configuration.get("password-file")
            passwords = other_passwords(file, flag="--keystore-password-file")
            secret = decrypt(document, passwords.password(what), what=what, hint=passwords.hint_if_wrong)
        return added(wallet, lambda: wallet.accounts.import_key(name, secret), is_new=False)


def _read_secret(source: str, question: str) -> str:
    """Text of a file, or of stdin for `-`; a person types it unseen."""
    if source == "-" and has_terminal():
        return ask_secret(question)
    return read_all(source, limit=_INPUT_LIMIT, what="a key").decode("utf-8", "replace")


def _parsed_keystore(text: str) -> dict[str, Any]:
    try:
        document = json_text.loads(text)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise UsageError("that is not a V3 keystore: a JSON object is expected")
    return document
