"""Decorator that makes a function returning a Result a command, and the lazily loaded group."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import typer
from typer.core import TyperGroup

from microwallet.cli.context import Stderr
from microwallet.cli.result import Result, print_result


def command(app: typer.Typer, name: str | None = None, **settings: Any) -> Callable[..., Any]:
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

        app.command(name, **settings)(run)
        return function

    return register


def new_group(help_text: str) -> typer.Typer:
    """A noun with verbs."""
    return typer.Typer(
        help=help_text,
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        pretty_exceptions_show_locals=False,
        rich_markup_mode=None,
    )


@dataclass(frozen=True, slots=True)
class Lazy:
    """Where a command lives: loaded when it is called, named by `help` until then."""

    module: str
    help: str
    panel: str
    hidden: bool = False


def lazy_group(commands: dict[str, Lazy]) -> type[TyperGroup]:
    """A group class whose commands are imported on first use; each module offers `app`."""

    class LazyGroup(TyperGroup):
        def list_commands(self, ctx: Any) -> list[str]:
            return [name for name, entry in commands.items() if not entry.hidden]

        def get_command(self, ctx: Any, cmd_name: str) -> Any:
            entry = commands.get(cmd_name)
            if entry is None:
                return None
            loaded = typer.main.get_command(importlib.import_module(entry.module).app)
            loaded.name = cmd_name
            return loaded

    return LazyGroup
