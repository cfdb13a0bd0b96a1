"""`microwallet account`: keys that pay and are paid."""

from __future__ import annotations

import json as json_text
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from microwallet.cli.command import command, new_group
from microwallet.cli.context import ask, ask_secret, has_terminal, open_wallet
from microwallet.cli.options import Json, PasswordFile
from microwallet.cli.result import Result
from microwallet.errors import ConfirmationRequired, UsageError
from microwallet.keys.accounts import Account
from microwallet.keys.keystore import decrypt
from microwallet.keys.passwords import PasswordSource
from microwallet.keys.private_files import create_private_file
from microwallet.keys.private_keys import from_mnemonic, parse_private_key
from microwallet.wallet import Wallet

app = new_group("Keys that pay and are paid.")

_INPUT_LIMIT = 64 * 1024
_STORES = {"keyring": "OS keyring", "file": "encrypted file"}

NewName = Annotated[str, typer.Argument(metavar="NAME", help="a-z, 0-9, _ and -, at most 32.")]
Reference = Annotated[str, typer.Argument(metavar="ACCOUNT", help="Name or address.")]
OptionalReference = Annotated[
    str | None, typer.Argument(metavar="[ACCOUNT]", help="Name or address; else the default account.")
]
Confirm = Annotated[
    str | None, typer.Option("--confirm", metavar="NAME", help="The account's name, instead of typing it.")
]


@command(app, "create", epilog="Example:  microwallet account create alice")
def create(name: NewName, password_file: PasswordFile = None, json: Json = False) -> Result:
    """Make an account with a new key. The first one becomes the default."""
    with open_wallet(password_file=password_file) as wallet:
        return _added(wallet, wallet.accounts.create(name))


@command(
    app,
    "import",
    epilog="Examples:  microwallet account import alice --private-key-file -   "
    "microwallet account import bob --mnemonic-file words.txt --index 1",
)
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
    index: Annotated[int, typer.Option(help="Which key of the mnemonic: m/44'/60'/0'/0/INDEX.")] = 0,
    keystore_password_file: Annotated[
        str | None, typer.Option(metavar="FILE", help="The keystore's password, if it is another.")
    ] = None,
    password_file: PasswordFile = None,
    json: Json = False,
) -> Result:
    """Make an account with a key from elsewhere."""
    sources = [source for source in (private_key_file, keystore, mnemonic_file) if source is not None]
    if len(sources) != 1:
        raise UsageError("name one source", hint="--private-key-file, --keystore or --mnemonic-file")
    with open_wallet(password_file=password_file) as wallet:
        if private_key_file is not None:
            secret = parse_private_key(_read_secret(private_key_file, "Private key: "))
        elif mnemonic_file is not None:
            secret = from_mnemonic(_read_secret(mnemonic_file, "Mnemonic: "), index=index)
        else:
            document = _parsed_keystore(_read_secret(sources[0], "Keystore: "))
            what = f"the keystore {sources[0]}"
            file = keystore_password_file or wallet.configuration.get("password-file")
            secret = decrypt(document, _passwords(file).password(what), what=what)
        return _added(wallet, wallet.accounts.import_key(name, secret))


@command(app, "list")
def list_(json: Json = False) -> Result:
    """List the accounts; * marks the default."""
    with open_wallet() as wallet:
        rows = [_described(wallet, account) for account in wallet.accounts.list()]
    if not rows:
        return Result(data={"accounts": []}, notes=["no account yet: microwallet account create NAME"])
    width = max(len("NAME"), *(len(row["name"]) for row in rows))
    lines = [f"  {'NAME':{width}}  {'ADDRESS':42}  KEPT IN"]
    for row in rows:
        marker = "*" if row["default"] else " "
        lines.append(f"{marker} {row['name']:{width}}  {row['address']}  {_STORES[row['store']]}")
    return Result(data={"accounts": rows}, text="\n".join(lines))


@command(app, "show")
def show(account: OptionalReference = None, json: Json = False) -> Result:
    """Show one account."""
    with open_wallet() as wallet:
        row = _described(wallet, wallet.accounts.get(account) if account else wallet.account)
    marker = "yes" if row["default"] else "no"
    text = (
        f"name     {row['name']}\naddress  {row['address']}\n"
        f"kept in  {_STORES[row['store']]}\ndefault  {marker}"
    )
    return Result(data=row, text=text)


@command(app, "use")
def use(account: Reference, json: Json = False) -> Result:
    """Make an account the default."""
    with open_wallet() as wallet:
        chosen = wallet.accounts.get(account)
        with wallet.configuration.editing() as content:
            content["account"] = chosen.name
        return Result(
            data=_described(wallet, chosen), text=f"{chosen.name} ({chosen.address}) is the default account"
        )


@command(app, "export", epilog="Example:  microwallet account export alice --output alice.json")
def export(
    account: OptionalReference = None,
    output: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A new file, for its owner alone; else stdout.")
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
            _confirm_by_name(chosen, confirm, "whoever sees the private key of {} owns its money")
            exported: Any = "0x" + wallet.accounts.secret(chosen.name).hex()
        else:
            what = f"the key of account {chosen.name}"
            password = wallet.passwords.password(what, new=chosen.store == "keyring")
            exported = wallet.accounts.export_keystore(chosen.name, password)
    text = exported if raw else json_text.dumps(exported)
    data: dict[str, Any] = {"name": chosen.name, "address": chosen.address}
    if output is None:
        return Result(data={**data, "privateKey" if raw else "keystore": exported}, text=text)
    try:
        create_private_file(output, text + "\n")
    except FileExistsError:
        raise UsageError(f"{output} exists already, and is left as it is") from None
    return Result(data={**data, "output": str(output)}, text=f"the key of {chosen.name} is in {output}")


@command(app, "password")
def password(
    account: OptionalReference = None,
    new_password_file: Annotated[
        str | None, typer.Option(metavar="FILE", help="File with the new password; else it is asked for.")
    ] = None,
    password_file: PasswordFile = None,
    json: Json = False,
) -> Result:
    """Change the password of an encrypted account, and of its voucher keys."""
    with open_wallet(account=account, password_file=password_file) as wallet:
        chosen = wallet.account
        new = _passwords(new_password_file, "--new-password-file")
        changed = wallet.accounts.change_password(chosen.name, new)
        old_file = wallet.configuration.get("password-file")
    notes = [f"put the new password into {old_file} as well"] if old_file else []
    text = f"the password of {chosen.name} is changed, and of {changed} voucher keys"
    return Result(data=_data(chosen) | {"voucherKeys": changed}, text=text, notes=notes)


@command(app, "remove")
def remove(account: Reference, confirm: Confirm = None, json: Json = False) -> Result:
    """Forget an account and its key for ever. Refused while channels hold money."""
    with open_wallet() as wallet:
        chosen = wallet.accounts.get(account)
        if at_risk := wallet.money_at_risk(chosen.address):
            raise UsageError(
                f"account {chosen.name} is needed: " + "; ".join(at_risk),
                hint="microwallet channel close, or microwallet payee close --all",
                data={"atRisk": at_risk},
            )
        _confirm_by_name(chosen, confirm, "without another copy of its key, what {} holds on chain is lost")
        wallet.accounts.remove(chosen.name)
        if wallet.configuration.user.get("account") == chosen.name:
            with wallet.configuration.editing() as content:
                content.pop("account", None)
        left = wallet.accounts.list()
    notes = [f"choose the default account: microwallet account use {left[0].name}"] if len(left) > 1 else []
    return Result(data=_data(chosen), text=f"{chosen.name} ({chosen.address}) is removed", notes=notes)


def _added(wallet: Wallet, account: Account) -> Result:
    """What is said of a new account; the first one becomes the default."""
    if len(wallet.accounts.list()) == 1:
        with wallet.configuration.editing() as content:
            content["account"] = account.name
    return Result(
        data=_data(account),
        text=f"{account.name}  {account.address}  ({_STORES[account.store]})",
        notes=[f"keep a copy of its key: microwallet account export {account.name} --output FILE"],
    )


def _data(account: Account) -> dict[str, Any]:
    return {"name": account.name, "address": account.address, "store": account.store}


def _described(wallet: Wallet, account: Account) -> dict[str, Any]:
    chosen = wallet.configuration.get("account")
    only = chosen is None and len(wallet.accounts.list()) == 1
    return _data(account) | {"default": only or chosen in (account.name, account.address)}


def _confirm_by_name(account: Account, given: str | None, warning: str) -> None:
    """Only the account's name, typed or given, lets the command go on."""
    warning = warning.format(account.name)
    if given is None:
        if not has_terminal():
            raise ConfirmationRequired(warning, hint=f"add --confirm {account.name} to go on")
        given = ask(f"{warning}\nType {account.name} to go on: ")
    if given != account.name:
        raise ConfirmationRequired(f"that is not {account.name}: nothing was done")


def _passwords(file: str | None, flag: str = "--password-file") -> PasswordSource:
    return PasswordSource(file, ask_secret if has_terminal() else None, flag=flag)


def _read_secret(source: str, question: str) -> str:
    """Text of a file, or of stdin for `-`; a person types it unseen."""
    if source == "-" and has_terminal():
        return ask_secret(question)
    try:
        if source == "-":
            raw = sys.stdin.buffer.read(_INPUT_LIMIT + 1)
        else:
            with Path(source).expanduser().open("rb") as file:
                raw = file.read(_INPUT_LIMIT + 1)
    except OSError as error:
        raise UsageError(f"{source} cannot be read: {error.strerror}") from error
    if len(raw) > _INPUT_LIMIT:
        raise UsageError(f"{source} is too long for a key: over {_INPUT_LIMIT} bytes")
    return raw.decode("utf-8", "replace")


def _parsed_keystore(text: str) -> dict[str, Any]:
    try:
        document = json_text.loads(text)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise UsageError("that is not a V3 keystore: a JSON object is expected")
    return document
