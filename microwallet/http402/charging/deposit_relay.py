"""Bringing signed deposits onto the chain for payers, at the gateway's cost, each by one transaction.

draft-evm-session-00, sections "Server-Paid Fees" and "Transaction Outcome Checks".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from microwallet.domain.deposit import DepositKind
from microwallet.domain.identifiers import Address, ChainId
from microwallet.domain.ports import Emit, TransactionJournal, TransactionStatus
from microwallet.errors import (
    InsufficientFunds,
    LedgerError,
    MicrowalletError,
    NetworkError,
    OutcomeUnknown,
    TransactionReplaced,
    TransactionReverted,
)
from microwallet.escrow.events import ChannelOpened, EscrowEvents, TopUp
from microwallet.escrow.quotes import Quote
from microwallet.escrow.reader import EscrowReader
from microwallet.escrow.receipt import Receipt
from microwallet.escrow.signing import signed_call
from microwallet.escrow.token_features import authorization_state, authorization_was_carried_out
from microwallet.escrow.transactions import TransactionSender
from microwallet.http402.charging.refusal import Refused, refused
from microwallet.http402.charging.revert_problem import revert_problem
from microwallet.http402.charging.signed_deposit import CheckedDeposit
from microwallet.http402.wire.problems import ProblemType
from microwallet.ledger.gas_spending import GasSpending
from microwallet.ledger.turns import Turns

VALID_SECONDS = 30
"""For how long an authorization must be valid still: until its transaction is mined."""

KEPT_GAS = 1_000_000
"""Gas for which an account that brings deposits keeps the coin, at the price of now: it answers requested
closes too, dozens in one transaction."""


class DepositRelay:
    """Sends the deposits of payers from one account, and finishes what others have sent. Used by one thread;
    processes of a home agree.

    Invariant: an authorization has at most one live or mined transaction, however often it is handed
    in, and the gas of the last hour's transactions is within the budget; the coin for that of closes stays,
    however many weigh it at the same moment.
    Deposits of one payer come one after the other: each is simulated with what the one before has left.
    """

    def __init__(
        self,
        sender: TransactionSender,
        reader: EscrowReader,
        *,
        chain_id: ChainId,
        journal: TransactionJournal,
        sender_of: Callable[[Address], TransactionSender],
        turns: Turns,
        gas_spending: GasSpending,
        gas_budget: int,
        clock: Callable[[], int],
        emit: Emit,
    ) -> None:
        self._sender = sender
        self._reader = reader
        self._chain_id = chain_id
        self._events = EscrowEvents(reader, chain_id)
        self._journal = journal
        self._sender_of = sender_of
        self._turns = turns
        self._gas_spending = gas_spending
        self._gas_budget = gas_budget
        self._clock = clock
        self._emit = emit
        self._said: str | None = None

    def bring(self, deposit: CheckedDeposit) -> int:
        """Send the deposit unless it is on the chain; the channel's deposit with it in, base units.

        Whoever sent it: an authorization can be submitted by anyone. Refused if the payer or the
        chain is in the way; NetworkError and LedgerError as they come.
        """
        with self._turns.turn(f"deposits of {deposit.descriptor.payer}"):
            try:
                receipt = self._brought(deposit)
            except TransactionReverted as error:
                if not self._has_landed(deposit):
                    raise self._refusal(deposit, error) from error
                receipt = None
            except (Refused, NetworkError, LedgerError):
                raise
            except MicrowalletError as error:
                if isinstance(error.__cause__, LedgerError):  # for the operator: it names the file
                    raise error.__cause__ from None
                raise self._refusal(deposit, error) from error
        self._said = None
        return self._deposit_after(deposit, receipt)

    def _brought(self, deposit: CheckedDeposit) -> Receipt | None:
        """The receipt of its transaction; None where somebody else's did it."""
        receipt = self._sender.resume(deposit.operation, deposit.kind)
        if receipt is not None or self._has_landed(deposit):
            return receipt
        for former in self._former_senders(deposit):
            receipt = self._sender_of(former).resume(deposit.operation, deposit.kind)
            if receipt is not None:
                return receipt
        self._check_times(deposit)
        call = deposit.call()
        quoted = self._sender.quote(call, purpose=deposit.kind)
        return self._sender.send(
            call,
            operation=deposit.operation,
            purpose=deposit.kind,
            channel_id=deposit.channel_id,
            quoted=quoted,
            reserving=self._setting_aside(deposit, quoted),
        )

    @contextmanager
    def _setting_aside(self, deposit: CheckedDeposit, quoted: Quote) -> Iterator[None]:
        """Set its gas aside, and let nobody else weigh what the account has left until it is journaled."""
        address = self._sender.address
        with self._turns.turn(f"coin of {address}"):
            # Before the balance, which what is mined meanwhile was taken from.
            pending = self._pending_cost(quoted.fees.data_fee_per_gas)
            needed = pending + quoted.max_cost + quoted.fees.cost(KEPT_GAS)
            if self._reader.native_balance(address) < needed:
                raise InsufficientFunds(f"{address} keeps what coin it has for the gas of closes")
            if not self._gas_spending.set_aside(
                self._chain_id, deposit.operation, quoted.max_cost, budget=self._gas_budget
            ):
                self._say(deposit, "gas-budget", "the gas budget of the last hour is spent")
                raise refused(
                    ProblemType.TRY_AGAIN,
                    "no more gas is paid for deposits this hour: deposit by a transaction of yours, or later",
                    deposit.channel_id,
                )
            yield

    def _pending_cost(self, data_fee_per_gas: int) -> int:
        """Wei that what the account has sent and is not mined yet costs at most."""
        most: dict[int, int] = {}
        for entry in self._journal.unfinished(self._chain_id, sender=self._sender.address):
            transaction = entry.transaction
            call, gas = signed_call(transaction)
            cost = call.value + gas * (transaction.max_fee_per_gas + data_fee_per_gas)
            most[transaction.nonce] = max(cost, most.get(transaction.nonce, 0))
        return sum(most.values())

    def _former_senders(self, deposit: CheckedDeposit) -> list[Address]:
        """Other accounts that sent it, as relayers of before, and whose transaction can still be mined."""
        entries = self._journal.of_operation(deposit.operation)
        senders = {
            entry.transaction.sender
            for entry in entries
            if entry.transaction.chain_id == self._chain_id
            and entry.transaction.purpose == deposit.kind  # not what has cancelled it
            and entry.status not in (TransactionStatus.REVERTED, TransactionStatus.REPLACED)
        }
        return sorted(senders - {self._sender.address})

    def _has_landed(self, deposit: CheckedDeposit) -> bool:
        """Whether the chain has the deposit, whoever sent it."""
        token, payer = deposit.descriptor.token, deposit.descriptor.payer
        nonce = deposit.authorization.nonce
        if deposit.kind is DepositKind.OPEN:
            return self._reader.channel_state(deposit.channel_id).exists
        return authorization_state(self._reader, token, payer, nonce) and authorization_was_carried_out(
            self._reader, token, payer, nonce
        )

    def _check_times(self, deposit: CheckedDeposit) -> None:
        now, authorization = self._clock(), deposit.authorization
        if authorization.valid_after >= now:
            detail = f"the transfer is valid only after {authorization.valid_after}, and it is {now}"
            raise refused(ProblemType.VERIFICATION_FAILED, detail, deposit.channel_id)
        if authorization.valid_before < now + VALID_SECONDS:
            detail = (
                f"the transfer is valid until {authorization.valid_before}, and it is {now}:"
                f" {VALID_SECONDS} s are needed to bring it onto the chain"
            )
            raise refused(ProblemType.VERIFICATION_FAILED, detail, deposit.channel_id)

    def _deposit_after(self, deposit: CheckedDeposit, receipt: Receipt | None) -> int:
        events = [self._events.decode(log) for log in (receipt.logs if receipt else ())]
        told = [
            event.deposit
            for event in events
            if isinstance(event, ChannelOpened | TopUp) and event.channel_id == deposit.channel_id
        ]
        return max(told) if told else self._reader.channel_state(deposit.channel_id).deposit

    def _refusal(self, deposit: CheckedDeposit, error: MicrowalletError) -> Refused:
        """What the client is told; what only the operator can mend, the operator is told."""
        if isinstance(error, OutcomeUnknown):
            detail = "it is not mined yet; the same credential again finds it, and is sent no second time"
            return refused(ProblemType.TRY_AGAIN, detail, deposit.channel_id)
        is_reverted = isinstance(error, TransactionReverted) and not isinstance(error, TransactionReplaced)
        lacks_funds = self._lacks_funds(deposit)
        is_short = isinstance(error, InsufficientFunds) and lacks_funds
        if is_short:  # what it says may be of the coin here
            payer, value = deposit.descriptor.payer, deposit.authorization.value
            error = InsufficientFunds(f"{payer} holds less than {value} of the token")
        if is_reverted or is_short:
            return Refused(revert_problem(error, deposit.channel_id, lacks_funds=lacks_funds))
        self._say(deposit, error.code, error.message)
        detail = "the deposit cannot be brought onto the chain just now"
        return refused(ProblemType.TRY_AGAIN, detail, deposit.channel_id)

    def _lacks_funds(self, deposit: CheckedDeposit) -> bool:
        """Whether it is the payer who has too little: not the account that pays the gas."""
        try:
            held = self._reader.token_balance(deposit.descriptor.token, deposit.descriptor.payer)
        except NetworkError:
            return False
        return held < deposit.authorization.value

    def _say(self, deposit: CheckedDeposit, code: str, message: str) -> None:
        """Once, until a deposit goes through again."""
        if self._said == code:
            return
        self._said = code
        self._emit("deposit-refused", {"channelId": deposit.channel_id, "code": code, "message": message})
