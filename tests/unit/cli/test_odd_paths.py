"""Paths that nobody can follow are wrong arguments, not defects: exit 2."""

from __future__ import annotations

import pytest

from microwallet.cli.main import main

LONG = "x" * 300
"""Longer than a file system's names are: it says so, as it does of a folder that is closed to its caller."""
COMMANDS = (
    "payee export {}",
    "voucher verify {}",
    "fetch http://127.0.0.1:9/ -o {}",
    "fetch http://127.0.0.1:9/ -d @{}",
    "fetch http://127.0.0.1:9/ -F a=<{}",
)


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """Where an empty wallet is, and where its owner stands."""
    monkeypatch.setenv("MICROWALLET_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "home"


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("path", [LONG, "~nobody-of-this-name/x"])
def test_a_path_that_leads_nowhere(command, path, capsys):
    """A name that is too long, the home folder of nobody: which one, and what the system says of it."""
    assert main(command.format(path).split()) == 2
    said = capsys.readouterr().err
    assert f"error: {path} cannot be " in said


def test_a_home_that_cannot_be_looked_into(monkeypatch, home, capsys):
    """Nothing is taken for missing that is only closed."""
    home.mkdir()
    monkeypatch.setenv("MICROWALLET_HOME", f"{home}/{LONG}")
    assert main(["account", "list"]) == 2
    said = capsys.readouterr().err
    assert f"error: {home}/{LONG}/config.toml cannot be read: " in said
    assert f"hint: ls -ld {home}/{LONG} " in said


def test_a_current_folder_that_is_gone(tmp_path, monkeypatch, capsys):
    """Another shell has removed it: there is no file for it, and all else goes on."""
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert main(["config", "show"]) == 0
    assert main(["payee", "export", "vouchers.jsonl"]) == 2
    assert "error: vouchers.jsonl cannot be written: No such file or directory" in capsys.readouterr().err
