"""The command that repeats a `microwallet fetch` under an idempotency key."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from typing import Any

import typer

from microwallet.cli.fetch_secrets import SecretWords

_KEY = "idempotency_key"


def repeats(context: typer.Context) -> Callable[..., str]:
    """For the key of a request: the command as it was typed but for its secrets, with it, and more flags."""
    secret = SecretWords()
    words = " ".join([context.command_path, *_words(context, secret)])
    same = ["data on stdin"] if _reads_stdin(context.params) else []
    same += [f"${name}" for name in secret.variables]
    comment = f"  # with the same {' and '.join(same)}" if same else ""

    def again(key: str, more: str = "") -> str:
        return " ".join(filter(None, [words, more, "--idempotency-key", shlex.quote(key)])) + comment

    return again


def _words(context: typer.Context, secret: SecretWords) -> Iterator[str]:
    for parameter in context.command.params:
        name = parameter.name or ""
        value = context.params.get(name)
        if name == _KEY or value is None or value is False:
            continue
        for one in value if isinstance(value, list | tuple) else [value]:
            if parameter.param_type_name == "option":
                yield parameter.opts[0]
            if one is not True:
                yield secret.quoted(name, str(one))


def _reads_stdin(given: dict[str, Any]) -> bool:
    return any(text in ("-", "@-") for text in given["data"] or ()) or any(
        text.partition("=")[2].partition(";")[0] in ("@-", "<-") for text in given["form"] or ()
    )
