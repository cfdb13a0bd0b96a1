"""The help of every command: what it does, and lines to type."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
import typer

from microwallet.cli.main import app


def _verbs(command: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, child in getattr(command, "commands", {}).items():
        yield from _verbs(child, (*path, name))
    if not hasattr(command, "commands"):
        yield path, command


VERBS = dict(_verbs(typer.main.get_command(app), ("microwallet",)))


@pytest.mark.parametrize("path", VERBS, ids=" ".join)
def test_help_opens_with_an_example(path):
    """The first thing below what a command does is the command as it is typed, on a line of its own."""
    description, examples = VERBS[path].help.split("\b")
    assert description.strip()
    lines = examples.splitlines()
    assert any(re.search(rf"\b{' '.join(path)}\b", line) for line in lines)
    assert [line for line in lines if len(line) > 78] == []


@pytest.mark.parametrize("path", VERBS, ids=" ".join)
def test_arguments_are_named_in_capitals(path):
    """An argument is called what the words about it call it: CHANNEL, not channel or [CHANNEL]."""
    arguments = [one for one in VERBS[path].params if one.param_type_name == "argument"]
    assert all(re.fullmatch(r"[A-Z][A-Z|-]*", argument.metavar) for argument in arguments)
