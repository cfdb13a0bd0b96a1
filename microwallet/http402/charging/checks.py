"""A paid request's own parts, checked one by one, without a store.

draft-httpauth-payment-00, section "Request Body Digest Binding"; draft-evm-session-00, section "Voucher
Verification".
"""

from __future__ import annotations

import hashlib

from microwallet.domain.voucher import SignatureError, SignerCheck, VoucherDigest
from microwallet.errors import MalformedMessage
from microwallet.http402.charging.account import check_covers, check_goes_on
from microwallet.http402.charging.channel_book import KnownChannel
from microwallet.http402.charging.refusal import refused
from microwallet.http402.charging.request import Request
from microwallet.http402.wire.body_digest import matches
from microwallet.http402.wire.credential import Credential
from microwallet.http402.wire.problems import ProblemType
from microwallet.http402.wire.session_credential import SessionCredential
from microwallet.http402.wire.session_payload import SignedVoucher, TopUpAction, parse_payload

BODY_LIMIT = 1024 * 1024
"""Bytes of a request body that is read to bind a challenge or an idempotency key to it."""
KEY_LIMIT = 255
"""Characters of an idempotency key."""


def only_credential(credentials: list[bytes]) -> bytes:
    """The credential of a request that has any; Refused if it has several."""
    if len(credentials) > 1:
        detail = f"there are {len(credentials)} payment credentials; one is expected"
        raise refused(ProblemType.MALFORMED_CREDENTIAL, detail, status=400)
    return credentials[0]


def read_credential(field: bytes) -> SessionCredential:
    """The credential that a field carries; Refused if it cannot be read."""
    try:
        credential = Credential.parse(field.decode("latin-1"))
    except MalformedMessage as error:
        raise refused(ProblemType.MALFORMED_CREDENTIAL, error.message) from error
    try:
        action = parse_payload(credential.payload)
    except MalformedMessage as error:
        raise refused(ProblemType.MALFORMED_CREDENTIAL, error.message, status=400) from error
    return SessionCredential(credential.challenge, action, credential.source)


def check_signature(digest: VoucherDigest, is_by_signer: SignerCheck, voucher: SignedVoucher) -> None:
    """Refused unless a voucher is signed by its channel's signer, canonically."""
    try:
        if is_by_signer(digest(voucher.cumulative_amount), voucher.signature):
            return
    except SignatureError as error:
        raise refused(ProblemType.INVALID_SIGNATURE, str(error), voucher.channel_id) from error
    detail = f"the voucher is not signed by {is_by_signer.signer}"
    raise refused(ProblemType.SIGNER_MISMATCH, detail, voucher.channel_id)


def check_takes(known: KnownChannel, voucher: SignedVoucher, top_up: TopUpAction) -> None:
    """Refused unless a channel would take a voucher once a deposit that comes with it is in.

    A pending close is no matter of the deposit, which would cancel it: the voucher comes too late.
    """
    state = known.state
    check_goes_on(
        known.channel_id, is_finalized=state.finalized, is_close_requested=state.close_requested_at > 0
    )
    check_covers(known.channel_id, state.deposit + top_up.additional_deposit, voucher.cumulative_amount)


async def check_digest(request: Request, digest: str) -> None:
    """Refused unless a request has the body that its challenge is bound to."""
    body = await request.body(BODY_LIMIT)
    if body is None or not matches(digest, body):
        raise refused(ProblemType.INVALID_CHALLENGE, "the challenge is bound to another body")


def only_key(request: Request) -> str:
    """The idempotency key of a request that has any; Refused if it has several, or none that can be kept."""
    keys = request.idempotency_keys
    if len(keys) > 1 or not 0 < len(keys[0]) <= KEY_LIMIT or not keys[0].isprintable():
        detail = f"one Idempotency-Key of 1 to {KEY_LIMIT} characters is expected"
        raise refused(ProblemType.MALFORMED_CREDENTIAL, detail, status=400)
    return keys[0]


def fingerprint_of(request: Request, path: str) -> bytes:
    """What makes a request the same one again: a part of an answer is not the whole. Its body, if it has one,
    was read unless it is too large."""
    body = request.whole_body if request.has_body else b""
    told = (
        hashlib.sha256(body).hexdigest() if body is not None else " ".join(request.values(b"content-length"))
    )
    text = "\0".join([request.method, path, request.query.decode("latin-1"), told, *request.ranges])
    return hashlib.sha256(text.encode()).digest()
