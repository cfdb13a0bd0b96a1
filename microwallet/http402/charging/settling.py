"""Cashing what a gateway was paid: on demand, when much or long ago, and before a payer takes it back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from microwallet.domain.channel import CLOSE_GRACE_PERIOD, PayeeChannel
from microwallet.domain.identifiers import Address, ChannelId, TxHash
from microwallet.errors import MicrowalletError
from microwallet.http402.charging.account import Refused
from microwallet.http402.charging.revert_problem import revert_problem
from microwallet.ledger.vouchers import Vouchers
from microwallet.payee.captures import Action, Selection
from microwallet.payee.outcome import Outcome
from microwallet.payee.settle import Settlement
from microwallet.payee.watch import Emit, Watch


@dataclass(frozen=True, slots=True, kw_only=True)
class SettlingPolicy:
    """When what is owed is taken without anybody asking."""

    payee: Address
    above: int | None = None
    """Base units unsettled on a channel from which it is settled at once."""
    idle_seconds: int | None = None
    """Seconds without a new voucher after which what is unsettled is settled."""
    margin: int = CLOSE_GRACE_PERIOD
    """Of the grace period that must be left when a requested close is answered: all of it, at once."""


class Settling:
    """The settlement of one payee, used by one thread."""

    def __init__(
        self,
        settlement: Settlement,
        vouchers: Vouchers,
        policy: SettlingPolicy,
        *,
        clock: Callable[[], int],
        emit: Emit,
    ) -> None:
        self._settlement = settlement
        self._vouchers = vouchers
        self._policy = policy
        self._clock = clock
        self._watch = Watch(settlement, margin=policy.margin, now=clock, emit=emit)

    def look(self) -> Outcome:
        """One look at all channels: finish what was sent, answer requested closes, settle what is due.

        Raises NetworkError and OutcomeUnknown: the next look goes on.
        """
        outcome = self._watch.look()
        due = [channel for channel in self._vouchers.list(finalized=False) if self._is_due(channel)]
        if due:
            planned = Selection(action=Action.SETTLE).plan(due)
            outcome.add(self._settlement.execute(Action.SETTLE, planned))
        return outcome

    def close(self, channel_id: ChannelId) -> TxHash | None:
        """Close a channel with what was charged; None if it was closed before.

        Refused if the chain refuses; NetworkError and OutcomeUnknown as they come.
        """
        selection = Selection(action=Action.CLOSE, channel_ids=[channel_id])
        outcome = self._settlement.resume([self._policy.payee])
        planned = self._settlement.plan(selection)
        outcome.add(self._settlement.execute(Action.CLOSE, planned))
        for done in outcome.channels:
            if done.channel.channel_id == channel_id and done.channel.state.finalized:
                return done.transaction_hash
        failed = [failure for failure in outcome.failed if failure.channel.channel_id == channel_id]
        if failed:
            raise _refusal(channel_id, failed[0].error)
        return None

    def _is_due(self, channel: PayeeChannel) -> bool:
        if channel.descriptor.payee != self._policy.payee or not channel.unsettled:
            return False
        if self._policy.above is not None and channel.unsettled >= self._policy.above:
            return True
        if self._policy.idle_seconds is None:
            return False
        accepted_at = self._vouchers.accepted_at().get(channel.channel_id, 0)
        return self._clock() - accepted_at >= self._policy.idle_seconds


def _refusal(channel_id: ChannelId, error: MicrowalletError) -> MicrowalletError:
    if error.exit_code != 8:
        return error
    return Refused(revert_problem(error, channel_id))
