"""Asking the payee over HTTP to close a channel, the quick way when it is there, or what it has charged.

draft-evm-session-00, section "Cooperative Close".
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from contextlib import closing
from threading import Thread

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

    By HEADs, which do nothing at a server that is paid no more; a payee that knows no HEAD there is asked as
    it was for the purchase. Raises PaymentRefused where the payee cannot be asked or does not close, or takes
    longer than `timeout` seconds in all: nothing is lost by that.
    """
    signer = Signer(channel, key)
    told = _receipt(
        transport,
        purchase,
        _steps(channel, purchase, now, lambda offer: signer.close(offer, channel.spent)),
        timeout=timeout,
    )
    return ClosedByPayee(transaction_hash=told.transaction_hash if told is not None else None)


def ask_receipt(
    transport: httpx.BaseTransport,
    channel: PayerChannel,
    purchase: Purchase,
    key: VoucherKey,
    *,
    now: Callable[[], int],
    timeout: float,
) -> SessionReceipt | None:
    """Ask where the last purchase was made what the payee has accepted and charged so far; None if it does
    not say. By a voucher over nothing, which goes with a HEAD and buys nothing. PaymentRefused as ask_payee.
    """
    signer = Signer(channel, key)
    return _receipt(
        transport,
        purchase,
        _steps(channel, purchase, now, lambda offer: signer.voucher(offer, 0), may_buy=True),
        timeout=timeout,
    )


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
    told = Future[SessionReceipt | None]()

    def ask() -> None:
        try:
            with closing(exchange):
                told.set_result(exchange.drive(steps))
        except BaseException as error:  # noqa: BLE001  # for whoever waits
            told.set_exception(error)

    # HTTP's patience is for each read: a payee that sends byte after byte would keep us for ever.
    Thread(target=ask, name="asking the payee", daemon=True).start()
    try:
        return told.result(timeout)
    except TimeoutError as error:
        raise PaymentRefused(f"the payee has not answered within {timeout:g} seconds") from error
    except (NotSent, NoAnswer) as error:
        raise PaymentRefused(f"the payee does not answer: {error}") from error


def _steps(
    channel: PayerChannel,
    purchase: Purchase,
    now: Callable[[], int],
    field_of: Callable[[Challenge], str],
    *,
    may_buy: bool = False,
) -> Steps[SessionReceipt | None]:
    """The receipt for a credential under a fresh challenge; None without one that is ours. One that `may_buy`
    what was bought before goes with a HEAD alone."""
    url = without_secrets(purchase.url)
    if not Origin.of(purchase.url).is_private:
        raise PaymentRefused(f"{url} is plain http, where others could read along")
    answer = yield Sending(is_head=True)
    if not (knows_head := answer.status not in _NO_HEAD):
        answer = yield Sending()
    challenge = _challenge(answer, channel, now())
    if challenge is None:
        raise PaymentRefused(f"{url} no longer offers to be paid through this channel")
    answer = yield Sending.answering(challenge, field_of(challenge), is_head=may_buy or knows_head)
    if not 200 <= answer.status < 300:
        asked = "say what it counts" if may_buy else "close the channel"
        raise PaymentRefused(f"the payee does not {asked}, it answers {answer.status}: {answer.problem}")
    receipt = read_receipt(answer.receipt).receipt
    return receipt if receipt is not None and receipt.channel_id == channel.channel_id else None


def _challenge(answer: ServerAnswer, channel: PayerChannel, now: int) -> Challenge | None:
    """An offer of the channel's own payee."""
    offers = session_offers(answer.challenges, now)
    return next((challenge for challenge, request in offers if request.fits(channel.descriptor)), None)
