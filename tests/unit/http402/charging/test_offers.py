"""What a challenge asks for."""

from __future__ import annotations

import pytest

from microwallet.domain.identifiers import ChainId, checksum_address
from microwallet.domain.money import Amount, Asset
from microwallet.escrow.authorizations import TokenDomain
from microwallet.http402.charging.offers import Terms, offer_of
from microwallet.http402.charging.rotating_secrets import RotatingSecrets
from microwallet.http402.charging.routes import parse_routes
from microwallet.http402.charging.signed_deposit import RelayedToken

CHAIN_ID = ChainId(31337)
TOKEN = checksum_address(b"\1" * 20)
USDC = Asset(chain_id=CHAIN_ID, token=TOKEN, symbol="USDC", decimals=6)


@pytest.mark.parametrize(
    ("suggested", "least", "told"),
    [(None, None, None), (900, None, 900), (None, 500, 500), (300, 500, 500), (900, 500, 900)],
)
def test_the_deposit_that_is_suggested_is_one_that_is_taken(suggested, least, told):
    """Where deposits are brought onto the chain for payers, no less is suggested than is worth its gas, and
    that much is told."""
    domain = TokenDomain(name="USDC", version="2", chain_id=CHAIN_ID, token=TOKEN)
    terms = Terms(
        realm="shop",
        payee=checksum_address(b"\2" * 20),
        network="anvil",
        chain_id=CHAIN_ID,
        escrow_contract=checksum_address(b"\3" * 20),
        secrets=RotatingSecrets(b"k" * 32, lambda: 0),
        relayed_tokens={} if least is None else {TOKEN: RelayedToken(domain=domain, min_deposit=least)},
    )
    table = {"path": "/**", "price": "10"} | (
        {} if suggested is None else {"suggested-deposit": f"{suggested}"}
    )
    (route,) = parse_routes([table], lambda text: Amount(int(text), USDC)).routes
    request = offer_of(terms, route, route.price).request
    assert (request.suggested_deposit, request.fee_payer) == (told, least is not None)
    assert request.minimum_deposit == (least or 0)
