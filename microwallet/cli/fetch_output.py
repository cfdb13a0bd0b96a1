"""Where the answer to a `microwallet fetch` goes: a file, a device, a pipe, stdout, or the one document."""

from __future__ import annotations

import os
import shlex
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import FileIO
from typing import TYPE_CHECKING

from microwallet.cli.fetch_flags import FetchFlags
from microwallet.cli.fetch_view import head
from microwallet.errors import UsageError
from microwallet.files import typed_path

if TYPE_CHECKING:
    import httpx


_NOT_MODIFIED = 304
"""Says that what was received before still holds."""


class NotWritten(Exception):
    """A file or stdout does not take what was received; `instead` are the flags by which something does."""

    def __init__(
        self, said: str, *, has_no_reader: bool = False, is_stdout: bool = False, instead: str = ""
    ) -> None:
        super().__init__(said)
        self.has_no_reader = has_no_reader
        self.is_stdout = is_stdout
        self.instead = instead

    @classmethod
    def after(cls, error: OSError, *, is_stdout: bool = False) -> NotWritten:
        """What the system said to it."""
        if isinstance(error, BrokenPipeError):
            return cls("what reads the output has gone away", has_no_reader=True, is_stdout=is_stdout)
        said = f"the answer could not be written ({error.strerror or error})"
        return cls(said, is_stdout=is_stdout)


@contextmanager
def output(path: str | None) -> Iterator[Callable[[bytes], None]]:
    """Writes what is received to a file, a device or a pipe, or to stdout, at once, else raises NotWritten.

    UsageError where the file cannot be opened: it is made at once, and taken away if nothing comes.
    """
    if path in (None, "-"):
        yield _to_stdout
        return
    target = typed_path(str(path))
    is_new = not os.path.lexists(target)
    file = _opened(str(path))
    is_regular = stat.S_ISREG(os.fstat(file.fileno()).st_mode)
    has_come = False

    def write(chunk: bytes) -> None:
        nonlocal has_come
        try:
            if is_regular and not has_come:  # what was there before stays until an answer has come
                file.truncate(0)
            has_come = True
            left = memoryview(chunk)
            while left:
                left = left[file.write(left) :]
        except OSError as error:
            raise NotWritten.after(error) from error

    with file:
        try:
            yield write
        finally:
            if is_new and not has_come and not os.fstat(file.fileno()).st_size:
                target.unlink(missing_ok=True)


def _opened(path: str) -> FileIO:
    target = typed_path(path)
    folder = shlex.quote(str(target.parent))
    try:
        if path.endswith("/") or target.is_dir():
            hint = f"-o {shlex.quote(str(target / 'FILE'))}"
            raise UsageError(f"{path} is a folder, not a file", hint=hint)
        if not target.parent.exists():
            said = f"{path} cannot be written: there is no folder {folder}"
            raise UsageError(said, hint=f"mkdir -p {folder}")
        return target.open("ab", buffering=0)
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}", hint=f"ls -ld {folder}") from error


@contextmanager
def to_stdout() -> Iterator[None]:
    """Something is written to stdout; NotWritten if it cannot be, and nothing more is then."""
    try:
        yield
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise NotWritten.after(error, is_stdout=True) from error


def _to_stdout(chunk: bytes) -> None:
    with to_stdout():
        sys.stdout.buffer.write(chunk)
        sys.stdout.buffer.flush()


class Body:
    """What has come of an answer: written at once, or kept for the document."""

    def __init__(self, flags: FetchFlags, write: Callable[[bytes], None]) -> None:
        self._flags = flags
        self._write = write
        self._kept = bytearray()
        self._last = b""

    @property
    def kept(self) -> bytes:
        """What was not written."""
        return bytes(self._kept)

    def take(self, response: httpx.Response) -> None:
        """All of an answer, as it comes, with its headers where they are wanted."""
        flags = self._flags
        take = self._kept.extend if flags.json and flags.output is None else self._print
        if flags.include and not flags.json:
            take(head(response))
        for chunk in response.iter_raw():
            take(chunk)
        if response.status_code != _NOT_MODIFIED:
            take(b"")  # an empty answer takes the place of what was there, too

    def end_line(self) -> None:
        """What is said after the body begins a line of its own on a terminal."""
        to_stdout = self._flags.output in (None, "-")
        if to_stdout and self._last not in (b"", b"\n") and sys.stdout.isatty():
            self._print(b"\n")

    def _print(self, chunk: bytes) -> None:
        if b"\0" in chunk and self._flags.output is None and sys.stdout.isatty():
            raise NotWritten("the answer is binary, and would garble this terminal", instead="--output FILE")
        self._write(chunk)
        self._last = chunk[-1:] or self._last
