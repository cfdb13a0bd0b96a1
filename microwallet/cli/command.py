"""Decorator that makes a function returning a Result a command, and the lazily loaded group."""

from __future__ import annotations

import functools
import importlib
import inspect
import re
from collections.abc import Callable, Iterator, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from microwallet.cli.context import Stderr, interrupted
from microwallet.cli.parameters import FastStart
from microwallet.cli.result import Result, print_result, writing
from microwallet.errors import UsageError


def command(app: typer.Typer, name: str, *examples: str, **settings: Any) -> Callable[..., Any]:
    """Register a function that returns a Result; `json` is its flag for the JSON envelope."""

    def register(function: Callable[..., Result]) -> Callable[..., Result]:
        @functools.wraps(function)
        def run(*args: Any, **kwargs: Any) -> None:
            result = function(*args, **kwargs)
            code = print_result(result, as_json=bool(kwargs.get("json")))
            for note in result.notes:
                Stderr().say(note)
            if code:
                raise typer.Exit(code)

        app.command(name, help=help_text(function, *examples), **{"cls": Command, **settings})(run)
        return function

    return register


def help_text(function: Callable[..., object], *examples: str) -> str:
    """What a command does, in paragraphs of one line, and below it lines to type, kept as they are."""
    described = re.sub(r"(?<!\n)\n(?!\n)", " ", inspect.cleandoc(function.__doc__ or ""))
    return described + "\n\n\b" + "\n".join(examples)


class _Helpful(FastStart):
    """A command or group; while its words are read, what it may print is help."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse."""
        try:
            with writing():
                words: list[str] = super().parse_args(ctx, args)  # type: ignore[misc]
        except typer.TyperException as error:
            if getattr(error, "ctx", None) is None:
                error.ctx = ctx  # type: ignore[attr-defined]  # the parser forgets whose words they are
            raise
        return words

    def get_params(self, ctx: Any) -> list[Any]:
        """The parameters; a flag alone takes no value, and its help names none."""
        parameters = super().get_params(ctx)
        for parameter in parameters:
            if getattr(parameter, "is_bool_flag", False):
                parameter.metavar = ""
        return parameters


class Command(_Helpful, TyperCommand):
    """A verb. Ctrl-C is an error like any other: Typer would end it without a word, or a document."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse; an empty word, as of a variable that is not set, names no file, nor does a root."""
        words = super().parse_args(ctx, args)
        for parameter in self.params:
            value = ctx.params.get(parameter.name)
            if value is not None and "FILE" in (parameter.metavar or "") and not Path(value).name:
                given = parameter.opts[-1] if parameter.param_type_name == "option" else "FILE"
                raise UsageError(f"{given} names no file", hint=f"{ctx.command_path} --help")
        return words

    def invoke(self, ctx: Any) -> Any:
        """Run it."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise interrupted() from None


class Group(_Helpful, TyperGroup):
    """A noun."""


class TakesAmount(Command):
    """A command that takes an AMOUNT: "-1 USDC" is a wrong amount, not an option."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse; what begins like a negative number goes to the arguments."""
        ctx.ignore_unknown_options = any(re.match(r"-[^a-zA-Z-]", word) for word in args)
        return super().parse_args(ctx, args)


def new_group(help_text: str) -> typer.Typer:
    """A noun with verbs."""
    return typer.Typer(
        cls=Group,
        help=help_text,
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        pretty_exceptions_show_locals=False,
        rich_markup_mode="rich",
    )


@dataclass(frozen=True, slots=True)
class Lazy:
    """Where a command lives, and under which heading of `--help` it stands."""

    module: str
    panel: str


class LazyCommands(MutableMapping[str, Any]):
    """Commands by name, each imported when it is asked for; every module offers `app`."""

    def __init__(self, table: dict[str, Lazy]) -> None:
        self._table = table
        self._loaded: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._loaded:
            entry = self._table[name]
            loaded = typer.main.get_command(importlib.import_module(entry.module).app)
            loaded.name = name
            loaded.rich_help_panel = entry.panel  # type: ignore[attr-defined]
            self._loaded[name] = loaded
        return self._loaded[name]

    def __setitem__(self, name: str, loaded: Any) -> None:
        self._loaded[name] = loaded

    def __delitem__(self, name: str) -> None:
        del self._loaded[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._table)

    def __len__(self) -> int:
        return len(self._table)


def lazy_group(table: dict[str, Lazy]) -> type[TyperGroup]:
    """A group class whose commands are those of a table, loaded lazily."""

    class LazyGroup(Group):
        def __init__(self, **attributes: Any) -> None:
            super().__init__(**attributes)
            self.commands = LazyCommands(table)

    return LazyGroup
