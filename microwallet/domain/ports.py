"""What the use cases and the chain need from elsewhere, as protocols."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

from microwallet.domain.identifiers import Address, ChainId, ChannelId, TxHash

Emit = Callable[[str, Mapping[str, Any]], None]
"""Told of an event, by its name and what there is to say of it."""


class TransactionStatus(StrEnum):
    """What is known of a signed transaction."""

    SIGNED = "signed"
    BROADCAST = "broadcast"
    """Sent, or about to be: a node may have it."""
    MINED = "mined"
    REVERTED = "reverted"
    REPLACED = "replaced"

    @property
    def is_live(self) -> bool:
        """Whether it can still be mined, as far as is known."""
        return self in (TransactionStatus.SIGNED, TransactionStatus.BROADCAST)


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedTransaction:
    """A transaction as signed, before anything left the process."""

    hash: TxHash
    chain_id: ChainId
    sender: Address
    nonce: int
    operation: str
    """The idempotency key of what it does; attempts of one operation share it."""
    purpose: str
    """open, topUp, approve, close, settle, requestClose, withdraw, send, deploy, cancel, ..."""
    channel_id: ChannelId | None
    raw: bytes
    max_fee_per_gas: int
    max_priority_fee_per_gas: int


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalEntry:
    """A journaled transaction and what became of it."""

    transaction: SignedTransaction
    status: TransactionStatus
    block_number: int | None
    gas_used: int | None
    created_at: int | None = field(default=None, compare=False)
    """Unix seconds at which it was signed; None until it is journaled."""


class TransactionJournal(Protocol):
    """Durable memory of signed transactions: every method has committed when it returns."""

    def reserve(
        self,
        chain_id: ChainId,
        sender: Address,
        *,
        chain_nonce: int,
        sign: Callable[[int], SignedTransaction],
    ) -> SignedTransaction:
        """Choose a nonce no live transaction of `sender` has, call `sign` with it, store the result.

        The nonce is the lowest one not below `chain_nonce` that is free. Atomic over processes.
        """

    def replace(self, transaction: SignedTransaction) -> None:
        """Store another attempt at the nonce of an earlier one (fee bump or cancellation)."""

    def begin_sending(self, transaction_hash: TxHash) -> None:
        """A SIGNED transaction is about to be sent: BROADCAST before it leaves."""

    def withdraw(self, transaction_hash: TxHash) -> bool:
        """Make a transaction REPLACED that nobody began to send; False if somebody did."""

    def record_sent(self, transaction_hash: TxHash) -> None:
        """A node took a transaction: one that was taken for REPLACED is BROADCAST again."""

    def record(
        self,
        transaction_hash: TxHash,
        status: TransactionStatus,
        *,
        block_number: int | None = None,
        gas_used: int | None = None,
    ) -> None:
        """Store what became of a transaction. MINED and REVERTED mark the other attempts at its
        nonce REPLACED; a reorganisation may take a mined one back to BROADCAST."""

    def unfinished(self, chain_id: ChainId, *, sender: Address | None = None) -> Sequence[JournalEntry]:
        """Entries that are live, lowest nonce first."""

    def at_nonces(
        self, chain_id: ChainId, sender: Address, *, first: int, before: int
    ) -> Sequence[JournalEntry]:
        """Entries that are live or MINED, at an account's nonces from `first` to below `before`, in order."""

    def of_operation(self, operation: str) -> Sequence[JournalEntry]:
        """Every entry of one operation, oldest first."""

    def beginning_with(self, operation_prefix: str) -> Sequence[JournalEntry]:
        """Every entry whose operation begins with a text, oldest first."""


class GasBudget(Protocol):
    """A limit on the gas that the payee pays for payers' deposits; each operation is one deposit."""

    def set_more_aside(self, operation: str, wei: int, *, is_needed: bool) -> bool:
        """Raise what is set aside for an operation to `wei`, before its transaction is signed again.

        False if the budget has no room for that, unless it `is_needed`. True for an operation that the budget
        does not pay for.
        """

    def record(self, operation: str, wei: int) -> None:
        """Store what an operation's transaction cost in the end."""


class Reporter(Protocol):
    """Where use cases say what they wait for; the command line prints it on stderr."""

    def say(self, message: str) -> None:
        """One line of chatter, for a person."""

    def detail(self, message: str) -> None:
        """One line for whoever wants to know more."""


class Quiet:
    """A reporter that says nothing."""

    def say(self, message: str) -> None:
        """Drop the message."""

    def detail(self, message: str) -> None:
        """Drop the message."""
