"""Handing a signed deposit to the payee, and finding out from the chain what became of it.

draft-evm-session-00, sections "Open Payload (feePayer: true)" and "TopUp Payload".
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from microwallet.domain.channel import PayerChannel
from microwallet.domain.deposit import DepositKind
from microwallet.domain.money import Amount
from microwallet.errors import MalformedMessage, NetworkError
from microwallet.http402.paying.choice import Choice, agreed_terms, session_offers
from microwallet.http402.paying.client import PayingClient
from microwallet.http402.paying.credentials import Signer
from microwallet.http402.paying.exchange import NoAnswer, NotSent, Sending, ServerAnswer, Steps
from microwallet.http402.paying.funding import Funded
from microwallet.http402.wire.challenge import Challenge
from microwallet.http402.wire.session_request import SessionRequest

if TYPE_CHECKING:
    from microwallet.payer.signed_deposit import SignedDeposit

_TAKEN_SECONDS = 30.0
"""How long the chain may take to show a deposit that the payee says it took."""
_REFUSED_SECONDS = 3.0
"""How long it is looked for where the payee says that it did not: its word proves nothing."""


def hand_over(
    client: PayingClient, signer: Signer, choice: Choice, signed: SignedDeposit, *, again: str
) -> Steps[Funded]:
    """Hand a signed deposit over, and wait until the chain has it: a channel that can pay.

    By a HEAD, so that nothing is asked for that would have to be paid before. Raises NetworkError where it
    never left, OutcomeUnknown where it left and is not on the chain: the command `again` goes on with it.
    """
    from microwallet.payer.signed_deposit import await_signed

    account = client.account(signed.channel.descriptor.escrow_contract)
    told: str | None = None
    try:
        answer = yield from _handed(client, choice, lambda challenge: signer.deposit(challenge, signed))
    except NotSent as error:
        told = f"the payee cannot be asked: {error}"
        if not signed.resumed:
            raise NetworkError(f"{told}; the deposit was not handed over") from error
    except NoAnswer as error:
        told = f"the payee gave no answer: {error}"
    else:
        if not 200 <= answer.status < 300:
            told = _refusal(answer, choice, signed)
    seconds = _TAKEN_SECONDS if told is None else _REFUSED_SECONDS
    made = await_signed(account, signed, seconds=seconds, told=told, again=again)
    return Funded(channel=made.channel, is_new=True)


def tell_again(
    client: PayingClient, signer: Signer, choice: Choice, channel: PayerChannel, kind: DepositKind
) -> Steps[bool]:
    """Hand over once more what is on the chain: a payee that crashed then may not know of it.

    What comes of it shows with the voucher. False if no such deposit was signed for the channel.
    """
    from microwallet.payer.signed_deposit import signed_again

    signed = signed_again(client.ledger, client.account, channel, kind)
    if signed is None:
        return False
    yield from tell(client, choice, lambda challenge: signer.deposit(challenge, signed))
    return True


def tell(client: PayingClient, choice: Choice, field_of: Callable[[Challenge], str]) -> Steps[None]:
    """Send a credential that buys nothing; what comes of it shows with the voucher."""
    with suppress(NotSent, NoAnswer):
        yield from _handed(client, choice, field_of)


def _handed(
    client: PayingClient, choice: Choice, field_of: Callable[[Challenge], str]
) -> Steps[ServerAnswer]:
    """What the payee says to a credential that comes by a HEAD; with a fresh challenge once more, as the
    first may be bound to a body. NotSent also where the offer has expired, and the same is not made again."""
    challenge = choice.challenge
    if challenge.has_expired(client.clock()):
        try:
            renewed = _same_offer(client, (yield Sending()), choice.request)
        except NoAnswer as error:
            raise NotSent(str(error)) from error
        if renewed is None:
            raise NotSent("its offer has expired, and it does not make the same again")
        challenge = renewed
    answer = yield Sending.answering(challenge, field_of(challenge), is_head=True)
    if answer.status == 402:
        fresh = _same_offer(client, answer, choice.request)
        if fresh is not None:
            answer = yield Sending.answering(fresh, field_of(fresh), is_head=True)
    return answer


def _same_offer(client: PayingClient, answer: ServerAnswer, request: SessionRequest) -> Challenge | None:
    """What cannot be read is no offer: what was handed over may have been taken all the same."""
    with suppress(MalformedMessage):
        for challenge, offered in session_offers(answer.challenges, client.clock()):
            if agreed_terms(offered) == agreed_terms(request):
                return challenge
    return None


def _refusal(answer: ServerAnswer, choice: Choice, signed: SignedDeposit) -> str:
    """An answer to a HEAD has no words; a deposit below what was suggested is the usual reason."""
    asset, suggested = choice.price.asset, choice.request.suggested_deposit
    if suggested is None or signed.authorization.value >= suggested:
        return f"the payee answers {answer.status}"
    given = Amount(signed.authorization.value, asset)
    return (
        f"the payee answers {answer.status}; the deposit is {given}, it suggests {Amount(suggested, asset)}"
    )
