"""The systemd unit of the watcher."""

from __future__ import annotations

import sys

import pytest

from microwallet.cli.payee_service import watch_service
from microwallet.errors import UsageError
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


KEYED = "https://node.example/v2/0123456789abcdef0123456789abcdef"


@pytest.mark.parametrize(
    ("variables", "flags", "typed"),
    [({"MICROWALLET_RPC_URL": KEYED}, {}, '"$MICROWALLET_RPC_URL"'), ({}, {"rpc-url": KEYED}, "URL")],
    ids=["variable", "flag"],
)
def test_a_key_in_an_rpc_address_is_in_no_unit(tmp_path, variables, flags, typed):
    """Others can read one: the settings can hold it, and then the unit does without."""
    environment = {"MICROWALLET_HOME": str(tmp_path / "home"), **variables}
    with Wallet.open(environment=environment, flags=flags) as wallet:
        with pytest.raises(UsageError, match="holds a secret") as refused:
            watch_service(wallet, "5s", "15m")
        assert KEYED not in refused.value.message
        assert refused.value.hint.startswith(f"microwallet config set rpc-url {typed}  (")
        with wallet.configuration.editing() as content:
            content["rpc-url"] = KEYED
    with Wallet.open(environment=environment, flags=flags) as wallet:
        assert "node.example" not in watch_service(wallet, "5s", "15m")
