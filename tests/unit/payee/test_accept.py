"""Accepting vouchers against a model of the chain: each boundary of each rule, and what is stored."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace

import pytest
from model import CHAIN, ESCROW, PAYEE, TOKEN, USDC, Escrow, keyed

from microwallet.domain.channel import NO_CHANNEL
from microwallet.domain.identifiers import NATIVE_TOKEN, checksum_address
from microwallet.domain.voucher import VoucherKey
from microwallet.errors import LedgerBusy, NetworkError
from microwallet.http402.charging import sales
from microwallet.http402.charging.sales import Handover, Order
from microwallet.payee.accept import Acceptance, AcceptancePolicy
from microwallet.payee.backup import voucher_lines
from microwallet.payee.tally import REJECTED_LIMIT, rejection_by_state

ONE, TWO = keyed(1), keyed(2)
OPEN = replace(NO_CHANNEL, deposit=1000)
POLICY = AcceptancePolicy(
    chain_id=CHAIN, escrow_contracts=frozenset({ESCROW}), payees=frozenset({PAYEE}), assets={TOKEN: USDC}
)


@pytest.fixture
def chain():
    """A chain with two channels of a thousand base units."""
    escrow = Escrow()
    escrow.open(ONE, 1000)
    escrow.open(TWO, 1000)
    return escrow


@pytest.fixture
def acceptance(ledger, chain):
    """An acceptance in a new process: `acceptance()`, `acceptance(allow_contract_signers=True)`."""

    def make(**policy):
        return Acceptance(ledger.vouchers, chain, replace(POLICY, **policy), clock=lambda: chain.now)

    return make


def counted(acceptance):
    """A tally as plain numbers."""
    tally = acceptance.tally
    return tally.accepted, tally.duplicates, {str(key): n for key, n in tally.rejected_by_reason.items()}


def changed(line, **fields):
    """A voucher line with other fields."""
    return json.dumps({**json.loads(line), **fields}).encode()


def best(ledger, channel=ONE):
    """The amount the ledger holds."""
    return ledger.vouchers.get(channel.channel_id).authorized


def test_the_best_is_kept_whatever_the_order(acceptance, ledger):
    """Higher ones are accepted, others are duplicates, and both channels are told."""
    for order in itertools.permutations((ONE.line(10), ONE.line(30), ONE.line(20), TWO.line(5))):
        taking = acceptance()
        taking.take(order)
        assert taking.tally.rejected == 0
        assert taking.tally.accepted + taking.tally.duplicates == 4
        assert set(taking.tally.channels) == {ONE.channel_id, TWO.channel_id}
        assert (best(ledger), best(ledger, TWO)) == (30, 5)


@pytest.mark.parametrize(
    ("deposit", "amount", "accepted"), [(1000, 999, True), (1000, 1000, True), (1000, 1001, False)]
)
def test_the_deposit_is_the_bound(acceptance, chain, deposit, amount, accepted):
    """A voucher equal to the deposit is good, one unit more is not."""
    taking = acceptance()
    taking.take([ONE.line(amount)])
    assert chain.state(ONE.channel_id).deposit == deposit
    assert counted(taking) == ((1, 0, {}) if accepted else (0, 0, {"amount-exceeds-deposit": 1}))


@pytest.mark.parametrize(("amount", "accepted"), [(499, False), (500, False), (501, True)])
def test_what_is_settled_already_pays_for_nothing(acceptance, chain, amount, accepted):
    """CVE-2026-34209: a payee that lost its ledger is not paid twice with a voucher it captured."""
    line = ONE.line(500)
    chain.settle(ONE, 500, 500, bytes.fromhex(json.loads(line)["signature"][2:]))
    taking = acceptance()
    taking.take([ONE.line(amount)])
    assert counted(taking) == ((1, 0, {}) if accepted else (0, 1, {}))


def held_by_payee(authorized, spent):
    """A channel as the payee stores it."""
    return replace(ONE.payee_channel(deposit=1000), authorized=authorized, spent=spent, as_of=1)


def sell(ledger, cumulative_amount, cost, channel=ONE):
    """A request is paid over HTTP by a voucher."""
    ledger.sessions.add_channel(channel.payee_channel(deposit=1000), now=1)
    handover = Handover(channel.channel_id, cumulative_amount, b"\x01" * 65, 1000, 0, "challenge", None)
    with ledger.sessions.transaction() as rows:
        sales.sell(rows, Order(handover, cost), 1)


def payment(cumulative_amount, start, channel=ONE):
    """The voucher of a payment that went on from `start`."""
    return changed(channel.line(cumulative_amount), paymentStart=str(start))


def test_a_payment_handed_over_after_a_request_counts(acceptance, ledger):
    """The request's voucher was above it: what it added is owed too, once, and capturable by the best one."""
    sell(ledger, 601, 1)
    assert best(ledger) == 601
    for expected in ((1, 0, {}), (0, 1, {})):
        taking = acceptance()
        taking.take([payment(600, 0)])
        assert counted(taking) == expected
        channel = ledger.vouchers.get(ONE.channel_id)
        assert (channel.authorized, channel.spent, channel.signature) == (601, 601, b"\x01" * 65)
    with ledger.sessions.transaction() as rows:
        assert rows.account(ONE.channel_id).available == 0


def test_payments_before_and_after_requests(acceptance, ledger, chain):
    """In whatever order they come, sums are those of the payer: 100 + 1 + 200 + 1 + 300."""
    payments = [(100, 0), (301, 101), (602, 302)]
    for number, order in enumerate(itertools.permutations(payments)):
        channel = keyed(10 + number)
        for cumulative_amount in (101, 302):
            sell(ledger, cumulative_amount, 1, channel)
        chain.open(channel, 1000)
        taking = acceptance()
        taking.take([payment(amount, start, channel) for amount, start in order])
        held = ledger.vouchers.get(channel.channel_id)
        assert (held.authorized, held.spent) == (602, 602), order
        assert taking.tally.accepted == 3


def test_what_was_settled_of_a_channel_that_is_found_again(acceptance, ledger):
    """Requests are paid through it again: a ledger now lost may have counted a payment from before."""
    ledger.sessions.add_channel(held_by_payee(500, 500), now=1)
    sell(ledger, 800, 1)
    taking = acceptance()
    taking.take([payment(400, 0)])
    assert counted(taking) == (0, 1, {})
    assert ledger.vouchers.get(ONE.channel_id).spent == 501


def test_a_payees_own_copy_is_no_payment(acceptance, ledger):
    """What `payee export` wrote of a channel that requests were paid through adds nothing when accepted."""
    sell(ledger, 601, 1)
    line = next(voucher_lines([ledger.vouchers.get(ONE.channel_id)]))
    signature = json.loads(ONE.line(601))["signature"]
    taking = acceptance()
    taking.take([changed(line, signature=signature)])
    assert counted(taking) == (0, 1, {})
    assert ledger.vouchers.get(ONE.channel_id).spent == 1


def test_what_a_lost_ledger_may_have_counted_pays_for_nothing(acceptance, ledger, chain):
    """More is settled than was accepted here: an older voucher was perhaps counted before that."""
    sell(ledger, 300, 1)
    line = ONE.line(500)
    chain.settle(ONE, 500, 500, bytes.fromhex(json.loads(line)["signature"][2:]))
    taking = acceptance()
    taking.take([payment(200, 100), payment(499, 0)])
    assert counted(taking) == (0, 2, {})
    assert ledger.vouchers.get(ONE.channel_id).spent == 1


def test_a_payment_handed_over_after_a_capture_counts(acceptance, ledger, chain):
    """What was captured meanwhile is what requests above it cost: it is owed as before."""
    sell(ledger, 700, 400)
    chain.settle(ONE, 700, 400, bytes.fromhex(json.loads(ONE.line(700))["signature"][2:]))
    taking = acceptance()
    taking.take([payment(300, 0)])
    assert counted(taking) == (1, 0, {})
    assert ledger.vouchers.get(ONE.channel_id).spent == 700


def test_one_base_unit_is_a_payment(acceptance, ledger):
    """The smallest one is kept, as the first and after others."""
    for amount in (1, 2):
        taking = acceptance()
        taking.take([ONE.line(amount)])
        assert counted(taking) == (1, 0, {})
        assert best(ledger) == amount


def test_a_voucher_for_nothing_pays_for_nothing(acceptance, ledger):
    """Cumulative amount zero is rightly signed and not higher than nothing."""
    taking = acceptance()
    taking.take([ONE.line(0)])
    assert counted(taking) == (0, 1, {})
    assert ledger.vouchers.list(finalized=True) == []


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        (NO_CHANNEL, "channel-not-found"),
        (replace(OPEN, finalized=True), "channel-finalized"),
        (replace(OPEN, close_requested_at=1), "close-pending"),
        (replace(OPEN, deposit=9), "amount-exceeds-deposit"),
        (replace(OPEN, deposit=10), None),
    ],
)
def test_a_channel_must_be_able_to_pay(acceptance, chain, ledger, state, reason):
    """What the chain says of a channel, each with its own reason, and nothing is stored then."""
    assert rejection_by_state(10, state) == reason
    chain.channels[ONE.channel_id] = state
    taking = acceptance()
    taking.take([ONE.line(10)])
    assert counted(taking) == ((1, 0, {}) if reason is None else (0, 0, {reason: 1}))
    assert (ledger.vouchers.get(ONE.channel_id) is None) is (reason is not None)


OTHER = checksum_address(b"\x99" * 20)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"", "malformed"),
        (b"null", "malformed"),
        (b"[" * 16000, "malformed"),
        (keyed(1, chain_id=1).line(1), "wrong-chain"),
        (keyed(1, escrow_contract=OTHER).line(1), "wrong-escrow"),
        (keyed(1, payee=OTHER).line(1), "wrong-payee"),
        (keyed(1, token=OTHER).line(1), "wrong-token"),
        (keyed(9).line(1), "channel-not-found"),
        (changed(ONE.line(1), token=OTHER), "malformed"),
        (changed(ONE.line(1), channelId=TWO.channel_id), "malformed"),
        (changed(ONE.line(1), cumulativeAmount="2"), "signer-mismatch"),
        (changed(ONE.line(1), cumulativeAmount=1), "malformed"),
        (changed(ONE.line(1), signature="0x"), "invalid-signature"),
        (changed(ONE.line(1), signature="0x" + "00" * 65), "invalid-signature"),
        (ONE.line(1, key=VoucherKey(b"\x07" * 32)), "signer-mismatch"),
        (TWO.line(1, key=ONE.key), "signer-mismatch"),
    ],
)
def test_each_bad_line_costs_only_itself(acceptance, ledger, line, reason):
    """Between two good ones: it is counted under its reason, and they are kept."""
    for _ in range(2):
        taking = acceptance()
        taking.take([ONE.line(10), line, ONE.line(11)])
        assert taking.tally.rejected_by_reason == {reason: 1}
        assert best(ledger) == 11


def test_the_payer_signs_where_no_signer_is_authorized(acceptance, chain, ledger):
    """The zero address as authorized signer means the payer's own key."""
    key = VoucherKey(b"\x08" * 32)
    own = keyed(3, payer=key.address, authorized_signer=NATIVE_TOKEN)
    chain.open(own, 10)
    taking = acceptance()
    taking.take([own.line(5, key=key), own.line(6)])
    assert counted(taking) == (1, 0, {"signer-mismatch": 1})
    assert best(ledger, own) == 5


@pytest.mark.parametrize("length", [1, 64, 66, 511])
def test_contract_signers_are_asked_only_when_allowed(acceptance, chain, ledger, length):
    """A signature of any form that a contract says yes to; refused unless the payee wants such signers."""
    chain.valid_by_contract = True
    line = changed(ONE.line(10), signature="0x" + "ab" * length)
    taking = acceptance()
    taking.take([line])
    assert counted(taking) == (0, 0, {"invalid-signature": 1})
    taking = acceptance(allow_contract_signers=True)
    taking.take([line])
    assert counted(taking) == (1, 0, {})
    assert ledger.vouchers.get(ONE.channel_id).signature == b"\xab" * length


def test_no_contract_is_asked_about_a_strangers_key(acceptance, chain, ledger):
    """Unless the payee wants such signers, whatever a contract would say to a signature like a key's."""
    chain.valid_by_contract = True
    stranger = json.loads(TWO.line(10))["signature"]
    taking = acceptance()
    taking.take([changed(ONE.line(10), signature=stranger)])
    assert counted(taking) == (0, 0, {"signer-mismatch": 1})
    assert ledger.vouchers.list(finalized=True) == []


def test_an_empty_signature_is_none_even_if_a_contract_likes_it(acceptance, chain, ledger):
    """The escrow takes none for a voucher, and the ledger keeps none; the stream goes on."""
    chain.valid_by_contract = True
    taking = acceptance(allow_contract_signers=True)
    taking.take([changed(ONE.line(10), signature="0x"), ONE.line(9)])
    assert counted(taking) == (1, 0, {"invalid-signature": 1})
    assert best(ledger) == 9


def test_a_contract_that_says_no(acceptance, chain):
    """Then it is nobody's signature."""
    chain.valid_by_contract = False
    taking = acceptance(allow_contract_signers=True)
    taking.take([changed(ONE.line(10), signature="0x" + "ab" * 64)])
    assert counted(taking) == (0, 0, {"signer-mismatch": 1})


def test_a_key_that_signs_is_not_asked_about(acceptance, chain):
    """An EIP-7702 delegation set after paying must not void an account's vouchers."""
    chain.valid_by_contract = False
    taking = acceptance(allow_contract_signers=True)
    taking.take([ONE.line(10)])
    assert counted(taking) == (1, 0, {})


def test_the_chain_is_asked_once_a_batch_and_again_when_its_answer_is_old(acceptance, chain):
    """A stream of a thousand lines costs one question for all channels in it; five seconds later another."""
    taking = acceptance()
    taking.take([channel.line(amount) for amount in range(1, 50) for channel in (ONE, TWO)])
    taking.take([ONE.line(60)])
    chain.now += 5
    taking.take([ONE.line(61)])
    assert chain.questions == 1
    chain.now += 1
    chain.request_close(ONE)
    taking.take([ONE.line(62), TWO.line(62)])
    assert chain.questions == 2
    assert counted(taking) == (101, 0, {"close-pending": 1})


def test_a_clock_that_was_set_back_makes_no_answer_new(acceptance, chain):
    """The chain is asked again: a close requested since is seen."""
    taking = acceptance()
    taking.take([ONE.line(10)])
    chain.request_close(ONE)
    chain.now -= 365 * 86400
    taking.take([ONE.line(20)])
    assert counted(taking) == (1, 0, {"close-pending": 1})


def test_another_process_was_further(acceptance, ledger):
    """Two acceptances on one ledger: what the slower one stores does not lower the best."""
    slow, fast = acceptance(), acceptance()
    slow.take([ONE.line(10)])
    fast.take([ONE.line(50)])
    slow.take([ONE.line(20)])
    assert best(ledger) == 50
    again = acceptance()
    again.take([ONE.line(50), ONE.line(51)])
    assert counted(again) == (1, 1, {})


def test_a_batch_that_fails_loses_nothing(acceptance, ledger, monkeypatch):
    """The chain or the ledger fails: nothing is counted; taken again, everything is stored."""
    taking = acceptance()
    taking.take([ONE.line(10)])
    with monkeypatch.context() as patched, pytest.raises(NetworkError):
        patched.setattr(Escrow, "states", _raise(NetworkError("down")))
        taking.take([TWO.line(20), b"x"])
    assert counted(taking) == (1, 0, {})
    with monkeypatch.context() as patched, pytest.raises(LedgerBusy):
        patched.setattr(type(ledger.vouchers), "accept", _raise(LedgerBusy("busy")))
        taking.take([TWO.line(20), b"x"])
    assert counted(taking) == (1, 0, {})
    assert list(taking.tally.channels) == [ONE.channel_id]
    assert ledger.vouchers.get(TWO.channel_id) is None
    taking.take([TWO.line(20), b"x"])
    assert counted(taking) == (2, 0, {"malformed": 1})
    assert best(ledger, TWO) == 20


def _raise(error):
    def fail(*_args, **_kwargs):
        raise error

    return fail


def test_each_rejected_line_is_told(acceptance, chain):
    """Its number in the input, channel and amount as it claims, and the reason; in order, up to a bound."""
    chain.channels[TWO.channel_id] = replace(OPEN, finalized=True)
    foreign = changed(ONE.line(7), chainId=5)
    taking = acceptance()
    taking.take([TWO.line(9), b"{}", ONE.line(5), foreign], [3, 5, 6, 9])
    told = [
        (one.line, str(one.reason), one.detail, one.channel_id, one.cumulative_amount, one.asset)
        for one in taking.tally.rejected_lines
    ]
    assert told == [
        (3, "channel-finalized", None, TWO.channel_id, 9, USDC),
        (5, "malformed", "channelId is missing", None, None, None),
        (9, "wrong-chain", None, ONE.channel_id, 7, None),
    ]
    taking.take([b"{}"] * REJECTED_LIMIT, range(10, 10 + REJECTED_LIMIT))
    assert taking.tally.rejected == REJECTED_LIMIT + 3
    assert len(taking.tally.rejected_lines) == REJECTED_LIMIT
    assert taking.tally.rejected_lines[:3][-1].line == 9


def test_the_token_that_was_refused_is_remembered(acceptance):
    """Whatever comes behind it: what is told in the end names it."""
    taking = acceptance()
    taking.take([keyed(1, token=OTHER).line(1)])
    taking.take([ONE.line(6)])
    assert taking.tally.wrong_token == OTHER
