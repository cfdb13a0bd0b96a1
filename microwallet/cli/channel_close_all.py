"""`microwallet channel close --all`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from microwallet.cli import channel_close_view as view
from microwallet.cli.channel_close_run import Chosen, How
from microwallet.cli.context import confirm
from microwallet.cli.max_fee import max_fee
from microwallet.cli.result import Result
from microwallet.domain.channel import PayerChannel
from microwallet.errors import KeyUnavailable, MicrowalletError

if TYPE_CHECKING:
    from microwallet.payer.close import Closing
    from microwallet.wallet import Wallet


def close_all(wallet: Wallet, how: How) -> Result:
    """Close every channel of the network in use; what fails with one leaves the others alone."""
    chosen, failed = _choose_all(wallet, how)
    opened = [one for one in chosen if one.is_open]
    if how.dry_run or (not how.yes and opened):
        fee = max_fee(wallet, lambda: _cost(opened))
        channels = [one.channel for one in opened]
        summary = view.summary_of_all(wallet, channels, failed, fee, on_chain=how.on_chain)
        if how.dry_run:
            now = wallet.now()
            planned = [view.plan_document(one.channel, one.by_hand, now=now) for one in opened]
            return Result(data={"dryRun": True, "channels": planned} | fee.document, text=summary)
        confirm(summary, yes=False)
    closings: list[tuple[Chosen, Closing]] = []
    for one in chosen:
        with _noting(one.channel, failed):
            closings.append((one, one.close(wallet, how)))
    results: list[Result] = []
    for one, closing in closings:  # each grace period runs by now
        with _noting(one.channel, failed):
            results.append(one.result(wallet, closing, how))
    return view.result_of_all(results, failed)


def _choose_all(wallet: Wallet, how: How) -> tuple[list[Chosen], list[view.Failure]]:
    """The channels of the network in use that are on its chain, and those whose account is not here."""
    chosen: list[Chosen] = []
    failed: list[view.Failure] = []
    for channel in wallet.ledger.channels.list(finalized=False):
        if channel.descriptor.chain_id != wallet.network.chain_id or channel.is_abandoned:
            continue
        with _noting(channel, failed, KeyUnavailable):
            one = Chosen.of(wallet, channel, wallet.account_paying(channel), how)
            if one.channel.state.exists and not one.channel.state.finalized:
                chosen.append(one)
    return chosen, failed


def _cost(chosen: Sequence[Chosen]) -> int:
    """Wei for requesting the closes at most."""
    from microwallet.escrow import calls

    quotes = (
        one.paying.sender.quote(calls.request_close(one.channel.descriptor), purpose="requestClose")
        for one in chosen
    )
    return sum(quote.max_cost for quote in quotes)


@contextmanager
def _noting(
    channel: PayerChannel, failed: list[view.Failure], kind: type[MicrowalletError] = MicrowalletError
) -> Iterator[None]:
    """Take note of what fails with one channel, and go on with the others."""
    try:
        yield
    except kind as error:
        failed.append((channel, error))
