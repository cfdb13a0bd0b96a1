"""The composition root of the gateway: what one worker process of `serve` is made of."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from microwallet.domain.identifiers import Address, ChannelId, TxHash
from microwallet.errors import LedgerError, NetworkError, OutcomeUnknown, UsageError
from microwallet.escrow.token_features import token_features
from microwallet.http402.charging.chain import PayeeChain
from microwallet.http402.charging.deposit_relay import DepositRelay
from microwallet.http402.charging.desk import Desk
from microwallet.http402.charging.gateway import Gateway
from microwallet.http402.charging.offers import Terms
from microwallet.http402.charging.rotating_secrets import RotatingSecrets, challenge_key
from microwallet.http402.charging.routes import Routes
from microwallet.http402.charging.settling import Settling, SettlingPolicy
from microwallet.http402.charging.signed_deposit import PaidToken
from microwallet.payee.exclusive import exclusive, watch_lock
from microwallet.wallet import Wallet

CHAIN_THREADS = 4
RELAY_THREADS = 4
"""Deposits that are waited for at the same time."""
LOOK_SECONDS = 5.0
"""Between two looks at the chain for what is to be settled."""
TIDY_SECONDS = 600.0
ANSWERS_KEPT_SECONDS = 24 * 60 * 60
"""How long an answer is kept for the same request again."""

Emit = Callable[[str, dict[str, Any]], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class FeePolicy:
    """Which deposits of payers are brought onto the chain for them, and what that may cost."""

    min_deposits: Mapping[Address, int]
    """Base units by token; of a token that is not there, payers send deposits themselves."""
    gas_budget: int
    """Wei an hour, all processes of the home together."""


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
        fees: FeePolicy | None = None,
        emit: Emit = lambda _event, _details: None,
    ) -> None:
        self._wallet = wallet
        self._policy = policy
        self._emit = emit
        self._store = wallet.ledger.sessions
        self._chain = Desk("chain", self._payee_chain, threads=CHAIN_THREADS)
        self._cashier = Desk("settlement", self._settling)
        self._fees = fees
        self._relay = Desk("deposits", self._deposit_relay, threads=RELAY_THREADS)
        terms = Terms(
            realm=realm,
            payee=policy.payee,
            network=wallet.network.name,
            chain_id=wallet.network.chain_id,
            escrow_contract=wallet.escrow_contract,
            secrets=RotatingSecrets(challenge_key(wallet.paths.keys / "challenge-key"), wallet.now),
            paid_tokens={} if fees is None else {token: self._paid(token) for token in fees.min_deposits},
        )
        self.gateway = Gateway(
            terms,
            routes,
            self._store,
            self._chain,
            relay=self._relay,
            close_channel=self.close_channel,
            clock=wallet.now,
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
        self._relay.close()
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

    def _paid(self, token: Address) -> PaidToken:
        """How a token's deposits are paid for; UsageError if it takes no signed transfers."""
        wallet, fees = self._wallet, self._fees
        features = token_features(wallet.reader, token, wallet.network.chain_id)
        if fees is None or features.domain is None or not features.receive_with_authorization:
            raise UsageError(
                f"the token {token} takes no signed transfers (EIP-3009): its payers must send their own"
                " transactions"
            )
        return PaidToken(domain=features.domain, min_deposit=fees.min_deposits[token])

    def _deposit_relay(self) -> DepositRelay:
        own = self._wallet.twin()
        payer_of_gas = own.relayer or own.account_of(self._policy.payee)
        return DepositRelay(
            own.sender(payer_of_gas, secret=cache(lambda: own.accounts.secret(payer_of_gas.name))),
            own.reader,
            chain_id=own.network.chain_id,
            turns=own.ledger.turns,
            gas_spending=own.ledger.gas_spending,
            gas_budget=0 if self._fees is None else self._fees.gas_budget,
            clock=own.now,
            emit=self._emit,
        )

    def _settling(self) -> Settling:
        own = self._wallet.twin()
        return Settling(own.settlement, own.ledger.vouchers, self._policy, clock=own.now, emit=self._emit)
