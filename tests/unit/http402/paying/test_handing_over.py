"""Deposits that are handed over: what the payer makes of each answer."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from issuing import issue
from model import CHAIN, ESCROW, PAYEE, TOKEN, USDC, keyed

from microwallet.domain.money import Amount
from microwallet.errors import NetworkError
from microwallet.http402.paying.exchange import NoAnswer, NotSent, ServerAnswer
from microwallet.http402.paying.handing_over import hand_over
from microwallet.http402.wire.challenge import ChallengeSecrets
from microwallet.http402.wire.session_request import SessionRequest

ONE = keyed(1)
DEPOSIT = 500


def offer(*, expires_at=50, suggested=None, amount=30):
    """What the payee offers, and its challenge."""
    request = SessionRequest(
        amount=amount,
        currency=TOKEN,
        recipient=PAYEE,
        chain_id=CHAIN,
        escrow_contract=ESCROW,
        suggested_deposit=suggested,
    )
    secrets = ChallengeSecrets([b"s" * 32])
    challenge = issue(
        secrets, request.to_object(), realm="r", method="evm", intent="session", expires_at=expires_at
    )
    return SimpleNamespace(request=request, challenge=challenge, price=Amount(30, USDC))


@pytest.fixture
def handed(monkeypatch):
    """Hand a deposit over to a payee that answers so; what it was sent, and how the chain was looked at."""

    def hand(choice, *answers, resumed=False):
        looked, sent = [], []

        def await_signed(_account, _signed, *, seconds, told, again):
            looked.append((seconds, told, again))
            return SimpleNamespace(channel=ONE.payer_channel(deposit=DEPOSIT))

        monkeypatch.setattr("microwallet.payer.signed_deposit.await_signed", await_signed)
        client = SimpleNamespace(account=lambda _escrow: None, clock=lambda: 10)
        signer = SimpleNamespace(deposit=lambda challenge, _signed: f"for {challenge.id}")
        signed = SimpleNamespace(
            channel=ONE.payer_channel(deposit=0),
            authorization=SimpleNamespace(value=DEPOSIT),
            resumed=resumed,
        )
        steps, scripted = hand_over(client, signer, choice, signed, again="again"), iter(answers)
        with pytest.raises(StopIteration) as ended:
            sending = next(steps)
            while True:
                sent.append((sending.authorization, sending.is_head))
                answer = next(scripted)
                sending = steps.throw(answer) if isinstance(answer, Exception) else steps.send(answer)
        assert ended.value.value.is_new
        return looked, sent

    return hand


@pytest.mark.parametrize(
    ("status", "suggested", "told"),
    [
        (199, None, "the payee answers 199"),
        (200, None, None),
        (299, None, None),
        (300, None, "the payee answers 300"),
        (403, DEPOSIT, "the payee answers 403"),
        (403, DEPOSIT + 1, "the payee answers 403; the deposit is 0.0005 USDC, it suggests 0.000501 USDC"),
    ],
)
def test_what_the_payee_says(handed, status, suggested, told):
    """The chain is asked whatever it says, and longer where it says that it took the deposit."""
    choice = offer(suggested=suggested)
    looked, sent = handed(choice, ServerAnswer(status=status))
    assert looked == [(30.0 if told is None else 3.0, told, "again")]
    assert sent == [(f"for {choice.challenge.id}", True)]


def test_a_challenge_for_a_body(handed):
    """The same offer is answered once more with a challenge for none, and that once only."""
    first, fresh = offer(), offer(expires_at=60)
    again = ServerAnswer(status=402, challenges=[fresh.challenge.to_field()])
    looked, sent = handed(first, again, again)
    assert sent == [(f"for {one.challenge.id}", True) for one in (first, fresh)]
    assert looked == [(3.0, "the payee answers 402", "again")]
    other = ServerAnswer(status=402, challenges=[offer(amount=31).challenge.to_field()])
    assert len(handed(first, other)[1]) == 1


@pytest.mark.parametrize(
    ("resumed", "answer", "told"),
    [
        (False, NoAnswer("gone"), "the payee gave no answer: gone"),
        (True, NoAnswer("gone"), "the payee gave no answer: gone"),
        (True, NotSent("gone"), "the payee cannot be asked: gone"),
    ],
)
def test_no_answer(handed, resumed, answer, told):
    """What may have left, now or in an earlier run, is looked for."""
    assert handed(offer(), answer, resumed=resumed)[0] == [(3.0, told, "again")]


def test_a_deposit_that_never_left(handed):
    """It is told so, and nothing is looked for: also where the offer has expired and is not made again."""
    with pytest.raises(NetworkError, match="gone; the deposit was not handed over"):
        handed(offer(), NotSent("gone"))
    with pytest.raises(NetworkError, match="gone; the deposit was not handed over"):
        handed(offer(expires_at=9), NoAnswer("gone"))
    other = ServerAnswer(status=402, challenges=[offer(amount=31).challenge.to_field()])
    with pytest.raises(NetworkError, match="does not make the same again; the deposit was not handed over"):
        handed(offer(expires_at=9), other)


def test_an_offer_that_has_expired(handed):
    """Another challenge for it is asked for, and answered."""
    fresh = offer(expires_at=60)
    again = ServerAnswer(status=402, challenges=[fresh.challenge.to_field()])
    looked, sent = handed(offer(expires_at=9), again, ServerAnswer(status=200))
    assert sent == [(None, False), (f"for {fresh.challenge.id}", True)]
    assert looked == [(30.0, None, "again")]
