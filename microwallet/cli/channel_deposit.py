"""What opening a channel and topping one up have in common on the command line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from microwallet.cli.channel_view import channel_document
from microwallet.cli.context import Stderr
from microwallet.errors import UsageError

if TYPE_CHECKING:
    from microwallet.payer.deposit import MadeDeposit
    from microwallet.payer.open import OpenPlan
    from microwallet.payer.paying_account import PayingAccount
    from microwallet.payer.top_up import TopUpPlan
    from microwallet.payer.ways import Way

Via = Annotated[
    str | None,
    typer.Option(
        "--via",
        metavar="WAY",
        help="authorization, permit or approve; auto, or none, is the shortest the token allows.",
    ),
]


def chosen_way(text: str | None) -> Way | None:
    """The way that `--via` names; None for the shortest."""
    from microwallet.payer.ways import Way

    if text in (None, "auto"):
        return None
    try:
        return Way(text)
    except ValueError:
        ways = f"auto, {Way.AUTHORIZATION}, {Way.PERMIT}, {Way.APPROVE}"
        raise UsageError(f"--via is {text!r}; there are: {ways}") from None


def begun_text(plan: OpenPlan | TopUpPlan) -> str:
    """Beside the title of a summary: that an earlier run began it."""
    return f"resumed: begun as {plan.idempotency_key}" if plan.begun else ""


def way_and_fee(paying: PayingAccount, plan: OpenPlan | TopUpPlan) -> list[tuple[str, str]]:
    """The rows of a summary that say how the money gets there, and for how much."""
    rows = [("  escrow", paying.reader.escrow_contract), ("  way", plan.way.described)]
    if plan.max_fee == 0:
        rows.append(("  fee", "none: it is signed here, and the payee brings it onto the chain"))
    elif plan.max_fee is not None:
        rows.append(("  fee", f"at most {paying.network.coins(plan.max_fee)}"))
    return rows


def plan_document(plan: OpenPlan | TopUpPlan) -> dict[str, Any]:
    """What `--dry-run` tells of how a deposit would be made."""
    return {
        "dryRun": True,
        "way": str(plan.way),
        "maxFee": None if plan.max_fee is None else str(plan.max_fee),
        "resumes": plan.idempotency_key if plan.begun else None,
    }


def say_what_begins(plan: OpenPlan | TopUpPlan, what: str, *, is_new_key: bool) -> None:
    """The key of what is resumed, or a new key that was made for it, on stderr."""
    if plan.begun is not None:
        Stderr().say(f"resuming the {what} begun as {plan.idempotency_key}")
    elif is_new_key:
        Stderr().say(f"idempotency key: {plan.idempotency_key}")


def deposit_document(made: MadeDeposit, *, now: int) -> dict[str, Any]:
    """The channel, and the transaction that put the deposit into it."""
    return channel_document(made.channel, now=now) | {
        "transactionHash": made.transaction_hash,
        "gasUsed": made.gas_used,
        "idempotencyKey": made.idempotency_key,
        "resumed": made.resumed,
    }
