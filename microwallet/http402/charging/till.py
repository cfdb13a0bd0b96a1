"""The till: what is sold, charged and given back, each durable before it is told of."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, TypeVar

from microwallet.domain.identifiers import ChainId, ChannelId
from microwallet.domain.session import Sale, SessionAccount
from microwallet.errors import LedgerError
from microwallet.http402.charging import sales
from microwallet.http402.charging.group_commit import GroupCommit, Job, Work
from microwallet.http402.charging.sales import Sold
from microwallet.http402.charging.store import SessionRows, SessionStore
from microwallet.http402.wire.receipt import SessionReceipt

T = TypeVar("T")

_POLL_SECONDS = 0.25
"""Between two looks for a voucher that another process accepted."""
_RETRY_SECONDS = 1.0
"""Between two tries to give something back."""


class Till:
    """Runs sales.py's rules on a store. One event loop uses it; `store` may be shared by many processes."""

    def __init__(self, store: SessionStore, chain_id: ChainId, *, clock: Callable[[], int]) -> None:
        self._commit = GroupCommit(store)
        self._chain_id = chain_id
        self._clock = clock
        self._news: dict[ChannelId, asyncio.Event] = {}
        self._unsure: set[asyncio.Future[Any]] = set()
        """What is tried until it is done."""
        self.hears_no_more = False
        """Whether no voucher can come any more, as the server takes no more requests."""

    def do(self, job: Job[T]) -> Awaitable[T]:
        """What a job tells once it is durable; raises what it raises, or LedgerError."""
        return self._commit.do(job)

    def tell_of_voucher(self, channel_id: ChannelId) -> None:
        """Wake what waits for a better voucher."""
        if (news := self._news.pop(channel_id, None)) is not None:
            news.set()

    def hear_no_more(self) -> None:
        """No voucher can come any more: nothing waits for one."""
        self.hears_no_more = True
        for channel_id in list(self._news):
            self.tell_of_voucher(channel_id)

    async def account(self, channel_id: ChannelId) -> SessionAccount:
        """The account of a channel; Refused if it is not known."""
        return await self._commit.run(lambda rows: sales.known_account(rows, channel_id))

    def undo(self, sale: Sale) -> asyncio.Future[bool]:
        """Nothing was served: the cost is given back. What was served another time stays sold: False.

        Nobody need wait for it: it is tried again for as long as the ledger takes nothing. LedgerError if the
        disk has failed.
        """
        return self._surely(lambda rows: sales.undo(rows, sale))

    def charge_no_more(self, sale: Sale, cost: int) -> asyncio.Future[Sold]:
        """What was sold was begun, and no more of it was used: as surely as `undo`."""
        return self._surely(lambda rows: sales.settle_cost(rows, sale, cost))

    async def settle_cost(self, sale: Sale, cost: int) -> Sold:
        """Charge a sale for what was used, no more than was reserved."""
        return await self._commit.run(lambda rows: sales.settle_cost(rows, sale, cost))

    async def charge_units(self, sold: Sold, amount: int, *, wanted: int, stream: int) -> tuple[int, Sold]:
        """Charge a stream for its next units, as many as there is something for; may raise StreamEnded."""
        return await self._commit.run(
            lambda rows: sales.charge_units(rows, sold.sale, amount, wanted=wanted, stream=stream)
        )

    async def keep_answer(self, sale: Sale, packed: bytes) -> None:
        """Keep what was answered for the same request again."""
        await self._commit.run(lambda rows: rows.keep_answer(sale, packed))

    async def voucher_above(self, channel_id: ChannelId, accepted: int) -> None:
        """Wait until a better voucher than one over `accepted` has come, here or to another process, or none
        can come here any more."""
        while not self.hears_no_more:
            news = self._news.setdefault(channel_id, asyncio.Event())
            account = await self._commit.run(lambda rows: rows.account(channel_id))
            if account is None or account.accepted > accepted or not account.goes_on:
                self._news.pop(channel_id, None)
                return
            with suppress(TimeoutError):
                async with asyncio.timeout(_POLL_SECONDS):
                    await news.wait()

    def receipt(
        self, account: SessionAccount, challenge_id: str, *, units: int | None = None
    ) -> SessionReceipt:
        """The receipt of a session as it stands."""
        return SessionReceipt(
            self._clock(),
            challenge_id,
            account.channel_id,
            self._chain_id,
            account.accepted,
            account.spent,
            units,
        )

    async def until_sure(self, *, within: float) -> None:
        """Wait until what is to be given back is, for so many seconds at most."""
        if self._unsure:
            await asyncio.wait(self._unsure, timeout=within)

    def _surely(self, work: Callable[[SessionRows], T]) -> asyncio.Future[T]:
        sure: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._unsure.add(sure)
        sure.add_done_callback(self._unsure.discard)
        self._try(Work(work), sure)
        return asyncio.shield(sure)

    def _try(self, work: Work[T], sure: asyncio.Future[T]) -> None:
        """Do work, and again while the ledger takes nothing; what is in it is not done twice."""

        def look(trying: asyncio.Future[T]) -> None:
            error = trying.exception()
            if error is None:
                sure.set_result(work.result)
            elif not isinstance(error, LedgerError) or self._commit.is_lost:
                sure.set_exception(error)
            else:
                asyncio.get_running_loop().call_later(_RETRY_SECONDS, self._try, work, sure)

        self._commit.do(work).add_done_callback(look)
