"""Bringing a deposit onto the chain once, however often it is tried."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace

from microwallet.domain.channel import NO_CHANNEL, ChannelState, PayerChannel
from microwallet.domain.deposit import Deposit, DepositKind, DepositStatus, Way
from microwallet.domain.identifiers import Address, TxHash
from microwallet.domain.ports import JournalEntry, TransactionStatus
from microwallet.errors import (
    EscrowMissing,
    LedgerError,
    NetworkError,
    OutcomeUnknown,
    PaymentRefused,
    TransactionReverted,
)
from microwallet.escrow import calls
from microwallet.escrow.artifacts import artifact
from microwallet.escrow.rpc import LAG_SECONDS, RpcError
from microwallet.ledger.ledger import Ledger
from microwallet.payer.close import require_live
from microwallet.payer.deposit_plan import DepositPlan, require_same
from microwallet.payer.open import new_channel
from microwallet.payer.paying_account import PayingAccount
from microwallet.payer.refresh import refreshed
from microwallet.payer.ways import (
    authorization_used,
    deposit_call,
    signing_ends,
    way_now,
)
from microwallet.polling import polls


@dataclass(frozen=True, slots=True, kw_only=True)
class MadeDeposit:
    """A deposit that the chain has. The transaction is None where somebody else sent it."""

    idempotency_key: str
    channel: PayerChannel
    transaction_hash: TxHash | None
    gas_used: int | None
    resumed: bool
    """Whether an earlier run had begun it."""
    cancelled_close: bool = False
    """Whether it cancelled a pending close request."""


@contextmanager
def committed(account: PayingAccount, plan: DepositPlan) -> Iterator[tuple[Deposit, PayerChannel, bool]]:
    """While it is made or signed, in no other process: the deposit of a plan and its channel, in the ledger,
    and whether an earlier run had begun it.

    OutcomeUnknown in place of NetworkError and LedgerError once something was signed that can move money.
    """
    with account.ledger.turns.turn(f"deposit {plan.idempotency_key}"):
        deposit, channel, resumed = _committed(account, plan)
        try:
            yield deposit, channel, resumed
        except (LedgerError, NetworkError) as error:
            if not _can_move_money(account, deposit):
                raise
            done = "the chain cannot be asked about it" if isinstance(error, NetworkError) else "not recorded"
            raise OutcomeUnknown(
                f"the {deposit.kind.noun} was signed, and {done}: {error.message}"
            ) from error


def _committed(account: PayingAccount, plan: DepositPlan) -> tuple[Deposit, PayerChannel, bool]:
    ledger, key = account.ledger, plan.idempotency_key
    deposit = ledger.deposits.find(key)
    resumed = deposit is not None
    if deposit is None:
        with account.keys_held():
            account.secret()  # without the key nothing is begun
            deposit = _begin(account, plan, plan.channel or new_channel(account, plan))
    require_same(deposit, plan.kind, plan.arguments)
    if deposit.status is DepositStatus.ABANDONED:
        ledger.deposits.revive(deposit, plan.label, now=account.clock())
    channel = ledger.channels.get(deposit.channel_id)
    if channel is None:
        raise LedgerError(f"the ledger knows the {plan.kind.noun} {key}, but not its channel")
    return deposit, channel, resumed


def _begin(account: PayingAccount, plan: DepositPlan, channel: PayerChannel) -> Deposit:
    deposit = Deposit(
        idempotency_key=plan.idempotency_key,
        kind=plan.kind,
        channel_id=channel.channel_id,
        amount=plan.amount.base_units,
        arguments=plan.arguments,
        way=plan.way,
        authorization_expires_at=None,
        status=DepositStatus.PENDING,
    )
    return account.ledger.deposits.begin(
        deposit, channel, require_key=account.require_key, now=account.clock()
    )


def make_deposit(account: PayingAccount, plan: DepositPlan) -> MadeDeposit:
    """Commit a deposit and carry it out, or finish what an earlier try left.

    At most one deposit ever happens: an open always has the same channel id, a signed top-up the
    same authorization nonce, and of plain transactions the journal signs no second one while the
    first can still be mined. Processes with the same idempotency key queue: the first makes the deposit,
    the others find it done.

    Raises OutcomeUnknown when the money may have moved; whatever else it raises, it has not.
    """
    try:
        with committed(account, plan) as (deposit, channel, resumed):
            if not finish_earlier_tries(account, deposit, channel):
                _send(account, deposit, channel)
            made = made_deposit(account, deposit, channel, resumed=resumed)
    except (OutcomeUnknown, NetworkError) as error:
        error.hint = _again(account, plan)
        raise
    cancelled = plan.cancels_close and made.channel.state.close_requested_at == 0
    return replace(made, cancelled_close=cancelled)


def _again(account: PayingAccount, plan: DepositPlan) -> str:
    """The command that does, or finishes, exactly this deposit."""
    key = f"--idempotency-key {shlex.quote(plan.idempotency_key)}"
    if plan.channel is not None:
        return f'microwallet channel top-up {plan.channel.channel_id} "{plan.amount}" {key}'
    if account.reader.escrow_contract != artifact("ChannelEscrow").address:
        return f"microwallet channel sync --network {account.network.name}"  # `open` is for our escrow alone
    label = f" --label {shlex.quote(plan.label)}" if plan.label else ""
    token = "" if plan.amount.asset.is_native else f" --token {plan.amount.asset.token}"
    return (
        f'microwallet channel open {plan.payee} "{plan.amount}"{label}{token}'
        f" --network {account.network.name} --account {account.name} {key}"
    )


def _can_move_money(account: PayingAccount, deposit: Deposit) -> bool:
    """Whether something signed for this deposit can still move money. Asks the ledger alone."""
    current = account.ledger.deposits.find(deposit.idempotency_key) or deposit
    ends = current.transfer_expires_at
    if ends is not None and account.clock() < ends:
        return True
    return was_sent(account.ledger, deposit, account.address)


def was_sent(ledger: Ledger, deposit: Deposit, payer: Address) -> bool:
    """Whether a transaction that carries the deposit was mined, or can still be."""
    return any(
        entry.status.is_live or entry.status is TransactionStatus.MINED
        for entry in _entries(ledger, deposit, payer)
    )


def has_landed(account: PayingAccount, deposit: Deposit, channel: PayerChannel) -> bool:
    """Whether the chain has the deposit now. Sends nothing."""
    if deposit.kind is DepositKind.OPEN:
        return account.reader.channel_state(channel.channel_id).exists
    return authorization_used(account, deposit, channel.descriptor) or any(
        entry.status is TransactionStatus.MINED for entry in own_entries(account, deposit)
    )


def own_entries(account: PayingAccount, deposit: Deposit) -> list[JournalEntry]:
    """The account's transactions that carry the deposit itself, not an approve, oldest first."""
    return _entries(account.ledger, deposit, account.address)


def _entries(ledger: Ledger, deposit: Deposit, payer: Address) -> list[JournalEntry]:
    return [
        entry
        for entry in ledger.journal.of_operation(deposit.idempotency_key)
        if entry.transaction.purpose == deposit.kind and entry.transaction.sender == payer
    ]


def finish_earlier_tries(account: PayingAccount, deposit: Deposit, channel: PayerChannel) -> bool:
    """Finish what the journal knows of the deposit; whether the chain has it then."""
    operation = deposit.idempotency_key
    ends = deposit.authorization_expires_at
    entries = account.ledger.journal.of_operation(operation)
    live = any(entry.status.is_live for entry in entries)
    try:
        if live and ends is not None and account.reader.head().timestamp >= ends:
            # What it carries has expired: it could only revert.
            account.sender.cancel(operation)
        else:
            # In the order in which they were signed: a reorganisation may have undone an approve too.
            for purpose in dict.fromkeys(entry.transaction.purpose for entry in entries):
                account.sender.resume(operation, purpose)
    except TransactionReverted as error:
        account.reporter.say(f"an earlier try did not succeed: {error.message}")
    return has_landed(account, deposit, channel)


def _send(account: PayingAccount, deposit: Deposit, channel: PayerChannel) -> None:
    way = way_now(account, deposit, channel.asset)
    turns = account.ledger.turns
    token_turn = f"allowance {channel.asset.chain_id} {channel.asset.token} {account.address}"
    with turns.turn(token_turn) if way.uses_allowance else nullcontext():
        way = way_now(account, deposit, channel.asset)
        try:
            if way is Way.APPROVE:
                _approve(account, deposit, channel)
            expires_at = signing_ends(account, way)
            call = deposit_call(account, deposit, channel.descriptor, way, expires_at)
            # A signature leaves the process with the first simulation, so it is committed before.
            account.ledger.deposits.record(
                deposit.idempotency_key,
                DepositStatus.PENDING,
                way=way,
                authorization_expires_at=expires_at,
            )
            account.sender.send(
                call,
                operation=deposit.idempotency_key,
                purpose=deposit.kind,
                channel_id=channel.channel_id,
            )
        except (TransactionReverted, PaymentRefused):
            if not has_landed(account, deposit, channel):
                _give_up(account, deposit)
                if deposit.kind is DepositKind.TOP_UP:
                    require_live(refreshed(account, channel))  # it may be closed by now
                raise


def _approve(account: PayingAccount, deposit: Deposit, channel: PayerChannel) -> None:
    """Allow exactly the amount. An allowance that was used up meanwhile is given again."""
    token, escrow = channel.asset.token, channel.descriptor.escrow_contract
    mined = sum(
        entry.status is TransactionStatus.MINED and entry.transaction.purpose.startswith("approve")
        for entry in account.ledger.journal.of_operation(deposit.idempotency_key)
    )
    purpose = f"approve{mined}" if mined else "approve"

    def approve(amount: int, purpose: str) -> None:
        account.sender.send(
            calls.approve(token, escrow, amount),
            operation=deposit.idempotency_key,
            purpose=purpose,
            channel_id=channel.channel_id,
        )

    try:
        approve(deposit.amount, purpose)
    except TransactionReverted:
        if account.reader.allowance(token, account.address, escrow) == 0:
            raise
        # Some tokens change an allowance only from or to nothing.
        approve(0, purpose + "Nothing")
        approve(deposit.amount, purpose)


def _give_up(account: PayingAccount, deposit: Deposit) -> None:
    """Abandon a deposit of which nothing that was signed is left in the world."""
    if not _can_move_money(account, deposit) and not own_entries(account, deposit):
        account.ledger.deposits.abandon(deposit)
    entries = account.ledger.journal.of_operation(deposit.idempotency_key)
    if any(entry.transaction.purpose.startswith("approve") for entry in entries):
        account.reporter.say("the escrow may still take what was approved: microwallet escrow allowances")


def _visible(account: PayingAccount, deposit: Deposit, channel: PayerChannel) -> PayerChannel:
    """The channel with the deposit in it, recorded, from a node that may lag."""
    channel_id, channels = channel.channel_id, account.ledger.channels
    for _ in polls(within=LAG_SECONDS, every=0.2):
        channel = channels.newest(channel)
        head = account.reader.head()
        state = _state_with(account, deposit, channel, head.number)
        as_of = max(account.clock(), head.timestamp)
        if state.exists and channels.record_states(
            {channel_id: state}, before={channel_id: channel.state}, as_of=as_of
        ):
            return replace(channel, state=state, as_of=as_of)
    raise OutcomeUnknown(
        f"the {deposit.kind.noun} of channel {channel_id} was mined, and the chain does not show it: it may"
        " have been reorganised"
    )


def _state_with(account: PayingAccount, deposit: Deposit, channel: PayerChannel, block: int) -> ChannelState:
    """The state of a channel at a block that has its deposit; NO_CHANNEL at one that has not, or that the
    node which is asked has not got yet: the newest it has may be older."""
    mined = [
        entry.block_number
        for entry in own_entries(account, deposit)
        if entry.status is TransactionStatus.MINED and entry.block_number is not None
    ]
    try:
        if mined:
            is_in = max(mined) <= block
        else:
            is_in = deposit.kind is DepositKind.OPEN or authorization_used(
                account, deposit, channel.descriptor, block
            )
        return account.reader.channel_state(channel.channel_id, block) if is_in else NO_CHANNEL
    except (RpcError, EscrowMissing):
        return NO_CHANNEL


def made_deposit(
    account: PayingAccount, deposit: Deposit, channel: PayerChannel, *, resumed: bool
) -> MadeDeposit:
    """Record that the chain has a deposit, as soon as it shows it."""
    channel = _visible(account, deposit, channel)
    ledger = account.ledger
    ledger.deposits.record(deposit.idempotency_key, DepositStatus.DONE)
    mined = [entry for entry in own_entries(account, deposit) if entry.status is TransactionStatus.MINED]
    return MadeDeposit(
        idempotency_key=deposit.idempotency_key,
        channel=channel,
        transaction_hash=mined[-1].transaction.hash if mined else None,
        gas_used=mined[-1].gas_used if mined else None,
        resumed=resumed,
    )
