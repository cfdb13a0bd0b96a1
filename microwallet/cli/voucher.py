"""`microwallet voucher verify`: check vouchers offline, or against the chain."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from microwallet.cli.command import command, new_group
from microwallet.cli.context import open_wallet
from microwallet.cli.options import Json, NetworkName, RpcUrl
from microwallet.cli.result import Result
from microwallet.cli.source import Vouchers, reading
from microwallet.domain.voucher_document import LINE_LIMIT
from microwallet.errors import VoucherRejected
from microwallet.payee.line_stream import batches
from microwallet.payee.tally import Rejection
from microwallet.payee.verify import Verdict, verify, verify_on_chain

app = new_group("Check vouchers.")


@app.callback()
def voucher() -> None:
    """Check vouchers."""


@command(app, "verify", "microwallet voucher verify voucher.json --on-chain")
def verify_vouchers(
    source: Vouchers,
    on_chain: Annotated[
        bool, typer.Option("--on-chain", help="Ask the chain about the channel too.")
    ] = False,
    network: NetworkName = None,
    rpc_url: RpcUrl = None,
    json: Json = False,
) -> Result:
    """Check vouchers: id, signature, amount; with --on-chain the channel as well."""
    verdicts = _verdicts(source)
    if on_chain:
        with open_wallet(network=network, rpc_url=rpc_url) as wallet:
            chain_id, trusted = wallet.network.chain_id, wallet.trusted_escrows
            verdicts = [verify_on_chain(one, chain_id, trusted, wallet.reader_of) for one in verdicts]
    bad = sum(verdict.rejection is not None for verdict in verdicts)
    error = None
    if bad or not verdicts:
        error = VoucherRejected(
            f"{bad} of {len(verdicts)} vouchers failed" if verdicts else "there is no voucher"
        )
    return Result(
        data={"vouchers": [_document(verdict) for verdict in verdicts], "failed": bad},
        text="\n".join(_line(verdict) for verdict in verdicts),
        error=error,
    )


def _verdicts(source: str) -> list[Verdict]:
    """One verdict a line; a single object may be spread over several lines."""
    too_long = Verdict(document=None, rejection=Rejection.TOO_LONG, detail="the line is too long")
    lines: list[bytes] = []
    verdicts: list[Verdict] = []
    with reading(source) as read:
        for batch in batches(read):
            lines += batch.lines
            verdicts += [too_long] * len(batch.too_long)
    whole = b"\n".join(lines)
    if len(lines) > 1 and len(whole) <= LINE_LIMIT and (single := verify(whole)).document:
        return [single]
    return [verify(line) for line in lines] + verdicts


def _document(verdict: Verdict) -> dict[str, Any]:
    shown: dict[str, Any] = {"valid": verdict.rejection is None}
    if verdict.document is not None:
        descriptor = verdict.document.descriptor
        shown |= {
            "channelId": verdict.document.channel_id,
            "cumulativeAmount": str(verdict.document.cumulative_amount),
            "signer": descriptor.voucher_signer,
            "payer": descriptor.payer,
            "payee": descriptor.payee,
            "chainId": descriptor.chain_id,
        }
    return shown | {"reason": verdict.rejection, "detail": verdict.detail}


def _line(verdict: Verdict) -> str:
    name = verdict.document.channel_id if verdict.document else "-"
    amount = f"{verdict.document.cumulative_amount} base units" if verdict.document else "-"
    said = f": {verdict.detail}" if verdict.detail else ""
    return f"{name}  {amount}  {verdict.rejection or 'ok'}{said}"
