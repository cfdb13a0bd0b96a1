"""`microwallet payee accept`: verify vouchers, one a line, and keep the best of each channel."""

from __future__ import annotations

from typing import Annotated

import typer

from microwallet.cli.context import open_wallet
from microwallet.cli.options import AccountName, Json, NetworkName, RpcUrl
from microwallet.cli.result import Result
from microwallet.cli.source import Vouchers, reading
from microwallet.domain.money import Amount
from microwallet.errors import MicrowalletError, VoucherRejected
from microwallet.payee.line_stream import take_all
from microwallet.payee.tally import RejectedLine, Tally, tally_document

_SHOWN = 10
"""Rejected lines that a person is shown; a document has more of them."""

ContractSigners = Annotated[
    bool,
    typer.Option(
        "--allow-contract-signers",
        help="Accept ERC-1271 signers too: their word can change after you delivered.",
    ),
]


def accept(
    source: Vouchers,
    network: NetworkName = None,
    account: AccountName = None,
    rpc_url: RpcUrl = None,
    allow_contract_signers: ContractSigners = False,
    json: Json = False,
) -> Result:
    """Verify vouchers and keep the best one of each channel, durably."""
    from microwallet.accepting import acceptance_of

    with open_wallet(network=network, account=account, rpc_url=rpc_url) as wallet:
        acceptance = acceptance_of(wallet, allow_contract_signers=allow_contract_signers)
        with reading(source) as read:
            try:
                take_all(acceptance, read)
            except MicrowalletError as error:
                error.data = tally_document(acceptance.tally)
                raise
    tally = acceptance.tally
    return Result(data=tally_document(tally), text=_text(tally), error=rejected_lines(tally))


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
        f" {len(tally.channels)} {channels}{rejected_table(tally)}"
    )


def rejected_table(tally: Tally) -> str:
    """The first lines that were rejected, one a line, below what comes before; empty where there are none."""
    from microwallet.cli.table import table

    shown = tally.rejected_lines[:_SHOWN]
    if not shown:
        return ""
    numbers = ("LINE", "AMOUNT")
    told = table(("LINE", "CHANNEL", "AMOUNT", "REASON"), [_row(one) for one in shown], right=numbers)
    more = tally.rejected - len(shown)
    told += f"\nand {more} more, by line in --json" if more else ""
    return f"\n{told}"


def _row(rejected: RejectedLine) -> tuple[str, ...]:
    from microwallet.cli.channel_view import shortened

    amount = "-"
    if rejected.cumulative_amount is not None:
        known = rejected.asset and Amount(rejected.cumulative_amount, rejected.asset)
        amount = str(known or f"{rejected.cumulative_amount} base units")
    detail = f": {rejected.detail}" if rejected.detail else ""
    channel = shortened(rejected.channel_id) if rejected.channel_id else "-"
    return str(rejected.line), channel, amount, f"{rejected.reason}{detail}"
