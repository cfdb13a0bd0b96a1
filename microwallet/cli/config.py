"""`microwallet config`: settings and where each came from."""

from __future__ import annotations

from typing import Annotated

import typer

from microwallet.cli import completion
from microwallet.cli.command import command, new_group
from microwallet.cli.context import open_wallet
from microwallet.cli.options import Json
from microwallet.cli.result import Result
from microwallet.cli.table import table
from microwallet.config import SETTINGS, checked_setting
from microwallet.escrow.networks import resolve_network

app = new_group("Settings and where they come from.")


@command(app, "show", "microwallet config show")
def show(json: Json = False) -> Result:
    """Every setting, its value, and where it came from."""
    configuration = open_wallet().configuration
    found = {name: configuration.resolve(name) for name in SETTINGS}
    return Result(
        data={
            "settings": {
                name: {"value": setting.value, "source": setting.source} for name, setting in found.items()
            },
            "userFile": str(configuration.paths.user_file),
        },
        text=table(
            ("SETTING", "VALUE", "FROM"),
            [
                (name, "-" if setting.value is None else str(setting.value), setting.source)
                for name, setting in found.items()
            ],
        ),
    )


@command(app, "set", "microwallet config set max-fee-gwei 50")
def set_value(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME", help="One of those `config show` lists.", autocompletion=completion.settings
        ),
    ],
    value: Annotated[str, typer.Argument(metavar="VALUE")],
    json: Json = False,
) -> Result:
    """Keep a setting in the user file."""
    checked = checked_setting(name, value)
    wallet = open_wallet()
    if name == "network":
        resolve_network(wallet.configuration, value)
    elif name == "account":
        checked = wallet.accounts.get(value).name
    with wallet.configuration.editing() as content:
        content[name] = checked
    return Result(data={"name": name, "value": checked}, text=f"{name} is {checked} from now on")


@command(app, "unset", "microwallet config unset max-fee-gwei")
def unset(
    name: Annotated[str, typer.Argument(metavar="NAME", autocompletion=completion.settings)],
    json: Json = False,
) -> Result:
    """Take a setting out of the user file; its default is in force again."""
    if name not in SETTINGS:
        checked_setting(name, "")
    with open_wallet().configuration.editing() as content:
        content.pop(name, None)
    return Result(data={"name": name, "value": SETTINGS[name].default}, text=f"{name} has its default again")
