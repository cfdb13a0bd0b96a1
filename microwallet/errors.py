"""Every error microwallet raises on purpose: one tree, one exit code and one stable code each.

MicrowalletError                    1  unexpected
├── UsageError                      2  the command or the configuration is wrong
│   ├── InvalidAmount
│   │   └── ZeroAmount
│   ├── UnknownReference               no such account, channel, network, token, ...
│   ├── AmbiguousReference             more than one match; the candidates are listed
│   ├── IdempotencyMismatch            a key that was used with other arguments
│   ├── ConfirmationRequired           money would move, nobody was there to say yes
│   ├── NotTrusted                     a mainnet or an escrow the user has not turned on
│   └── MissingTool                    a program this command needs is not installed
├── NetworkError                    3  the chain could not be asked
│   ├── EscrowMissing                  no contract is where the escrow should be
│   ├── WrongChain
│   ├── ChainStandsStill               its newest block is too old, or its server is behind
│   └── PortTaken
├── PaymentRefused                  4  refused or failed, limits included
│   ├── AmountExceedsDeposit
│   ├── ChannelNotOpen                 opening, closing or finalized
│   ├── CloseNotReady                  the grace period is not over
│   ├── VoucherUnknown                 the highest voucher of a rebuilt channel is not known yet
│   ├── InsufficientFunds
│   ├── VoucherRejected
│   ├── MalformedMessage               what the other side sent is not what the drafts say
│   ├── HttpStatus                     an answer of 400 or above, where that was to be a failure
│   ├── NoPayableChallenge             no offer of the server keeps to the payer's rules
│   └── AboveLimit                     the price is above what the payer agreed to
├── OutcomeUnknown                  5  money may have moved
├── KeyUnavailable                  6  locked, wrong password, of another account
│   └── KeyMissing                     not where it was kept
├── LedgerError                     7  busy or inconsistent
│   ├── LedgerBusy
│   ├── LedgerCorrupt
│   ├── LedgerChanged                  by others; whoever has it open has to start anew
│   │   ├── LedgerReplaced             another file is in its place, or none
│   │   └── LedgerTooNew               a newer microwallet has migrated it
│   └── LedgerUnwritable
├── TransactionReverted             8  mined and reverted, or sure to revert
│   ├── RefundUndeliverable            the payer cannot be paid back, so only a settle goes through
│   └── TransactionReplaced            another transaction took its nonce; this one did nothing
└── Interrupted                   130

`code` is stable and kebab-case; `problem_type` is the draft's problem type where it has one
(draft-evm-session-00, section "Error Responses"). Messages are for people and may change.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

PROBLEM_BASE = "https://paymentauth.org/problems/"


class MicrowalletError(Exception):
    """What happened, with the values, and a command that helps."""

    code: ClassVar[str] = "unexpected"
    exit_code: ClassVar[int] = 1
    problem_type: ClassVar[str | None] = None
    default_hint: ClassVar[str | None] = None

    def __init__(self, message: str, *, hint: str | None = None, data: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint or self.default_hint
        self.data = data
        """What was achieved before the failure; commands print it beside the error."""
        self.streamed = False
        """Whether stdout already carries a stream: the error then goes to stderr, one JSON line."""


class UsageError(MicrowalletError):
    code = "usage"
    exit_code = 2


class InvalidAmount(UsageError):
    code = "invalid-amount"


class ZeroAmount(InvalidAmount):
    pass


class UnknownReference(UsageError):
    code = "not-found"


class AmbiguousReference(UsageError):
    code = "ambiguous"


class IdempotencyMismatch(UsageError):
    code = "idempotency-mismatch"
    default_hint: ClassVar[str | None] = (
        "the same command as before goes on with that one; another key, or none, pays again"
    )


class ConfirmationRequired(UsageError):
    code = "confirmation-required"


class NotTrusted(UsageError):
    code = "not-trusted"


class MissingTool(UsageError):
    code = "missing-tool"


class NetworkError(MicrowalletError):
    code = "network"
    exit_code = 3
    default_hint: ClassVar[str | None] = "microwallet network check"


class EscrowMissing(NetworkError):
    default_hint = "microwallet escrow deploy"

    @property
    def note(self) -> str:
        """The same where it ends nothing: the escrow's channels are told as the ledger has them."""
        return f"{self.message}: its channels are told as they were: microwallet network check"


class WrongChain(NetworkError):
    code = "wrong-chain"


class ChainStandsStill(NetworkError):
    code = "chain-stands-still"


class PortTaken(NetworkError):
    code = "port-taken"
    default_hint = None


class PaymentRefused(MicrowalletError):
    code = "payment-refused"
    exit_code = 4


class AmountExceedsDeposit(PaymentRefused):
    code = "amount-exceeds-deposit"
    problem_type = PROBLEM_BASE + "session/amount-exceeds-deposit"


class ChannelNotOpen(PaymentRefused):
    code = "channel-not-open"


class CloseNotReady(PaymentRefused):
    code = "close-not-ready"


class VoucherUnknown(PaymentRefused):
    code = "voucher-unknown"


class InsufficientFunds(PaymentRefused):
    code = "insufficient-funds"


class VoucherRejected(PaymentRefused):
    code = "voucher-rejected"


class MalformedMessage(PaymentRefused):
    code = "malformed-message"


class HttpStatus(PaymentRefused):
    code = "http-status"


class NoPayableChallenge(PaymentRefused):
    code = "no-payable-challenge"


class AboveLimit(PaymentRefused):
    code = "above-limit"


class OutcomeUnknown(MicrowalletError):
    code = "outcome-unknown"
    exit_code = 5
    default_hint = "microwallet channel sync"


class KeyUnavailable(MicrowalletError):
    code = "key-unavailable"
    exit_code = 6


class KeyMissing(KeyUnavailable):
    code = "key-missing"


class LedgerError(MicrowalletError):
    code = "ledger"
    exit_code = 7
    default_hint = "microwallet doctor"


class LedgerBusy(LedgerError):
    code = "ledger-busy"


class LedgerCorrupt(LedgerError):
    code = "ledger-corrupt"


class LedgerChanged(LedgerError):
    code = "ledger-changed"


class LedgerReplaced(LedgerChanged):
    code = "ledger-replaced"


class LedgerTooNew(LedgerChanged):
    code = "ledger-too-new"


class LedgerUnwritable(LedgerError):
    code = "ledger-unwritable"


class TransactionReverted(MicrowalletError):
    code = "transaction-reverted"
    exit_code = 8
    problem_type = PROBLEM_BASE + "session/transaction-reverted"


class RefundUndeliverable(TransactionReverted):
    code = "refund-undeliverable"


class TransactionReplaced(TransactionReverted):
    code = "transaction-replaced"


class Interrupted(MicrowalletError):
    code = "interrupted"
    exit_code = 130


def did_you_mean(typed: str, known: Iterable[str], *, otherwise: str | None = None) -> str:
    """The known names near what was typed, as the end of a message; else `otherwise`, or all of them."""
    from difflib import get_close_matches

    names = list(known)
    if close := get_close_matches(typed, names, n=3):
        return f"did you mean {' or '.join(close)}?"
    return f"there are: {', '.join(names)}" if otherwise is None else otherwise
