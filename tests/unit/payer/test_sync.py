"""Looking for channels that the ledger does not know, and for what became of deposits."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
from model import CHAIN, ESCROW, PAYER, USDC, keyed

from microwallet.domain.channel import NO_CHANNEL
from microwallet.domain.deposit import Deposit, DepositKind, DepositStatus, Way
from microwallet.domain.identifiers import TxHash
from microwallet.domain.ports import Quiet, SignedTransaction, TransactionStatus
from microwallet.errors import NetworkError
from microwallet.escrow.authorizations import EXPIRY_MARGIN
from microwallet.payer.paying_account import PayingAccount
from microwallet.payer.reorganisation import REORGANISATION_BLOCKS
from microwallet.payer.sync import settle_deposit, sync

ONE, TWO = keyed(1), keyed(2)
FIRST, HEAD, NOW = 50, 1_000, 9_000
NONCE, CONFIRMATIONS = 5, 3
SENT = TxHash("0x" + "ab" * 32)
DONE, PENDING, ABANDONED = DepositStatus.DONE, DepositStatus.PENDING, DepositStatus.ABANDONED
BROADCAST, MINED, REPLACED, REVERTED = (
    TransactionStatus.BROADCAST,
    TransactionStatus.MINED,
    TransactionStatus.REPLACED,
    TransactionStatus.REVERTED,
)


@pytest.fixture
def account(ledger, monkeypatch):
    """An account that opened a channel, on a chain of a thousand blocks; which of them were read."""
    read = []

    class Events:
        def __init__(self, _reader, _chain_id):
            pass

        def first_block(self):
            return FIRST

        def opened(self, *, payer, from_block, to_block):
            assert payer == PAYER
            read.append((from_block, to_block))
            return [SimpleNamespace(channel_id=ONE.channel_id, descriptor=ONE.descriptor)]

    monkeypatch.setattr("microwallet.payer.sync.EscrowEvents", Events)
    state = replace(NO_CHANNEL, deposit=100)
    reader = SimpleNamespace(
        escrow_contract=ESCROW,
        head=lambda: SimpleNamespace(number=HEAD, timestamp=NOW),
        channel_states=lambda ids: dict.fromkeys(ids, state),
        have_succeeded=lambda hashes: [True for _ in hashes],
    )
    known = {
        "name": "alice",
        "address": PAYER,
        "network": SimpleNamespace(chain_id=CHAIN, confirmations=CONFIRMATIONS),
        "ledger": ledger,
        "reader": reader,
        "reader_of": lambda _escrow: reader,
        "sender": SimpleNamespace(resume_all=list, mined_after_all=lambda *_: None),
        "reporter": Quiet(),
        "clock": lambda: 1,
    }
    made = PayingAccount(**{**dict.fromkeys(PayingAccount.__dataclass_fields__), **known})
    return made, read


@pytest.mark.parametrize(
    ("scanned", "first"),
    [
        (None, FIRST),
        (HEAD + 1, FIRST),
        (HEAD, HEAD - REORGANISATION_BLOCKS),
        (900, 900 - REORGANISATION_BLOCKS),
        (REORGANISATION_BLOCKS - 1, 0),
    ],
)
def test_which_blocks_are_read(account, ledger, scanned, first):
    """Those since the last time, and before as many as a reorganisation may change; all of them at first, and
    where the chain has become shorter. What is found does not pay before its vouchers are known."""
    account, read = account
    if scanned is not None:
        ledger.scanned.record(CHAIN, ESCROW, PAYER, scanned)
    found = [sync([account], [ESCROW], lambda _token: USDC).added for _ in range(2)]
    assert found == [[ONE.channel_id], []]
    assert read == [(first, HEAD), (HEAD - REORGANISATION_BLOCKS, HEAD)]
    assert not ledger.channels.get(ONE.channel_id).voucher_known


def test_a_close_that_a_reorganisation_undid(account, ledger):
    """A channel that is finalized is looked at too: it is told as the chain has it."""
    account, _ = account
    closed = ONE.payer_channel(deposit=100)
    ledger.channels.add(replace(closed, state=replace(closed.state, finalized=True)), now=0)
    (told,) = sync([account], [ESCROW], lambda _token: USDC).channels
    assert (told.channel_id, told.state.finalized) == (ONE.channel_id, False)
    assert not ledger.channels.get(ONE.channel_id).state.finalized


def deposit(ledger, status, kind=DepositKind.OPEN, way=Way.NATIVE, *, expires_at=None, channel=ONE, key="k"):
    """A deposit into a channel, begun at Unix second 7."""
    begun = Deposit(
        idempotency_key=key,
        kind=kind,
        channel_id=channel.channel_id,
        amount=100,
        arguments="",
        way=way,
        authorization_expires_at=expires_at,
        status=status,
    )
    channel = channel.payer_channel(deposit=100)
    return ledger.deposits.begin(begun, channel, require_key=lambda: None, now=7), channel


def head_from(started):
    """The heads of a chain that began at a time, Unix seconds."""
    return lambda block=HEAD: SimpleNamespace(number=block, timestamp=started if block == 0 else NOW)


def sent(ledger, kind, status, *, block=None):
    """A transaction of it, such as the one that carries it, signed at Unix second 7."""
    ledger.journal._clock = lambda: 7
    transaction = SignedTransaction(
        hash=SENT,
        chain_id=CHAIN,
        sender=PAYER,
        nonce=NONCE,
        operation="k",
        purpose=kind,
        channel_id=ONE.channel_id,
        raw=b"x",
        max_fee_per_gas=1,
        max_priority_fee_per_gas=1,
    )
    ledger.journal.replace(transaction)
    ledger.journal.record(SENT, status, block_number=block)


@pytest.mark.parametrize(
    ("expires_at", "way", "becomes"),
    [
        (NOW - EXPIRY_MARGIN + 1, Way.AUTHORIZATION, PENDING),
        (NOW - EXPIRY_MARGIN, Way.AUTHORIZATION, ABANDONED),
        (NOW + 1, Way.PERMIT, ABANDONED),
        (None, Way.NATIVE, ABANDONED),
    ],
)
def test_a_deposit_that_was_never_sent(account, ledger, expires_at, way, becomes):
    """It is given up once nobody can submit what was signed for it: not before that has expired for certain.
    Otherwise the same deposit might be made twice."""
    account, _ = account
    begun, channel = deposit(ledger, PENDING, way=way, expires_at=expires_at)
    account.reader.channel_state = lambda _id: NO_CHANNEL
    assert settle_deposit(account, begun, channel) is becomes
    assert ledger.deposits.find("k").status is becomes


def test_a_deposit_that_the_chain_has(account, ledger):
    """Whoever sent it, and however long ago what was signed for it expired."""
    account, _ = account
    begun, channel = deposit(ledger, PENDING, way=Way.AUTHORIZATION, expires_at=0)
    account.reader.channel_state = lambda _id: channel.state
    assert settle_deposit(account, begun, channel) is ledger.deposits.find("k").status is DONE


def test_a_deposit_in_other_hands(account, ledger):
    """While another process makes it, it is pending; what that has made of it is not done again."""
    account, _ = account
    begun, channel = deposit(ledger, PENDING)
    account.reader.channel_state = lambda _id: NO_CHANNEL
    with ledger.turns.turn("deposit k"):
        assert settle_deposit(account, begun, channel) is PENDING
        ledger.deposits.record("k", DONE)
    assert settle_deposit(account, begun, channel) is ledger.deposits.find("k").status is DONE


@pytest.mark.parametrize(
    ("other", "becomes"), [({}, ABANDONED), ({"payer": ESCROW}, PENDING), ({"chain_id": 1}, PENDING)]
)
def test_deposits_of_others(account, ledger, other, becomes):
    """Of those of another account, or on another chain, this account and this chain know nothing."""
    account, _ = account
    deposit(ledger, PENDING, channel=keyed(3, **other))
    account.reader.channel_state = lambda _id: NO_CHANNEL
    synced = sync([account], [ESCROW], lambda _token: USDC)
    assert ledger.deposits.find("k").status is becomes
    assert [one.status for one in synced.deposits] == ([ABANDONED] if becomes is ABANDONED else [])


@pytest.mark.parametrize(
    ("status", "used", "has_succeeded", "becomes"),
    [
        (BROADCAST, NONCE, None, PENDING),
        (BROADCAST, NONCE + 1, True, PENDING),
        (BROADCAST, NONCE + 1, False, PENDING),
        (BROADCAST, NONCE + 1, None, ABANDONED),
        (REPLACED, NONCE + 1, True, PENDING),
        (REPLACED, NONCE + 1, False, ABANDONED),
        (REVERTED, NONCE + 1, False, ABANDONED),
        (REVERTED, NONCE + 1, True, PENDING),
        (MINED, NONCE + 1, None, PENDING),
    ],
)
def test_a_deposit_that_was_sent_and_is_not_on_the_chain(
    account, ledger, monkeypatch, status, used, has_succeeded, becomes
):
    """It is given up once its nonce is used, as deep in the chain as is believed, by something else than
    itself; or by itself to no effect."""
    monkeypatch.setattr("microwallet.payer.sync.LAG_SECONDS", 0)
    account, _ = account
    begun, channel = deposit(ledger, PENDING)
    sent(ledger, DepositKind.OPEN, status)
    account.reader.channel_state = lambda _id: NO_CHANNEL
    account.reader.have_succeeded = lambda hashes: [has_succeeded for _ in hashes]
    account.reader.transaction_count = lambda _address, block: (
        used if block == HEAD - CONFIRMATIONS + 1 else 99
    )
    assert settle_deposit(account, begun, channel) is becomes
    [entry] = ledger.journal.of_operation("k")
    assert entry.status is (REPLACED if (status, becomes) == (BROADCAST, ABANDONED) else status)


@pytest.mark.parametrize(
    ("block", "has_succeeded", "becomes"),
    [
        (HEAD - REORGANISATION_BLOCKS, None, DONE),
        (HEAD - REORGANISATION_BLOCKS + 1, None, PENDING),
        (HEAD - REORGANISATION_BLOCKS + 1, False, PENDING),
        (HEAD - REORGANISATION_BLOCKS + 1, True, DONE),
        (HEAD + 1, None, PENDING),
        (HEAD + 2, None, DONE),
    ],
)
def test_a_top_up_that_a_reorganisation_undid(account, ledger, block, has_succeeded, becomes):
    """It is pending again, and so is what carries it, if its block is recent; a later one than the chain has
    is of another chain."""
    account, _ = account
    deposit(ledger, DONE, DepositKind.TOP_UP)
    sent(ledger, DepositKind.TOP_UP, MINED, block=block)
    account.reader.have_succeeded = lambda hashes: [has_succeeded for _ in hashes]
    account.reader.head = head_from(0)
    account.reader.transaction_count = lambda _address, _block: NONCE
    sync([account], [ESCROW], lambda _token: USDC)
    assert ledger.deposits.find("k").status is becomes
    [entry] = ledger.journal.of_operation("k")
    assert entry.status is (MINED if becomes is DONE else BROADCAST)


@pytest.mark.parametrize(
    ("kind", "deposited", "is_used", "becomes"),
    [
        (DepositKind.TOP_UP, 100, False, PENDING),
        (DepositKind.TOP_UP, 100, True, DONE),
        (DepositKind.TOP_UP, 200, False, DONE),
        (DepositKind.OPEN, 0, False, PENDING),
    ],
)
def test_what_a_reorganisation_took_that_somebody_else_had_sent(
    account, ledger, monkeypatch, kind, deposited, is_used, becomes
):
    """It is pending while it may come back; it is asked for only where a channel has less than was done."""
    monkeypatch.setattr("microwallet.payer.ways.authorization_state", lambda *_: is_used)
    account, _ = account
    if kind is DepositKind.TOP_UP:
        deposit(ledger, DONE, key="open")
    deposit(ledger, DONE, kind, Way.AUTHORIZATION, expires_at=NOW)
    state = replace(NO_CHANNEL, deposit=deposited)
    account.reader.channel_states = lambda ids: dict.fromkeys(ids, state)
    account.reader.channel_state = lambda _id: state
    account.reader.head = head_from(0)
    sync([account], [ESCROW], lambda _token: USDC)
    assert ledger.deposits.find("k").status is becomes


def test_a_top_up_that_a_node_took_and_refused(account, ledger):
    """It is done where it was mined all the same."""
    account, _ = account
    deposit(ledger, PENDING, DepositKind.TOP_UP)
    sent(ledger, DepositKind.TOP_UP, REPLACED)
    account.reader.head = head_from(0)
    account.reader.transaction_count = lambda _address, _block: NONCE + 1
    account.sender.mined_after_all = lambda *_: ledger.journal.record(SENT, MINED, block_number=HEAD)
    sync([account], [ESCROW], lambda _token: USDC)
    assert ledger.deposits.find("k").status is DONE


@pytest.mark.parametrize(
    ("first", "exists", "is_lost"),
    [
        ((0, 8), False, True),
        ((0, 7), False, False),
        ((0, 8), True, False),
        ((1, 8), False, False),
        (None, False, False),
    ],
)
def test_a_deposit_of_a_chain_that_was_started_anew(account, ledger, first, exists, is_lost):
    """It is given up only where the first block proves that the chain began after it, and its channel is
    missing there. A node that keeps no first block proves nothing."""

    def head(block=None):
        if block is None:
            return SimpleNamespace(number=HEAD, timestamp=NOW)
        if first is None:
            raise NetworkError("pruned")
        assert block == 0
        return SimpleNamespace(number=first[0], timestamp=first[1])

    account, _ = account
    deposit(ledger, DONE)
    deposit(ledger, DONE, channel=TWO, key="of a channel that is there")
    on_chain = {ONE.channel_id: replace(NO_CHANNEL, deposit=100 if exists else 0)}
    account.reader.head = head
    account.reader.channel_states = lambda ids: {
        one: on_chain.get(one, replace(NO_CHANNEL, deposit=100)) for one in ids
    }
    account.reader.have_succeeded = lambda hashes: [None for _ in hashes]
    sent(ledger, DepositKind.OPEN, MINED, block=FIRST)
    synced = sync([account], [ESCROW], lambda _token: USDC)
    assert [one.status for one in synced.deposits] == [ABANDONED] * is_lost
    assert ledger.deposits.find("k").status is (ABANDONED if is_lost else DONE)
    assert len(synced.notes) == (not exists)
    [entry] = ledger.journal.of_operation("k")
    assert entry.status is (REPLACED if is_lost else MINED)


@pytest.mark.parametrize(
    ("status", "has_succeeded", "started", "becomes"),
    [
        (MINED, True, 0, MINED),
        (MINED, None, 0, BROADCAST),
        (MINED, None, 7, BROADCAST),
        (MINED, None, 8, REPLACED),
        (MINED, False, 0, BROADCAST),
        (REVERTED, False, 0, REVERTED),
        (REVERTED, None, 0, REVERTED),
        (REVERTED, True, 0, BROADCAST),
    ],
)
@pytest.mark.parametrize("purpose", ["approve", "send"])
def test_any_transaction_that_a_reorganisation_undid(
    account, ledger, purpose, status, has_succeeded, started, becomes
):
    """It is live again, as what was sent after it waits for its nonce; not on a chain that was started anew,
    nor if it was told to have failed, and may have been done by another one."""
    account, _ = account
    sent(ledger, purpose, status, block=HEAD)
    account.reader.have_succeeded = lambda hashes: [has_succeeded for _ in hashes]
    account.reader.head = head_from(started)
    sync([account], [ESCROW], lambda _token: USDC)
    [entry] = ledger.journal.of_operation("k")
    assert entry.status is becomes


@pytest.mark.parametrize(
    ("status", "exists", "becomes"),
    [(BROADCAST, False, PENDING), (REPLACED, False, ABANDONED), (REPLACED, True, DONE), (MINED, False, DONE)],
)
def test_a_deposit_that_was_found_undone(account, ledger, status, exists, becomes):
    """By a run that was killed then: it is not taken for done for ever."""
    account, _ = account
    deposit(ledger, DONE)
    sent(ledger, DepositKind.OPEN, status)
    state = replace(NO_CHANNEL, deposit=100 if exists else 0)
    account.reader.channel_state = lambda _id: state
    account.reader.channel_states = lambda ids: dict.fromkeys(ids, state)
    account.reader.have_succeeded = lambda hashes: [None for _ in hashes]
    account.reader.head = head_from(0)
    account.reader.transaction_count = lambda _address, _block: NONCE + (status is REPLACED)
    sync([account], [ESCROW], lambda _token: USDC)
    assert ledger.deposits.find("k").status is becomes
