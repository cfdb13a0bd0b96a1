"""What a reorganisation undid, and what a chain that was started anew never had: taken back in the ledger."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress

from microwallet.domain.channel import ChannelState
from microwallet.domain.deposit import Deposit, DepositStatus, deposited
from microwallet.domain.identifiers import Address, ChannelId
from microwallet.domain.ports import JournalEntry, TransactionStatus
from microwallet.errors import EscrowMissing
from microwallet.escrow.reader import Head, of_this_chain, start_of_chain
from microwallet.payer.deposit import has_landed, own_entries
from microwallet.payer.paying_account import PayingAccount

REORGANISATION_BLOCKS = 256
"""How far back mined transactions are looked at again, and events read again."""


def take_back(account: PayingAccount, head: Head) -> list[Deposit]:
    """Take back transactions that succeeded and do not any more, or the other way round, and the opens and
    top-ups that the chain has no more.

    Only recent ones, and none from before the chain was started anew: it never had those, and must not get
    them. Such opens and top-ups are given up, with their channels, and returned.
    """
    done = account.ledger.deposits.done(account.network.chain_id)
    states = _states(account, done)
    lost = _of_an_earlier_chain(account, done, states)
    if lost:
        _give_up(account, lost, states)
    _take_back_transactions(account, head)
    _take_back_deposits(account, [deposit for deposit in done if deposit not in lost], states)
    return lost


def _states(account: PayingAccount, deposits: Sequence[Deposit]) -> dict[ChannelId, ChannelState]:
    """The channels of deposits, as the chain has them."""
    ledger = account.ledger
    by_escrow: dict[Address, list[ChannelId]] = {}
    for channel_id in dict.fromkeys(deposit.channel_id for deposit in deposits):
        if (channel := ledger.channels.get(channel_id)) is not None:
            by_escrow.setdefault(channel.descriptor.escrow_contract, []).append(channel_id)
    states: dict[ChannelId, ChannelState] = {}
    for escrow_contract, ids in by_escrow.items():
        with suppress(EscrowMissing):  # which proves nothing
            states |= account.reader_of(escrow_contract).channel_states(ids)
    return states


def _of_an_earlier_chain(
    account: PayingAccount, deposits: Sequence[Deposit], states: Mapping[ChannelId, ChannelState]
) -> list[Deposit]:
    """Those that were begun before the chain was, into channels that are not on it."""
    missing = {channel_id for channel_id, state in states.items() if not state.exists}
    if not missing:
        return []
    started = start_of_chain(account.reader.head)
    return [
        deposit
        for deposit in deposits
        if deposit.channel_id in missing and deposit.created_at is not None and deposit.created_at < started
    ]


def _give_up(
    account: PayingAccount, lost: Sequence[Deposit], states: Mapping[ChannelId, ChannelState]
) -> None:
    ledger = account.ledger
    gone = {deposit.channel_id: states[deposit.channel_id] for deposit in lost}
    ledger.channels.record_states(gone, as_of=account.clock())
    for deposit in lost:
        for entry in ledger.journal.of_operation(deposit.idempotency_key):
            # Mined there, it must not be taken for one that is to be sent again here.
            ledger.journal.record(entry.transaction.hash, TransactionStatus.REPLACED)
        ledger.deposits.abandon(deposit)


def _take_back_transactions(account: PayingAccount, head: Head) -> None:
    """Have those that a reorganisation undid sent again, with the opens and top-ups they carried; none from
    before the chain was started anew."""
    ledger = account.ledger
    undone = _undone(account, head)
    of_this = of_this_chain(account.reader.head, undone)
    for entry in undone:
        transaction = entry.transaction
        if entry not in of_this:
            ledger.journal.record(transaction.hash, TransactionStatus.REPLACED)
            continue
        ledger.journal.record(transaction.hash, TransactionStatus.BROADCAST)
        carried = ledger.deposits.find(transaction.operation)
        if carried is not None and transaction.purpose == carried.kind:
            ledger.deposits.record(carried.idempotency_key, DepositStatus.PENDING)


def _undone(account: PayingAccount, head: Head) -> list[JournalEntry]:
    """The account's recent transactions of which the chain tells something else than the journal, oldest
    first. One that reverted is not sent again where it is in no block: it was told to have failed."""
    first, last = head.number - REORGANISATION_BLOCKS + 1, head.number + 1
    mined = account.ledger.journal.in_blocks(
        account.network.chain_id, account.address, first=first, last=last
    )
    found = account.reader.have_succeeded([entry.transaction.hash for entry in mined])
    return [
        entry
        for entry, has_succeeded in zip(mined, found, strict=True)
        if bool(has_succeeded) is not (entry.status is TransactionStatus.MINED)
    ]


def _take_back_deposits(
    account: PayingAccount, done: Sequence[Deposit], states: Mapping[ChannelId, ChannelState]
) -> None:
    """Have deposits that were done, and are undone, brought to an end again."""
    amounts = deposited(done)
    short = {channel_id for channel_id, state in states.items() if state.deposit < amounts[channel_id]}
    for deposit in done:
        if _is_undone(account, deposit, is_short=deposit.channel_id in short):
            account.ledger.deposits.record(deposit.idempotency_key, DepositStatus.PENDING)


def _is_undone(account: PayingAccount, deposit: Deposit, *, is_short: bool) -> bool:
    """Whether the chain has not a deposit that was done: one that somebody else had sent, or that a run which
    went on with it found undone, and did not come to an end. `is_short`: its channel has less than was
    deposited into it."""
    entries = own_entries(account, deposit)
    channel = account.ledger.channels.get(deposit.channel_id)
    if not (entries or is_short) or channel is None or channel.descriptor.payer != account.address:
        return False
    if any(one.status is TransactionStatus.MINED for one in entries):
        return False
    with suppress(EscrowMissing):  # which proves nothing
        return not has_landed(account.over(channel.descriptor.escrow_contract), deposit, channel)
    return False
