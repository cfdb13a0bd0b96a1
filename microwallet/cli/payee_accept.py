"""`microwallet payee accept`: verify vouchers, one a line, and keep the best of each channel."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from microwallet.cli.context import open_wallet
from microwallet.cli.options import AccountName, Json, NetworkName, RpcUrl
from microwallet.cli.result import Result
from microwallet.errors import MicrowalletError, UsageError, VoucherRejected
from microwallet.payee.accept import Acceptance, Rejection, Tally
from microwallet.payee.line_stream import batches

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
    return Result(data=tally_document(tally), text=_text(tally), error=_rejected(tally))


def take_all(acceptance: Acceptance, read: Callable[[int], bytes]) -> None:
    """Feed everything `read` gives to an acceptance, batch by batch."""
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
    """A function that reads what is there of a file or of stdin, without waiting for more."""
    if source == "-":
        descriptor = sys.stdin.fileno()
        yield lambda size: os.read(descriptor, size)
        return
    try:
        with Path(source).open("rb", buffering=0) as file:
            yield lambda size: file.read(size) or b""
    except OSError as error:
        raise UsageError(f"{source} cannot be read: {error.strerror}") from error


def _rejected(tally: Tally) -> VoucherRejected | None:
    if not tally.rejected:
        return None
    reasons = ", ".join(f"{count} {reason}" for reason, count in tally.rejected_by_reason.most_common())
    return VoucherRejected(f"{tally.rejected} of the lines were rejected: {reasons}")


def _text(tally: Tally) -> str:
    channels = "channel" if len(tally.channels) == 1 else "channels"
    return (
        f"accepted {tally.accepted}, duplicates {tally.duplicates}, rejected {tally.rejected};"
        f" {len(tally.channels)} {channels}"
    )
