"""`microwallet account`: keys that pay and are paid."""

from __future__ import annotations

from typing import Annotated

import typer

from microwallet.cli.account_export import export
from microwallet.cli.account_import import import_
from microwallet.cli.account_view import (
    STORES,
    Confirm,
    NewName,
    OptionalReference,
    Reference,
    account_data,
    account_row,
    added,
    other_passwords,
)
from microwallet.cli.command import command, new_group
from microwallet.cli.context import confirm_by_name, open_wallet
from microwallet.cli.options import Json, PasswordFile
from microwallet.cli.result import Result
from microwallet.cli.table import table

app = new_group("Keys that pay and are paid.")


@command(app, "create", "microwallet account create alice")
def create(name: NewName, password_file: PasswordFile = None, json: Json = False) -> Result:
    """Make an account with a new key. The first one becomes the default."""
    with open_wallet(password_file=password_file) as wallet:
        return added(wallet, lambda: wallet.accounts.create(name))


command(
    app,
    "import",
    "microwallet account import alice --private-key-file -",
    "microwallet account import bob --mnemonic-file words.txt --index 1",
)(import_)


@command(app, "list", "microwallet account list")
def list_(json: Json = False) -> Result:
    """List the accounts; * marks the default."""
    with open_wallet() as wallet:
        rows = [account_row(wallet, account) for account in wallet.accounts.list()]
    if not rows:
        return Result(data={"accounts": []}, notes=["no account yet: microwallet account create NAME"])
    shown = [
        (("* " if row["default"] else "  ") + row["name"], row["address"], STORES[row["store"]])
        for row in rows
    ]
    return Result(data={"accounts": rows}, text=table(("  NAME", "ADDRESS", "KEPT IN"), shown))


@command(app, "show", "microwallet account show alice", "microwallet account show --address")
def show(
    account: OptionalReference = None,
    address: Annotated[bool, typer.Option("--address", help="Print the address alone.")] = False,
    json: Json = False,
) -> Result:
    """Show one account."""
    with open_wallet() as wallet:
        row = account_row(wallet, wallet.accounts.get(account) if account else wallet.account)
    if address:
        return Result(data=row, text=row["address"])
    marker = "yes" if row["default"] else "no"
    text = (
        f"name     {row['name']}\naddress  {row['address']}\n"
        f"kept in  {STORES[row['store']]}\ndefault  {marker}"
    )
    return Result(data=row, text=text)


@command(app, "use", "microwallet account use alice")
def use(account: Reference, json: Json = False) -> Result:
    """Make an account the default."""
    with open_wallet() as wallet:
        chosen = wallet.accounts.get(account)
        with wallet.configuration.editing() as content:
            content["account"] = chosen.name
        return Result(
            data=account_row(wallet, chosen), text=f"{chosen.name} ({chosen.address}) is the default account"
        )


command(app, "export", "microwallet account export alice --output alice.json")(export)


@command(app, "password", "microwallet account password alice")
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
        new = other_passwords(new_password_file, flag="--new-password-file")
        with wallet.keys_held(chosen):
            changed = wallet.accounts.change_password(chosen.name, new)
        old_file = wallet.configuration.get("password-file")
    notes = [f"put the new password into {old_file} as well"] if old_file else []
    text = f"the password of {chosen.name} is changed, and of {changed} voucher keys"
    return Result(data=account_data(chosen) | {"voucherKeys": changed}, text=text, notes=notes)


@command(app, "remove", "microwallet account remove alice")
def remove(account: Reference, confirm: Confirm = None, json: Json = False) -> Result:
    """Forget an account and its key for ever. Refused while channels hold money."""
    with open_wallet() as wallet:
        chosen = wallet.accounts.get(account)
        wallet.require_removable(chosen)
        warning = f"without another copy of its key, what {chosen.name} holds on chain is lost"
        confirm_by_name(chosen.name, confirm, warning)
        wallet.remove_account(chosen)
        if wallet.configuration.user.get("account") == chosen.name:
            with wallet.configuration.editing() as content:
                content.pop("account", None)
        left = wallet.accounts.list()
    notes = [f"choose the default account: microwallet account use {left[0].name}"] if len(left) > 1 else []
    return Result(data=account_data(chosen), text=f"{chosen.name} ({chosen.address}) is removed", notes=notes)
