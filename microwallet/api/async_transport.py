"""What makes an httpx client for asyncio pay."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import httpx

from microwallet.api.hints import for_programs
from microwallet.api.pool import WalletPool, open_adapters, pool_of
from microwallet.api.transport import PayingTerms, prepare
from microwallet.domain.money import Amount
from microwallet.http402.paying import async_transport
from microwallet.http402.paying.messages import PAYMENT, as_httpx
from microwallet.http402.paying.metering import MeteredStream

if TYPE_CHECKING:
    from microwallet.api.async_wallet import AsyncWallet
    from microwallet.api.wallet import Wallet


class AsyncPayingTransport(httpx.AsyncBaseTransport):
    """As PayingTransport, for httpx.AsyncClient. Ledger, keys and chain are used on a thread of its own."""

    def __init__(
        self,
        inner: httpx.AsyncBaseTransport | None = None,
        *,
        beside: httpx.AsyncBaseTransport | None = None,
        wallet: AsyncWallet | Wallet | None = None,
        max_amount: str | Amount | None = None,
        max_deposit: str | Amount | None = None,
        payee: str | None = None,
    ) -> None:
        """As PayingTransport, with an AsyncHTTPTransport to send."""
        pool = WalletPool(open_adapters()) if wallet is None else pool_of(wallet)
        self._pool, self._is_own = pool, wallet is None
        terms = PayingTerms(pool, max_amount, max_deposit, payee)
        self._paying = async_transport.AsyncPayingTransport(
            terms.client, inner or httpx.AsyncHTTPTransport(), beside=beside
        )

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send, pay, send again; raises what PayingTransport does."""
        self._pool.check_open()  # the client that is lent to its thread would pay on
        prepare(request)
        with as_httpx(), for_programs():
            response = await self._paying.handle_async_request(request)
        if isinstance(response.extensions[PAYMENT], MeteredStream):
            response.stream = _Stream(response)
        return response

    async def aclose(self) -> None:
        """Close the transports inside, and the wallet if it was opened here."""
        await self._paying.aclose()
        if self._is_own:
            self._pool.close()


class _Stream(httpx.AsyncByteStream):
    """A metered stream, whose errors are for programs too."""

    def __init__(self, response: httpx.Response) -> None:
        self._inner = response.stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        with for_programs():
            async for chunk in self._inner:  # type: ignore[union-attr]
                yield chunk

    async def aclose(self) -> None:
        """Close the stream inside."""
        await self._inner.aclose()  # type: ignore[union-attr]
