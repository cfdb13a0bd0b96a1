"""Where the password of encrypted keys comes from: a file, a file descriptor, or a prompt."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable

from microwallet.errors import KeyUnavailable
from microwallet.files import shell_path, typed_path

_LENGTH_LIMIT = 4096
_TRIES = 3


class PasswordSource:
    """The password of this process: asked for at most once, never shown.

    `prompt` shows a text and returns what was typed, unseen; it is None where there is no terminal.
    """

    __slots__ = ("_hint", "_known", "_password_file", "_prompt", "_say")

    def __init__(
        self,
        password_file: str | None,
        prompt: Callable[[str], str] | None,
        say: Callable[[str], None] | None = None,
        *,
        flag: str = "--password-file",
    ) -> None:
        self._password_file = password_file
        self._prompt = prompt
        self._say = say
        self._hint = f"give {flag} FILE"
        if flag == "--password-file":
            self._hint += ", or set MICROWALLET_PASSWORD_FILE"
        self._known: str | None = None

    def __repr__(self) -> str:
        return "PasswordSource()"

    @property
    def has_terminal(self) -> bool:
        """Whether somebody is there to answer."""
        return self._prompt is not None

    @property
    def is_to_be_typed(self) -> bool:
        """Whether somebody would have to type it now."""
        return self._known is None and self._password_file is None and self.has_terminal

    @property
    def hint_if_wrong(self) -> str:
        """What else to try where it was not the password of a key."""
        if self._password_file is None:
            return f"type it again; or {self._hint}"
        return f"the first line of {self._password_file} was tried; to try another, {self._hint}"

    def password(self, purpose: str, *, new: bool = False) -> str:
        """The password of `purpose`, e.g. `the key of account alice`; a new one is typed twice.

        Raises KeyUnavailable where there is neither a file nor a terminal.
        """
        if self._known is None:
            if self._password_file is not None:
                self._known = self._read(self._password_file)
            elif self._prompt is not None:
                self._known = _ask_twice(self._prompt, purpose) if new else _ask(self._prompt, purpose)
            else:
                which = "a new password" if new else "the password"
                raise KeyUnavailable(
                    f"{which} for {purpose} is needed, and there is no terminal to ask for it",
                    hint=self._hint,
                )
        return self._known

    def _read(self, path: str) -> str:
        try:
            with typed_path(path).open("rb") as file:
                self._warn_if_readable_by_others(path, os.fstat(file.fileno()))
                line = file.readline(_LENGTH_LIMIT + 2)
        except OSError as error:
            raise KeyUnavailable(
                f"the password file {path} cannot be read: {error.strerror}",
                hint=self._hint,
            ) from error
        line = line.removesuffix(b"\n").removesuffix(b"\r")
        if not line or len(line) > _LENGTH_LIMIT:
            wrong = "is empty" if not line else f"is longer than {_LENGTH_LIMIT} bytes"
            raise KeyUnavailable(f"the first line of the password file {path} {wrong}")
        text = _decoded(line)
        if text is None:
            raise KeyUnavailable(f"the first line of the password file {path} is not UTF-8 text")
        return text

    def _warn_if_readable_by_others(self, path: str, status: os.stat_result) -> None:
        if self._say and stat.S_ISREG(status.st_mode) and status.st_mode & 0o077:
            self._say(
                f"warning: others may read the password file {path}; to mend: chmod 600 {shell_path(path)}"
            )


def _decoded(line: bytes) -> str | None:
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError:
        return None  # the error would carry the password into a traceback


def _ask(prompt: Callable[[str], str], purpose: str) -> str:
    for _ in range(_TRIES):
        if typed := prompt(f"Password for {purpose}: "):
            return typed
    raise KeyUnavailable("a password cannot be empty")


def _ask_twice(prompt: Callable[[str], str], purpose: str) -> str:
    why = ""
    for _ in range(_TRIES):
        first = prompt(f"{why}New password for {purpose}: ")
        if first and prompt("Once more: ") == first:
            return first
        why = "It was empty, or typed differently. "
    raise KeyUnavailable(f"no password was chosen: {_TRIES} times it was empty, or typed differently")
