"""A deposit: an open or a top-up, how its money moves, and whether the chain has it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum

from microwallet.domain.identifiers import ChannelId


class DepositKind(StrEnum):
    """What a deposit does; the journal's word for its own transaction too."""

    OPEN = "open"
    TOP_UP = "topUp"

    @property
    def noun(self) -> str:
        """What a person calls it."""
        return "open" if self is DepositKind.OPEN else "top-up"


class DepositStatus(StrEnum):
    """Whether the chain has a deposit."""

    PENDING = "pending"
    DONE = "done"
    ABANDONED = "abandoned"


class Way(StrEnum):
    """How the money moves; the ledger keeps it with the deposit."""

    AUTHORIZATION = "authorization"
    PERMIT = "permit"
    ALLOWANCE = "allowance"
    APPROVE = "approve"
    NATIVE = "native"

    @property
    def described(self) -> str:
        """What a person reads before saying yes."""
        return _DESCRIBED[self]

    def gas(self, kind: DepositKind) -> int:
        """Gas the whole way takes, rounded up: what an account should hold before it begins."""
        return _OPEN_GAS[self] if kind is DepositKind.OPEN else _OPEN_GAS[self] - 20_000

    @property
    def uses_allowance(self) -> bool:
        """Whether another deposit of the same token at the same time would get in its way."""
        return self in (Way.PERMIT, Way.ALLOWANCE, Way.APPROVE)


_DESCRIBED = {
    Way.AUTHORIZATION: "one transaction, by a signed transfer of this amount (EIP-3009)",
    Way.PERMIT: "one transaction, by a signed allowance of this amount (EIP-2612)",
    Way.ALLOWANCE: "one transaction, from an allowance the escrow has already",
    Way.APPROVE: "two transactions: an allowance of this amount, then the deposit",
    Way.NATIVE: "one transaction",
}
_OPEN_GAS = {
    Way.AUTHORIZATION: 150_000,
    Way.PERMIT: 150_000,
    Way.ALLOWANCE: 110_000,
    Way.APPROVE: 180_000,
    Way.NATIVE: 80_000,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Deposit:
    """One open or top-up, named by its idempotency key."""

    idempotency_key: str
    kind: DepositKind
    channel_id: ChannelId
    amount: int
    arguments: str
    """The arguments of the command as canonical text: the same key must come with the same ones."""
    way: Way
    authorization_expires_at: int | None
    """Unix seconds at which what was signed for it, a transfer or a permit, expires; None if nothing was."""
    status: DepositStatus
    created_at: int | None = field(default=None, compare=False)
    """Unix seconds at which it was begun, or begun again after it was abandoned; None until then."""

    @property
    def transfer_expires_at(self) -> int | None:
        """Unix seconds until which anyone who has its signed transfer (EIP-3009) can submit it; None if it
        has none: a permit is for its payer alone."""
        return self.authorization_expires_at if self.way is Way.AUTHORIZATION else None


def deposited(deposits: Iterable[Deposit]) -> Counter[ChannelId]:
    """Base units of deposits in all, by channel."""
    amounts: Counter[ChannelId] = Counter()
    for deposit in deposits:
        amounts[deposit.channel_id] += deposit.amount
    return amounts
