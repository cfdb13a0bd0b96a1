"""The payee's channels: found by the start of an id, and listed where that fails."""

from __future__ import annotations

from dataclasses import replace

import pytest
from model import CHAIN, ESCROW, PAYEE, TOKEN, keyed

from microwallet.domain.channel import NO_CHANNEL, PayeeChannel
from microwallet.domain.identifiers import ChainId, ChannelId, TxHash
from microwallet.domain.money import Amount
from microwallet.domain.ports import SignedTransaction, TransactionStatus
from microwallet.errors import AmbiguousReference, UnknownReference
from microwallet.ledger.at_risk import money_at_risk

ONE = keyed(1)
OPEN = replace(NO_CHANNEL, deposit=1000)
FINALIZED = replace(OPEN, finalized=True)


def test_an_unknown_channel_lists_what_there_is(ledger):
    """By four digits or more of an id; anything else names the candidates."""
    channel = ONE.payer_channel(deposit=1000, authorized=7)
    accepted = PayeeChannel(
        channel_id=channel.channel_id,
        descriptor=channel.descriptor,
        asset=channel.asset,
        state=channel.state,
        authorized=channel.authorized,
        spent=channel.authorized,
        as_of=channel.as_of,
        signature=bytes(65),
    )
    ledger.vouchers.accept([accepted.channel_id], lambda *_: [accepted], now=1)
    assert ledger.vouchers.find(ONE.channel_id[:6]).channel_id == ONE.channel_id
    for reference in ("coffee", ONE.channel_id[:5], "0xffff"):
        with pytest.raises(UnknownReference, match=f"there are:\n  {ONE.channel_id}  from "):
            ledger.vouchers.find(reference)
    with pytest.raises(UnknownReference, match=r"^there is no channel .* at least four digits"):
        ledger.vouchers.find(ONE.channel_id[:5])


def test_a_voucher_of_which_the_chain_was_not_asked(ledger):
    """A better one takes nothing away of what the chain said of its channel before; what it says now does."""
    known = replace(ONE.payee_channel(deposit=1000), authorized=7, spent=7, as_of=5)
    better = replace(known, state=NO_CHANNEL, authorized=9, spent=9, as_of=None)
    for one in (known, better):
        ledger.vouchers.accept([ONE.channel_id], lambda *_, one=one: [one], now=1)
    assert ledger.vouchers.get(ONE.channel_id) == replace(known, authorized=9, spent=9)
    asked = replace(known, state=replace(FINALIZED, deposit=2000, settled=9), authorized=9, spent=9, as_of=6)
    ledger.vouchers.accept([ONE.channel_id], lambda *_: [asked], now=1)
    assert ledger.vouchers.get(ONE.channel_id) == asked


def test_the_best_voucher_is_kept_with_its_signature(ledger):
    """And with when it was accepted; one of less leaves all of that as it is."""
    known = replace(ONE.payee_channel(deposit=1000), authorized=7, spent=7)
    better = replace(known, authorized=9, spent=9, signature=b"\1" * 65)
    for now, one in enumerate((known, better, replace(known, signature=b"\2" * 65))):
        ledger.vouchers.accept([ONE.channel_id], lambda *_, one=one: [one], now=now)
    assert ledger.vouchers.get(ONE.channel_id) == better
    assert ledger.vouchers.accepted_at() == {ONE.channel_id: 1}


def test_the_start_of_an_id_means_one_channel_or_none(ledger):
    """That of several is refused, and those are listed; a whole id means its own channel."""
    ids = [ChannelId(start.ljust(66, "0")) for start in ("0xabc0", "0xabcd0", "0xabcdf", "0xabce")]
    found = [replace(ONE.payee_channel(deposit=1000), channel_id=one) for one in ids]
    ledger.vouchers.accept([], lambda *_: found, now=1)
    for reference in (*ids, "0xabc0", "0xABCE", "0xabcd0", "0xabcdf"):
        meant = [one for one in ids if one.startswith(reference.lower())]
        assert [ledger.vouchers.find(reference).channel_id] == meant
    with pytest.raises(AmbiguousReference) as refused:
        ledger.vouchers.find("0xabcd")
    assert [line.split()[0] for line in refused.value.message.splitlines()[1:]] == ids[1:3]


def test_what_is_at_risk_where_the_chain_was_not_asked(ledger):
    """A voucher that was restored while no chain answers may be worth all that it says."""
    restored = replace(ONE.payee_channel(deposit=0), authorized=9, spent=8, as_of=None)
    ledger.vouchers.accept([ONE.channel_id], lambda *_: [restored], now=1)
    (told,) = money_at_risk(ledger, PAYEE)
    assert told == f"{ONE.channel_id} owes {Amount(8, restored.asset)}"


def test_no_channel_at_all(ledger):
    """An empty ledger has nothing to list."""
    with pytest.raises(UnknownReference, match=r"begins with 'coffee'$"):
        ledger.vouchers.find("coffee")


@pytest.mark.parametrize("unit", [1, 10**6, 10**18, 10**30])
def test_channels_that_owe(ledger, unit):
    """None that owes enough is left out, however large the numbers; few that do not are in."""
    for number, spent in enumerate((999, 1000, 1001, 5000), start=1):
        channel = keyed(number).payee_channel(deposit=10_000 * unit)
        state = replace(channel.state, settled=3000 * unit if spent == 5000 else 0)
        owing = [replace(channel, state=state, authorized=spent * unit, spent=spent * unit)]
        ledger.vouchers.accept([], lambda *_, owing=owing: owing, now=number)
    owing = ledger.vouchers.owing(CHAIN, PAYEE, TOKEN, 1000 * unit)
    assert [one.spent // unit for one in owing] == [1000, 1001, 5000]
    assert ledger.vouchers.owing(CHAIN, PAYEE, ESCROW, 0) == []
    idle = ledger.vouchers.idle(CHAIN, PAYEE, since=2)
    assert [one.spent // unit for one in idle] == [999, 1000]


def test_channels_that_are_not_looked_at(ledger):
    """Of another chain or payee, in another token, finalized, or settled all but a little: none is due."""
    others = {
        "chain": keyed(1, chain_id=ChainId(1)),
        "payee": keyed(2, payee=ESCROW),
        "token": keyed(3, token=ESCROW),
        "finalized": keyed(4),
        "settled": keyed(5),
        "due": keyed(6),
    }
    states = {"finalized": {"finalized": True}, "settled": {"settled": 1000}}
    for name, one in others.items():
        channel = one.payee_channel(deposit=2000)
        state = replace(channel.state, **states.get(name, {}))
        found = replace(channel, state=state, authorized=1000, spent=1000, as_of=1)
        ledger.vouchers.accept([], lambda *_, found=found: [found], now=1)

    def names(channel_ids):
        return {name for name, one in others.items() if one.channel_id in channel_ids}

    def ids(channels):
        return names([one.channel_id for one in channels])

    assert ids(ledger.vouchers.owing(CHAIN, PAYEE, TOKEN, 500)) == {"due"}
    assert ids(ledger.vouchers.idle(CHAIN, PAYEE, since=1)) == {"token", "due"}
    assert ids(ledger.vouchers.list(finalized=False)) == {*others} - {"finalized"}
    ledger.vouchers.confirm_closes([one.channel_id for one in others.values()])
    live = {"payee", "token", "settled", "due"}
    assert ids(ledger.vouchers.live(CHAIN)) == live
    assert ids(ledger.vouchers.live(CHAIN, [one.channel_id for one in others.values()])) == live
    (rows,) = ledger.vouchers.live_rows(CHAIN).values()
    assert ids(rows) == live
    ledger.vouchers.renew(CHAIN, as_of=9, before=5)
    renewed = [one for one in ledger.vouchers.list(finalized=True) if one.as_of == 9]
    assert ids(renewed) == live


def test_what_was_charged_for_certain(ledger):
    """What is reserved for requests being served is not; it may be of a channel whose id is alike."""
    channels = [replace(keyed(n).payee_channel(deposit=9), authorized=9, spent=7) for n in (1, 2, 3)]
    ids = [one.channel_id for one in channels]
    ledger.vouchers.accept([], lambda *_: channels, now=1)
    charged = ledger.vouchers.charged(ids, lambda asked: dict(zip(asked, (0, 3, 8), strict=True)))
    assert charged == dict(zip(ids, (7, 4, 0), strict=True))


def test_a_close_is_of_its_own_channel(ledger):
    """It begins, ends, is told and is confirmed there alone; what ends there without having begun is none."""
    one, two, elsewhere = keyed(1), keyed(2), keyed(3, chain_id=ChainId(1))
    ids = [channel.channel_id for channel in (one, two, elsewhere)]
    for channel in (one, two, elsewhere):
        ledger.sessions.add_channel(channel.payee_channel(deposit=1000), now=1)

    def closes():
        held = ledger.vouchers.accepted(ids)
        return [(held[channel_id].is_closing, held[channel_id].ended_closes) for channel_id in ids]

    ledger.vouchers.begin_closes([one.channel_id, elsewhere.channel_id])
    assert [channel.channel_id for channel in ledger.vouchers.closing(CHAIN)] == [one.channel_id]
    assert closes() == [(True, 0), (False, 0), (True, 0)]
    ledger.vouchers.end_closes([one.channel_id, two.channel_id])
    assert closes() == [(False, 1), (False, 0), (True, 0)]
    finalized = replace(NO_CHANNEL, deposit=1000, finalized=True)
    ledger.vouchers.record_states(dict.fromkeys(ids, finalized), as_of=2)
    assert {*ledger.vouchers.untold_ends(CHAIN)} == {one.channel_id, two.channel_id}
    ledger.vouchers.record_told([one.channel_id])
    ledger.vouchers.record_states({one.channel_id: replace(finalized, settled=7)}, as_of=3)
    assert ledger.vouchers.untold_ends(CHAIN) == [two.channel_id]
    ledger.vouchers.confirm_closes([one.channel_id])
    assert [channel.channel_id for channel in ledger.vouchers.live(CHAIN)] == [two.channel_id]


@pytest.mark.parametrize(
    ("was", "now", "close", "is_closing"),
    [
        (FINALIZED, OPEN, {}, True),
        (NO_CHANNEL, OPEN, {}, True),
        (OPEN, OPEN, {}, False),
        (FINALIZED, FINALIZED, {}, False),
        (FINALIZED, NO_CHANNEL, {}, False),
        (FINALIZED, OPEN, {"status": TransactionStatus.REVERTED}, False),
        (FINALIZED, OPEN, {"purpose": "settle"}, False),
        (FINALIZED, OPEN, {"chain_id": ChainId(1)}, False),
        (FINALIZED, OPEN, {"of": keyed(2)}, False),
    ],
)
def test_a_channel_whose_close_was_undone_is_closing(ledger, was, now, close, is_closing):
    """It is open though our close of it was mined, which anybody can have mined again. No other is, and one
    that was closing stays so."""
    about = {"status": TransactionStatus.MINED, "purpose": "close", "chain_id": CHAIN, "of": ONE, **close}
    transaction = SignedTransaction(
        hash=TxHash("0x" + "ab" * 32),
        chain_id=about["chain_id"],
        sender=PAYEE,
        nonce=0,
        operation="close-1",
        purpose=about["purpose"],
        channel_id=None,
        raw=bytes.fromhex(about["of"].descriptor.salt[2:]),
        max_fee_per_gas=1,
        max_priority_fee_per_gas=1,
    )
    ledger.journal.replace(transaction)
    ledger.journal.record(transaction.hash, about["status"])
    begun = keyed(3)
    channels = [replace(one.payee_channel(deposit=0), state=was) for one in (ONE, begun)]
    ledger.vouchers.accept([], lambda *_: channels, now=1)
    ledger.vouchers.begin_closes([begun.channel_id])
    assert ledger.vouchers.accepted([ONE.channel_id])[ONE.channel_id].is_open is (was == OPEN)
    ledger.vouchers.record_states({one.channel_id: now for one in channels}, as_of=2)
    closing = [one.channel_id for one in ledger.vouchers.closing(CHAIN)]
    assert sorted(closing) == sorted([ONE.channel_id] * is_closing + [begun.channel_id])
