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
from microwallet.errors import NetworkError, VoucherRejected
from microwallet.payee.accept import Rejection, rejection_by_state
from microwallet.payee.line_stream import batches
from microwallet.payee.verify import Verdict, verify
from microwallet.wallet import Wallet

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
            verdicts = [_on_chain(wallet, verdict) for verdict in verdicts]
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
            verdicts += [too_long] * batch.too_long
    whole = b"\n".join(lines)
    if len(lines) > 1 and len(whole) <= LINE_LIMIT and (single := verify(whole)).document:
        return [single]
    return [verify(line) for line in lines] + verdicts


def _on_chain(wallet: Wallet, verdict: Verdict) -> Verdict:
    document = verdict.document
    if document is None or verdict.rejection is not None:
        return verdict
    if document.descriptor.chain_id != wallet.network.chain_id:
        detail = (
            f"it is for chain {document.descriptor.chain_id}, the network in use is {wallet.network.name}"
        )
        return Verdict(document=document, rejection=Rejection.WRONG_CHAIN, detail=detail)
    if document.descriptor.escrow_contract not in wallet.trusted_escrows:
        detail = f"{document.descriptor.escrow_contract} is no escrow this wallet trusts"
        return Verdict(document=document, rejection=Rejection.WRONG_ESCROW, detail=detail)
    reader = wallet.reader_of(document.descriptor.escrow_contract)
    if not reader.has_code(document.descriptor.escrow_contract):
        raise NetworkError(
            f"there is no escrow at {document.descriptor.escrow_contract} on {wallet.network.name}",
            hint="microwallet escrow deploy",
        )
    state = reader.channel_state(document.channel_id)
    return Verdict(document=document, rejection=rejection_by_state(document.cumulative_amount, state))


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
    amount = verdict.document.cumulative_amount if verdict.document else "-"
    said = f": {verdict.detail}" if verdict.detail else ""
    return f"{name}  {amount}  {verdict.rejection or 'ok'}{said}"
