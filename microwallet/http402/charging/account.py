"""What a payee has accepted and charged on one channel: the rules, without a store.

draft-evm-session-00, sections "Voucher Verification" and "Server-Side Accounting".
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

from microwallet.domain.identifiers import ChannelId
from microwallet.errors import PaymentRefused
from microwallet.http402.wire.problems import Problem, ProblemType


class Refused(PaymentRefused):
    """A request that is not served, with the problem to answer."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.detail)
        self.problem = problem


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionAccount:
    """0 <= spent <= accepted; accepted never falls, and spent only by what is given back.

    accepted <= deposit as well, unless a reorganisation takes a top-up back. Every transition is to be
    stored before anything is served on its account.
    """

    channel_id: ChannelId
    deposit: int
    """Base units, as the chain says."""
    accepted: int = 0
    """The highest cumulative amount of a voucher: `acceptedCumulative`."""
    spent: int = 0
    """Charged, or reserved by requests that are being served."""
    is_closing: bool = False
    """Whether a close is pending, by payer or payee: what is paid now could come too late."""
    is_finalized: bool = False

    @property
    def available(self) -> int:
        """What is authorized and not spent, base units."""
        return self.accepted - self.spent

    def accept(self, cumulative_amount: int, *, min_voucher_delta: int) -> Self:
        """The account with a voucher whose signature has been verified.

        One that is not higher changes nothing, as the draft wants it. Refused if the channel takes no
        more vouchers, the step is below `min_voucher_delta`, or the deposit does not cover it.
        """
        if self.is_finalized:
            raise self._refused(ProblemType.CHANNEL_FINALIZED, "the channel is finalized: open a new one")
        if self.is_closing:
            raise self._refused(ProblemType.VERIFICATION_FAILED, "a close of the channel is pending")
        if cumulative_amount <= self.accepted:
            return self
        if cumulative_amount - self.accepted < min_voucher_delta:
            raise self._refused(
                ProblemType.DELTA_TOO_SMALL,
                f"{cumulative_amount} is less than {min_voucher_delta} above {self.accepted}",
            )
        if cumulative_amount > self.deposit:
            raise self._refused(
                ProblemType.AMOUNT_EXCEEDS_DEPOSIT,
                f"{cumulative_amount} is above the deposit of {self.deposit}",
            )
        return replace(self, accepted=cumulative_amount)

    def charge(self, cost: int) -> Self:
        """The account with `cost` spent, or reserved; Refused if that much is not available."""
        if cost > self.available:
            raise self._refused(
                ProblemType.INSUFFICIENT_BALANCE,
                f"{cost} is needed, {self.available} is authorized and not spent",
                requiredCumulative=str(self.spent + cost),
                acceptedCumulative=str(self.accepted),
                deposit=str(self.deposit),
            )
        return replace(self, spent=self.spent + cost)

    def give_back(self, reserved: int) -> Self:
        """The account without something that was charged and not used."""
        if not 0 <= reserved <= self.spent:
            raise ValueError(f"{reserved} cannot be given back of {self.spent} spent")
        return replace(self, spent=self.spent - reserved)

    def _refused(self, problem: ProblemType, detail: str, **extensions: str) -> Refused:
        return Refused(
            Problem(type=problem, detail=detail, extensions={"channelId": self.channel_id, **extensions})
        )
