"""The wallet of a program for asyncio: the same use cases, each on a thread."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, Self, TypeVar

from microwallet.api.pool import pool_of
from microwallet.api.results import Accepted, Balance, Capture, Channel, Payment
from microwallet.api.wallet import HTTP_SECONDS, Wallet
from microwallet.domain.money import Amount
from microwallet.http402.paying.to_its_end import to_its_end

if TYPE_CHECKING:
    import httpx

Arguments = ParamSpec("Arguments")
Value = TypeVar("Value")


class AsyncWallet:
    """As Wallet, to be awaited. What has begun is done to its end, even where its task is cancelled."""

    def __init__(self, wallet: Wallet) -> None:
        """Use `AsyncWallet.open`."""
        self._wallet = wallet
        self._pool = pool_of(wallet)

    @classmethod
    def open(
        cls,
        home: str | Path | None = None,
        *,
        account: str | None = None,
        network: str | None = None,
        rpc_url: str | None = None,
        password_file: str | Path | None = None,
    ) -> Self:
        """See Wallet.open."""
        return cls(
            Wallet.open(home, account=account, network=network, rpc_url=rpc_url, password_file=password_file)
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()

    async def close(self) -> None:
        """See Wallet.close."""
        await _done(self._wallet.close)

    @property
    def address(self) -> str:
        """See Wallet.address."""
        return self._wallet.address

    @property
    def network(self) -> str:
        """See Wallet.network."""
        return self._wallet.network

    def amount(self, text: str) -> Amount:
        """See Wallet.amount."""
        return self._wallet.amount(text)

    async def open_channel(
        self,
        payee: str,
        deposit: str | Amount,
        *,
        label: str | None = None,
        idempotency_key: str | None = None,
    ) -> Channel:
        """See Wallet.open_channel."""
        return await _done(
            self._wallet.open_channel, payee, deposit, label=label, idempotency_key=idempotency_key
        )

    async def channels(self, *, finalized: bool = False) -> list[Channel]:
        """See Wallet.channels."""
        return await _done(self._wallet.channels, finalized=finalized)

    async def channel(self, channel: str | Channel) -> Channel:
        """See Wallet.channel."""
        return await _done(self._wallet.channel, channel)

    async def pay(
        self,
        channel: str | Channel,
        amount: str | Amount,
        *,
        memo: str | None = None,
        idempotency_key: str | None = None,
    ) -> Payment:
        """See Wallet.pay."""
        return await _done(self._wallet.pay, channel, amount, memo=memo, idempotency_key=idempotency_key)

    async def top_up(
        self, channel: str | Channel, amount: str | Amount, *, idempotency_key: str | None = None
    ) -> Channel:
        """See Wallet.top_up."""
        return await _done(self._wallet.top_up, channel, amount, idempotency_key=idempotency_key)

    async def close_channel(self, channel: str | Channel, *, on_chain: bool = False) -> Channel:
        """See Wallet.close_channel."""
        return await _done(self._wallet.close_channel, channel, on_chain=on_chain)

    async def withdraw(self, channel: str | Channel, *, wait: bool = False) -> Channel:
        """See Wallet.withdraw."""
        return await _done(self._wallet.withdraw, channel, wait=wait)

    async def sync(self) -> list[Channel]:
        """See Wallet.sync."""
        return await _done(self._wallet.sync)

    async def balances(self, *, offline: bool = False) -> list[Balance]:
        """See Wallet.balances."""
        return await _done(self._wallet.balances, offline=offline)

    async def request(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        content: str | bytes | None = None,
        json: Any = None,
        max_amount: str | Amount | None = None,
        max_deposit: str | Amount | None = None,
        payee: str | None = None,
        idempotency_key: str | None = None,
        follow_redirects: bool = False,
        timeout: float = HTTP_SECONDS,  # noqa: ASYNC109  # of the HTTP client, as in Wallet.request
    ) -> httpx.Response:
        """See Wallet.request."""
        return await _done(
            self._wallet.request,
            method,
            url,
            headers=headers,
            content=content,
            json=json,
            max_amount=max_amount,
            max_deposit=max_deposit,
            payee=payee,
            idempotency_key=idempotency_key,
            follow_redirects=follow_redirects,
            timeout=timeout,
        )

    async def accept(self, vouchers: str | bytes | Iterable[str | bytes]) -> Accepted:
        """See Wallet.accept."""
        return await _done(self._wallet.accept, vouchers)

    async def payee_channels(self, *, finalized: bool = False) -> list[Channel]:
        """See Wallet.payee_channels."""
        return await _done(self._wallet.payee_channels, finalized=finalized)

    async def settle(
        self, channels: Iterable[str | Channel] | None = None, *, close: bool = False
    ) -> list[Capture]:
        """See Wallet.settle."""
        return await _done(self._wallet.settle, channels, close=close)


async def _done(
    work: Callable[Arguments, Value], *arguments: Arguments.args, **options: Arguments.kwargs
) -> Value:
    return await to_its_end(asyncio.ensure_future(asyncio.to_thread(work, *arguments, **options)))
