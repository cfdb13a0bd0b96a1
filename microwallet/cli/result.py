"""What a command returns, and the one place that prints it: human text, or the JSON envelope."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from microwallet.cli.context import interrupted
from microwallet.errors import MicrowalletError, OutcomeUnknown

SCHEMA = 1


@dataclass(frozen=True, slots=True)
class Result:
    """The outcome of a command: data for JSON, text for people, and a failure that left data behind."""

    data: dict[str, Any]
    text: str | Callable[[], str] = ""
    error: MicrowalletError | None = None
    notes: Sequence[str] = field(default_factory=tuple)
    """Said on stderr after the result, e.g. the next command to type."""


def success_envelope(data: dict[str, Any]) -> dict[str, Any]:
    """`{"schema": 1, "ok": true, "data": ...}`."""
    return {"schema": SCHEMA, "ok": True, "data": data}


def error_envelope(error: MicrowalletError, data: dict[str, Any] | None = None) -> dict[str, Any]:
    """`{"schema": 1, "ok": false, "error": ...}`, with `data` where something was achieved."""
    body: dict[str, Any] = {
        "code": error.code,
        "message": error.message,
        "hint": error.hint,
        "exitCode": error.exit_code,
    }
    if error.problem_type:
        body["type"] = error.problem_type
    envelope: dict[str, Any] = {"schema": SCHEMA, "ok": False, "error": body}
    if data is not None:
        envelope["data"] = data
    return envelope


@contextmanager
def writing(sent: str | None = None) -> Iterator[None]:
    """While something goes to stdout: MicrowalletError where that takes nothing.

    OutcomeUnknown where `sent` tells of the transactions that nobody would know of then.
    """
    try:
        yield
    except OSError as error:
        raise output_lost(error, sent) from error


def output_lost(error: OSError, sent: str | None = None) -> MicrowalletError:
    """That stdout took nothing, and what was sent all the same."""
    if sent is not None:
        said = f"it was done, but the output could not be written: {error.strerror}\n{sent.strip()}"
        return OutcomeUnknown(said, hint="microwallet balance")
    if isinstance(error, BrokenPipeError):
        return MicrowalletError("what reads the output has gone away")
    return MicrowalletError(f"the output could not be written: {error.strerror}")


def print_json(document: dict[str, Any]) -> None:
    """One JSON document and a line break on stdout: in plain ASCII where stdout is not UTF-8."""
    sys.stdout.write(json.dumps(document, ensure_ascii=sys.stdout.encoding != "utf-8") + "\n")
    sys.stdout.flush()


def print_result(result: Result, *, as_json: bool) -> int:
    """Print a command's result; returns the exit code."""
    text = result.text() if callable(result.text) else result.text
    is_sent = result.data.get("transactionHash") or result.data.get("transactions")
    with writing(text if is_sent else None):
        _print(result, text, as_json=as_json)
    return result.error.exit_code if result.error else 0


def _print(result: Result, text: str, *, as_json: bool) -> None:
    if as_json:
        if result.error:
            print_json(error_envelope(result.error, result.data))
        else:
            print_json(success_envelope(result.data))
    else:
        if text:
            sys.stdout.write(text.rstrip("\n") + "\n")
            sys.stdout.flush()
        if result.error:
            print_error(result.error, as_json=False)


def print_error(error: MicrowalletError, *, as_json: bool) -> None:
    """Print an error: the envelope on stdout for JSON, else two lines on stderr, if that takes them."""
    if as_json:
        print_json(error_envelope(error, error.data))
        return
    with suppress(OSError):  # the exit code is told all the same
        sys.stderr.write(f"error: {error.message}\n")
        if error.hint:
            sys.stderr.write(f"hint: {error.hint}\n")


@contextmanager
def streaming(*, enabled: bool) -> Iterator[None]:
    """While stdout carries a stream, if it does: what goes wrong is then a line of JSON on stderr.

    Raises Interrupted for Ctrl-C.
    """
    try:
        yield
    except KeyboardInterrupt:
        ended = interrupted()
        ended.streamed = enabled
        raise ended from None
    except MicrowalletError as error:
        error.streamed = enabled
        raise
