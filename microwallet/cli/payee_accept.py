"""`microwallet payee accept`: verify vouchers, one a line, and keep the best of each channel."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from microwallet.cli.context import Stderr, open_wallet
from microwallet.cli.options import AccountName, Json, NetworkName, RpcUrl
from microwallet.cli.result import Result
from microwallet.errors import MicrowalletError, UsageError, VoucherRejected
from microwallet.payee.accept import Acceptance, Rejection, Tally
from microwallet.payee.line_stream import batches

if TYPE_CHECKING:
    from microwallet.payee.backup import Restoration

Source = Annotated[str, typer.Argument(metavar="FILE|-", help="Vouchers, one JSON object a line.")]
ContractSigners = Annotated[
    bool,
    typer.Option(
        "--allow-contract-signers",
        help="Accept ERC-1271 signers too: their word can change after you delivered.",
    ),
]


def accept(
    source: Source,
    network: NetworkName = None,
    account: AccountName = None,
    rpc_url: RpcUrl = None,
    allow_contract_signers: ContractSigners = False,
    json: Json = False,
) -> Result:
    """Verify vouchers and keep the best one of each channel, durably."""
    with open_wallet(network=network, account=account, rpc_url=rpc_url) as wallet:
        acceptance = wallet.acceptance(allow_contract_signers=allow_contract_signers)
        with reading(source) as read:
            try:
                take_all(acceptance, read)
            except MicrowalletError as error:
                error.data = tally_document(acceptance.tally)
                raise
    tally = acceptance.tally
    return Result(data=tally_document(tally), text=_text(tally), error=rejected_lines(tally))


def take_all(acceptance: Acceptance | Restoration, read: Callable[[int], bytes]) -> None:
    """Feed everything `read` gives to an acceptance or a restoration, batch by batch."""
    for batch in batches(read):
        for _ in range(batch.too_long):
            acceptance.reject(Rejection.TOO_LONG)
        acceptance.take(batch.lines)


def tally_document(tally: Tally) -> dict[str, Any]:
    """A tally as JSON."""
    return {
        "accepted": tally.accepted,
        "duplicates": tally.duplicates,
        "rejected": tally.rejected,
        "rejectedByReason": {str(reason): count for reason, count in tally.rejected_by_reason.items()},
        "channels": list(tally.channels),
    }


@contextmanager
def reading(source: str) -> Iterator[Callable[[int], bytes]]:
    """A function that reads what is there of a file or of stdin, without waiting for more.

    Raises UsageError for what cannot be read.
    """
    with ExitStack() as files:
        with _readable(source):
            if source == "-":
                descriptor = _stdin()
            else:
                descriptor = files.enter_context(Path(source).open("rb", buffering=0)).fileno()

        def read(size: int) -> bytes:
            with _readable(source):
                return os.read(descriptor, size)

        yield read


def _stdin() -> int:
    if sys.stdin is None:
        raise UsageError("there is no stdin to read vouchers from", hint="name a file, or pipe them in")
    if sys.stdin.isatty():
        Stderr().say("reading vouchers, one a line; Ctrl-D ends them")
    return sys.stdin.fileno()


@contextmanager
def _readable(source: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        name = "stdin" if source == "-" else source
        raise UsageError(f"{name} cannot be read: {error.strerror}") from error


def rejected_lines(tally: Tally) -> VoucherRejected | None:
    """The error that says how many lines were rejected, and why; None if none was."""
    if not tally.rejected:
        return None
    reasons = ", ".join(f"{count} {reason}" for reason, count in tally.rejected_by_reason.most_common())
    hint = None
    if tally.wrong_token is not None:
        hint = f"if the token is worth something to you: microwallet network token add {tally.wrong_token}"
    lines = "1 line was" if tally.rejected == 1 else f"{tally.rejected} lines were"
    return VoucherRejected(f"{lines} rejected: {reasons}", hint=hint)


def _text(tally: Tally) -> str:
    channels = "channel" if len(tally.channels) == 1 else "channels"
    return (
        f"accepted {tally.accepted}, duplicates {tally.duplicates}, rejected {tally.rejected};"
        f" {len(tally.channels)} {channels}"
    )
