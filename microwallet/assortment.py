"""What is sold: routes and prices out of settings, in the assets that a wallet knows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from microwallet.domain.identifiers import Address
from microwallet.domain.money import Amount, unit_of
from microwallet.escrow.authorizations import TokenDomain
from microwallet.http402.charging.fee_policy import FeePolicy, fee_policy
from microwallet.http402.charging.offers import Terms, offer_of
from microwallet.http402.charging.rotating_secrets import RotatingSecrets
from microwallet.http402.charging.routes import Routes, parse_routes
from microwallet.http402.charging.settling import SettlingPolicy
from microwallet.http402.charging.signed_deposit import RelayedToken
from microwallet.http402.serving.settings import Settings
from microwallet.http402.wire.challenge import PAYMENT_AUTHORIZATION, SECRET_LENGTH
from microwallet.wallet import Wallet


@dataclass(frozen=True, slots=True, kw_only=True)
class Assortment:
    """What is sold, and when what is owed is taken."""

    routes: Routes
    policy: SettlingPolicy
    fees: FeePolicy | None = None
    requires_auth: bool = False
    """Whether what is sold uses Authorization itself."""

    @classmethod
    def of(cls, wallet: Wallet, settings: Settings) -> Assortment:
        """What settings describe, in the assets that a wallet knows; UsageError says what is wrong."""

        def amount(text: str) -> Amount:
            return Amount.parse(text, wallet.resolve_asset(unit_of(text), amount=text))

        names = settings.names
        texts = settings.settle_above or (["1 USDC"] if wallet.network.usdc is not None else [])
        with names.naming("settle-above"):
            above = [amount(text) for text in texts]
        if len({one.asset.token for one in above}) < len(above):
            raise names.wrong("settle-above", "has two sums for one token")
        policy = SettlingPolicy(
            payee=wallet.account.address,
            chain_id=wallet.network.chain_id,
            above={one.asset.token: one.base_units for one in above},
            idle_seconds=settings.idle_seconds,
        )
        return cls(
            routes=parse_routes(settings.routes, amount, names),
            policy=policy,
            fees=fee_policy(settings.pay_fees_from, settings.gas_budget, amount, names),
            requires_auth=settings.requires_auth,
        )

    def terms(
        self, wallet: Wallet, realm: str, key: bytes, relayed_tokens: Mapping[Address, RelayedToken]
    ) -> Terms:
        """What all its offers have in common; `key` makes the secrets of challenges."""
        return Terms(
            realm=realm,
            payee=self.policy.payee,
            network=wallet.network.name,
            chain_id=wallet.network.chain_id,
            escrow_contract=wallet.escrow_contract,
            secrets=RotatingSecrets(key, wallet.now),
            header=PAYMENT_AUTHORIZATION if self.requires_auth else None,
            relayed_tokens=relayed_tokens,
        )

    def check_offers(self, wallet: Wallet, realm: str) -> None:
        """UsageError for a route that no challenge could be made for. The chain is not asked."""
        chain_id = wallet.network.chain_id
        relayed = {  # no challenge holds the domain, which only the chain tells
            token: RelayedToken(
                domain=TokenDomain(name="", version="", chain_id=chain_id, token=token), min_deposit=least
            )
            for token, least in (self.fees.min_deposits.items() if self.fees else ())
        }
        terms = self.terms(wallet, realm, bytes(SECRET_LENGTH), relayed)
        for route in self.routes.routes:
            if route.price is not None:
                offer_of(terms, route, route.price)
