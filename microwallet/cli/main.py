"""The `microwallet` command: its verbs, and the one place where errors become exit codes."""

from __future__ import annotations

import atexit
import io
import os
import signal
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from microwallet import __version__
from microwallet.cli.command import Lazy, lazy_group
from microwallet.cli.context import interrupted, verbosity
from microwallet.cli.result import error_envelope, output_lost, print_error
from microwallet.errors import MicrowalletError, UsageError

RESOURCES, ACTIONS, LOCAL = "Resources", "Pay and be paid", "This machine"

COMMANDS = {
    "pay": Lazy("microwallet.cli.pay", ACTIONS),
    "fetch": Lazy("microwallet.cli.fetch", ACTIONS),
    "send": Lazy("microwallet.cli.send", ACTIONS),
    "serve": Lazy("microwallet.cli.serve", ACTIONS),
    "balance": Lazy("microwallet.cli.balance", ACTIONS),
    "voucher": Lazy("microwallet.cli.voucher", ACTIONS),
    "account": Lazy("microwallet.cli.account", RESOURCES),
    "channel": Lazy("microwallet.cli.channel", RESOURCES),
    "payee": Lazy("microwallet.cli.payee", RESOURCES),
    "network": Lazy("microwallet.cli.network", RESOURCES),
    "escrow": Lazy("microwallet.cli.escrow", RESOURCES),
    "config": Lazy("microwallet.cli.config", RESOURCES),
    "devnet": Lazy("microwallet.cli.devnet", LOCAL),
    "demo": Lazy("microwallet.cli.demo", LOCAL),
    "doctor": Lazy("microwallet.cli.doctor", LOCAL),
    "help": Lazy("microwallet.cli.help", LOCAL),
}

app = typer.Typer(
    cls=lazy_group(COMMANDS),
    help="Micropayments from a terminal, over payment channels.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    pretty_exceptions_show_locals=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(value: bool) -> None:
    if value:
        typer.echo(f"microwallet {__version__}")
        raise typer.Exit


@app.callback(epilog="Start here: microwallet demo.  Read on: microwallet help")
def options(
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but the result.")] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Say on stderr what the chain is asked.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show a traceback where an error has one.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Micropayments from a terminal, over payment channels."""
    verbosity.quiet, verbosity.verbose, verbosity.debug = quiet, verbose, debug


def main(arguments: list[str]) -> int:
    """Run one command; the exit code."""
    as_json = "--json" in arguments
    try:
        _check_text(arguments)
        code = typer.main.get_command(app)(arguments, prog_name="microwallet", standalone_mode=False)
    except MicrowalletError as error:
        return _fail(error, as_json)
    except (KeyboardInterrupt, typer.Abort):
        return _fail(interrupted(), as_json)
    except typer._click.exceptions.NoArgsIsHelpError as help_shown:  # noqa: SLF001
        sys.stderr.write(help_shown.format_message() + "\n")
        return UsageError.exit_code
    except typer.TyperException as error:
        from microwallet.cli.usage import usage_error

        return _fail(usage_error(error, arguments), as_json)
    except Exception as error:  # whatever is left is a defect: one line, not a traceback
        if verbosity.debug:
            raise
        unexpected = MicrowalletError(
            f"unexpected {type(error).__name__}: {error}",
            hint="run it again as `microwallet --debug ...` and report what it prints",
        )
        return _fail(unexpected, as_json)
    return code if isinstance(code, int) else 0


def run() -> None:
    """The console script."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by whoever started this: as good as /dev/null
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115  # to the end
    if isinstance(sys.stdout, io.TextIOWrapper):
        with suppress(OSError):
            sys.stdout.reconfigure(errors="backslashreplace")  # as stderr: results are told in any locale
    _hear_of_endings()
    code = main(sys.argv[1:])
    try:
        sys.stdout.flush()
    except OSError as error:
        _close_stdout()
        if code == 0 and not isinstance(error, BrokenPipeError):
            code = _fail(output_lost(error), False)
    _end(code)


def _hear_of_endings() -> None:
    """`kill`, and a terminal that goes away, end a command as Ctrl-C does, which says what has been done."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:  # and not ignored, as by `nohup`
            signal.signal(number, signal.default_int_handler)


def _end(code: int) -> NoReturn:
    """End as `sys.exit` does, but without taking apart what was imported: a quarter of a command's time."""
    if threading.active_count() > 1:  # they are waited for
        sys.exit(code)
    atexit._run_exitfuncs()  # noqa: SLF001  # there is no other way to run them and then end at once
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):
            stream.flush()
    os._exit(code)


def _check_text(arguments: list[str]) -> None:
    """UsageError for bytes that are no text: neither the ledger nor a terminal could take them."""
    for argument in arguments:
        if not argument.isascii() and argument.encode(errors="replace").decode() != argument:
            raise UsageError(f"{argument!a} is not UTF-8 text")


def _fail(error: MicrowalletError, as_json: bool) -> int:
    if verbosity.debug and error.__cause__ is not None:
        import traceback

        traceback.print_exception(error)
    try:
        if error.streamed:
            import json

            sys.stderr.write(json.dumps(error_envelope(error)) + "\n")
        else:
            print_error(error, as_json=as_json)
    except OSError:
        _close_stdout()
        if as_json:
            print_error(error, as_json=False)
    return error.exit_code


def _close_stdout() -> None:
    """What could not be written is dropped."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
