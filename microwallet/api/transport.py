"""What makes an httpx client pay: a transport to give to it."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack
from typing import TYPE_CHECKING

import httpx

from microwallet.api.hints import by_client, for_programs
from microwallet.api.pool import WalletPool, open_adapters, pool_of
from microwallet.api.results import HttpPayment, http_payment_result
from microwallet.domain.money import Amount
from microwallet.errors import UsageError
from microwallet.http402.paying import transport
from microwallet.http402.paying.client import PayingClient
from microwallet.http402.paying.messages import IDEMPOTENCY_KEY, PAYMENT, as_httpx, booked
from microwallet.http402.paying.metering import MeteredStream
from microwallet.http402.paying.patience import PatientTransport
from microwallet.paying import check_http_key, limits_of

if TYPE_CHECKING:
    from microwallet.api.wallet import Wallet


class PayingTransport(httpx.BaseTransport):
    """Sends requests through another transport, and pays where the server answers 402.

    Each hop of a redirect is a decision of its own, and no credential ever goes on to another origin; hops
    share the limit and the idempotency key of the request that led to them. `payment_of(response)` tells
    what a request cost. A request's body is read into memory. An extension
    `idempotency_key` of a request makes it pay at most once, however often it is repeated. Threads may
    share it.
    """

    def __init__(
        self,
        inner: httpx.BaseTransport | None = None,
        *,
        beside: httpx.BaseTransport | None = None,
        wallet: Wallet | None = None,
        max_amount: str | Amount | None = None,
        max_deposit: str | Amount | None = None,
        payee: str | None = None,
    ) -> None:
        """`inner` sends, else an HTTPTransport as httpx makes it, but that its read timeout is for the header
        of an answer as a whole; `wallet` pays, else the user's own.

        `beside` sends the vouchers of a metered stream while it runs, else `inner` does. Where `inner` speaks
        HTTP/2 give another one: a server may take one request at a time on a connection, and httpx would wait
        for the end of the stream.

        `max_amount`: the most one request may cost, a metered stream or redirects included; else the setting
        `max-amount`.
        `max_deposit`: the most that may be deposited for one payee; without it no channel is opened or topped
        up, and payments come from open channels alone. `payee`: the only one to be paid; else it is for each
        origin the one that was paid first. Raises UsageError for an amount that is none.
        """
        self._inner = inner or PatientTransport()
        self._beside = beside or self._inner
        pool = WalletPool(open_adapters()) if wallet is None else pool_of(wallet)
        self._own = pool if wallet is None else None
        self._terms = PayingTerms(pool, max_amount, max_deposit, payee)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send, pay, send again. Raises the wallet's own errors where it does not pay, or does not know
        whether it did; what is wrong with the connection otherwise as httpx does."""
        prepare(request)
        with ExitStack() as lent:
            paying = transport.PayingTransport(
                lambda: lent.enter_context(self._terms.client()), self._inner, beside=self._beside
            )
            with as_httpx(), for_programs():
                response = paying.handle_request(request)
            if isinstance(response.extensions[PAYMENT], MeteredStream):
                response.stream = _LentStream(response, lent.pop_all())
        return response

    def close(self) -> None:
        """Close the transports inside, and the wallet if it was opened here."""
        self._inner.close()
        self._beside.close()
        if self._own is not None:
            self._own.close()


class PayingTerms:
    """Whose money pays, and how much of it."""

    def __init__(
        self,
        pool: WalletPool,
        max_amount: str | Amount | None,
        max_deposit: str | Amount | None,
        payee: str | None,
    ) -> None:
        self._pool = pool
        self._may_deposit = max_deposit is not None
        with for_programs():
            self._limits = limits_of(
                pool.base,
                max_amount=max_amount,
                max_deposit=max_deposit,
                payee=None if payee is None else pool.base.address_of(payee),
            )

    def client(self) -> AbstractContextManager[PayingClient]:
        """What pays, for one thread."""
        return self._pool.client(self._limits, may_deposit=self._may_deposit)


def prepare(request: httpx.Request) -> None:
    """Ready a request of a program: a key in the field for it is its key, or if it is too long, its digest.

    UsageError if the extension is an idempotency key that cannot be sent.
    """
    by_client(request)
    key = request.extensions.get(IDEMPOTENCY_KEY)
    if key is not None:
        check_http_key(key)
    elif sent := request.headers.get("Idempotency-Key"):
        try:
            key = check_http_key(sent)
        except UsageError:
            key = f"sha256-{hashlib.sha256(sent.encode()).hexdigest()}"
        request.extensions[IDEMPOTENCY_KEY] = key


def payment_of(response: httpx.Response) -> HttpPayment | None:
    """What a response cost; None if nothing was paid, or a metered stream has not been closed yet.

    A redirect that was followed has its own payment: see `response.history`.
    """
    paid = booked(response.extensions.get(PAYMENT))
    return None if paid is None else http_payment_result(paid, now=int(time.time()))


class _LentStream(httpx.SyncByteStream):
    """A metered stream: it needs its wallet until it is closed."""

    def __init__(self, response: httpx.Response, lent: ExitStack) -> None:
        self._inner = response.stream
        self._lent = lent

    def __iter__(self) -> Iterator[bytes]:
        with for_programs():
            yield from self._inner  # type: ignore[misc]

    def close(self) -> None:
        """Record what the stream cost, and give the wallet back."""
        with self._lent:
            self._inner.close()  # type: ignore[union-attr]
