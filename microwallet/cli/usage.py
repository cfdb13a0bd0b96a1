"""What was typed wrongly, and what to type instead."""

from __future__ import annotations

import itertools
import re
import shlex
from collections.abc import Sequence

import typer

from microwallet.cli.fetch_curl import BEHIND_URL, UNLIKE, of_curl
from microwallet.errors import UsageError

_UNKNOWN_COMMAND = re.compile(r"(No such command '([^']*)'\. Did you mean '([^']*)')[^?]*\?")
"""With the name that is nearest, and others after it."""
_NO_NUMBER = re.compile(r"Input should be a valid integer\b.*")
NUMBER = re.compile(r"[\d.,]+")
"""What is typed for a number; its unit may be the next word."""
_GLOBAL_FLAGS = frozenset({"-q", "--quiet", "-v", "--verbose", "--debug"})


def usage_error(error: typer.TyperException, arguments: Sequence[str]) -> UsageError:
    """The error of the parser, with the command the user may have meant."""
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "microwallet"
    hint = None
    if context is not None and path == "microwallet fetch":
        option = str(getattr(error, "option_name", None))
        hint = of_curl(arguments, context.command.params) or UNLIKE.get(option)
    if hint is None:
        meant = _meant(error, list(arguments))
        is_behind = path == "microwallet fetch" and "extra argument" in error.format_message()
        otherwise = BEHIND_URL if is_behind else f"{path} --help"
        hint = shlex.join(["microwallet", *meant]) if meant else otherwise
    said = _UNKNOWN_COMMAND.sub(r"\1?", error.format_message())
    return UsageError(_NO_NUMBER.sub("a whole number is expected", said), hint=hint)


def _meant(error: typer.TyperException, words: list[str]) -> list[str] | None:
    option = getattr(error, "option_name", None)
    if option in _GLOBAL_FLAGS and option in words[1:]:
        words.remove(option)
        return [option, *words]
    if option == "--json" and words[:1] == ["--json"] and len(words) > 1:
        return [*words[1:], "--json"]
    if unknown := _UNKNOWN_COMMAND.fullmatch(error.format_message()):
        words[words.index(unknown[2])] = unknown[3]
        return words
    if "extra argument" in error.format_message():
        return _with_whole_amount(words)
    return None


def _with_whole_amount(words: list[str]) -> list[str] | None:
    """The words with the first number, or "all", and the unit after it as one word: "10 USDC"."""
    for at, (number, unit) in enumerate(itertools.pairwise(words)):
        if (number == "all" or NUMBER.fullmatch(number)) and re.fullmatch(r"[A-Za-z]{2,}", unit):
            return [*words[:at], f"{number} {unit}", *words[at + 2 :]]
    return None
