"""Session credentials for scripts/bench, as many as are asked for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count

from bench_load import request

from microwallet.domain.identifiers import Address, ChainId, ChannelId
from microwallet.domain.voucher import VoucherDigest, VoucherKey
from microwallet.http402.wire.challenge import Challenge, offered_challenges
from microwallet.http402.wire.credential import Credential
from microwallet.http402.wire.session_payload import SignedVoucher, VoucherAction, payload_object


@dataclass(frozen=True, slots=True, kw_only=True)
class Payer:
    """Who signs for all channels of a bench."""

    key: VoucherKey
    chain_id: ChainId
    escrow_contract: Address


def challenge_in(field: str) -> Challenge:
    """The one challenge of a `WWW-Authenticate` field."""
    (challenge,) = offered_challenges([field]).challenges
    return challenge


def paid_requests(payer: Payer, channel_id: ChannelId, challenge: Challenge) -> Iterator[bytes]:
    """Requests that pay what the challenge asks, each with the next voucher of a new channel."""
    digest = VoucherDigest(payer.chain_id, payer.escrow_contract, channel_id)
    price = int(challenge.request_object()["amount"])
    for cumulative_amount in count(price, price):
        voucher = SignedVoucher(
            channel_id=channel_id,
            cumulative_amount=cumulative_amount,
            signature=payer.key.sign(digest(cumulative_amount)),
        )
        payload = payload_object(VoucherAction(voucher=voucher))
        yield request(authorization=Credential(challenge=challenge, payload=payload).to_field())
