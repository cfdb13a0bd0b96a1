"""Bringing a deposit onto the chain once, however often it is tried."""

from __future__ import annotations

import secrets
import time
from contextlib import nullcontext
from dataclasses import dataclass, replace

from microwallet.domain.channel import NO_CHANNEL, ChannelState, PayerChannel
from microwallet.domain.identifiers import TxHash
from microwallet.domain.ports import JournalEntry, TransactionStatus
from microwallet.errors import (
    EscrowMissing,
    IdempotencyMismatch,
    NetworkError,
    OutcomeUnknown,
    PaymentRefused,
    TransactionReverted,
)
from microwallet.escrow import calls
from microwallet.escrow.rpc import LAG_SECONDS, RpcError
from microwallet.ledger.deposits import Deposit, DepositKind, DepositStatus
from microwallet.payer.pay import check_idempotency_key
from microwallet.payer.paying_account import PayingAccount
from microwallet.payer.ways import (
    Way,
    authorization_used,
    deposit_call,
    signing_ends,
    way_now,
)


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


def begun_deposit(
    account: PayingAccount, kind: DepositKind, arguments: str, idempotency_key: str | None
) -> Deposit | None:
    """What an earlier run began under this key, or without a key with the same arguments.

    Raises IdempotencyMismatch if the key was used with other arguments.
    """
    deposits = account.ledger.deposits
    if idempotency_key is None:
        return next((begun for begun in deposits.pending() if begun.arguments == arguments), None)
    begun = deposits.find(check_idempotency_key(idempotency_key))
    if begun is not None:
        require_same(begun, kind, arguments)
    return begun


def new_deposit_key(kind: DepositKind) -> str:
    """An idempotency key nobody used before."""
    return ("open-" if kind is DepositKind.OPEN else "top-up-") + secrets.token_hex(12)


def require_same(deposit: Deposit, kind: DepositKind, arguments: str) -> None:
    """IdempotencyMismatch unless a deposit was begun with these arguments."""
    if deposit.kind is kind and deposit.arguments == arguments:
        return
    raise IdempotencyMismatch(
        f"the idempotency key {deposit.idempotency_key!r} was used for another deposit: {deposit.kind}"
        f" {deposit.arguments}; nothing was sent",
        hint="take another key, or the same arguments",
    )


def make_deposit(
    account: PayingAccount, deposit: Deposit, channel: PayerChannel, *, again: str, resumed: bool
) -> MadeDeposit:
    """Carry a committed deposit out, or finish what an earlier try left; `again` is the command for that.

    At most one deposit ever happens: an open always has the same channel id, a signed top-up the
    same authorization nonce, and of plain transactions the journal signs no second one while the
    first can still be mined. The caller holds the deposit's turn.

    Raises OutcomeUnknown when the money may have moved; whatever else it raises, it has not.
    """
    try:
        if not finish_earlier_tries(account, deposit, channel):
            _send(account, deposit, channel)
        channel = visible(account, deposit, channel)
    except OutcomeUnknown as error:
        error.hint = again
        raise
    except NetworkError as error:
        if not is_committed(account, deposit):
            error.hint = again
            raise
        raise OutcomeUnknown(
            f"the {NOUNS[deposit.kind]} was signed, and the chain cannot be asked about it: {error.message}",
            hint=again,
        ) from error
    return made_deposit(account, deposit, channel, resumed=resumed)


def is_committed(account: PayingAccount, deposit: Deposit) -> bool:
    """Whether something signed for this deposit can still move money. Asks the ledger alone."""
    current = account.ledger.deposits.find(deposit.idempotency_key) or deposit
    ends = current.authorization_expires_at
    if Way(current.method) is Way.AUTHORIZATION and ends is not None and account.clock() < ends:
        return True
    return any(
        entry.status.is_live or entry.status is TransactionStatus.MINED
        for entry in own_entries(account, deposit)
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
    return [
        entry
        for entry in account.ledger.journal.of_operation(deposit.idempotency_key)
        if entry.transaction.purpose == deposit.kind and entry.transaction.sender == account.address
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
        elif entries:
            account.sender.resume(operation, deposit.kind)
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
                method=way,
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
    if not is_committed(account, deposit) and not own_entries(account, deposit):
        account.ledger.deposits.abandon(deposit)
    entries = account.ledger.journal.of_operation(deposit.idempotency_key)
    if any(entry.transaction.purpose.startswith("approve") for entry in entries):
        account.reporter.say("the escrow may still take what was approved: microwallet escrow allowances")


def visible(account: PayingAccount, deposit: Deposit, channel: PayerChannel) -> PayerChannel:
    """The channel with the deposit in it, recorded, from a node that may lag."""
    channel_id, channels = channel.channel_id, account.ledger.channels
    deadline = time.monotonic() + LAG_SECONDS
    while True:
        channel = channels.newest(channel)
        head = account.reader.head()
        state = _state_with(account, deposit, channel, head.number)
        as_of = max(account.clock(), head.timestamp)
        if state.exists and channels.record_states(
            {channel_id: state}, before={channel_id: channel.state}, as_of=as_of
        ):
            return replace(channel, state=state, as_of=as_of)
        if time.monotonic() > deadline:
            raise OutcomeUnknown(
                f"the {NOUNS[deposit.kind]} of channel {channel.channel_id} was mined, and the chain"
                " does not show it: it may have been reorganised"
            )
        time.sleep(0.2)


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
    account: PayingAccount,
    deposit: Deposit,
    channel: PayerChannel,
    *,
    resumed: bool,
) -> MadeDeposit:
    """Record that the chain has a deposit."""
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


NOUNS = {DepositKind.OPEN: "open", DepositKind.TOP_UP: "top-up"}
