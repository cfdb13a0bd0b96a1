"""What commands say of accounts, and how they ask before a key is shown or forgotten."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from microwallet.cli import completion
from microwallet.cli.context import ask_secret, has_terminal
from microwallet.cli.result import Result
from microwallet.keys.passwords import PasswordSource

if TYPE_CHECKING:
    from microwallet.keys.accounts import Account
    from microwallet.wallet import Wallet

STORES = {"keyring": "OS keyring", "file": "encrypted file"}

NewName = Annotated[str, typer.Argument(metavar="NAME", help="a-z, 0-9, _ and -, at most 32.")]
Reference = Annotated[
    str, typer.Argument(metavar="ACCOUNT", help="Name or address.", autocompletion=completion.accounts)
]
OptionalReference = Annotated[
    str | None,
    typer.Argument(
        metavar="ACCOUNT",
        help="Name or address; else the default account.",
        autocompletion=completion.accounts,
    ),
]
Confirm = Annotated[
    str | None, typer.Option("--confirm", metavar="NAME", help="The account's name, instead of typing it.")
]


def added(wallet: Wallet, make: Callable[[], Account], *, is_new: bool = True) -> Result:
    """What is said of an account that was made, of a key that is new or from elsewhere.

    The first one, or one of several made first, becomes the default.
    """
    is_first = not wallet.accounts.list()
    account = make()
    if is_first:
        with wallet.configuration.editing() as content:
            here = {name for one in wallet.accounts.list() for name in (one.name, one.address)}
            if content.get("account") not in here:
                content["account"] = account.name
    if is_new:
        note = f"keep a copy of its key: microwallet account export {account.name} --output FILE"
    else:
        note = f"channels that it has on the chain: microwallet channel sync --account {account.name}"
    return Result(
        data=account_data(account),
        text=f"{account.name}  {account.address}  ({STORES[account.store]})",
        notes=[note],
    )


def account_data(account: Account) -> dict[str, Any]:
    """An account as JSON."""
    return {"name": account.name, "address": account.address, "store": account.store}


def account_row(wallet: Wallet, account: Account) -> dict[str, Any]:
    """An account as JSON, and whether it is the default."""
    chosen = wallet.configuration.get("account")
    only = chosen is None and len(wallet.accounts.list()) == 1
    return account_data(account) | {"default": only or chosen in (account.name, account.address)}


def other_passwords(file: str | None, *, flag: str) -> PasswordSource:
    """Where a password other than the wallet's own comes from; `flag` names its file."""
    return PasswordSource(file, ask_secret if has_terminal() else None, flag=flag)
