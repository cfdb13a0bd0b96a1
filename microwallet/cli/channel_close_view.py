"""What closing channels will do, and what it did, as text and as JSON."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from microwallet.cli.channel_view import authorized_text, channel_document, local_time, money
from microwallet.cli.channel_withdraw import ending_document, ending_summary, finalized_text, receipt_line
from microwallet.cli.result import Result
from microwallet.domain.channel import CLOSE_GRACE_PERIOD, PayerChannel
from microwallet.domain.money import Amount, sum_text
from microwallet.errors import MicrowalletError, OutcomeUnknown
from microwallet.http402.paying.origins import Origin

if TYPE_CHECKING:
    from microwallet.cli.max_fee import MaxFee
    from microwallet.payer.close import Closing
    from microwallet.paying import PaidByHand
    from microwallet.wallet import Wallet

_SHOWN = 20
_NONE = "no channel is open"
_LATER = f"requested now; withdrawn {CLOSE_GRACE_PERIOD // 60} minutes later at the earliest"

Failure = tuple[PayerChannel, MicrowalletError]


def uncounted_document(by_hand: PaidByHand | None) -> dict[str, str | None]:
    """The member `uncountedPayments`, base units; null where it is not known, or there are none."""
    return {"uncountedPayments": None if by_hand is None else str(by_hand.uncounted)}


def uncounted_text(channel: PayerChannel, by_hand: PaidByHand) -> str:
    """The figure, and the vouchers to hand over."""
    keys = by_hand.idempotency_keys
    words = f"microwallet pay --resume {shlex.quote(keys[-1])}"
    more = "" if len(keys) == 1 else f", and the same for {len(keys) - 1} more before it"
    least = "" if by_hand.is_exact else "at least "
    return (
        f"warning: channel {channel.name}: {least}{money(channel, by_hand.uncounted)} of"
        f" {money(channel, by_hand.total)} paid by hand is not counted by the payee yet, and its close leaves"
        f" it out; hand the vouchers over first: {words}{more}"
    )


def summary_of_one(wallet: Wallet, channel: PayerChannel, fee: MaxFee, *, on_chain: bool) -> str:
    """One screen before a channel is closed."""
    asked = None if on_chain else _asked(wallet, channel)
    rows = [
        ("  authorized", f"{authorized_text(channel)}: the payee can still take {_claim(channel)}"),
        ("  comes back", _back(channel)),
        ("  way", f"asked of {asked}; else {_LATER}" if asked else _LATER),
    ]
    return ending_summary(wallet, channel, "close a channel", rows, _spared(asked) + fee.text)


def summary_of_all(
    wallet: Wallet,
    channels: Sequence[PayerChannel],
    failed: Sequence[Failure],
    fee: MaxFee,
    *,
    on_chain: bool,
) -> str:
    """One screen before every channel is closed: what comes back of each, and of whom the close is asked."""
    if not channels:
        return "\n".join([*_failures(failed), _NONE])
    count = "1 channel" if len(channels) == 1 else f"{len(channels)} channels"
    lines = [f"close {count} on {wallet.network.described}"]
    asked = {one.channel_id: None if on_chain else _asked(wallet, one) for one in channels}
    for channel in channels[:_SHOWN]:
        origin = asked[channel.channel_id]
        way = f"; asked of {origin} first" if origin else ""
        lines.append(f"  {channel.name} to {channel.descriptor.payee}: comes back {_back(channel)}{way}")
    if len(channels) > _SHOWN:
        lines.append(f"  ... and {len(channels) - _SHOWN} more")
    lines += _failures(failed)
    least = sum_text(Amount(one.remaining, one.asset) for one in channels if one.voucher_known)
    lines += [
        f"  in all      {f'at least {least}' if least else 'unknown'}",
        f"  on chain    {_LATER}",
        f"  fee         {_spared(next(filter(None, asked.values()), None))}{fee.text}",
    ]
    return "\n".join(lines)


def closing_result(closing: Closing, *, now: int) -> Result:
    """How far the close of a channel has come, and what to type next."""
    from microwallet.payer.close import CloseStage

    channel = closing.channel
    name = channel.name
    data = ending_document(channel, closing.receipt, now=now) | {"stage": str(closing.stage)}
    if closing.payee_transaction is not None:
        data["transactionHash"] = closing.payee_transaction
        text = (
            f"the payee closed channel {name}: it got {money(channel, channel.state.settled)},"
            f" {money(channel, channel.state.refundable)} came back\ntransaction {closing.payee_transaction}"
        )
        return Result(data=data, text=text)
    if closing.stage is CloseStage.CLOSED:
        return Result(data=data, text=finalized_text(channel))
    if closing.stage is CloseStage.WITHDRAWABLE:
        text = f"the grace period of channel {name} is over: what is left can be taken now"
        return Result(data=data, text=text, notes=[f"microwallet channel withdraw {name}"])
    asked = "requested" if closing.receipt else "requested already"
    text = (
        f"close of channel {name} {asked}: what is left can be taken at"
        f" {local_time(channel.state.withdrawable_at)},"
        f" in {closing.seconds_left} seconds; until then the payee can take what it is owed"
    )
    notes = [f"take the rest then: microwallet channel withdraw {name} --wait"]
    return Result(data=data, text=text + receipt_line(closing.receipt), notes=notes)


def result_of_all(results: Sequence[Result], failed: Sequence[Failure]) -> Result:
    """Everything that was achieved, and under `failed` what was not; an unknown outcome is its error before
    all others."""
    data: dict[str, Any] = {"channels": [result.data for result in results]}
    texts = [str(result.text) for result in results]
    texts += _failures(failed)
    if failed:
        data["failed"] = [
            {"channelId": channel.channel_id, "code": error.code, "message": error.message}
            for channel, error in failed
        ]
    errors = sorted((error for _, error in failed), key=lambda one: not isinstance(one, OutcomeUnknown))
    return Result(
        data=data,
        text="\n".join(texts) or _NONE,
        error=errors[0] if errors else None,
        notes=[note for result in results for note in result.notes],
    )


def plan_document(channel: PayerChannel, by_hand: PaidByHand | None, *, now: int) -> dict[str, Any]:
    """A channel that `--dry-run` would close."""
    return channel_document(channel, now=now) | uncounted_document(by_hand)


def _failures(failed: Sequence[Failure]) -> list[str]:
    return [f"channel {channel.name} cannot be closed: {error.message}" for channel, error in failed]


def _asked(wallet: Wallet, channel: PayerChannel) -> Origin | None:
    """Who is asked to close, if the payee was ever paid over HTTP."""
    from microwallet.paying import last_purchase

    purchase = last_purchase(wallet, channel)
    return None if purchase is None else Origin.of(purchase.url)


def _spared(asked: Origin | None) -> str:
    return "" if asked is None else "none if the payee closes; else "


def _back(channel: PayerChannel) -> str:
    return f"at least {money(channel, channel.remaining)}" if channel.voucher_known else "unknown"


def _claim(channel: PayerChannel) -> str:
    """What of it the payee has not taken yet."""
    settled = channel.state.settled
    return money(channel, max(0, channel.authorized - settled)) if channel.voucher_known and settled else "it"
