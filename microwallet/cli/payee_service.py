"""`microwallet payee watch --print-service`: the watcher as a systemd unit."""

from __future__ import annotations

import os
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
    variables = {"MICROWALLET_HOME": str(wallet.paths.home.absolute())}
    password_file = wallet.configuration.get("password-file")
    if password_file:
        variables["MICROWALLET_PASSWORD_FILE"] = str(Path(password_file).expanduser().absolute())
    for name in (BACKEND_VARIABLE, "MICROWALLET_RPC_URL"):
        if os.environ.get(name):
            variables[name] = os.environ[name]
    environment = "\n".join(
        f'Environment="{name}={value.replace("%", "%%")}"' for name, value in variables.items()
    )
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


def _quoted(word: str) -> str:
    """A word as systemd reads it: its specifiers and variables are not ours."""
    escaped = word.replace("%", "%%").replace("$", "$$")
    return f'"{escaped}"' if " " in word else escaped
