"""`microwallet payee watch --print-service`: the watcher as a systemd unit."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path

from microwallet.config import Configuration
from microwallet.errors import UsageError
from microwallet.files import typed_path
from microwallet.keys.os_keyring import BACKEND_VARIABLE
from microwallet.wallet import Wallet

_RPC_URL = "MICROWALLET_RPC_URL"


def watch_service(wallet: Wallet, interval: str, margin: str) -> str:
    """A systemd user unit that runs the watcher of this home with this program.

    UsageError where it would tell the key in an RPC address to whoever can read the unit.
    """
    program = shutil.which(sys.argv[0]) or sys.argv[0]
    installed = Path(program).name.startswith("microwallet")
    command = [str(Path(program).absolute())] if installed else [sys.executable, "-m", "microwallet"]
    command += ["payee", "watch", "--interval", interval, "--margin", margin]
    command += ["--network", wallet.network.name, "--json"]
    variables = {"MICROWALLET_HOME": str(wallet.paths.home.absolute())} | _settings(wallet.configuration)
    password_file = wallet.configuration.get("password-file")
    if password_file:
        variables["MICROWALLET_PASSWORD_FILE"] = str(typed_path(password_file).absolute())
    if os.environ.get(BACKEND_VARIABLE):
        variables[BACKEND_VARIABLE] = os.environ[BACKEND_VARIABLE]
    environment = "\n".join(f'Environment="{name}={_escaped(value)}"' for name, value in variables.items())
    return f"""\
# Save as ~/.config/systemd/user/microwallet-watch.service, then:
#   systemctl --user enable --now microwallet-watch && loginctl enable-linger
[Unit]
Description=microwallet: close channels before a payer can take the money back
After=network-online.target
Wants=network-online.target

[Service]
ExecStart={" ".join(_quoted(word) for word in command)}
{environment}
Restart=always
RestartSec=5

[Install]
WantedBy=default.target
"""


def _settings(configuration: Configuration) -> dict[str, str]:
    """The settings of this run that the user file has not got, none of them a secret."""
    from microwallet.escrow.transport import redacted

    given = configuration.given()
    url = given.get(_RPC_URL, "")
    if redacted(url) == url:
        return given
    if configuration.user.get("rpc-url") != url:
        typed = f'"${_RPC_URL}"' if configuration.resolve("rpc-url").source == "environment" else "URL"
        raise UsageError(
            f"the RPC address {redacted(url)} holds a secret, and others can read a unit: it is safe in this"
            " wallet's settings",
            hint=f"microwallet config set rpc-url {typed}  (then this again)",
        )
    return {name: value for name, value in given.items() if name != _RPC_URL}


def _escaped(text: str) -> str:
    """A text within quotes as systemd reads it: its specifiers are not ours."""
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")


def _quoted(word: str) -> str:
    """A word of a command as systemd reads it: nor are its variables."""
    escaped = _escaped(word).replace("$", "$$")
    return escaped if shlex.quote(word) == word else f'"{escaped}"'
