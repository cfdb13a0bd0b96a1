"""`microwallet demo`: ten thousand payments on a throw-away chain, and proof that none is missing."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from microwallet.cli.command import command, new_group
from microwallet.cli.context import Stderr, open_wallet, verbosity
from microwallet.cli.options import Json
from microwallet.cli.result import Result
from microwallet.cli.table import named
from microwallet.devnet.demo import (
    AUTHORIZED_TRANSFER_GAS,
    TRANSFER_GAS,
    Demo,
    DemoFailed,
    DemoReport,
    Progress,
)
from microwallet.domain.money import format_units

app = new_group("See the whole thing work on a throw-away chain.")


@command(app, "demo", "microwallet demo", "microwallet demo --payments 1000 --keep")
def demo(
    payments: Annotated[
        int, typer.Option("--payments", metavar="N", min=1, max=1_000_000, help="How many.")
    ] = 10_000,
    amount: Annotated[str, typer.Option("--amount", metavar="AMOUNT", help="How much each.")] = "0.0001 USDC",
    keep: Annotated[
        bool, typer.Option("--keep", help="Leave the chain and both homes to play with.")
    ] = False,
    json: Json = False,
) -> Result:
    """Open a channel, pay ten thousand times off-chain, close it once: on a throw-away chain."""
    from microwallet.devnet.anvil import find_anvil
    from microwallet.devnet.local_chain import kept_chain, local_chain

    anvil = find_anvil(os.environ, open_wallet().paths.cache, Stderr())
    folder = Path(tempfile.mkdtemp(prefix="microwallet-demo-"))
    with contextlib.ExitStack() as stack:
        if keep:
            chain = stack.enter_context(kept_chain(anvil, folder / "payer" / "devnet"))
        else:
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
            chain = stack.enter_context(local_chain(anvil))
        with _progress_bar(payments) as progress:
            run = Demo(chain, folder, progress)
            report = run.run(payments=payments, amount=amount)
    failure = None if report.conserved else DemoFailed("money is missing: see the balances")
    return Result(
        data=_document(report),
        text=lambda: _table(report),
        error=failure,
        notes=_how_to_go_on(run) if keep else (),
    )


def _document(report: DemoReport) -> dict[str, Any]:
    return {
        "payments": report.payments,
        "amount": str(report.amount.base_units),
        "asset": report.amount.asset.symbol,
        "decimals": report.amount.asset.decimals,
        "onChainTransactions": report.on_chain_transactions,
        "openGas": report.open_gas,
        "closeGas": report.close_gas,
        "payeeReceived": str(report.payee_received),
        "payerRefunded": str(report.payer_refunded),
        "deposit": str(report.deposit),
        "conserved": report.conserved,
        "signedPerSecond": round(report.signed_per_second),
        "verifiedPerSecond": round(report.verified_per_second),
        "channelId": report.channel_id,
        "chainId": report.chain_id,
        "escrowContract": report.escrow_contract,
    }


def _table(report: DemoReport) -> str:
    def money(base_units: int) -> str:
        return format_units(base_units, report.amount.asset.decimals)

    gas = report.open_gas + report.close_gas
    count = report.payments
    symbol = report.amount.asset.symbol
    rows = [
        ("payments", f"{count:,} of {report.amount}"),
        ("on-chain transactions", f"{report.on_chain_transactions}"),
        ("gas", f"{gas:,} (open {report.open_gas:,}, close {report.close_gas:,})"),
        (
            "gas a payment",
            f"{gas / count:,.2f}, {_coins(gas * report.gas_price / count)} at this chain's price",
        ),
        (f"  as {count:,} transfers", f"{TRANSFER_GAS:,} each: {TRANSFER_GAS * count / gas:,.0f} x as much"),
        (
            f"  as {count:,} EIP-3009 payments",
            f"{AUTHORIZED_TRANSFER_GAS:,} each: {AUTHORIZED_TRANSFER_GAS * count / gas:,.0f} x as much",
        ),
        ("vouchers signed", f"{report.signed_per_second:,.0f} a second, durable, process start included"),
        ("vouchers verified", f"{report.verified_per_second:,.0f} a second, durable, process start included"),
    ]
    lines = [named(rows), "", f"{'balances, ' + symbol:<20}{'before':>16}{'after':>16}"]
    for name in ("payer", "payee", "escrow", "total"):
        before, after = getattr(report.before, name), getattr(report.after, name)
        lines.append(f"{name:<20}{money(before):>16}{money(after):>16}")
    lines += [
        "",
        f"deposit {money(report.deposit)} = paid {money(report.payee_received)}"
        f" + refunded {money(report.payer_refunded)} {symbol}:"
        + (" not one base unit is missing" if report.conserved else " THIS DOES NOT ADD UP"),
    ]
    return "\n".join(lines)


def _coins(wei: float) -> str:
    return f"{wei / 1e9:,.1f} gwei"


@contextlib.contextmanager
def _progress_bar(payments: int) -> Iterator[Progress]:
    """A bar on a terminal; else one line a step."""
    if verbosity.quiet or not sys.stderr.isatty():
        said: set[str] = set()

        def say(step: str, _: int) -> None:
            if step not in said:
                said.add(step)
                Stderr().say(step)

        yield say
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("starting a local chain", total=payments)
        yield lambda step, done: bar.update(task, description=step, completed=done)


def _how_to_go_on(run: Demo) -> list[str]:
    """How to use what was kept, and how to end it."""
    notes = ["the chain and both homes are kept:"]
    for role in ("payer", "payee"):
        assignments = " ".join(f"{name}={value}" for name, value in run.environment(role).items())
        notes.append(f"  as the {role}: export {assignments}")
    return [*notes, "  to end the chain, as the payer: microwallet devnet down"]
