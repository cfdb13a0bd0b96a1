"""Cashing what a gateway was paid: on demand, when much or long ago, and before a payer takes it back."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

from microwallet.domain.channel import CLOSE_GRACE_PERIOD, ChannelState, PayeeChannel
from microwallet.domain.identifiers import Address, ChainId, ChannelId, TxHash
from microwallet.domain.ports import Emit
from microwallet.errors import (
    ChannelNotOpen,
    EscrowMissing,
    LedgerError,
    MicrowalletError,
    NetworkError,
    TransactionReverted,
)
from microwallet.http402.charging.refusal import Refused, refused
from microwallet.http402.charging.revert_problem import revert_problem
from microwallet.http402.wire.problems import ProblemType
from microwallet.ledger.vouchers import Vouchers
from microwallet.payee.captures import Action, Selection
from microwallet.payee.settle import Settlement
from microwallet.payee.watch import Watch

FIRST_PAUSE, LONGEST_PAUSE = 60, 3600
"""Seconds without another try after settling failed: a minute, then twice as long, to an hour."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SettlingPolicy:
    """When what is owed is taken without anybody asking.

    A settlement costs gas whatever it brings, and nothing is at risk while somebody watches: so none
    is due by time alone unless the payee wants that.
    """

    payee: Address
    chain_id: ChainId
    above: Mapping[Address, int] = field(default_factory=dict)
    """By token: base units unsettled on a channel from which it is settled at once."""
    idle_seconds: int | None = None
    """Seconds without a new voucher after which what is unsettled is settled."""


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
        # All of the grace period is to be left when a requested close is answered: at once.
        self._watch = Watch(settlement, margin=CLOSE_GRACE_PERIOD, clock=clock, emit=emit)
        self._pause = 0
        self._next_try = 0

    def look(self) -> Mapping[ChannelId, ChannelState]:
        """One look at all channels: finish what was sent, answer requested closes, settle what is due.

        Returns what the chain said of them before that. Raises NetworkError and OutcomeUnknown: the next look
        goes on. EscrowMissing comes last, when everything is done for the channels of other escrows. What
        concerns a channel alone is told; settling is tried again after a pause.
        """
        self._watch.look()
        due = self._due()
        left = self._next_try - self._clock()
        if due and not 0 < left <= self._pause:  # more is left where the clock was set back
            has_failed = self._settle(due)
            self._pause = min(self._pause * 2 or FIRST_PAUSE, LONGEST_PAUSE) if has_failed else 0
            self._next_try = self._clock() + self._pause
        if isinstance(self._watch.flaw, EscrowMissing):
            raise self._watch.flaw
        return self._settlement.states

    def close(self, channel_id: ChannelId) -> TxHash | None:
        """Close a channel with what was charged; None if it was closed before.

        Refused if the chain refuses, or if it is to be asked for again later; NetworkError.
        """
        selection = Selection(action=Action.CLOSE, channel_ids=[channel_id])
        try:
            outcome = self._settlement.resume([self._policy.payee])
            planned = self._settlement.plan(selection)
            outcome.add(self._settlement.execute(Action.CLOSE, planned, by_payer=True))
        except MicrowalletError as error:
            raise _refusal(channel_id, error) from error
        self._watch.tell(outcome)
        for done in outcome.channels:
            if done.channel.channel_id == channel_id and done.channel.state.finalized:
                return done.transaction_hash
        for failure in outcome.failed:
            if failure.channel.channel_id == channel_id:
                raise _refusal(channel_id, failure.error)
        return None

    def _settle(self, due: Collection[PayeeChannel]) -> bool:
        """Settle channels; whether some of it failed. Payers who leave meanwhile do not wait for the last."""
        has_failed = False
        planned = Selection(action=Action.SETTLE).plan(due)
        for number, part in enumerate(self._settlement.by_transaction(planned)):
            if number:
                self._watch.look()
            try:
                outcome = self._settlement.execute(Action.SETTLE, part)
            except EscrowMissing:
                has_failed = True
                continue
            self._watch.tell(outcome)
            has_failed |= bool(outcome.failed)
        return has_failed

    def _due(self) -> Collection[PayeeChannel]:
        """Channels to settle: what requests in hand have reserved does not count, as it is not taken."""
        policy, certain = self._policy, self._settlement.certain
        due = {
            channel.channel_id: channel
            for token, least in policy.above.items()
            for channel in certain(self._vouchers.owing(policy.chain_id, policy.payee, token, least))
            if channel.unsettled >= max(least, 1)
        }
        if policy.idle_seconds is not None:
            idle = self._vouchers.idle(
                policy.chain_id, policy.payee, since=self._clock() - policy.idle_seconds
            )
            due |= {channel.channel_id: channel for channel in certain(idle) if channel.unsettled}
        return due.values()


def _refusal(channel_id: ChannelId, error: MicrowalletError) -> MicrowalletError:
    """What the payer is told: not what is wrong with the payee's key or purse."""
    if isinstance(error, NetworkError | LedgerError):
        return error
    if isinstance(error, TransactionReverted):
        return Refused(revert_problem(error, channel_id))
    if isinstance(error, ChannelNotOpen):
        detail = "the channel is not on the chain (any more)"
        return refused(ProblemType.CHANNEL_NOT_FOUND, detail, channel_id)
    detail = f"the channel is not closed yet ({error.code}): ask again"
    return refused(ProblemType.TRY_AGAIN, detail, channel_id)
