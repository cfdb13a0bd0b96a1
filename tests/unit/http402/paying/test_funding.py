"""Deposits for requests: which channel is short, and how much is deposited."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
from model import CHAIN, ESCROW, PAYEE, PAYER, TOKEN, USDC, keyed

from microwallet.domain.channel import CLOSE_GRACE_PERIOD
from microwallet.domain.deposit import Deposit, DepositKind, DepositStatus, Way
from microwallet.domain.identifiers import NATIVE_TOKEN
from microwallet.domain.money import DEPOSIT_LIMIT, Amount, Asset
from microwallet.domain.purchase import VoucherTerms
from microwallet.errors import AboveLimit
from microwallet.http402.paying.client import Limits
from microwallet.http402.paying.deposit_size import DepositAboveLimit
from microwallet.http402.paying.funding import Funding
from microwallet.http402.wire.session_request import SessionRequest

ONE, TWO = keyed(1), keyed(2)
TERMS = VoucherTerms(cost=30, most=30)
NEW, SHORT = None, {"deposit": 100, "authorized": 90}
COIN = Asset(chain_id=CHAIN, token=NATIVE_TOKEN, symbol="ETH", decimals=18)


@pytest.fixture
def funding(ledger):
    """Funding of a request for 30, with a channel that is like this, if any; `most` may be deposited, and the
    payee sends what is signed for it where `gasless` tells the least that it sends."""

    def make(channel=NEW, *, most=0, deposit=None, suggested=None, channel_id=None, gasless=None):
        if channel is not NEW:
            spent = channel.get("spent", channel["authorized"])
            made = ONE.payer_channel(deposit=channel["deposit"])
            ledger.channels.add(replace(made, authorized=channel["authorized"], spent=spent), now=0)
        request = SessionRequest(
            amount=30,
            currency=TOKEN,
            recipient=PAYEE,
            chain_id=CHAIN,
            escrow_contract=ESCROW,
            suggested_deposit=suggested,
            channel_id=channel_id,
            fee_payer=True,
            minimum_deposit=1_000 if gasless is None else gasless,
            credential_types=("hash", "authorization"),
        )
        limits = Limits(
            max_amounts={}, max_deposits={TOKEN: most}, deposit=deposit, is_gasless=gasless is not None
        )
        client = SimpleNamespace(ledger=ledger, payer=PAYER, limits=limits, sessions=set(), clock=lambda: 10)
        choice = SimpleNamespace(request=request, price=Amount(30, USDC), reserved=30)
        return Funding(client, choice)

    return make


@pytest.mark.parametrize(
    ("channel", "most", "suggested", "amount"),
    [
        (NEW, 10_000, None, 3_000),
        (NEW, 2_999, None, 2_999),
        (NEW, 10_000, 500, 500),
        (NEW, 10_000, 29, 30),
        (NEW, 30, 500, 30),
        (NEW, 2**100, 2**99, DEPOSIT_LIMIT - 1),
        (SHORT, 10_000, None, 3_000),
        (SHORT, 10_000, 19, 20),
        (SHORT, 10_000, 21, 21),
        (SHORT, 125, 500, 25),
        (SHORT, 120, 500, 20),
    ],
)
def test_how_much_is_deposited(funding, channel, most, suggested, amount):
    """As the server suggests, or for a hundred requests: what is missing at least, and no more than is left
    of the limit for all that is deposited."""
    preview = funding(channel, most=most, suggested=suggested).preview(TERMS)
    assert (preview.way, preview.deposit) == ("open" if channel is NEW else "topUp", Amount(amount, USDC))


@pytest.mark.parametrize(
    ("channel", "most", "needed", "left", "in_all"),
    [(NEW, 29, 30, 29, 30), (SHORT, 119, 20, 19, 120), (SHORT, 50, 20, 0, 120)],
)
def test_no_deposit_beyond_the_limit(funding, channel, most, needed, left, in_all):
    """What would be enough is told: for this request, and as the limit."""
    with pytest.raises(DepositAboveLimit) as caught:
        funding(channel, most=most).preview(TERMS)
    assert caught.value.message.startswith(
        f"a deposit of at least {Amount(needed, USDC)} is needed, and {Amount(left, USDC)} is left"
    )
    assert caught.value.hint == f'--deposit "{Amount(needed, USDC)}"'
    assert caught.value.in_all == Amount(in_all, USDC)


@pytest.mark.parametrize(("requested", "words"), [(10, "--wait"), (10 - CLOSE_GRACE_PERIOD, None)])
def test_a_limit_that_a_closing_channel_uses_up(funding, ledger, requested, words):
    """It is said where the money is, and how it comes back."""
    made = funding({"deposit": 100, "authorized": 0}, most=120)
    state = replace(ledger.channels.get(ONE.channel_id).state, close_requested_at=requested)
    ledger.channels.record_states({ONE.channel_id: state}, as_of=10)
    with pytest.raises(
        DepositAboveLimit, match=f"channel {ONE.channel_id} is closing and holds 0.0001 "
    ) as caught:
        made.preview(TERMS)
    withdraw = " ".join(filter(None, ["microwallet channel withdraw", ONE.channel_id, words]))
    assert caught.value.hint == f'{withdraw}, or --deposit "{Amount(30, USDC)}"'


@pytest.mark.parametrize(("channel", "in_all"), [(NEW, 600), (SHORT, 700)])
def test_a_deposit_that_the_payee_sends(funding, channel, in_all):
    """It is no smaller than what the payee sends, or it is not signed."""
    least = Amount(600, USDC)
    assert funding(channel, most=10_000, suggested=500, gasless=600).preview(TERMS).deposit == least
    assert funding(most=in_all, suggested=500, gasless=600).preview(TERMS).deposit == least
    assert funding(deposit=least, gasless=600).preview(TERMS).deposit == least
    with pytest.raises(DepositAboveLimit, match="a deposit of at least") as caught:
        funding(most=in_all - 1, gasless=600).preview(TERMS)
    assert (caught.value.hint, caught.value.in_all) == (f'--deposit "{least}"', Amount(in_all, USDC))
    with pytest.raises(DepositAboveLimit, match="is too small: at least") as caught:
        funding(deposit=Amount(599, USDC), gasless=600).preview(TERMS)
    assert caught.value.hint == f'--deposit "{least}"'


@pytest.mark.parametrize(("channel", "needed"), [(NEW, 30), (SHORT, 20)])
def test_a_deposit_that_was_asked_for(funding, channel, needed):
    """It is made whatever the limit says, where it is enough and in the token that is wanted."""
    given = Amount(needed, USDC)
    assert funding(channel, deposit=given, suggested=500).preview(TERMS).deposit == given
    for other in (Amount(needed - 1, USDC), Amount(needed, COIN)):
        with pytest.raises(DepositAboveLimit) as caught:
            funding(deposit=other).preview(TERMS)
        assert caught.value.hint == f'--deposit "{given}"'


@pytest.mark.parametrize(("cost", "at_least", "is_allowed"), [(30, 30, True), (31, 0, False), (1, 31, False)])
def test_no_deposit_for_a_voucher_that_may_not_be_signed(funding, cost, at_least, is_allowed):
    """It is refused before; but a voucher that was signed before may be had again."""
    made = funding({"deposit": 20, "spent": 0, "authorized": 30}, most=1_000, suggested=1)
    terms = VoucherTerms(cost=cost, most=0, at_least=at_least)
    if is_allowed:
        assert made.preview(terms).deposit == Amount(11, USDC)
        return
    with pytest.raises(AboveLimit, match="at most 0 USDC may be for this request"):
        made.preview(terms)


@pytest.mark.parametrize(("deposit", "way"), [(30, "channel"), (29, "topUp")])
def test_a_channel_of_which_more_is_signed_than_its_deposit(funding, deposit, way):
    """As after a reorganisation: it pays for nothing before it is topped up."""
    made = funding({"deposit": deposit, "spent": 0, "authorized": 30}, most=1_000)
    assert made.preview(VoucherTerms(cost=10, most=10)).way == way


def test_which_channel_pays(funding, ledger):
    """The oldest, or the one that the server suggests; none of another payer, payee or token, none of which
    the highest voucher is not known, and none that the payee no longer takes."""
    foreign = [keyed(3, payer=ESCROW), keyed(4, payee=ESCROW), keyed(5, token=ESCROW)]
    for one in (*foreign, keyed(6), ONE, TWO):
        made = one.payer_channel(deposit=100)
        ledger.channels.add(replace(made, voucher_known=one.channel_id != keyed(6).channel_id), now=0)
    assert [one.channel_id for one in funding().fitting(TERMS, ())] == [ONE.channel_id, TWO.channel_id]
    assert [one.channel_id for one in funding().fitting(TERMS, [ONE.channel_id])] == [TWO.channel_id]
    suggested = funding(channel_id=TWO.channel_id)
    assert [one.channel_id for one in suggested.fitting(TERMS, ())] == [TWO.channel_id, ONE.channel_id]


def test_what_was_deposited_into_a_channel_that_ended_counts_no_more(funding, ledger):
    """The limit is for what the payee's live channels have."""
    made = ONE.payer_channel(deposit=1_000)
    ledger.channels.add(replace(made, state=replace(made.state, finalized=True)), now=0)
    assert funding(most=3_000).preview(TERMS).deposit == Amount(3_000, USDC)


@pytest.fixture
def reorganised(ledger):
    """A channel into which 1000 and 500 were deposited, of which the chain has `left`, all spent."""

    def make(left):
        made = replace(ONE.payer_channel(deposit=left), authorized=left, spent=left)
        for key, kind, amount in (("k", DepositKind.OPEN, 1_000), ("t", DepositKind.TOP_UP, 500)):
            done = Deposit(
                idempotency_key=key,
                kind=kind,
                channel_id=ONE.channel_id,
                amount=amount,
                arguments="{}",
                way=Way.NATIVE,
                authorization_expires_at=None,
                status=DepositStatus.DONE,
            )
            ledger.deposits.begin(done, made, require_key=lambda: None, now=0)

    return make


@pytest.mark.parametrize("left", [0, 1_000, 1_500])
def test_what_a_reorganisation_took_counts_until_it_cannot_come_back(funding, ledger, reorganised, left):
    """Otherwise another deposit would be made for it, and both be there in the end."""
    reorganised(left)
    assert funding(most=3_000).preview(TERMS).deposit == Amount(1_500, USDC)
    for key in ("k", "t"):
        ledger.deposits.abandon(ledger.deposits.find(key))
    assert funding(most=3_000).preview(TERMS).deposit == Amount(3_000 - left, USDC)


@pytest.mark.parametrize(
    ("left", "hint"), [(0, "microwallet channel sync, or --deposit "), (1_500, "--deposit ")]
)
def test_a_limit_that_is_reached_by_what_a_reorganisation_took(funding, reorganised, left, hint):
    """It is said how to have that, or its end."""
    reorganised(left)
    with pytest.raises(AboveLimit) as refused:
        funding(most=1_500).preview(TERMS)
    assert refused.value.hint.startswith(hint)
    assert ("a reorganisation may have taken" in refused.value.message) is (left == 0)
