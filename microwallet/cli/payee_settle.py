"""`microwallet payee settle` and `payee close`: take what the best vouchers are worth, on chain."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from microwallet.cli import completion
from microwallet.cli.context import confirm, open_wallet
from microwallet.cli.options import (
    AccountName,
    DryRun,
    Json,
    NetworkName,
    PasswordFile,
    RelayerName,
    RpcUrl,
    Yes,
)
from microwallet.cli.result import Result
from microwallet.errors import AmbiguousReference, UsageError

if TYPE_CHECKING:
    from microwallet.domain.channel import PayeeChannel
    from microwallet.payee.captures import PlannedCapture, Selection
    from microwallet.wallet import Wallet

Channels = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="CHANNEL", help="Ids, or the starts of them.", autocompletion=completion.paying_channels
    ),
]
All = Annotated[bool, typer.Option("--all", help="Every channel there is something to do for.")]
Minimum = Annotated[
    str | None, typer.Option("--min", metavar="AMOUNT", help="Leave out channels with less unsettled.")
]
Capture = Annotated[
    str | None,
    typer.Option(
        "--capture", metavar="AMOUNT", help="Take less than the voucher allows: the settled total afterwards."
    ),
]


def _capturing(verb: str, described: str) -> Callable[..., Result]:
    """The command that settles, or the one that closes: they are told the same."""

    def capture_all(
        channels: Channels = None,
        all: All = False,
        minimum: Minimum = None,
        capture: Capture = None,
        yes: Yes = False,
        dry_run: DryRun = False,
        network: NetworkName = None,
        account: AccountName = None,
        relayer: RelayerName = None,
        rpc_url: RpcUrl = None,
        password_file: PasswordFile = None,
        json: Json = False,
    ) -> Result:
        with open_wallet(
            network=network, account=account, rpc_url=rpc_url, password_file=password_file, relayer=relayer
        ) as wallet:
            named = _named(wallet, verb, channels or [], all=all, capture=capture)
            selection = _selection(wallet, verb, named, account, minimum, capture)
            return _capture(wallet, selection, named, all=all, yes=yes, dry_run=dry_run)

    capture_all.__doc__ = described
    return capture_all


settle = _capturing("settle", "Take what is owed; the channels stay open.")
close = _capturing("close", "Take what is owed, refund the payers, and finalize the channels.")


def _named(
    wallet: Wallet, verb: str, references: Sequence[str], *, all: bool, capture: str | None
) -> list[PayeeChannel]:
    if references and all:
        raise UsageError("--all and single channels do not go together", hint="name channels, or say --all")
    if capture is not None and len(references) != 1:
        raise UsageError(
            "--capture is for exactly one channel", hint=f"microwallet payee {verb} CHANNEL --capture AMOUNT"
        )
    named = [wallet.ledger.vouchers.find(reference) for reference in references]
    for channel in named:
        if channel.descriptor.chain_id != wallet.network.chain_id:
            raise UsageError(
                f"channel {channel.channel_id} is on chain {channel.descriptor.chain_id}, and"
                f" {wallet.network.name} is chain {wallet.network.chain_id}",
                hint="name its network with --network NAME",
            )
    return named


def _selection(
    wallet: Wallet,
    verb: str,
    named: Sequence[PayeeChannel],
    account: str | None,
    minimum: str | None,
    capture: str | None,
) -> Selection:
    from microwallet.domain.money import unit_of
    from microwallet.payee.captures import Action, Selection

    if minimum is not None:
        unit_of(minimum)
    return Selection(
        action=Action(verb),
        channel_ids=[channel.channel_id for channel in named],
        payee=None if account is None else wallet.account.address,
        minimum=minimum,
        capture=capture,
    )


def _capture(
    wallet: Wallet,
    selection: Selection,
    named: Sequence[PayeeChannel],
    *,
    all: bool,
    yes: bool,
    dry_run: bool,
) -> Result:
    from microwallet.cli import payee_settle_view as view
    from microwallet.cli.max_fee import max_fee
    from microwallet.payee.outcome import Outcome

    settlement, action = wallet.settlement, selection.action
    outcome = Outcome()
    if not dry_run:
        known = named or wallet.ledger.vouchers.live(wallet.network.chain_id)
        outcome = settlement.resume({channel.descriptor.payee for channel in known})
    planned = settlement.plan(selection)
    if len(planned) > 1 and not (named or all):
        raise _several(planned, action)
    if planned:
        if dry_run or not yes:
            fee = max_fee(wallet, lambda: wallet.fees().cost(settlement.most_gas(action, planned)))
            summary = view.summary(action, planned, wallet, fee)
            if dry_run:
                data = view.plan_document(action, planned, fee, now=wallet.now())
                return Result(data=data, text=summary)
            confirm(summary, yes=False)
        outcome.add(settlement.execute(action, planned))
    return Result(
        data=view.outcome_document(outcome, now=wallet.now()) | ({"dryRun": True} if dry_run else {}),
        text=view.outcome_text(outcome) or ("" if outcome.failed else f"nothing to {action}"),
        error=outcome.error(),
    )


def _several(planned: Sequence[PlannedCapture], action: str) -> AmbiguousReference:
    ids = "\n".join(f"  {item.channel.channel_id}" for item in planned)
    return AmbiguousReference(
        f"which channel? There are {len(planned)}:\n{ids}", hint=f"microwallet payee {action} --all"
    )
