"""The systemd unit of the watcher."""

from __future__ import annotations

import sys

from microwallet.cli.payee_service import watch_service
from microwallet.keys.os_keyring import BACKEND_VARIABLE
from microwallet.wallet import Wallet


def test_words_and_variables_are_what_they_were(tmp_path, monkeypatch):
    """Though systemd has specifiers, variables and quotes of its own; the keyring is the one of this run."""
    home = tmp_path / "a%h $b"
    monkeypatch.setattr(sys, "argv", ["/opt/a %h $b/microwallet"])
    monkeypatch.setenv(BACKEND_VARIABLE, "some.Keyring")
    with Wallet.open(environment={"MICROWALLET_HOME": str(home)}) as wallet:
        lines = watch_service(wallet, "5s", "15m").splitlines()
    [start] = [line for line in lines if line.startswith("ExecStart=")]
    assert start.startswith('ExecStart="/opt/a %%h $$b/microwallet" payee watch --interval 5s --margin 15m ')
    assert f'Environment="MICROWALLET_HOME={tmp_path}/a%%h $b"' in lines
    assert f'Environment="{BACKEND_VARIABLE}=some.Keyring"' in lines
