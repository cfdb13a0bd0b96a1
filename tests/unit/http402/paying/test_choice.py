"""Which offer is taken: every rule of the payer, against servers that try to get around it."""

from __future__ import annotations

import dataclasses

import pytest
from issuing import issue

from microwallet.domain.identifiers import NATIVE_TOKEN, ChainId, checksum_address
from microwallet.domain.money import Amount, Asset
from microwallet.errors import AboveLimit, NoPayableChallenge
from microwallet.http402.paying.choice import PayerRules, choose, signs_deposits
from microwallet.http402.wire.challenge import ChallengeSecrets, Offered, offered_challenges
from microwallet.http402.wire.session_request import SessionRequest

PAYER, PAYEE, TOKEN, ESCROW, OTHER = (checksum_address(bytes([n]) * 20) for n in (1, 2, 3, 4, 5))
NOW = 1_770_000_000
USDC = Asset(chain_id=ChainId(31337), token=TOKEN, symbol="USDC", decimals=6)
RULES = PayerRules(
    chain_id=ChainId(31337),
    escrow_contracts=frozenset({ESCROW}),
    assets={TOKEN: USDC},
    max_amounts={TOKEN: 1000},
    payer=PAYER,
)
REQUEST = SessionRequest(
    amount=1000, currency=TOKEN, recipient=PAYEE, chain_id=ChainId(31337), escrow_contract=ESCROW
)
SECRETS = ChallengeSecrets([b"s" * 32])


def offer(request=REQUEST, *, method="evm", intent="session", expires_at=NOW + 60) -> str:
    """The field of a challenge."""
    document = request if isinstance(request, dict) else request.to_object()
    return issue(SECRETS, document, realm="r", method=method, intent=intent, expires_at=expires_at).to_field()


def chosen(*values, rules=RULES):
    return choose(offered_challenges(values), rules, now=NOW)


def changed(**fields) -> str:
    return offer(dataclasses.replace(REQUEST, **fields))


def test_an_offer_that_keeps_to_the_rules_is_taken():
    """At the limit too; its price is an amount of the asset."""
    choice = chosen(offer())
    assert choice.request == REQUEST
    assert choice.price == Amount(1000, USDC)


def test_what_a_request_may_cost_is_known_before():
    """A server that counts units says how many at most: all of them together keep to the limit."""
    assert chosen(changed(amount=100, max_units=10)).reserved == 1000
    with pytest.raises(AboveLimit, match="up to 11 are sold at once"):
        chosen(changed(amount=100, max_units=11))


REFUSED = {
    "method": (offer(method="tempo"), "tempo/session is a way to pay"),
    "intent": (offer(intent="charge"), "evm/charge is a way to pay"),
    "expired": (offer(expires_at=NOW), "expired at 2026-02-02T02:40:00Z"),
    "request": (offer({"amount": "1"}), "request.methodDetails is missing"),
    "chain": (changed(chain_id=ChainId(1)), "on chain 1"),
    "escrow": (changed(escrow_contract=OTHER), "not trusted"),
    "token": (changed(currency=OTHER), "not known here"),
    "native coin": (changed(currency=NATIVE_TOKEN), "not known here"),
    "no payee": (changed(recipient=NATIVE_TOKEN), "cannot be one"),
    "own payee": (changed(recipient=PAYER), "cannot be one"),
    "escrow as payee": (changed(recipient=ESCROW), "cannot be one"),
    "deposit": (changed(credential_types=("permit2",)), "by permit2 only"),
    "no id": ('Payment realm="r"', "has no id"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_an_offer_that_does_not_is_refused(name):
    """The reason is told; a good offer after it is taken all the same."""
    field, reason = REFUSED[name]
    with pytest.raises(NoPayableChallenge, match=reason):
        chosen(field)
    assert chosen(field, 'Basic realm="x"', offer()).request == REQUEST


def test_a_fresh_offer_that_has_expired():
    """One of two clocks is wrong: the time here is told, and how to look at it."""
    with pytest.raises(NoPayableChallenge, match="and it is 2026-02-02T02:40:00Z here") as raised:
        chosen(offer(expires_at=NOW - 60))
    assert raised.value.hint == "date -u  (this clock is wrong, or the server's)"


def test_a_price_above_the_limit_is_refused():
    """By one base unit; the hint is the flag that would allow it. A cheaper offer is taken."""
    with pytest.raises(AboveLimit, match=r"costs 0\.001001 USDC, and at most 0\.001 USDC") as raised:
        chosen(changed(amount=1001))
    assert raised.value.hint == '--max-amount "0.001001 USDC"'
    assert chosen(changed(amount=1001), offer()).price.base_units == 1000


def test_a_token_without_a_limit_is_not_paid_in():
    """What is not set is zero, not boundless."""
    with pytest.raises(AboveLimit, match="no maximum is set in USDC"):
        chosen(offer(), rules=dataclasses.replace(RULES, max_amounts={}))


def test_another_payee_than_before():
    """Refused where the payer wants the one it knows."""
    with pytest.raises(NoPayableChallenge, match="was 0x05"):
        chosen(offer(), rules=dataclasses.replace(RULES, known_payee=OTHER))
    assert chosen(offer(), rules=dataclasses.replace(RULES, known_payee=PAYEE)).request == REQUEST


def test_another_payee_than_the_one_named():
    """It is refused whoever was paid before, and nobody says that somebody was."""
    with pytest.raises(NoPayableChallenge, match=f"its payee is {PAYEE}, not {OTHER}") as raised:
        chosen(offer(), rules=dataclasses.replace(RULES, known_payee=PAYEE, named_payee=OTHER))
    assert raised.value.hint == f"--payee {PAYEE}  (if that is who is meant)"
    rules = dataclasses.replace(RULES, known_payee=OTHER, named_payee=PAYEE)
    assert chosen(offer(), rules=rules).request == REQUEST


def test_the_servers_order_counts():
    """Among offers that can all be paid the first is taken."""
    assert chosen(changed(amount=7), changed(amount=5)).price.base_units == 7


def test_no_offer_at_all():
    """A 402 without a challenge, or with hundreds that cannot be paid, is told in one line. The server may
    say how by other means."""
    with pytest.raises(NoPayableChallenge, match="has no challenge of the Payment scheme; x402 and L402 are"):
        choose(Offered(challenges=(), rejected=()), RULES, now=NOW)
    with pytest.raises(NoPayableChallenge, match="and 95 more"):
        chosen(*[changed(chain_id=ChainId(1))] * 100)


BOTH = dataclasses.replace(REQUEST, fee_payer=True, credential_types=("authorization", "hash"))


@pytest.mark.parametrize(
    ("fields", "wanted", "has_coin", "signs"),
    [
        ({}, False, True, False),
        ({}, False, False, True),
        ({}, True, True, True),
        ({"credential_types": ("authorization",)}, False, True, True),
        ({"credential_types": ("hash",)}, False, False, False),
        ({"fee_payer": False}, False, False, False),
        ({"currency": NATIVE_TOKEN}, False, False, False),
    ],
)
def test_who_brings_a_deposit_onto_the_chain(fields, wanted, has_coin, signs):
    """The payer, unless it has no gas, wants it otherwise, or the payee takes nothing else."""
    request = dataclasses.replace(BOTH, **fields)
    assert signs_deposits(request, wanted=wanted, has_coin=lambda: has_coin) is signs


@pytest.mark.parametrize(
    ("fields", "wanted"),
    [
        ({"fee_payer": False}, True),
        ({"credential_types": ("hash",)}, True),
        ({"currency": NATIVE_TOKEN}, True),
        ({"credential_types": ("permit2",)}, False),
        ({"fee_payer": False, "credential_types": ("authorization",)}, False),
    ],
)
def test_a_deposit_that_nobody_makes(fields, wanted):
    """Where the payee pays no gas, or takes what is not done here; the chain is not asked for it."""
    with pytest.raises(NoPayableChallenge):
        signs_deposits(dataclasses.replace(BOTH, **fields), wanted=wanted, has_coin=pytest.fail)
