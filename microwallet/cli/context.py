"""What commands take from their surroundings: the wallet, the terminal, the chatter on stderr."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from microwallet.errors import ConfirmationRequired, Interrupted, NetworkError
from microwallet.wallet import Wallet


@dataclass(slots=True)
class Verbosity:
    """How much is said on stderr: set once from the global flags."""

    quiet: bool = False
    verbose: bool = False
    debug: bool = False


verbosity = Verbosity()


class Stderr:
    """A reporter that says things to a person on stderr. What that does not take stops nothing."""

    def say(self, message: str) -> None:
        """One line, unless -q was given."""
        if not verbosity.quiet:
            with suppress(OSError):
                sys.stderr.write(message + "\n")
                sys.stderr.flush()

    def detail(self, message: str) -> None:
        """One line, if -v was given."""
        if verbosity.verbose:
            self.say(message)


def has_terminal() -> bool:
    """Whether a person can be asked: both the keyboard and stderr are a terminal."""
    return sys.stdin is not None and sys.stdin.isatty() and sys.stderr.isatty()


def open_wallet(
    *,
    network: str | None = None,
    account: str | None = None,
    rpc_url: str | None = None,
    password_file: str | None = None,
    **flags: Any,
) -> Wallet:
    """The wallet of this process, with the flags of this command in force."""
    named = {"network": network, "account": account, "rpc-url": rpc_url, "password-file": password_file}
    prompt: Callable[[str], str] | None = ask_secret if has_terminal() else None
    return Wallet.open(environment=os.environ, flags=named | flags, prompt=prompt, reporter=Stderr())


@contextmanager
def or_offline() -> Iterator[None]:
    """Where the chain cannot be asked, the hint names `--offline` too."""
    try:
        yield
    except NetworkError as error:
        error.hint = f"{error.hint or 'microwallet network check'}  (or add --offline)"
        raise


def ask_secret(question: str) -> str:
    """A password typed by a person; never echoed."""
    import getpass

    try:
        return getpass.getpass(question, stream=sys.stderr)
    except KeyboardInterrupt:
        raise interrupted() from None
    except EOFError:
        raise _nothing_typed() from None


def ask(question: str) -> str:
    """A line typed by a person; the question goes to stderr."""
    sys.stderr.write(question)
    sys.stderr.flush()
    try:
        line = sys.stdin.readline()
    except KeyboardInterrupt:
        raise interrupted() from None
    if not line:
        raise _nothing_typed()
    return line.strip()


def interrupted() -> Interrupted:
    """Ctrl-C, to be said on a line of its own: a terminal shows ^C, or a question, on the one before."""
    _end_line()
    return Interrupted("interrupted")


def _nothing_typed() -> Interrupted:
    _end_line()
    return Interrupted("nothing was typed")


def _end_line() -> None:
    if sys.stderr.isatty():
        sys.stderr.write("\n")


def confirm(summary: str, *, yes: bool, dry_run: bool = True) -> None:
    """Show what is about to happen and ask; without a terminal, `--yes` is needed.

    `dry_run` tells whether the command has a `--dry-run` to name.

    Raises ConfirmationRequired when nobody can be asked, Interrupted when the answer is no.
    """
    if yes:
        return
    if not has_terminal():
        look = ", --dry-run to look" if dry_run else ""
        raise ConfirmationRequired(
            f"this needs --yes, as there is no terminal to ask at: {summary}",
            hint=f"add --yes to do it{look}",
        )
    sys.stderr.write(summary + "\n")
    if ask("Go ahead? [y/N] ").lower() not in ("y", "yes"):
        raise Interrupted("nothing was done")


def confirm_by_name(name: str, given: str | None, warning: str, *, to: str = "go on") -> None:
    """Only the name, given by `--confirm` or typed, lets the command go on; else ConfirmationRequired."""
    if given is None:
        if not has_terminal():
            raise ConfirmationRequired(
                f"this needs --confirm {name}, as there is no terminal to ask at: {warning}",
                hint=f"add --confirm {name} to {to}",
            )
        given = ask(f"{warning}\nType {name} to {to}: ")
    if given != name:
        raise ConfirmationRequired(f"that is not {name}: nothing was done")
