"""Asking the payee over HTTP to close a channel, the quick way when it is there, or what it has charged.

draft-evm-session-00, section "Cooperative Close".
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from contextlib import closing
from threading import Thread
from typing import TypeVar

import httpx

from microwallet.domain.channel import PayerChannel
from microwallet.domain.purchase import Purchase
from microwallet.domain.secret_fields import without_secrets
from microwallet.domain.voucher import VoucherKey
from microwallet.errors import PaymentRefused
from microwallet.http402.paying.choice import session_offers
from microwallet.http402.paying.credentials import Signer
from microwallet.http402.paying.exchange import NoAnswer, NotSent, Sending, ServerAnswer, Steps
from microwallet.http402.paying.origins import Origin
from microwallet.http402.paying.receipts import read_receipt
from microwallet.http402.paying.transport import Exchange
from microwallet.http402.wire.challenge import Challenge
from microwallet.http402.wire.receipt import SessionReceipt

_NO_HEAD = frozenset({404, 405})
"""Where only requests of other methods are known."""
_OFFER_SECONDS = 10
"""How long an offer is waited for, which takes a payee that is there no transaction."""
T = TypeVar("T")


def ask(
    channel: PayerChannel,
    purchase: Purchase,
    key: VoucherKey,
    *,
    to_close: bool,
    clock: Callable[[], int],
    timeout: float,
) -> SessionReceipt | None:
    """Ask where the last purchase was made what the payee has accepted and charged so far, or `to_close` the
    channel too; None if it does not say.

    With a voucher over nothing, else over what was spent. By HEADs, which do nothing at a server that is paid
    no more; a payee that knows no HEAD there is asked to close as it was for the purchase. Raises
    PaymentRefused where the payee cannot be asked or does not do it, or takes longer than `timeout` seconds
    for it, or ten for an offer: nothing is lost by that.
    """
    request = httpx.Request(
        purchase.method, purchase.url, extensions={"timeout": httpx.Timeout(timeout).as_dict()}
    )
    with httpx.HTTPTransport() as transport:
        exchange = Exchange(transport, request)
        knows_head, challenge = _within(
            min(timeout, _OFFER_SECONDS), exchange, _offered(channel, purchase, clock)
        )
        is_head = knows_head or not to_close  # what does not close may buy what was bought before
        signer = Signer(channel, key)
        field = signer.close(challenge, channel.spent) if to_close else signer.voucher(challenge, 0)
        sending = Sending.answering(challenge, field, is_head=is_head)
        return _within(timeout, exchange, _told(channel, sending, to_close=to_close))


def _within(seconds: float, exchange: Exchange, steps: Steps[T]) -> T:
    """What steps come to within so many seconds; PaymentRefused after that, or without an answer."""
    result = Future[T]()

    def drive() -> None:
        try:
            with closing(exchange):
                result.set_result(exchange.drive(steps))
        except BaseException as error:  # noqa: BLE001  # for whoever waits
            result.set_exception(error)

    # HTTP's patience is for each read: a payee that sends byte after byte would keep us for ever.
    Thread(target=drive, name="asking the payee", daemon=True).start()
    try:
        return result.result(seconds)
    except TimeoutError as error:
        raise PaymentRefused(f"the payee has not answered within {seconds:g} seconds") from error
    except (NotSent, NoAnswer) as error:
        raise PaymentRefused(f"the payee does not answer: {error}") from error


def _offered(
    channel: PayerChannel, purchase: Purchase, clock: Callable[[], int]
) -> Steps[tuple[bool, Challenge]]:
    """Whether the payee knows a HEAD there, and a fresh challenge for the channel."""
    url = without_secrets(purchase.url)
    if not Origin.of(purchase.url).is_private:
        raise PaymentRefused(f"{url} is plain http, where others could read along")
    answer = yield Sending(is_head=True)
    if not (knows_head := answer.status not in _NO_HEAD):
        answer = yield Sending()
    challenge = _challenge(answer, channel, clock())
    if challenge is None:
        raise PaymentRefused(f"{url} no longer offers to be paid through this channel")
    return knows_head, challenge


def _told(channel: PayerChannel, sending: Sending, *, to_close: bool) -> Steps[SessionReceipt | None]:
    """The receipt for a credential; None without one that is ours."""
    answer = yield sending
    if not 200 <= answer.status < 300:
        asked = "close the channel" if to_close else "say what it counts"
        raise PaymentRefused(f"the payee does not {asked}, it answers {answer.status}: {answer.problem}")
    receipt = read_receipt(answer.receipt).receipt
    return receipt if receipt is not None and receipt.channel_id == channel.channel_id else None


def _challenge(answer: ServerAnswer, channel: PayerChannel, now: int) -> Challenge | None:
    """An offer of the channel's own payee."""
    offers = session_offers(answer.challenges, now)
    return next((challenge for challenge, request in offers if request.fits(channel.descriptor)), None)
