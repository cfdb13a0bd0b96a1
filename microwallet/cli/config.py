"""`microwallet config`: settings and where each came from."""

from __future__ import annotations

import shlex
from typing import Annotated, Any

import typer

from microwallet.cli import completion
from microwallet.cli.command import TakesAmount, command, new_group
from microwallet.cli.context import open_wallet
from microwallet.cli.options import Json
from microwallet.cli.result import Result
from microwallet.cli.table import table
from microwallet.config import SETTINGS, checked_setting
from microwallet.domain.money import Amount, unit_of
from microwallet.errors import InvalidAmount, UnknownReference, UsageError
from microwallet.escrow.networks import resolve_network
from microwallet.escrow.transport import Endpoint, NoRpcAddress, redacted
from microwallet.wallet import Wallet

app = new_group("Settings and where they come from.")

SettingName = Annotated[
    str,
    typer.Argument(
        metavar="NAME", help="One of those `config show` lists.", autocompletion=completion.settings
    ),
]

_ADDRESS = "rpc-url"
"""The setting that may hold credentials."""
_AMOUNTS = ("max-amount", "max-deposit")


@command(app, "show", "microwallet config show")
def show(json: Json = False) -> Result:
    """Every setting, its value, and where it came from."""
    configuration = open_wallet().configuration
    found = {name: configuration.resolve(name) for name in SETTINGS}
    shown = {name: _shown(name, setting.value) for name, setting in found.items()}
    return Result(
        data={
            "settings": {
                name: {"value": shown[name], "source": setting.source} for name, setting in found.items()
            },
            "userFile": str(configuration.paths.user_file),
        },
        text=table(
            ("SETTING", "VALUE", "FROM"),
            [
                (name, "-" if setting.value is None else str(shown[name]), setting.source)
                for name, setting in found.items()
            ],
        ),
    )


@command(app, "set", "microwallet config set max-fee-gwei 50", cls=TakesAmount)
def set_value(
    name: SettingName,
    value: Annotated[str, typer.Argument(metavar="VALUE", help='Such as "0.05 USDC", by the setting.')],
    json: Json = False,
) -> Result:
    """Keep a setting in the user file."""
    checked = checked_setting(name, value)
    wallet = open_wallet()
    if name == "network":
        resolve_network(wallet.configuration, value)
    elif name == "account":
        checked = wallet.accounts.get(value).name
    elif name == _ADDRESS:
        _check_address(value)
    elif name in _AMOUNTS:
        _check_amount(name, value, wallet)
    with wallet.configuration.editing() as content:
        content[name] = checked
    shown = _shown(name, checked)
    return Result(data={"name": name, "value": shown}, text=f"{name} is {shown} from now on")


@command(app, "unset", "microwallet config unset max-fee-gwei")
def unset(
    name: SettingName,
    json: Json = False,
) -> Result:
    """Take a setting out of the user file; its default is in force again."""
    if name not in SETTINGS:
        checked_setting(name, "")
    with open_wallet().configuration.editing() as content:
        content.pop(name, None)
    return Result(data={"name": name, "value": SETTINGS[name].default}, text=f"{name} has its default again")


def _check_address(url: str) -> None:
    try:
        Endpoint(url)
    except NoRpcAddress as error:
        error.hint = f"microwallet config set {_ADDRESS} {shlex.quote(error.meant)}"
        raise


def _check_amount(name: str, value: str, wallet: Wallet) -> None:
    """UsageError unless a limit has a unit, since it is for one asset, and is an amount of it."""
    setting = f"microwallet config set {name}"
    try:
        unit = unit_of(value)
    except InvalidAmount as error:
        raise InvalidAmount(error.message, hint=f'{setting} "{SETTINGS[name].default}"') from None
    if unit is None:
        raise UsageError(f"{name} is {value!r}, without a unit", hint=f'{setting} "{value.strip()} USDC"')
    try:
        asset = wallet.resolve_asset(unit, amount=value)
    except UnknownReference as error:
        if (error.hint or "").startswith('"'):
            error.hint = f"{setting} {error.hint}"
        raise
    Amount.parse(value, asset)


def _shown(name: str, value: Any) -> Any:
    """A setting's value as it may be printed."""
    return redacted(value) if name == _ADDRESS and value is not None else value
