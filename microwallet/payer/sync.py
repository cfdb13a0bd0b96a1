"""Making the ledger agree with the chain: channels found again, and what a crash left is settled."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass

from microwallet.domain.channel import PayerChannel
from microwallet.domain.deposit import Deposit, DepositStatus
from microwallet.domain.identifiers import Address, ChannelId
from microwallet.domain.money import Asset
from microwallet.domain.ports import JournalEntry, TransactionStatus
from microwallet.errors import EscrowMissing, LedgerBusy
from microwallet.escrow.authorizations import EXPIRY_MARGIN
from microwallet.escrow.events import EscrowEvents
from microwallet.escrow.reader import Head
from microwallet.escrow.rpc import LAG_SECONDS
from microwallet.escrow.transactions import Resumed
from microwallet.payer.deposit import has_landed, own_entries
from microwallet.payer.paying_account import PayingAccount
from microwallet.payer.refresh import refresh
from microwallet.payer.reorganisation import REORGANISATION_BLOCKS, take_back
from microwallet.polling import polls


@dataclass(frozen=True, slots=True, kw_only=True)
class SettledDeposit:
    """An open or top-up whose end was unknown, and what is known of it now."""

    deposit: Deposit
    status: DepositStatus

    @property
    def expires_at(self) -> int | None:
        """For one that is still pending: Unix seconds at which what was signed for it expires."""
        return self.deposit.authorization_expires_at if self.status is DepositStatus.PENDING else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Synced:
    """What a sync found and did. Nothing is ever deleted."""

    added: Sequence[ChannelId]
    channels: Sequence[PayerChannel]
    """Every channel of the chain that is neither finalized nor abandoned, or was added now."""
    deposits: Sequence[SettledDeposit]
    transactions: Sequence[Resumed]
    notes: Sequence[str]


def sync(
    accounts: Sequence[PayingAccount],
    escrow_contracts: Collection[Address],
    asset_of: Callable[[Address], Asset],
) -> Synced:
    """Find the channels of these accounts in some escrows of one chain, and bring to an end what is
    unfinished in any.

    A channel the ledger did not know does not pay until its highest voucher is imported. Raises
    NetworkError when the chain cannot be asked; what was found until then is kept.
    """
    added: list[ChannelId] = []
    transactions: list[Resumed] = []
    deposits: list[SettledDeposit] = []
    notes: list[str] = []
    channels: Sequence[PayerChannel] = ()
    for account in accounts:
        head = account.reader.head()
        for escrow_contract in sorted(escrow_contracts):
            added += _discover(account.over(escrow_contract), asset_of, head)
        lost = take_back(account, head)
        deposits += [SettledDeposit(deposit=one, status=DepositStatus.ABANDONED) for one in lost]
        notes += [
            f"channel {channel_id} was opened on a chain that was started anew since: nothing is locked in it"
            for channel_id in dict.fromkeys(one.channel_id for one in lost)
        ]
        transactions += account.sender.resume_all()
        deposits += _settle_deposits(account)
    if accounts:
        first = accounts[0]
        here = [
            channel
            for channel in first.ledger.channels.list(finalized=True)
            if channel.descriptor.chain_id == first.network.chain_id
        ]
        refreshed = refresh(first.ledger, first.reader_of, here, now=first.clock())
        notes += refreshed.notes
        channels = [
            channel
            for channel in refreshed.channels
            if channel.channel_id in added or not (channel.state.finalized or channel.is_abandoned)
        ]
    return Synced(added=added, channels=channels, deposits=deposits, transactions=transactions, notes=notes)


def _discover(account: PayingAccount, asset_of: Callable[[Address], Asset], head: Head) -> list[ChannelId]:
    """Add the channels this account opened, as events tell them, that the ledger does not know."""
    ledger, chain_id = account.ledger, account.network.chain_id
    escrow = account.reader.escrow_contract
    events = EscrowEvents(account.reader, chain_id)
    scanned = ledger.scanned.get(chain_id, escrow, account.address)
    if scanned is None or scanned > head.number:
        first = events.first_block()
    else:
        first = max(0, scanned - REORGANISATION_BLOCKS)
    account.reporter.say(f"reading the channels of {account.name} from block {first} to {head.number}")
    added = []
    for event in events.opened(payer=account.address, from_block=first, to_block=head.number):
        if ledger.channels.get(event.channel_id) is None:
            asset = asset_of(event.descriptor.token)
            rebuilt = PayerChannel.new(event.descriptor, asset, label=None, voucher_known=False)
            ledger.channels.add(rebuilt, now=account.clock())
            added.append(event.channel_id)
    ledger.scanned.record(chain_id, escrow, account.address, head.number)
    return added


def _settle_deposits(account: PayingAccount) -> list[SettledDeposit]:
    """Find out what became of every pending deposit of this account."""
    settled = []
    for deposit in account.ledger.deposits.pending():
        channel = account.ledger.channels.get(deposit.channel_id)
        if channel is None or (channel.descriptor.payer, channel.descriptor.chain_id) != (
            account.address,
            account.network.chain_id,
        ):
            continue
        status = DepositStatus.PENDING
        # A node may have refused what it took.
        account.sender.mined_after_all(deposit.idempotency_key, deposit.kind)
        with suppress(EscrowMissing):
            status = settle_deposit(account.over(channel.descriptor.escrow_contract), deposit, channel)
        settled.append(SettledDeposit(deposit=deposit, status=status))
    return settled


def settle_deposit(account: PayingAccount, deposit: Deposit, channel: PayerChannel) -> DepositStatus:
    """What became of a deposit, recorded: pending while it may still get onto the chain."""
    try:
        with account.ledger.turns.turn(f"deposit {deposit.idempotency_key}", seconds=0):
            return _settle(account, deposit.idempotency_key, channel)
    except LedgerBusy:
        account.reporter.say(f"{deposit.idempotency_key} is in another process's hands")
        return DepositStatus.PENDING


def _settle(account: PayingAccount, idempotency_key: str, channel: PayerChannel) -> DepositStatus:
    deposits = account.ledger.deposits
    deposit = deposits.find(idempotency_key)
    if deposit is None or deposit.status is not DepositStatus.PENDING:
        return DepositStatus.PENDING if deposit is None else deposit.status
    if has_landed(account, deposit, channel):
        deposits.record(idempotency_key, DepositStatus.DONE)
        return DepositStatus.DONE
    if _is_dead(account, deposit):
        deposits.abandon(deposit)
        return DepositStatus.ABANDONED
    return DepositStatus.PENDING


def _is_dead(account: PayingAccount, deposit: Deposit) -> bool:
    """Whether a deposit that is not on the chain can never get there.

    Nothing signed for it is valid any more: its authorization has expired, and every nonce it was
    sent at has been used by something else, as deep in the chain as the network's confirmations.
    """
    head = account.reader.head()
    ends = deposit.transfer_expires_at
    if ends is not None and head.timestamp < ends + EXPIRY_MARGIN:
        return False
    entries = own_entries(account, deposit)
    if any(entry.status is TransactionStatus.MINED for entry in entries):
        return False
    return not entries or _are_replaced(account, entries, head)


def _are_replaced(account: PayingAccount, entries: Sequence[JournalEntry], head: Head) -> bool:
    """Whether something else was mined at the nonce of each of these; then the journal says so too.

    The node that is asked for receipts may be behind the one that counts nonces: it is asked for as long as
    that may be, unless whoever waited for them did so.
    """
    reader, journal = account.reader, account.ledger.journal
    hashes = [entry.transaction.hash for entry in entries]
    lag = LAG_SECONDS if any(entry.status.is_live for entry in entries) else 0
    # Before the receipts, so that a nonce which one of these uses up meanwhile is not taken for another's.
    used = reader.transaction_count(account.address, max(0, head.number - account.network.confirmations + 1))
    if any(entry.transaction.nonce >= used for entry in entries):
        return False
    for _ in polls(within=lag, every=1.0):
        for entry, has_succeeded in zip(entries, reader.have_succeeded(hashes), strict=True):
            if has_succeeded or (has_succeeded is False and entry.status.is_live):
                return False
    for entry in entries:
        if entry.status.is_live:
            journal.record(entry.transaction.hash, TransactionStatus.REPLACED)
    return True
