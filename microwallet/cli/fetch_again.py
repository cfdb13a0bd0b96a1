"""The command that repeats a `microwallet fetch` under an idempotency key."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from typing import Any

import typer

_KEY = "idempotency_key"


def repeats(context: typer.Context) -> Callable[[str], str]:
    """For the key of a request: the command as it was typed, with that key."""
    words = shlex.join([*context.command_path.split(), *_words(context)])
    comment = "  # with the same data on stdin" if _reads_stdin(context.params) else ""
    return lambda key: f"{words} --idempotency-key {shlex.quote(key)}{comment}"


def _words(context: typer.Context) -> Iterator[str]:
    for parameter in context.command.params:
        value = context.params.get(parameter.name or "")
        if parameter.name == _KEY or value is None or value is False:
            continue
        for one in value if isinstance(value, list | tuple) else [value]:
            if parameter.param_type_name == "option":
                yield parameter.opts[0]
            if one is not True:
                yield str(one)


def _reads_stdin(given: dict[str, Any]) -> bool:
    return any(text in ("-", "@-") for text in given["data"] or ()) or any(
        text.partition("=")[2].partition(";")[0] == "@-" for text in given["form"] or ()
    )
