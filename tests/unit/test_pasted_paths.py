"""Hints with a path that has a space, as people's folders do: each can be pasted into a shell."""

from __future__ import annotations

import shlex

import pytest

from microwallet.config import Configuration, Paths
from microwallet.errors import MicrowalletError
from microwallet.escrow.devnet_notes import read_note
from microwallet.files import look_at
from microwallet.keys.accounts import Accounts
from microwallet.keys.passwords import PasswordSource
from microwallet.ledger.ledger import Ledger


def read_accounts(folder):
    """The accounts of a folder with a key file that is damaged."""
    (folder / "accounts").mkdir(mode=0o700)
    (folder / "accounts" / "main.json").write_text("{}")
    Accounts(folder, PasswordSource(None, None, lambda _: None), {}, lambda _: None).list()


def open_ledger(folder):
    """A ledger that is gone."""
    (folder / "ledger.mark").write_text("1\n")
    Ledger.open(folder / "ledger.sqlite3")


def read_settings(folder):
    """A configuration that is none."""
    paths = Paths.from_environment({"MICROWALLET_HOME": str(folder)})
    paths.user_file.write_text("=")
    Configuration(paths, {}).get("network")


def read_devnet(folder):
    """A note about a chain that is none."""
    (folder / "note").write_text("")
    read_note(folder / "note")


@pytest.mark.parametrize("fails", [read_accounts, open_ledger, read_settings, read_devnet])
def test_what_is_removed_is_the_file_that_is_meant(tmp_path, fails):
    """`rm` and `mv` get it as one word."""
    folder = tmp_path / "My Documents"
    folder.mkdir(mode=0o700)
    with pytest.raises(MicrowalletError) as raised:
        fails(folder)
    words = shlex.split(raised.value.hint)
    command = words.index("rm" if "rm" in words else "mv")
    assert words[command + 1].startswith(f"{folder}/")


def test_folders_that_are_looked_at(tmp_path):
    """By `ls` and by `df`."""
    folder = tmp_path / "My Documents"
    assert shlex.split(look_at(folder, folder / "file")) == [
        "ls", "-ld", f"{folder}", f"{folder}/file;", "df", "-h", f"{folder}",
    ]  # fmt: skip
