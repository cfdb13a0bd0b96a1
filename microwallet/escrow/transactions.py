"""Transactions of one account: simulated, journaled, sent, waited for, resumed, cancelled."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial

from microwallet.domain.identifiers import Address, ChannelId
from microwallet.domain.ports import (
    GasBudget,
    JournalEntry,
    Reporter,
    SignedTransaction,
    TransactionJournal,
    TransactionStatus,
)
from microwallet.errors import (
    KeyUnavailable,
    MicrowalletError,
    OutcomeUnknown,
    PaymentRefused,
    TransactionReplaced,
    TransactionReverted,
)
from microwallet.escrow.calls import Call
from microwallet.escrow.delivery import CANCEL, Delivery, OutOfBudget
from microwallet.escrow.fees import Fees, bump, cap_in_wei
from microwallet.escrow.hopeless import why_hopeless
from microwallet.escrow.network import Network
from microwallet.escrow.quotes import Quote, check_funds, quote, quote_again, with_margin
from microwallet.escrow.reader import (
    find_all_mined,
    of_this_chain,
    read_count,
    read_head,
    transaction_count,
)
from microwallet.escrow.receipt import Receipt
from microwallet.escrow.reservation import reserved
from microwallet.escrow.rpc import Rpc
from microwallet.escrow.signing import Intent, sign_transaction

STUCK_SECONDS = 30
"""A transaction that is next in line and still pending after this long is offered a higher fee."""
BURIED_BLOCKS = 256
"""No reorganisation reaches this deep: a missing receipt then means a forgetful server."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Resumed:
    """What became of an earlier transaction that was unfinished. `error` says why it still is."""

    operation: str
    purpose: str
    channel_id: ChannelId | None
    status: TransactionStatus
    receipt: Receipt | None = None
    error: MicrowalletError | None = None


class TransactionSender:
    """Sends the transactions of one account on one network, over any number of processes.

    Invariant: a transaction is in the journal before it leaves the process, and an operation that
    has a mined transaction, or one whose nonce is unused, is never signed at another nonce.
    """

    def __init__(
        self,
        rpc: Rpc,
        network: Network,
        journal: TransactionJournal,
        account_address: Address,
        secret: Callable[[], bytes],
        *,
        max_fee_gwei: float,
        wait_seconds: float,
        reporter: Reporter,
        stuck_seconds: float = STUCK_SECONDS,
        gas_budget: GasBudget | None = None,
    ) -> None:
        self._rpc = rpc
        self._network = network
        self._journal = journal
        self.address = account_address
        self.secret = secret
        """The account key: 32 bytes; may ask for a password."""
        self._cap = cap_in_wei(max_fee_gwei)
        self._wait_seconds = wait_seconds
        self._stuck_seconds = stuck_seconds
        self._reporter = reporter
        self._gas_budget = gas_budget

    def quote(self, call: Call, *, purpose: str, caller: Address | None = None) -> Quote:
        """Simulate and price a call; nothing is signed. Raises as `send` does before signing.

        With `caller`, it is simulated as that one's call, and this account pays for it.
        """
        return quote(
            self._rpc, self._network, self.address, call, purpose=purpose, cap=self._cap, caller=caller
        )

    def send(
        self,
        call: Call,
        *,
        operation: str,
        purpose: str,
        channel_id: ChannelId | None = None,
        quoted: Quote | None = None,
        reserving: AbstractContextManager[None] | None = None,
    ) -> Receipt:
        """Do `call` once for this operation and purpose, and wait for its receipt.

        Where the journal knows a live or mined transaction for them, that one is waited for and
        nothing is signed. `quoted` fixes gas and fees, so that a whole balance can be sent. It is signed and
        journaled while `reserving` is held, which may raise why it must not be.

        Raises ContractReverted (before signing when it is sure, else after mining),
        InsufficientFunds and PaymentRefused (gas above the cap) before signing, TransactionReplaced,
        NetworkError before signing, and OutcomeUnknown after.
        """
        receipt = self.resume(operation, purpose)
        earlier = None if receipt else self._unused(operation, purpose)
        if receipt is None and earlier is None:  # again: it may have used its nonce up itself since
            receipt = self.mined_after_all(operation, purpose)
        if receipt is not None:
            return receipt
        asked = quoted or self.quote(call, purpose=purpose)
        intent = Intent(operation=operation, purpose=purpose, channel_id=channel_id)
        secret = self.secret()  # asked for first: it may prompt or fail, and reserving holds the ledger
        with reserving or nullcontext():
            transaction = self._reserved(secret, intent, call, asked, earlier)
        others = [entry.transaction for entry in self._entries(operation, purpose)]
        delivery = self._delivery([*(one for one in others if one.hash != transaction.hash), transaction])
        delivered = delivery.deliver(fresh=True)
        if delivered is None:
            why = f": {delivery.not_raised.message}" if delivery.not_raised else ""
            raise TransactionReplaced(
                f"{purpose} was cancelled at nonce {transaction.nonce} before it was mined{why}",
                data={"transactionHash": transaction.hash},
            )
        return delivered

    def resume(self, operation: str, purpose: str | None = None) -> Receipt | None:
        """Bring an operation's transaction to its end: the receipt once it is mined.

        None when there is nothing to bring to an end: never signed, reverted, replaced by another
        transaction, or cancelled, as what could only revert is. A mined one that a reorganisation took out is
        sent again.
        """
        entries = self._entries(operation, purpose)
        if not entries:
            return None
        delivery = self._delivery([entry.transaction for entry in entries])
        mined = next((entry for entry in entries if entry.status is TransactionStatus.MINED), None)
        if mined is not None:
            receipt = delivery.receipt_of(mined.transaction) or self._buried(mined)
            if receipt is not None:
                return None if mined.transaction.purpose == CANCEL else receipt
            self._journal.record(mined.transaction.hash, TransactionStatus.BROADCAST)
            delivery.prefer(mined.transaction)
        elif not any(entry.status.is_live for entry in entries):
            return self.mined_after_all(operation, purpose)
        hopeless = self._cancelling_hopeless([entry.transaction for entry in entries])
        if hopeless is not None:
            delivery = self._delivery(hopeless)
        try:
            return delivery.deliver()
        except TransactionReplaced:
            return None

    def resume_all(self, *, wait_seconds: float = 1) -> list[Resumed]:
        """Bring forward every unfinished transaction of this account, lowest nonce first.

        Each is looked up, sent again where it is not mined, or cancelled where it could only revert, and
        waited for shortly; not those behind one that is not mined. Never raises for what became of one; a
        chain that cannot be asked is a NetworkError.
        """
        unfinished = self._journal.unfinished(self._network.chain_id, sender=self.address)
        found = []
        for nonce in sorted({entry.transaction.nonce for entry in unfinished}):
            attempts = [entry.transaction for entry in unfinished if entry.transaction.nonce == nonce]
            found.append(self._resumed(attempts, wait_seconds))
            if isinstance(found[-1].error, OutcomeUnknown):
                wait_seconds = 0
        return found

    def cancel(self, operation: str) -> Receipt | None:
        """Make sure that an operation's unfinished transaction never happens.

        A self-transfer of nothing at its nonce, with higher fees, is journaled and sent. Returns
        None when the operation is cancelled or there is nothing to cancel; the receipt of the
        operation's own transaction when that was mined after all.
        """
        entries = self._entries(operation, None)
        live = [entry.transaction for entry in entries if entry.status.is_live]
        if not live:
            return self.resume(operation)
        delivery = self._delivery(live)
        for transaction in live:
            receipt = delivery.receipt_of(transaction)
            if receipt is not None:
                return self.resume(operation)
        attempts = self._cancelling(live, f"nonce {live[0].nonce}")
        try:
            return self._delivery(attempts).deliver()
        except TransactionReplaced:
            return None

    def _reserved(
        self, secret: bytes, intent: Intent, call: Call, asked: Quote, earlier: SignedTransaction | None
    ) -> SignedTransaction:
        def sign(nonce: int, fees: Fees) -> SignedTransaction:
            return self._signed(secret, intent, nonce=nonce, call=call, gas=asked.gas, fees=fees)

        return reserved(self._rpc, self._network, self._journal, self.address, asked, sign, earlier=earlier)

    def _unused(self, operation: str, purpose: str) -> SignedTransaction | None:
        """An attempt of an operation that is taken for ended, and whose nonce no block has used up; none from
        before the chain was started anew."""
        first = next(iter(self._entries(operation, purpose)), None)
        if first is None or transaction_count(self._rpc, self.address) > first.transaction.nonce:
            return None
        return first.transaction if of_this_chain(partial(read_head, self._rpc), [first]) else None

    def _cancelling_hopeless(
        self, attempts: Sequence[SignedTransaction]
    ) -> Sequence[SignedTransaction] | None:
        """The attempts and a journaled cancellation, where they can only revert; else None."""
        why = why_hopeless(self._rpc, attempts)
        if why is None:
            return None
        return self._cancelling(attempts, f"{attempts[0].purpose} {attempts[0].hash}, which {why},")

    def _cancelling(self, live: Sequence[SignedTransaction], what: str) -> Sequence[SignedTransaction]:
        """The attempts, and a cancellation of `what` they are, which is journaled."""
        cancelling = self._cancellation(live)
        self._journal.replace(cancelling)
        self._reporter.say(f"cancelling {what} by {cancelling.hash}")
        return [*live, cancelling]

    def _cancellation(self, live: Sequence[SignedTransaction]) -> SignedTransaction:
        call = Call(to=self.address)
        gas = read_count(self._rpc.call("eth_estimateGas", [call.request(self.address)]), self._rpc.shown)
        return self._outbid(live, CANCEL, call, with_margin(gas, call))

    def _bumped(self, last: SignedTransaction, call: Call, gas: int) -> SignedTransaction:
        """The same transaction with higher fees; PaymentRefused where the cap, the account's coin or a budget
        is in the way."""
        return self._outbid([last], last.purpose, call, gas)

    def _outbid(
        self, attempts: Sequence[SignedTransaction], purpose: str, call: Call, gas: int
    ) -> SignedTransaction:
        """A transaction at the nonce of attempts that offers more than any of them."""
        first = attempts[0]
        highest = Fees(
            max_fee_per_gas=max(transaction.max_fee_per_gas for transaction in attempts),
            max_priority_fee_per_gas=max(transaction.max_priority_fee_per_gas for transaction in attempts),
        )
        asked = quote_again(
            self._rpc,
            self._network,
            call,
            gas=gas,
            sender=self.address,
            nonce=first.nonce,
            cap=self._cap,
        )
        asked = replace(asked, fees=bump(highest, asked.fees, cap=self._cap))
        check_funds(asked, call, self._network, self.address)
        self._set_more_aside(first.operation, purpose, asked.max_cost)
        intent = Intent(operation=first.operation, purpose=purpose, channel_id=first.channel_id)
        return self._signed(self.secret(), intent, nonce=first.nonce, call=call, gas=gas, fees=asked.fees)

    def _set_more_aside(self, operation: str, purpose: str, wei: int) -> None:
        """OutOfBudget where the gas budget has no room for it; a cancellation needs none."""
        budget, is_needed = self._gas_budget, purpose == CANCEL
        if budget is not None and not budget.set_more_aside(operation, wei, is_needed=is_needed):
            raise OutOfBudget(f"the gas budget of the last hour has no room for more for this {purpose}")

    def _buried(self, entry: JournalEntry) -> Receipt | None:
        """The receipt as journaled, where the block is so deep that a server may have forgotten it."""
        if entry.block_number is None or entry.gas_used is None:
            return None
        head = read_count(self._rpc.call("eth_blockNumber"), self._rpc.shown)
        if head - entry.block_number < BURIED_BLOCKS:
            return None
        return Receipt(
            hash=entry.transaction.hash,
            block_number=entry.block_number,
            gas_used=entry.gas_used,
            effective_gas_price=None,
            logs=(),
        )

    def _resumed(self, attempts: Sequence[SignedTransaction], wait_seconds: float) -> Resumed:
        first = attempts[0]
        status = TransactionStatus.BROADCAST
        receipt: Receipt | None = None
        failure: MicrowalletError | None = None
        try:
            sent = self._cancelling_hopeless(attempts) or attempts
            receipt = self._delivery(sent, wait_seconds=wait_seconds).deliver()
            status = TransactionStatus.REPLACED if receipt is None else TransactionStatus.MINED
        except TransactionReplaced as error:
            status, failure = TransactionStatus.REPLACED, error
        except TransactionReverted as error:
            status, failure = TransactionStatus.REVERTED, error
        except (KeyUnavailable, OutcomeUnknown, PaymentRefused) as error:
            failure = error
            self._reporter.say(f"still pending: {first.purpose} at nonce {first.nonce}, {first.hash}")
        return Resumed(
            operation=first.operation,
            purpose=first.purpose,
            channel_id=first.channel_id,
            status=status,
            receipt=receipt,
            error=failure,
        )

    def mined_after_all(self, operation: str, purpose: str | None) -> Receipt | None:
        """The receipt of a transaction that a server had refused, or a reorganisation had made revert. Sends
        nothing."""
        ended = [entry.transaction for entry in self._ours(operation) if _is_for(entry, purpose)]
        all_mined = find_all_mined(self._rpc, [transaction.hash for transaction in ended])
        for transaction, mined in zip(ended, all_mined, strict=True):
            if mined and mined.succeeded:
                return self._delivery([transaction]).receipt_of(transaction)
        return None

    def _ours(self, operation: str) -> list[JournalEntry]:
        return [
            entry
            for entry in self._journal.of_operation(operation)
            if entry.transaction.chain_id == self._network.chain_id
            and entry.transaction.sender == self.address
        ]

    def _entries(self, operation: str, purpose: str | None) -> list[JournalEntry]:
        """The newest transaction of an operation, with all its attempts, oldest first."""
        ours = self._ours(operation)
        meant = [entry.transaction.nonce for entry in ours if _is_for(entry, purpose)]
        if not meant:
            return []
        nonce = meant[-1]
        return [entry for entry in ours if entry.transaction.nonce == nonce]

    def _delivery(
        self, attempts: Sequence[SignedTransaction], *, wait_seconds: float | None = None
    ) -> Delivery:
        return Delivery(
            self._rpc,
            self._network,
            self._journal,
            attempts,
            resign=self._bumped,
            cancel=self._cancelling,
            reporter=self._reporter,
            gas_budget=self._gas_budget,
            deadline=time.monotonic() + (self._wait_seconds if wait_seconds is None else wait_seconds),
            stuck_seconds=self._stuck_seconds,
        )

    def _signed(
        self, secret: bytes, intent: Intent, *, nonce: int, call: Call, gas: int, fees: Fees
    ) -> SignedTransaction:
        return sign_transaction(
            secret,
            self.address,
            self._network.chain_id,
            intent,
            nonce=nonce,
            call=call,
            gas=gas,
            fees=fees,
        )


def _is_for(entry: JournalEntry, purpose: str | None) -> bool:
    """Whether it does what its operation is for, or this part of it; a cancellation does not."""
    return entry.transaction.purpose != CANCEL and purpose in (None, entry.transaction.purpose)
