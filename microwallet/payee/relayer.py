"""A payee without gas: it signs what is captured, and another account of its own sends and pays.

draft-evm-session-00, section "Payee-initiated functions". Our types sign the capture amount as well:
without it whoever submits would choose what the payee gets.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass, replace

from microwallet.domain.ports import JournalEntry, TransactionStatus
from microwallet.escrow import authorizations, calls
from microwallet.escrow.calls import Call, Capture
from microwallet.escrow.reader import EscrowReader
from microwallet.escrow.receipt import Receipt
from microwallet.escrow.signing import signed_call
from microwallet.escrow.transactions import TransactionSender
from microwallet.payee.captures import Action

DEADLINE_SECONDS = 5 * 60
"""How long a payee's authorization may be used: long enough for a slow chain, and no longer."""
AUTHORIZATION_GAS = 60_000
"""What a payee's signature and its nonce cost beside the capture, rounded up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Relayer:
    """Sends the captures of one payee, each in a transaction of its own."""

    sender: TransactionSender
    secret: Callable[[], bytes]
    """The payee's key: 32 bytes."""
    reader: EscrowReader
    clock: Callable[[], int]
    """Unix seconds."""

    def send(self, action: Action, capture: Capture, *, operation: str) -> Receipt:
        """Settle or close by a payee's authorization; raises what TransactionSender.send raises.

        It is simulated as the payee's own call, so that the authorization leaves this process only
        inside a transaction that the journal has.
        """
        payee, is_close = capture.descriptor.payee, action is Action.CLOSE
        plain = calls.close(capture) if is_close else calls.settle(capture)
        quoted = self.sender.quote(plain, purpose=action, caller=payee)
        authorization = authorizations.authorize_capture(
            authorizations.CLOSE_TYPE if is_close else authorizations.SETTLE_TYPE,
            self.secret(),
            capture.descriptor,
            cumulative_amount=capture.cumulative_amount,
            capture_amount=capture.capture_amount,
            nonce=secrets.randbits(256),
            deadline=max(self.clock(), self.reader.head().timestamp) + DEADLINE_SECONDS,
        )
        relayed = calls.close_with_authorization if is_close else calls.settle_with_authorization
        return self.sender.send(
            relayed(capture.descriptor, authorization, capture.signature),
            operation=operation,
            purpose=action,
            channel_id=capture.descriptor.channel_id(),
            quoted=replace(quoted, gas=quoted.gas + AUTHORIZATION_GAS),
        )


def can_still_close(entry: JournalEntry, *, chain_time: Callable[[], int]) -> bool:
    """Whether a transaction that closed nothing showed an authorization that others can still use."""
    if entry.status not in (TransactionStatus.REVERTED, TransactionStatus.REPLACED):
        return False
    call, _ = signed_call(entry.transaction)
    return calls.close_deadline(call) is not None and not has_expired(call, chain_time=chain_time)


def has_expired(call: Call, *, chain_time: Callable[[], int]) -> bool:
    """Whether a close is by an authorization that nobody can use any more.

    By the chain's time, which is asked for where it matters: a clock that was set forward would let vouchers
    in, and the close take none of them.
    """
    deadline = calls.close_deadline(call)
    return deadline is not None and chain_time() > deadline + authorizations.EXPIRY_MARGIN
