"""Asking the payee over HTTP to close a channel, the quick way when it is there, or what it has charged.

draft-evm-session-00, section "Cooperative Close".
"""

from __future__ import annotations

from collections.abc import Callable

import httpx

from microwallet.domain.channel import PayerChannel
from microwallet.domain.purchase import Purchase
from microwallet.domain.secret_fields import without_secrets
from microwallet.domain.voucher import VoucherKey
from microwallet.errors import MalformedMessage, PaymentRefused
from microwallet.http402.paying.credentials import Signer
from microwallet.http402.paying.exchange import NoAnswer, NotSent, Sending, ServerAnswer, Steps
from microwallet.http402.paying.origins import Origin
from microwallet.http402.paying.receipts import read_receipt
from microwallet.http402.paying.transport import Exchange
from microwallet.http402.wire.challenge import Challenge, offered_challenges
from microwallet.http402.wire.receipt import SessionReceipt
from microwallet.http402.wire.session_request import INTENT, METHOD, SessionRequest
from microwallet.payer.close import ClosedByPayee

_NO_HEAD = frozenset({404, 405})
"""Where only requests of other methods are known."""


def ask_payee(
    transport: httpx.BaseTransport,
    channel: PayerChannel,
    purchase: Purchase,
    key: VoucherKey,
    *,
    now: Callable[[], int],
    timeout: float,
) -> ClosedByPayee:
    """Ask where the last purchase was made to close the channel, with a voucher over what was spent.

    Raises PaymentRefused where the payee cannot be asked or does not close: nothing is lost by that.
    """
    signer = Signer(channel, key)
    told = _receipt(
        transport,
        purchase,
        _steps(
            channel, purchase, now, lambda offer: Sending(authorization=signer.close(offer, channel.spent))
        ),
        timeout=timeout,
    )
    return ClosedByPayee(transaction_hash=told.transaction_hash if told is not None else None)


def ask_spent(
    transport: httpx.BaseTransport,
    channel: PayerChannel,
    purchase: Purchase,
    key: VoucherKey,
    *,
    now: Callable[[], int],
    timeout: float,
) -> int | None:
    """Ask where the last purchase was made what the payee has charged so far, base units; None if it does
    not say. By HEADs, which do and buy nothing, and a voucher over nothing. PaymentRefused as ask_payee.

    A payee that knows no HEAD there is asked for its offer as ask_payee does.
    """
    signer = Signer(channel, key)
    told = _receipt(
        transport,
        purchase,
        _steps(
            channel,
            purchase,
            now,
            lambda offer: Sending(authorization=signer.voucher(offer, 0), is_head=True),
            is_head=True,
        ),
        timeout=timeout,
    )
    return None if told is None else told.spent


def _receipt(
    transport: httpx.BaseTransport,
    purchase: Purchase,
    steps: Steps[SessionReceipt | None],
    *,
    timeout: float,
) -> SessionReceipt | None:
    request = httpx.Request(
        purchase.method, purchase.url, extensions={"timeout": httpx.Timeout(timeout).as_dict()}
    )
    exchange = Exchange(transport, request)
    try:
        return exchange.drive(steps)  # type: ignore[no-any-return]
    except (NotSent, NoAnswer) as error:
        raise PaymentRefused(f"the payee does not answer: {error}") from error
    finally:
        exchange.close()


def _steps(
    channel: PayerChannel,
    purchase: Purchase,
    now: Callable[[], int],
    asking: Callable[[Challenge], Sending],
    *,
    is_head: bool = False,
) -> Steps[SessionReceipt | None]:
    """The receipt for what is asked of the payee under a fresh challenge; None without one that is ours."""
    url = without_secrets(purchase.url)
    if not Origin.of(purchase.url).is_private:
        raise PaymentRefused(f"{url} is plain http, where others could read along")
    answer = yield Sending(is_head=is_head)
    if is_head and answer.status in _NO_HEAD:
        answer = yield Sending()
    challenge = _challenge(answer, channel, now())
    if challenge is None:
        raise PaymentRefused(f"{url} no longer offers to be paid through this channel")
    answer = yield asking(challenge)
    if not 200 <= answer.status < 300:
        raise PaymentRefused(
            f"the payee does not close the channel, it answers {answer.status}: {answer.problem}"
        )
    receipt = read_receipt(answer.receipt).receipt
    return receipt if receipt is not None and receipt.channel_id == channel.channel_id else None


def _challenge(answer: ServerAnswer, channel: PayerChannel, now: int) -> Challenge | None:
    """An offer of the channel's own payee."""
    for challenge in offered_challenges(answer.challenges).challenges:
        if (challenge.method, challenge.intent) != (METHOD, INTENT) or challenge.has_expired(now):
            continue
        try:
            request = SessionRequest.parse(challenge.request_object())
        except MalformedMessage:
            continue
        if request.fits(channel.descriptor):
            return challenge
    return None
