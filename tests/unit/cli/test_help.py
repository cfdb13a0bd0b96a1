"""The help of every command: what it does, and lines to type."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
import typer

from microwallet.cli.channel_deposit import chosen_way
from microwallet.cli.main import app, main
from microwallet.errors import UsageError


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
    """An argument is called what the words about it call it, CHANNEL, not channel; it has some of its own."""
    arguments = [one for one in VERBS[path].params if one.param_type_name == "argument"]
    assert all(re.fullmatch(r"[A-Z][A-Z|-]*", argument.metavar) for argument in arguments)
    assert [argument.name for argument in arguments if not argument.help] == []


@pytest.mark.parametrize("path", VERBS, ids=" ".join)
def test_every_option_says_what_it_takes_and_does(path):
    """A value has a name in capitals, not a type and a range that wrap; each option has words of its own."""
    options = [one for one in VERBS[path].params if one.param_type_name == "option"]
    assert [option.name for option in options if not option.help] == []
    valued = [option for option in options if not option.is_flag]
    assert [option.name for option in valued if not re.fullmatch("[A-Z]+", option.metavar or "")] == []
    assert [option.name for option in valued if (option.max or 0) > 2**53] == []


@pytest.mark.parametrize("path", VERBS, ids=" ".join)
def test_an_output_may_be_named_by_a_letter(path):
    """As `curl -o` names it."""
    outputs = [one for one in VERBS[path].params if "--output" in one.opts]
    assert all("-o" in option.opts for option in outputs)


@pytest.mark.parametrize("path", VERBS, ids=" ".join)
def test_one_may_say_yes_by_a_letter(path):
    """-y is --yes wherever there is one."""
    flags = [option.opts for option in VERBS[path].params if "--yes" in option.opts]
    assert flags in ([], [["--yes", "-y"]])


@pytest.mark.parametrize("command", [("serve",), ("payee", "watch")], ids=" ".join)
def test_what_prints_lines_does_not_promise_one_document(command):
    """--json of what runs until it is stopped is an object a line."""
    (json,) = (option for option in VERBS["microwallet", *command].params if option.name == "json")
    assert json.help.endswith("a JSON object a line.")


@pytest.mark.parametrize(
    "words",
    [(), ("channel",), *(path[1:] for path in VERBS)],
    ids=lambda words: " ".join(words) or "microwallet",
)
def test_a_flag_alone_takes_no_value(words, capsys):
    """The help of --yes, --json and --help names no value beside them, and no type."""
    assert main([*words, "--help"]) == 0
    assert "bool" not in capsys.readouterr().out


def test_the_help_of_a_command_breaks_its_lines_where_the_terminal_ends(capsys, monkeypatch):
    """Not where its source does."""
    monkeypatch.setenv("COLUMNS", "80")
    main(["channel", "close", "--help"])
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    at = lines.index("A payee that was paid over HTTP is asked to close at once. Any other has 15")
    assert lines[at + 1 : at + 3] == ["minutes to take what it is owed; withdraw then.", ""]


@pytest.mark.parametrize("column", ["ON CHAIN", "LOCKED", "AUTHORIZED", "FREE", "UNSETTLED"])
def test_the_columns_of_balance_are_explained(column):
    """Each sum of the table, by the name that stands above it."""
    assert f"{column} is " in VERBS["microwallet", "balance"].help


@pytest.mark.parametrize("verb", ["open", "top-up"])
def test_the_ways_of_a_deposit_are_those_of_the_error(verb):
    """What the error of --via offers, its help names."""
    (via,) = [one for one in VERBS["microwallet", "channel", verb].params if one.name == "via"]
    with pytest.raises(UsageError) as refused:
        chosen_way("mail")
    ways = refused.value.message.partition("there are: ")[2].split(", ")
    assert len(ways) == 4
    assert [way for way in ways if way not in via.help] == []
