"""The journal of signed transactions: which nonce is free, and what becomes of each and of its rivals."""

from __future__ import annotations

import pytest
from model import CHAIN, PAYEE, PAYER, keyed

from microwallet.domain.identifiers import ChainId, TxHash
from microwallet.domain.ports import SignedTransaction, TransactionStatus

OTHER = ChainId(1)
CHANNEL = keyed(1).channel_id
SIGNED, BROADCAST, REPLACED, MINED, REVERTED = (
    TransactionStatus.SIGNED,
    TransactionStatus.BROADCAST,
    TransactionStatus.REPLACED,
    TransactionStatus.MINED,
    TransactionStatus.REVERTED,
)


def hash_of(number):
    """The hash of transaction `number`."""
    return TxHash(f"0x{number:064x}")


def signed(number, **other):
    """Transaction `number`; keywords change it."""
    values = {
        "hash": hash_of(number),
        "chain_id": CHAIN,
        "sender": PAYEE,
        "nonce": 0,
        "operation": "one",
        "purpose": "send",
        "channel_id": None,
        "raw": bytes([number]),
        "max_fee_per_gas": 10**30,
        "max_priority_fee_per_gas": 1,
    }
    return SignedTransaction(**(values | other))


@pytest.fixture
def journal(ledger):
    """The journal of an empty ledger."""
    return ledger.journal


def test_what_is_in_some_blocks(journal):
    """What was mined there, reverted or not, for one sender on one chain."""
    ends = {1: MINED, 2: REVERTED, 3: MINED, 4: MINED, 5: MINED, 6: MINED}
    others = {5: {"chain_id": OTHER}, 6: {"sender": PAYER}}
    for number, status in ends.items():
        journal.replace(signed(number, nonce=number, **others.get(number, {})))
        journal.record(hash_of(number), status, block_number=min(number, 4) if number < 5 else 2)
    journal.replace(signed(7, nonce=7))
    assert numbers(journal.in_blocks(CHAIN, PAYEE, first=1, last=3)) == [1, 2, 3]
    assert numbers(journal.in_blocks(CHAIN, PAYEE, first=2, last=2)) == [2]
    journal.record(hash_of(2), BROADCAST)
    assert numbers(journal.in_blocks(CHAIN, PAYEE, first=2, last=2)) == []


@pytest.fixture
def statuses(journal):
    """The status of each transaction, by number."""
    return lambda: {int(one.transaction.hash, 16): one.status for one in journal.beginning_with("")}


def numbers(entries):
    """Which transactions these are."""
    return [int(entry.transaction.hash, 16) for entry in entries]


def test_the_lowest_nonce_that_is_free(journal):
    """Not below the chain's, and none that is taken; those of other chains and senders are other nonces."""

    def reserve(number, chain_nonce, **other):
        account = {"chain_id": CHAIN, "sender": PAYEE} | other
        return journal.reserve(
            *account.values(),
            chain_nonce=chain_nonce,
            sign=lambda nonce: signed(number, nonce=nonce, **account),
        ).nonce

    assert [reserve(number, 5) for number in (1, 2, 3)] == [5, 6, 7]
    assert [reserve(4, 5, chain_id=OTHER), reserve(5, 5, sender=PAYER)] == [5, 5]
    journal.withdraw(hash_of(2))
    journal.begin_sending(hash_of(3))
    assert [reserve(number, 5) for number in (6, 7)] == [6, 8]
    assert reserve(8, 20) == 20


@pytest.mark.parametrize(
    ("ended", "operation", "after"),
    [
        (REPLACED, "one", SIGNED),
        (REVERTED, "one", SIGNED),
        (MINED, "one", MINED),
        (BROADCAST, "one", BROADCAST),
        (REPLACED, "another", REPLACED),
    ],
)
def test_the_same_bytes_signed_again(journal, statuses, ended, operation, after):
    """They are live again, so that nothing else takes their nonce; those of another operation are not."""
    journal.replace(signed(1, operation="one"))
    journal.record(hash_of(1), ended, block_number=7, gas_used=9)
    journal.reserve(CHAIN, PAYEE, chain_nonce=0, sign=lambda _: signed(1, operation=operation))
    assert statuses() == {1: after}
    (entry,) = journal.of_operation("one")
    assert entry.block_number == (None if after is SIGNED else 7)


def test_what_becomes_of_a_transaction(journal, statuses):
    """It changes no other, and comes only after what was before: nobody withdraws what somebody sends."""
    for number in (1, 2, 3):
        journal.replace(signed(number, nonce=number))
    assert journal.withdraw(hash_of(1))
    journal.begin_sending(hash_of(2))
    assert statuses() == {1: REPLACED, 2: BROADCAST, 3: SIGNED}
    journal.begin_sending(hash_of(1))
    journal.record_sent(hash_of(3))
    assert not journal.withdraw(hash_of(2))
    assert statuses() == {1: REPLACED, 2: BROADCAST, 3: SIGNED}
    journal.record_sent(hash_of(1))
    journal.record(hash_of(2), REVERTED, block_number=7, gas_used=9)
    assert statuses() == {1: BROADCAST, 2: REVERTED, 3: SIGNED}
    told = [(one.block_number, one.gas_used) for one in journal.of_operation("one")]
    assert told == [(None, None), (7, 9), (None, None)]
    journal.replace(signed(2, nonce=2))
    assert statuses() == {1: BROADCAST, 2: REVERTED, 3: SIGNED}


@pytest.mark.parametrize(
    ("status", "rivals"), [(MINED, REPLACED), (REVERTED, REPLACED), (BROADCAST, SIGNED), (REPLACED, SIGNED)]
)
def test_a_mined_transaction_replaces_its_rivals(journal, statuses, status, rivals):
    """Those with its nonce, of its sender on its chain, that are not finished."""
    others = {4: {"nonce": 1}, 5: {"chain_id": OTHER}, 6: {"sender": PAYER}}
    for number in range(1, 7):
        journal.replace(signed(number, **others.get(number, {})))
    journal.record(hash_of(2), status)
    assert statuses() == {1: rivals, 2: status, 3: rivals, 4: SIGNED, 5: SIGNED, 6: SIGNED}


def test_transactions_that_are_live(journal):
    """Of one chain, or of one sender on it; lowest nonce first, and of one nonce the oldest."""
    about = {1: {"nonce": 2}, 2: {}, 3: {"sender": PAYER}, 4: {"chain_id": OTHER}, 5: {}, 6: {}}
    for number in (6, 5, 4, 3, 2, 1):
        journal.replace(signed(number, **about[number]))
    journal.record(hash_of(6), REPLACED)
    assert numbers(journal.unfinished(CHAIN)) == [5, 3, 2, 1]
    assert numbers(journal.unfinished(CHAIN, sender=PAYEE)) == [5, 2, 1]
    assert numbers(journal.unfinished(OTHER, sender=PAYER)) == []


def test_what_has_some_nonces(journal):
    """What is live or was mined there, for one sender on one chain, lowest nonce first, and of one nonce the
    oldest."""
    about = {1: {"nonce": 3}, 2: {"nonce": 2}, 3: {"sender": PAYER}, 4: {"chain_id": OTHER}, 5: {"nonce": 1}}
    for number in range(1, 10):
        journal.replace(signed(number, **({"nonce": 2} | about.get(number, {}))))
    ends = {6: REVERTED, 7: REPLACED, 9: BROADCAST, 8: BROADCAST}
    for number, status in ends.items():
        journal.record(hash_of(number), status)
    journal.replace(signed(10, nonce=1))
    journal.record(hash_of(10), MINED)
    assert numbers(journal.at_nonces(CHAIN, PAYEE, first=1, before=3)) == [10, 8, 9]
    assert numbers(journal.at_nonces(CHAIN, PAYEE, first=2, before=4)) == [8, 9, 1]
    assert numbers(journal.at_nonces(CHAIN, PAYEE, first=3, before=3)) == []


def test_transactions_of_an_operation(journal):
    """By its name, or by how that begins, oldest first, as they were signed; no letter stands for others."""
    transactions = [
        signed(3, operation="close-1", channel_id=CHANNEL, nonce=7),
        signed(2, operation="close_1"),
        signed(1, operation="close-2"),
        signed(4, operation="close-1"),
    ]
    for transaction in transactions:
        journal.replace(transaction)
    found = journal.beginning_with("close")
    assert [entry.transaction for entry in found] == transactions
    assert numbers(journal.beginning_with("close_")) == [2]
    assert numbers(journal.beginning_with("close-")) == [3, 1, 4]
    assert numbers(journal.of_operation("close-1")) == [3, 4]


def test_the_transaction_that_was_mined_for_a_channel(journal):
    """The last one of a purpose, or none."""
    others = {4: {"purpose": "topUp"}, 5: {"channel_id": keyed(2).channel_id}, 6: {}}
    for number in (3, 2, 1, 4, 5, 6):
        about = {"purpose": "open", "channel_id": CHANNEL, "nonce": number}
        journal.replace(signed(number, **(about | others.get(number, {}))))
    assert journal.mined(CHANNEL, "open") is None
    for number in (1, 2, 4, 5):
        journal.record(hash_of(number), MINED)
    assert journal.mined(CHANNEL, "open").hash == hash_of(1)
