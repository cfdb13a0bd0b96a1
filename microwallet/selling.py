"""The composition root of the gateway: what one worker process of `serve` is made of."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from microwallet.domain.identifiers import ChannelId, TxHash
from microwallet.errors import LedgerError, NetworkError, OutcomeUnknown
from microwallet.http402.charging.chain import PayeeChain
from microwallet.http402.charging.desk import Desk
from microwallet.http402.charging.gateway import Gateway
from microwallet.http402.charging.offers import Terms
from microwallet.http402.charging.rotating_secrets import RotatingSecrets, challenge_key
from microwallet.http402.charging.routes import Routes
from microwallet.http402.charging.settling import Settling, SettlingPolicy
from microwallet.payee.exclusive import exclusive, watch_lock
from microwallet.wallet import Wallet

CHAIN_THREADS = 4
LOOK_SECONDS = 5.0
"""Between two looks at the chain for what is to be settled."""
TIDY_SECONDS = 600.0
ANSWERS_KEPT_SECONDS = 24 * 60 * 60
"""How long an answer is kept for the same request again."""

Emit = Callable[[str, dict[str, Any]], None]


class Shop:
    """One worker process: a gateway that is paid to `policy.payee`, and what runs beside it.

    `wallet` belongs to the thread that makes this.
    """

    def __init__(
        self,
        wallet: Wallet,
        routes: Routes,
        policy: SettlingPolicy,
        *,
        realm: str,
        emit: Emit = lambda _event, _details: None,
    ) -> None:
        self._wallet = wallet
        self._policy = policy
        self._emit = emit
        self._store = wallet.ledger.sessions
        self._chain = Desk("chain", self._payee_chain, threads=CHAIN_THREADS)
        self._cashier = Desk("settlement", self._settling)
        terms = Terms(
            realm=realm,
            payee=policy.payee,
            network=wallet.network.name,
            chain_id=wallet.network.chain_id,
            escrow_contract=wallet.escrow_contract,
            secrets=RotatingSecrets(challenge_key(wallet.paths.keys / "challenge-key"), wallet.now),
        )
        self.gateway = Gateway(
            terms, routes, self._store, self._chain, close_channel=self.close_channel, clock=wallet.now
        )

    async def close_channel(self, channel_id: ChannelId) -> TxHash | None:
        """Close a channel with what was charged; see Settling.close."""
        return await self._cashier.run(lambda settling: settling.close(channel_id))

    async def look(self) -> None:
        """Look at the chain again and again, while no other process of this home does."""
        lock = watch_lock(self._wallet.paths.home, self._wallet.network.chain_id)
        while True:
            with exclusive(lock, wait=False) as free:
                if free:
                    await self._look_alone()
            await asyncio.sleep(LOOK_SECONDS)

    async def tidy(self) -> None:
        """Forget what has expired, now and then."""
        while True:
            now = self._wallet.now()
            self._store.forget_expired(now=now, answers_before=now - ANSWERS_KEPT_SECONDS)
            await asyncio.sleep(TIDY_SECONDS)

    def close(self) -> None:
        """Finish what is being sent."""
        self._chain.close()
        self._cashier.close()

    async def _look_alone(self) -> None:
        silent = False
        while True:
            try:
                await self._cashier.run(lambda settling: settling.look())
                silent = False
            except (NetworkError, OutcomeUnknown, LedgerError) as error:
                if not silent:
                    self._emit("interrupted", {"code": error.code, "message": error.message})
                silent = True
            await asyncio.sleep(LOOK_SECONDS)

    def _payee_chain(self) -> PayeeChain:
        network = self._wallet.network
        return PayeeChain(self._wallet.reader, chain_id=network.chain_id, confirmations=network.confirmations)

    def _settling(self) -> Settling:
        own = self._wallet.twin()
        return Settling(own.settlement, own.ledger.vouchers, self._policy, clock=own.now, emit=self._emit)
