"""Deposits by idempotency key: begun once, settled, abandoned, tried again."""

from __future__ import annotations

from dataclasses import replace

import pytest
from model import CHAIN, ESCROW, PAYER, keyed

from microwallet.domain.channel import NO_CHANNEL, ChannelStatus
from microwallet.domain.deposit import Deposit, DepositKind, DepositStatus, Way
from microwallet.domain.identifiers import ChainId
from microwallet.errors import KeyMissing, UsageError
from microwallet.ledger.at_risk import money_at_risk

ONE, TWO, THREE = keyed(1), keyed(2), keyed(3)


def planned(channel, key: str = "k1", *, kind: DepositKind = DepositKind.OPEN) -> Deposit:
    """A deposit of 1000 base units that is about to begin."""
    return Deposit(
        idempotency_key=key,
        kind=kind,
        channel_id=channel.channel_id,
        amount=1000,
        arguments=f"arguments of {key}",
        way=Way.AUTHORIZATION,
        authorization_expires_at=None,
        status=DepositStatus.PENDING,
    )


def begin(ledger, channel, key: str = "k1", label: str | None = None):
    """Begin an open of a channel."""
    return commit(ledger, planned(channel, key), channel.payer_channel(deposit=0, label=label), now=7)


def commit(ledger, deposit: Deposit, channel, *, now: int) -> Deposit:
    """Begin a deposit whose key is there."""
    return ledger.deposits.begin(deposit, channel, require_key=lambda: None, now=now)


def test_begins_once(ledger):
    """The first one under a key stands: the second gets it, and its channel is never added."""
    first = begin(ledger, ONE)
    again = begin(ledger, TWO)
    assert again == first == ledger.deposits.find("k1")
    assert ledger.channels.get(TWO.channel_id) is None
    assert [deposit.idempotency_key for deposit in ledger.deposits.pending()] == ["k1"]


def test_nothing_begins_under_a_label_that_is_taken(ledger):
    """Neither the channel nor the deposit is stored."""
    begin(ledger, ONE, "k1", "coffee")
    with pytest.raises(UsageError, match="taken"):
        begin(ledger, TWO, "k2", "coffee")
    assert ledger.deposits.find("k2") is None
    assert ledger.channels.get(TWO.channel_id) is None


def test_nothing_begins_without_the_key(ledger):
    """Of an account that is removed meanwhile: what is stored could never be signed. What was begun before is
    found without it."""

    def gone():
        raise KeyMissing("removed")

    def again(key):
        channel = ONE.payer_channel(deposit=0)
        return ledger.deposits.begin(planned(ONE, key), channel, require_key=gone, now=8)

    with pytest.raises(KeyMissing):
        again("k1")
    assert ledger.deposits.find("k1") is None
    assert ledger.channels.get(ONE.channel_id) is None
    assert begin(ledger, ONE) == again("k1")


def test_what_is_recorded_is_not_taken_back_by_omission(ledger):
    """The way and the expiry stay when only the status changes."""
    begin(ledger, ONE)
    ledger.deposits.record("k1", DepositStatus.PENDING, way=Way.PERMIT, authorization_expires_at=99)
    ledger.deposits.record("k1", DepositStatus.DONE)
    found = ledger.deposits.find("k1")
    assert (found.way, found.authorization_expires_at, found.status) == ("permit", 99, DepositStatus.DONE)
    assert ledger.deposits.pending() == []


def test_what_was_signed_for_longer_ends_no_sooner(ledger):
    """A clock that was set back makes a later signature end earlier: the one before can still be used."""
    begin(ledger, ONE)
    for ends in (99, 50):
        ledger.deposits.record(
            "k1", DepositStatus.PENDING, way=Way.AUTHORIZATION, authorization_expires_at=ends
        )
    assert ledger.deposits.find("k1").authorization_expires_at == 99


def test_an_abandoned_open_gives_its_label_free_and_can_be_revived(ledger):
    """Its channel stays, without the label; the same key takes it up again, with the label if it is free."""
    first = begin(ledger, ONE, "k1", "coffee")
    ledger.deposits.abandon(first)
    abandoned = ledger.channels.get(ONE.channel_id)
    assert (abandoned.status(now=9), abandoned.label) == (ChannelStatus.ABANDONED, None)
    assert money_at_risk(ledger, PAYER) == []
    assert replace(abandoned, state=replace(NO_CHANNEL, deposit=1)).status(now=9) is ChannelStatus.OPEN
    ledger.deposits.revive(first, "coffee", now=99)
    assert len(money_at_risk(ledger, PAYER)) == 1
    revived = ledger.deposits.find("k1")
    assert (revived.status, revived.created_at) == (DepositStatus.PENDING, 99)
    assert ledger.channels.find("coffee").status(now=99) is ChannelStatus.OPENING
    ledger.deposits.abandon(first)
    begin(ledger, TWO, "k2", "coffee")
    with pytest.raises(UsageError, match="taken"):
        ledger.deposits.revive(first, "coffee", now=100)
    assert ledger.deposits.find("k1").status is DepositStatus.ABANDONED


def test_what_becomes_of_a_deposit_changes_no_other(ledger):
    """Neither its status nor the label of its channel, and only an open that was abandoned counts as one."""
    done, pending, abandoned = (
        begin(ledger, one, key, f"{key} channel") for one, key in ((ONE, "k3"), (TWO, "k2"), (THREE, "k1"))
    )
    ledger.deposits.record("k3", DepositStatus.DONE)
    ledger.deposits.abandon(abandoned)
    assert ledger.deposits.find("k3") == replace(done, status=DepositStatus.DONE, created_at=7)
    assert ledger.deposits.find("k2") == replace(pending, created_at=7)
    assert [ledger.channels.get(one.channel_id).label for one in (ONE, TWO)] == ["k3 channel", "k2 channel"]
    are_abandoned = [one.is_abandoned for one in ledger.channels.list(finalized=False)]
    assert are_abandoned == [False, False, True]
    ledger.deposits.revive(abandoned, None, now=9)
    assert ledger.deposits.find("k3") == replace(done, status=DepositStatus.DONE, created_at=7)
    assert [deposit.idempotency_key for deposit in ledger.deposits.pending()] == ["k2", "k1"]


def test_an_abandoned_top_up_leaves_its_channel_alone(ledger):
    """The channel it was for is open and keeps its name."""
    ledger.channels.add(ONE.payer_channel(deposit=1000, label="coffee"), now=1)
    top_up = planned(ONE, kind=DepositKind.TOP_UP)
    commit(ledger, top_up, ONE.payer_channel(deposit=1000), now=2)
    ledger.deposits.abandon(top_up)
    assert ledger.channels.find("coffee").channel_id == ONE.channel_id
    ledger.channels.record_states({ONE.channel_id: NO_CHANNEL}, as_of=3)
    assert not ledger.channels.get(ONE.channel_id).is_abandoned


def test_deposits_of_a_chain(ledger):
    """Those that it has, opens first, each oldest first; not into channels that are finalized."""
    begin(ledger, ONE)
    for now, key in ((5, "later"), (3, "first")):
        commit(ledger, planned(ONE, key, kind=DepositKind.TOP_UP), ONE.payer_channel(deposit=1000), now=now)
    begin(ledger, THREE, "finalized")
    ledger.channels.record_states({THREE.channel_id: replace(NO_CHANNEL, deposit=1, finalized=True)}, as_of=1)
    for deposit in ledger.deposits.pending():
        ledger.deposits.record(deposit.idempotency_key, DepositStatus.DONE)
    begin(ledger, TWO, "pending")
    assert [one.idempotency_key for one in ledger.deposits.done(CHAIN)] == ["k1", "first", "later"]
    assert ledger.deposits.done(ChainId(1)) == []


def test_deposits_of_a_channel(ledger):
    """Of one kind, newest first."""
    begin(ledger, ONE)
    begin(ledger, TWO, "k2")
    for now, key in ((3, "b"), (4, "c"), (2, "a")):
        top_up = planned(ONE, key, kind=DepositKind.TOP_UP)
        commit(ledger, top_up, ONE.payer_channel(deposit=1000), now=now)
    found = ledger.deposits.of_channel(DepositKind.TOP_UP, ONE.channel_id)
    assert [deposit.idempotency_key for deposit in found] == ["c", "b", "a"]
    assert ledger.deposits.of_channel(DepositKind.TOP_UP, TWO.channel_id) == []


def test_blocks_that_were_read(ledger):
    """Per chain, escrow and payer; the last one recorded counts, lower ones too."""
    assert ledger.scanned.get(CHAIN, ESCROW, PAYER) is None
    for block in (10, 5):
        ledger.scanned.record(CHAIN, ESCROW, PAYER, block)
        assert ledger.scanned.get(CHAIN, ESCROW, PAYER) == block
    for other in ((ChainId(1), ESCROW, PAYER), (CHAIN, PAYER, PAYER), (CHAIN, ESCROW, ESCROW)):
        assert ledger.scanned.get(*other) is None


def test_a_channel_that_was_never_opened_is_opening(ledger):
    """What is begun and not on the chain does not count as open."""
    begin(ledger, ONE)
    channel = ledger.channels.get(ONE.channel_id)
    assert channel.state == replace(NO_CHANNEL, deposit=0)
    assert channel.state.status(now=0) == "opening"
