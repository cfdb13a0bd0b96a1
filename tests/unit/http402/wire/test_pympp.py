"""Another implementation of the Payment scheme reads what we write, and we read what it writes."""

from __future__ import annotations

from datetime import UTC, datetime

import mpp
import pytest
from issuing import issue
from mpp._body_digest import compute as their_digest
from mpp._parsing import parse_payment_receipt

from microwallet.domain.identifiers import ChainId, ChannelId
from microwallet.http402.wire import body_digest
from microwallet.http402.wire.challenge import ChallengeSecrets, offered_challenges
from microwallet.http402.wire.credential import Credential
from microwallet.http402.wire.encoding import encode_object
from microwallet.http402.wire.receipt import SessionReceipt

SECRET = "s" * 32
REQUEST = {"amount": "100", "methodDetails": {"chainId": 31337}, "currency": "0xCC", "ö": "☕"}
COMMON = {"realm": 'api "x"', "method": "evm", "intent": "session"}


def their_challenge(**optional) -> mpp.Challenge:
    return mpp.Challenge.create(secret_key=SECRET, request=REQUEST, **COMMON, **optional)


@pytest.mark.parametrize(
    "optional",
    [
        {},
        {"expires": "2026-01-01T00:00:00Z"},
        {"digest": body_digest.body_digest(b"body")},
        {"meta": {"order": "7", "a": "b"}},
        {"header": "Payment-Authorization", "meta": {"a": "b"}},
        {
            "expires": "2026-01-01T00:00:00.123Z",
            "digest": "sha-256=:AAAA:",
            "meta": {},
            "description": 'a "b"',
        },
    ],
)
def test_we_read_their_challenge(optional):
    """Every parameter; its id is what we would have made of the same secret."""
    (ours,) = offered_challenges(
        [their_challenge(**optional).to_www_authenticate(COMMON["realm"])]
    ).challenges
    assert ours.request_object() == REQUEST
    assert (ours.realm, ours.expires, ours.digest) == (
        COMMON["realm"],
        optional.get("expires"),
        optional.get("digest"),
    )
    assert ChallengeSecrets([SECRET.encode()]).issued(ours)


@pytest.mark.parametrize("header", [None, "Payment-Authorization"])
def test_they_read_our_challenge(header):
    """Every parameter; it is bound as they bind theirs."""
    ours = issue(
        ChallengeSecrets([SECRET.encode()]),
        REQUEST,
        **COMMON,
        expires_at=1_770_000_000,
        digest="sha-256=:AAAA:",
        header=header,
        opaque={"a": "b"},
    )
    theirs = mpp.Challenge.from_www_authenticate(ours.to_field())
    assert theirs.request == REQUEST
    assert theirs.verify(SECRET, COMMON["realm"])
    assert (theirs.id, theirs.opaque, theirs.expires) == (ours.id, {"a": "b"}, ours.expires)
    assert theirs.credential_header == ours.credential_field


def test_credentials_are_read_both_ways():
    """The echo is exact, the payload the same object."""
    echo = their_challenge(expires="2026-01-01T00:00:00Z", meta={"a": "b"}).to_echo()
    theirs = mpp.Credential(challenge=echo, payload={"action": "voucher"}, source="did:pkh:eip155:1:0xab")
    ours = Credential.parse(theirs.to_authorization())
    assert (ours.source, ours.payload) == (theirs.source, theirs.payload)
    assert ours.challenge.id == echo.id
    assert mpp.Credential.from_authorization(ours.to_field()) == theirs


def test_receipts_are_read():
    """They find status, time, reference and method in ours."""
    ours = SessionReceipt(
        timestamp=1_770_000_000,
        challenge_id="c",
        channel_id=ChannelId("0x" + "22" * 32),
        chain_id=ChainId(196),
        accepted_cumulative=5,
        spent=4,
    )
    theirs = parse_payment_receipt(ours.to_field())
    assert (theirs.status, theirs.method, theirs.reference) == ("success", "evm", ours.channel_id)
    assert theirs.timestamp == datetime.fromtimestamp(ours.timestamp, UTC)


def test_digests_and_canonical_json_agree():
    """The same body has the same digest, though they write it without colons; an object has one text."""
    assert body_digest.matches(their_digest(b"body"), b"body")
    assert mpp._canonical.canonical_b64url(REQUEST) == encode_object(REQUEST)
