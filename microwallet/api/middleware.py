"""What makes an ASGI application paid for: Starlette, FastAPI, or any other."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Awaitable, Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from microwallet.api.pool import LOGGER, open_adapters
from microwallet.domain.money import Amount, check_amount
from microwallet.errors import MicrowalletError, UsageError
from microwallet.http402.charging.asgi import Application, Message, Receive, Scope, Send

if TYPE_CHECKING:
    from microwallet.selling import Shop
    from microwallet.wallet import Wallet

_SHOWN = frozenset({"failed", "finalized", "interrupted", "missing", "reorganised", "resumed", "warning"})
"""What is wrong, and that it is over: told as a warning, which servers show unless they are told not to."""
_STOPPED = ("lifespan.startup.failed", "lifespan.shutdown.complete", "lifespan.shutdown.failed")


class PaymentMiddleware:
    """Charges for the requests of `routes`, by the HTTP Payment scheme; refuses all that no route fits.

    It has to be the outermost middleware: what is inside sees paid requests only, with who paid in fields
    `X-Payment-Payer`, `-Channel`, `-Amount` (base units), `-Asset` and `-Decimals` that no client can forge.
    Wallet and ledger are opened when the application starts (lifespan), or at the first request where the
    server tells of no start, and closed when it stops. Worker processes share the ledger, and so do event
    loops of one process, as a test client without `with` has one for each request; one of them at a time
    closes and settles channels. From another machine, what has a price is 403 over plain http, as far as the
    server knows (draft-httpauth-payment-00, section "Transport Security").
    """

    def __init__(
        self,
        app: Application,
        *,
        routes: Iterable[Mapping[str, Any]],
        realm: str,
        home: str | Path | None = None,
        account: str | None = None,
        network: str | None = None,
        rpc_url: str | None = None,
        password_file: str | Path | None = None,
        settle_above: str | Amount | None = None,
        settle_idle: str | None = None,
        requires_auth: bool = False,
    ) -> None:
        """`routes`: tables with `path` ("/articles/*", "/**") and `price` ("0.001 USDC") or `free` (True),
        and as needed `method`, `per` ("request", "event", "header"), `units-header`, `max-units`,
        `min-voucher-delta`, `suggested-deposit`, `description`; the first that fits counts. `realm`: the name
        of the service, the same in all its processes. `home` to `password_file`: as in Wallet.open; the
        account is who is paid.

        A channel whose payer wants its money back is closed in time, here or by another process of the home.
        `settle_above` settles a channel once so much is unsettled on it, else 1 USDC; `settle_idle` ("10m")
        once it was not used for so long. `requires_auth`: payers are told to pay in a field of its own,
        `Payment-Authorization`, as the application has its own use for `Authorization`.

        Raises UsageError for `routes` that are none; opening does for a wrong route or another setting, and
        KeyUnavailable for a key that is locked.
        """
        self._app = app
        self._root_path = _root_path(app)
        self._routes = _tables(routes)
        self._realm = realm
        self._open_wallet: Callable[[], Wallet] = lambda: open_adapters(
            home, account=account, network=network, rpc_url=rpc_url, password_file=password_file
        ).twin(any_thread=True)
        self._settle_above = () if settle_above is None else (str(check_amount(settle_above)),)
        self._settle_idle = settle_idle
        self._requires_auth = requires_auth
        self._services: dict[asyncio.AbstractEventLoop, _Service] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One connection, as ASGI 3 has it."""
        if scope["type"] == "lifespan":
            await self._live(scope, receive, send)
        else:
            if self._root_path:
                scope["root_path"] = self._root_path
            await self._opened().charged(scope, receive, send)

    async def _live(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Be open while the application lives: opened before it starts, closed after it has stopped."""
        news = [await receive()]
        try:
            self._opened()
        except MicrowalletError as error:
            hint = f" (hint: {error.hint})" if error.hint else ""
            await send({"type": "lifespan.startup.failed", "message": f"{error.message}{hint}"})
            raise  # as Starlette does: its TestClient waits for the end of what does not

        async def receiving() -> Message:
            return news.pop() if news else await receive()

        has_answered = False

        async def sending(message: Message) -> None:
            nonlocal has_answered
            has_answered = True
            if message["type"] in _STOPPED:  # once the server hears of it, nothing is waited for any more
                await self._close()
            await send(message)

        try:
            try:
                await self._app(scope, receiving, sending)
            except Exception:
                if has_answered:
                    raise
            if not has_answered:  # it knows of no lifespan
                await self._live_alone(receive, send)
        finally:
            await self._close()

    async def _live_alone(self, receive: Receive, send: Send) -> None:
        """Answer in place of an application that does not."""
        await send({"type": "lifespan.startup.complete"})
        while (await receive())["type"] != "lifespan.shutdown":
            pass
        await self._close()
        await send({"type": "lifespan.shutdown.complete"})

    def _opened(self) -> _Service:
        """What is open on the event loop that runs; what was on those that are closed is let go of."""
        loop = asyncio.get_running_loop()
        service = self._services.get(loop)
        if service is None:
            for other in tuple(self._services):
                if other.is_closed() and (ended := self._services.pop(other, None)) is not None:
                    ended.leave()
            wallet = self._open_wallet()
            try:
                service = self._services[loop] = self._new_service(wallet)
            except BaseException:
                wallet.__exit__()
                raise
        return service

    def _new_service(self, wallet: Wallet) -> _Service:
        from microwallet.assortment import Assortment
        from microwallet.http402.charging import middleware
        from microwallet.http402.serving.settings import Settings
        from microwallet.selling import Shop

        _check_texts({"realm": self._realm, "settle-idle": self._settle_idle or ""})
        settings = Settings(
            realm=self._realm,
            routes=self._routes,
            settle_above=self._settle_above,
            settle_idle=self._settle_idle,
            requires_auth=self._requires_auth,
        )
        settings.check()
        assortment = Assortment.of(wallet, settings)
        for message in assortment.routes.warnings():
            _log("warning", {"message": message})
        wallet.unlock(wallet.account)
        shop = Shop(wallet, assortment, realm=self._realm, emit=_log)
        charged = middleware.PaymentMiddleware(self._app, shop.gateway, is_dated=False)  # servers add a Date
        return _Service(wallet, shop, charged)

    async def _close(self) -> None:
        service = self._services.pop(asyncio.get_running_loop(), None)
        if service is not None:
            await service.close()


def _root_path(app: Application) -> str | None:
    """Of FastAPI, if it sets its own: it finds its routes below that. What others call so, as Quart, may be a
    folder."""
    fastapi = sys.modules.get("fastapi")
    return app.root_path if fastapi is not None and isinstance(app, fastapi.FastAPI) else None


def _tables(routes: object) -> list[dict[str, Any]]:
    """Routes as tables; UsageError where they are something else, or there is none."""
    given = routes if isinstance(routes, Iterable) and not isinstance(routes, Mapping | str | bytes) else ()
    tables = list(given)
    if not tables or not all(isinstance(table, Mapping) for table in tables):
        raise UsageError(
            f"routes is {str(routes)[:200]}; a list of tables is expected, one a route",
            hint='routes=[{"path": "/**", "price": "0.001 USDC"}]',
        )
    return [dict(table) for table in tables]


def _check_texts(given: Mapping[str, object]) -> None:
    """UsageError for what a program gives instead of a text, such as a number of seconds."""
    from microwallet.http402.charging.setting_names import SettingNames

    for key, value in given.items():
        if not isinstance(value, str):
            raise SettingNames().mistyped(key, value, str)


class _Service:
    """What is open while the application lives. Belongs to the event loop that it was made on."""

    def __init__(self, wallet: Wallet, shop: Shop, charged: Application) -> None:
        self.charged = charged
        self._wallet = wallet
        self._shop = shop
        lasting = (*shop.background, shop.watch_chain)
        self._beside = [asyncio.ensure_future(_lasting(one)) for one in lasting]
        for task in self._beside:
            task.add_done_callback(_complain)

    async def close(self) -> None:
        """Finish what is being sent, and close the ledger."""
        for task in self._beside:
            task.cancel()
        await asyncio.gather(*self._beside, return_exceptions=True)
        await asyncio.to_thread(self.leave)

    def leave(self) -> None:
        """The same once nothing runs on its event loop any more, in any thread."""
        from microwallet.selling import FINISH_SECONDS

        self._shop.close(within=FINISH_SECONDS)
        self._wallet.__exit__()


def _log(event: str, details: Mapping[str, Any]) -> None:
    is_shown = event in _SHOWN and details.get("unsettled") != "0"
    message = [f"{details['message']}"] if "message" in details else []
    fields = [f"{name}={value}" for name, value in details.items() if name != "message"]
    level = logging.WARNING if is_shown else logging.INFO
    LOGGER.log(level, "%s: %s", event, "  ".join(message + fields))


async def _lasting(one: Callable[[], Awaitable[None]]) -> None:
    """Do what is to last as long as the application: what nobody expects interrupts it, as no server ends
    for that."""
    from microwallet.selling import LOOK_SECONDS

    while True:
        try:
            await one()
        except MicrowalletError:
            raise
        except Exception:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            LOGGER.exception("watching channels was interrupted, and begins anew")
        await asyncio.sleep(LOOK_SECONDS)


def _complain(task: asyncio.Future[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        LOGGER.error("channels are no longer watched by this process", exc_info=error)
