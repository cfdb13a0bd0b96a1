"""Watching: when a payer requests a close, the best voucher is cashed before the grace period ends."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from microwallet.domain.channel import CLOSE_GRACE_PERIOD, ChannelState, PayeeChannel
from microwallet.domain.identifiers import ChannelId
from microwallet.domain.ports import Emit
from microwallet.errors import LedgerBusy, NetworkError, OutcomeUnknown, UsageError
from microwallet.payee.captures import Action, Selection
from microwallet.payee.interruption import Interruption
from microwallet.payee.outcome import Outcome

if TYPE_CHECKING:
    from microwallet.payee.settle import Settlement

LONGEST_PAUSE = 60.0
"""Seconds between two looks at most, however long the chain has been silent."""


def check_margin(seconds: int) -> int:
    """The margin, if it leaves enough time for a transaction that is late.

    A close is sent once no more than `seconds` of the grace period are left: the whole period means
    at once, and less than half of it is refused.
    """
    if not CLOSE_GRACE_PERIOD // 2 <= seconds <= CLOSE_GRACE_PERIOD:
        raise UsageError(
            f"a margin of {seconds} s is not between {CLOSE_GRACE_PERIOD // 2} s, half of the grace period,"
            f" and {CLOSE_GRACE_PERIOD} s, all of it",
            hint=f"--margin {CLOSE_GRACE_PERIOD}  (closes at once)",
        )
    return seconds


class Watch:
    """Follows the channels of one home on one chain, and says what happens to them by `emit`."""

    def __init__(self, settlement: Settlement, *, margin: int, clock: Callable[[], int], emit: Emit) -> None:
        self._settlement = settlement
        self._margin = check_margin(margin)
        self._clock = clock
        self._emit = emit
        self._seen: dict[ChannelId, ChannelState] = {}
        self._said: dict[ChannelId, str] = {}
        self.flaw: NetworkError | None = None
        """Why the last look may have missed what payers do."""

    def run(self, *, interval: float, wait: Callable[[float], None]) -> None:
        """Look again and again, until `wait` or a signal ends it.

        No failure of the chain ends it: it looks again, less and less often while nothing answers.
        What is wrong with the ledger or with the keys is raised.
        """
        pause, interruption = interval, Interruption(self._emit)
        while True:
            try:
                self.look()
            except (NetworkError, OutcomeUnknown, LedgerBusy) as error:
                interruption.begins(error)
                pause = min(max(pause * 2, 1.0), max(interval, LONGEST_PAUSE))
            else:
                pause = interval
                if self.flaw is None:
                    interruption.ends()
                else:
                    interruption.begins(self.flaw)
            wait(pause)

    def look(self) -> Outcome:
        """One look: finish what was sent before, and close what is being closed by its payer.

        Raises NetworkError and OutcomeUnknown; what concerns one channel alone is in the outcome.
        """
        looked = self._settlement.look()
        self.flaw = looked.flaw
        untold = frozenset(looked.untold)
        for channel in looked.channels:
            self._notice(channel, is_untold=channel.channel_id in untold)
        if looked.untold:
            self._settlement.record_told(looked.untold)
        outcome = self._settlement.resume(looked.payees)
        due = [channel for channel in looked.channels if self._is_due(channel, looked.chain_time)]
        if due:
            planned = Selection(action=Action.CLOSE).plan(due)
            outcome.add(self._settlement.execute(Action.CLOSE, planned, by_payer=True))
        self.tell(outcome)
        for failure in outcome.failed:
            if isinstance(failure.error, NetworkError | OutcomeUnknown):
                raise failure.error
        return outcome

    def _is_due(self, channel: PayeeChannel, chain_time: int | None) -> bool:
        """Whether the payer requested a close, money is at stake, and it is time to act."""
        if not (channel.state.close_requested_at and channel.unsettled):
            return False
        # Two clocks: the chain's stands still between blocks, ours may be wrong. The later one counts.
        time = max(self._clock(), chain_time or 0)
        return channel.state.withdrawable_at - time <= self._margin

    def _notice(self, channel: PayeeChannel, *, is_untold: bool) -> None:
        before = self._seen.get(channel.channel_id)
        state = self._seen[channel.channel_id] = channel.state
        if state.finalized:
            # Not by us: by the payer's withdrawal, or by the payee in another process. Where it was done
            # while nobody watched, it is told if money was lost.
            if (is_untold and channel.unpaid) if before is None else not before.finalized:
                self._emit("finalized", _about(channel) | {"unsettled": str(channel.unpaid)})
            return
        if not state.exists:
            if before is None:  # one that is new, and a node that is behind
                del self._seen[channel.channel_id]
            elif before.exists:
                lost = 0 if before.finalized else max(0, channel.spent - before.settled)
                self._emit("missing", _about(channel) | {"unsettled": str(lost)})
            return
        if before is not None and (before.finalized or not before.exists):
            self._emit("reorganised", _about(channel))
        requested = before is not None and before.close_requested_at and not before.finalized
        if state.close_requested_at and not requested:
            self._emit(
                "close-requested",
                _about(channel)
                | {"unsettled": str(channel.unsettled), "withdrawableAt": state.withdrawable_at},
            )
        elif requested and not state.close_requested_at:
            self._emit("close-cancelled", _about(channel))

    def tell(self, outcome: Outcome) -> None:
        """Say what was done, and what was not: each reason of a channel once."""
        for done in outcome.channels:
            self._seen[done.channel.channel_id] = done.channel.state
            self._said.pop(done.channel.channel_id, None)
            self._emit(
                "closed" if done.channel.state.finalized else "settled",
                _about(done.channel)
                | {
                    "captured": str(done.captured),
                    "refunded": str(done.refunded),
                    "transactionHash": done.transaction_hash,
                    "gasUsed": done.gas_used,
                },
            )
        for failure in outcome.failed:
            channel_id, message = failure.channel.channel_id, failure.error.message
            if self._said.get(channel_id) != message:
                self._said[channel_id] = message
                self._emit("failed", _about(failure.channel) | {"code": failure.code, "message": message})


def _about(channel: PayeeChannel) -> dict[str, Any]:
    return {
        "channelId": channel.channel_id,
        "asset": channel.asset.symbol,
        "decimals": channel.asset.decimals,
    }
