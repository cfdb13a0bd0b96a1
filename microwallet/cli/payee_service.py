"""`microwallet payee watch --print-service`: the watcher as a systemd unit."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path

from microwallet.keys.os_keyring import BACKEND_VARIABLE
from microwallet.wallet import Wallet


def watch_service(wallet: Wallet, interval: str, margin: str) -> str:
    """A systemd user unit that runs the watcher of this home with this program."""
    program = shutil.which(sys.argv[0]) or sys.argv[0]
    installed = Path(program).name.startswith("microwallet")
    command = [str(Path(program).absolute())] if installed else [sys.executable, "-m", "microwallet"]
    command += ["payee", "watch", "--interval", interval, "--margin", margin]
    command += ["--network", wallet.network.name, "--json"]
    variables = {"MICROWALLET_HOME": str(wallet.paths.home.absolute())} | wallet.configuration.given()
    password_file = wallet.configuration.get("password-file")
    if password_file:
        variables["MICROWALLET_PASSWORD_FILE"] = str(Path(password_file).expanduser().absolute())
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


def _escaped(text: str) -> str:
    """A text within quotes as systemd reads it: its specifiers are not ours."""
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")


def _quoted(word: str) -> str:
    """A word of a command as systemd reads it: nor are its variables."""
    escaped = _escaped(word).replace("$", "$$")
    return escaped if shlex.quote(word) == word else f'"{escaped}"'
