"""What sells, built out of a wallet: what one worker process of `serve` is made of."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cache, partial
from typing import Any

from microwallet.assortment import Assortment
from microwallet.domain.identifiers import Address, ChannelId, TxHash
from microwallet.domain.ports import Emit
from microwallet.errors import (
    ChainStandsStill,
    Interrupted,
    KeyUnavailable,
    LedgerChanged,
    LedgerUnwritable,
    MicrowalletError,
    NetworkError,
    UsageError,
)
from microwallet.escrow.token_features import token_features
from microwallet.http402.charging.asgi import Application
from microwallet.http402.charging.chain import PayeeChain
from microwallet.http402.charging.channel_book import SILENCE_SECONDS
from microwallet.http402.charging.deposit_relay import DepositRelay
from microwallet.http402.charging.desk import Desk
from microwallet.http402.charging.gateway import Gateway
from microwallet.http402.charging.middleware import PaymentMiddleware
from microwallet.http402.charging.rotating_secrets import challenge_key
from microwallet.http402.charging.settling import Settling
from microwallet.http402.charging.signed_deposit import RelayedToken
from microwallet.http402.serving.behind_proxy import BehindProxy
from microwallet.http402.serving.health import HEALTH_PATH, Health
from microwallet.http402.serving.renewal import Certificate
from microwallet.http402.serving.request_log import RequestLog
from microwallet.http402.serving.server import serve
from microwallet.http402.serving.settings import Settings
from microwallet.payee.exclusive import exclusive, settling_lock
from microwallet.payee.in_hand import InHandHere
from microwallet.payee.interruption import Interruption
from microwallet.payee.watch import LONGEST_PAUSE
from microwallet.wallet import Wallet

CHAIN_THREADS = 4
RELAY_THREADS = 4
"""Deposits that are waited for at the same time."""
LOOK_SECONDS = 5.0
"""Between two looks at the chain for what is to be settled."""
AWAY_SECONDS, THERE_SECONDS = 2.0, 15.0
"""Between two looks whether the chain can be reached: while it cannot, and while it can."""
WITHOUT_CHAIN = (
    f"until it is back only channels that it was asked about in the last {SILENCE_SECONDS // 60} minutes pay"
    " on; none is opened, topped up, settled or closed, and no payer's request to close is seen"
)
UNSEEN = "until that is over, no payer's request to close is seen"
PAUSE_FACTOR = 20
"""At least so many times as long as a look takes: the first at ten thousand channels, a second of a core."""
FINISH_SECONDS = 5.0
"""For how long an ending worker waits for a transaction to be mined, or a ledger that takes nothing."""
CLOSE_GAS = 65_000
"""What the close of one channel takes, about."""
TIDY_SECONDS = 600.0
USABLE_SECONDS = 1.0
"""Between two looks whether the ledger was migrated, or its disk has failed."""
ANSWERS_KEPT_SECONDS = 24 * 60 * 60
"""How long an answer is kept for the same request again."""


def _ask_chain(wallet: Wallet) -> None:
    """NetworkError if the chain does not answer, or stands still."""
    standstill = wallet.reader.standstill(wallet.reader.head(), now=wallet.now())
    if standstill is not None:
        raise standstill


def _nobody(_event: str, _details: Mapping[str, Any]) -> None:
    """Tells nobody."""


def work(
    wallet: Wallet,
    settings: Settings,
    assortment: Assortment,
    app: Application,
    listening: socket.socket,
    *,
    realm: str,
    certificate: Certificate | None = None,
    ready: Callable[[], None],
    emit: Emit,
    log: Emit | None,
    until_closed: int | None = None,
    tells_of_chain: bool = True,
    tracebacks: bool = False,
) -> None:
    """Sell what `app` serves until a signal comes, as http402.serving.server.serve does.

    `emit` tells what happens to channels and, if it `tells_of_chain`, that the chain cannot be reached, or
    the certificate was renewed; `log` tells each request. Raises LedgerChanged once others have migrated or
    replaced the ledger, and LedgerUnwritable once its disk has failed.
    """
    shop = Shop(wallet, assortment, realm=realm, emit=emit)
    grace = FINISH_SECONDS
    background = [*shop.background]
    if tells_of_chain:
        background.append(shop.watch_chain)
    if certificate is not None:
        background.append(partial(certificate.keep_renewed, emit if tells_of_chain else _nobody))
    try:
        serve(
            shop.front(app, proxies=settings.behind_tls_proxy, log=log),
            listening,
            tls=None if certificate is None else certificate.context,
            ready=ready,
            ending=shop.gateway.till.hear_no_more,
            background=background,
            until_closed=until_closed,
            tracebacks=tracebacks,
        )
    except Interrupted:
        grace = 0.0
        raise
    finally:
        shop.close(within=grace)


class Shop:
    """One worker process: a gateway that is paid to one account, and what runs beside it.

    `wallet` belongs to the thread that makes this.
    """

    def __init__(
        self,
        wallet: Wallet,
        assortment: Assortment,
        *,
        realm: str,
        emit: Emit = _nobody,
    ) -> None:
        self._wallet = wallet
        self._routes = assortment.routes
        self._policy = assortment.policy
        self._emit = emit
        self._store = wallet.ledger.sessions
        self._chain = Desk("chain", self._payee_chain, threads=CHAIN_THREADS)
        self._openings = Desk("openings", self._payee_chain, threads=CHAIN_THREADS)
        self._cashier = Desk("settlement", self._settling)
        self._probes = Desk("probe", wallet.twin)
        self._lookout = Desk("chain", wallet.twin)
        self._fees = assortment.fees
        self._relay = Desk("deposits", self._deposit_relay, threads=RELAY_THREADS)
        key = challenge_key(wallet.paths.keys / "challenge-key")
        terms = assortment.terms(wallet, realm, key, self._relayed_tokens())
        self._in_hand = InHandHere(wallet.paths.home)  # last: where all this fails, nobody would close it
        self.gateway = Gateway(
            terms,
            self._routes,
            self._store,
            self._chain,
            self._in_hand,
            openings=self._openings,
            relay=self._relay,
            close_channel=self.close_channel,
            clock=wallet.now,
        )

    def front(self, app: Application, *, proxies: Sequence[str] = (), log: Emit | None = None) -> Application:
        """`app`, paid for, as clients reach it: with what is told of health and requests."""
        fronted: Application = PaymentMiddleware(app, self.gateway)
        if proxies:
            fronted = BehindProxy(fronted, proxies)
        if log is not None:
            fronted = RequestLog(fronted, log)
        if not self._routes.names(HEALTH_PATH):
            checks = {"ledger": self._check_ledger, "chain": self._check_chain}
            fronted = Health(fronted, checks)
        return fronted

    async def close_channel(self, channel_id: ChannelId) -> TxHash | None:
        """Close a channel with what was charged; see Settling.close."""
        return await self._cashier.run(lambda settling: settling.close(channel_id))

    @property
    def background(self) -> Sequence[Callable[[], Coroutine[Any, Any, None]]]:
        """What is to run beside it; LedgerChanged and LedgerUnwritable: nothing can be sold any more."""
        return self.look, self.tidy, self.keep_to_ledger, self.give_back

    async def look(self) -> None:
        """Look at the chain again and again, while no other worker for this payee does. Where that cannot be
        found out, as of a process with too many files open, it is tried again: it is told once."""
        home, chain_id = self._wallet.paths.home, self._wallet.network.chain_id
        interruption = Interruption(self._emit)
        while True:
            try:
                with exclusive(settling_lock(home, chain_id, self._policy.payee)) as is_chosen:
                    interruption.ends()
                    if is_chosen:
                        await self._look_alone()
            except LedgerUnwritable as error:
                interruption.begins(error)
            await asyncio.sleep(LOOK_SECONDS)

    async def tidy(self) -> None:
        """Forget what has expired, now and then."""
        while True:
            now = self._wallet.now()
            try:
                self._store.forget_expired(now=now, answers_before=now - ANSWERS_KEPT_SECONDS)
            except LedgerChanged:
                raise
            except MicrowalletError as error:
                Interruption(self._emit).tell(error)
            await asyncio.sleep(TIDY_SECONDS)

    async def keep_to_ledger(self) -> None:
        """Raise LedgerChanged once others have migrated or replaced the ledger, LedgerUnwritable once its
        disk has failed: only a start anew finds out what is on it."""
        while True:
            self._wallet.ledger.database.check_usable()
            await asyncio.sleep(USABLE_SECONDS)

    async def give_back(self) -> None:
        """At the end, wait for what is still to be given back."""
        try:
            await asyncio.Event().wait()
        finally:
            await self.gateway.till.until_sure(within=FINISH_SECONDS)

    async def watch_chain(self) -> None:
        """Tell once that the chain cannot be reached, and once that it can again."""
        interruption = Interruption(self._emit)
        while True:
            away = await self._missing_chain()
            if away is None:
                interruption.ends()
            else:
                interruption.begins(away, so=UNSEEN if isinstance(away, ChainStandsStill) else WITHOUT_CHAIN)
            await asyncio.sleep(THERE_SECONDS if away is None else AWAY_SECONDS)

    def close(self, *, within: float) -> None:
        """Finish what is being sent, within some seconds; what is not finished by then was written down."""
        if not self._cashier.close(within=within):
            message = "a transaction that was sent is not mined yet: the next start finishes it"
            self._emit("interrupted", {"code": "outcome-unknown", "message": message})
        self._chain.close(within=0)
        self._openings.close(within=0)
        self._relay.close(within=0)
        self._probes.close(within=0)
        self._lookout.close(within=0)
        self._in_hand.close()

    async def _look_alone(self) -> None:
        """No failure ends it but LedgerChanged: it looks less and less often while one lasts, which it
        tells once, if it is not for `watch_chain` to tell."""
        pause, interruption = LOOK_SECONDS, Interruption(self._emit)
        await self._look_into_purse()
        await self._try_keys()
        while True:
            begun, at = time.monotonic(), self._wallet.now()
            try:
                # Before the closes that payers ask for: they must not keep it from answering those on chain.
                states = await self._cashier.run(lambda settling: settling.look(), is_urgent=True)
                self.gateway.hear(states, at=at)
            except LedgerChanged:
                raise
            except MicrowalletError as error:
                self._wallet.ledger.database.check_usable()  # that alone is told where it is what is wrong
                pause *= 2
                is_away = isinstance(error, NetworkError) and await self._missing_chain() is not None
                if not is_away and error.code != interruption.code:
                    interruption.tell(error)
            else:
                interruption.ends()
                pause = max(LOOK_SECONDS, PAUSE_FACTOR * (time.monotonic() - begun))
            await asyncio.sleep(min(pause, LONGEST_PAUSE))

    async def _look_into_purse(self) -> None:
        """Tell that who pays the gas cannot, before anything is owed."""

        def has(wallet: Wallet) -> tuple[Address, int, int]:
            purse = wallet.relayer or wallet.account_of(self._policy.payee)
            return purse.address, wallet.reader.native_balance(purse.address), wallet.fees().cost(CLOSE_GAS)

        try:
            address, held, needed = await self._lookout.run(has)
        except MicrowalletError:  # told when it keeps from something
            return
        if held < needed:
            network = self._wallet.network
            message = (
                f"{address} holds {network.coins(held)} on {network.name}, too little for the gas of a"
                " close: what payers owe is lost once they take their money back"
            )
            self._emit("warning", {"message": message})

    async def _try_keys(self) -> None:
        """Tell which other accounts of the home are owed what nobody can take: their keys cannot be used."""
        chain_id, own = self._wallet.network.chain_id, self._policy.payee

        def locked(wallet: Wallet) -> list[str]:
            found: list[str] = []
            if wallet.passwords.is_to_be_typed:  # not while the gateway serves
                return found
            with wallet.twin() as twin:
                live = twin.ledger.vouchers.live(chain_id)
                for payee in sorted({one.descriptor.payee for one in live if one.unsettled} - {own}):
                    try:
                        twin.unlock(twin.account_of(payee))
                    except KeyUnavailable as error:
                        lost = f"what payers owe {payee} is lost once they take it back"
                        found.append(f"{error.message}: {lost}")
            return found

        with suppress(MicrowalletError):  # told when it keeps from something
            for message in await self._lookout.run(locked):
                self._emit("warning", {"message": message})

    async def _check_ledger(self) -> None:
        def check(wallet: Wallet) -> None:
            wallet.ledger.database.check_writable()
            self._store.sync()  # nothing is sold any more once that has failed

        await self._probes.run(check)

    async def _missing_chain(self) -> NetworkError | None:
        """What keeps the chain from being asked for anything; None if nothing does."""
        try:
            await self._lookout.run(_ask_chain)
        except NetworkError as error:
            return error
        return None

    async def _check_chain(self) -> None:
        await self._probes.run(_ask_chain)

    @contextmanager
    def _payee_chain(self) -> Iterator[PayeeChain]:
        network = self._wallet.network
        yield PayeeChain(self._wallet.reader, chain_id=network.chain_id, confirmations=network.confirmations)

    def _relayed_tokens(self) -> Mapping[Address, RelayedToken]:
        """Those whose deposits are brought onto the chain; UsageError if one takes no signed transfers."""
        wallet, relayed = self._wallet, {}
        for token, min_deposit in self._fees.min_deposits.items() if self._fees else ():
            features = token_features(wallet.reader, token, wallet.network.chain_id)
            if features.domain is None or not features.receive_with_authorization:
                raise UsageError(
                    f"the token {token} takes no signed transfers (EIP-3009): its payers must send their own"
                    " transactions"
                )
            relayed[token] = RelayedToken(domain=features.domain, min_deposit=min_deposit)
        return relayed

    @contextmanager
    def _deposit_relay(self) -> Iterator[DepositRelay]:
        with self._wallet.twin() as own:
            payer_of_gas = own.relayer or own.account_of(self._policy.payee)
            yield DepositRelay(
                own.sender(payer_of_gas, secret=cache(lambda: own.accounts.secret(payer_of_gas.name))),
                own.reader,
                chain_id=own.network.chain_id,
                journal=own.ledger.journal,
                sender_of=lambda address: own.sender(own.account_of(address)),
                turns=own.ledger.turns,
                gas_spending=own.ledger.gas_spending,
                gas_budget=0 if self._fees is None else self._fees.gas_budget,
                clock=own.now,
                emit=self._emit,
            )

    @contextmanager
    def _settling(self) -> Iterator[Settling]:
        with self._wallet.twin() as own:
            yield Settling(own.settlement, own.ledger.vouchers, self._policy, clock=own.now, emit=self._emit)
