"""What a command reads: a file that is named, or stdin for `-`."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Annotated

import typer

from microwallet.cli.context import Stderr
from microwallet.errors import UsageError
from microwallet.files import typed_path

CHUNK = 64 * 1024

Vouchers = Annotated[str, typer.Argument(metavar="FILE|-", help="Vouchers, one JSON object a line.")]


@contextmanager
def reading(source: str) -> Iterator[Callable[[int], bytes]]:
    """A function that reads what is there of a source, without waiting for more; b"" at the end.

    Raises UsageError for what cannot be read.
    """
    with ExitStack() as files:
        with _readable(source):
            if source == "-":
                descriptor = _stdin()
            else:
                path = typed_path(source)
                descriptor = files.enter_context(path.open("rb", buffering=0)).fileno()

        def read(size: int) -> bytes:
            with _readable(source):
                return os.read(descriptor, size)

        yield read


def read_all(source: str, *, limit: int, what: str) -> bytes:
    """All of a source; UsageError if it is longer than `limit` bytes, which is too long for `what`."""
    content = bytearray()
    with reading(source) as read:
        while chunk := read(CHUNK):
            content += chunk
            if len(content) > limit:
                raise UsageError(f"{source} is too long for {what}: over {limit} bytes")
    return bytes(content)


def _stdin() -> int:
    if sys.stdin is None:
        raise UsageError("there is no stdin to read from", hint="name a file, or pipe it in")
    if sys.stdin.isatty():
        Stderr().say("reading what is typed here; Ctrl-D ends it")
    return sys.stdin.fileno()


@contextmanager
def _readable(source: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        name = "stdin" if source == "-" else source
        hint = None if source == "-" else f"ls -l {shlex.quote(source)}"
        raise UsageError(f"{name} cannot be read: {error.strerror}", hint=hint) from error
