"""What is found of a credential without reading it whole is what reading it whole gives."""

from __future__ import annotations

import json

from hypothesis import assume, example, given
from hypothesis import strategies as st
from issuing import issue

from microwallet.domain.identifiers import ChannelId
from microwallet.domain.voucher import CUMULATIVE_AMOUNT_LIMIT
from microwallet.errors import MalformedMessage
from microwallet.http402.wire.challenge import ChallengeSecrets
from microwallet.http402.wire.credential import Credential
from microwallet.http402.wire.encoding import base64url
from microwallet.http402.wire.session_credential import SeenCredentials, SessionCredential
from microwallet.http402.wire.session_payload import (
    SignedVoucher,
    VoucherAction,
    parse_payload,
    payload_object,
)

CHALLENGE = issue(
    ChallengeSecrets([b"s" * 32]),
    {"amount": "1", "recipient": "x" * 400},
    realm="r",
    method="evm",
    intent="session",
    expires_at=10**9,
)
AMOUNTS = st.one_of(st.integers(0, 3000), st.integers(0, CUMULATIVE_AMOUNT_LIMIT - 1))
SIGNATURES = st.one_of(st.binary(min_size=65, max_size=65), st.just(bytes(65)))
SOURCES = st.one_of(st.none(), st.just("did:pkh:eip155:31337:0x" + "aB" * 20), st.text(max_size=500))
PARTS = st.permutations(("challenge", "payload", "source"))
NOISE = st.dictionaries(st.sampled_from(("a", "n", "zz")), AMOUNTS.map(str) | st.text(max_size=9), max_size=2)


def field(voucher, source, order, noise, *, is_escaped=False, separators=(",", ":"), swaps=False):
    """An `Authorization` field as somebody's encoder could write it."""
    payload = {**payload_object(VoucherAction(voucher)), **noise}
    if swaps:
        payload = dict(reversed(payload.items()))
    document = {"challenge": CHALLENGE.parameters(), "payload": payload, "source": source}
    text = json.dumps(
        {name: document[name] for name in order if document[name] is not None},
        separators=separators,
        ensure_ascii=False,
    )
    if is_escaped:
        text = text.replace('"cumulativeAmount"', '"\\u0063umulativeAmount"').replace('"0x', '"\\u0030x')
    return "Payment " + base64url(text.encode("utf-8", "surrogatepass"))


def read(value):
    """The credential in the field, read whole; None if it is none of a session."""
    try:
        credential = Credential.parse(value)
        return SessionCredential(credential.challenge, parse_payload(credential.payload), credential.source)
    except MalformedMessage:
        return None


def held(value):
    """What is to be found: challenge and voucher; None if there is more to a credential, or none."""
    credential = read(value)
    if credential is None or not isinstance(credential.action, VoucherAction):
        return None
    return None if credential.action.merged else (credential.challenge, credential.action.voucher)


def found(credentials, value):
    """What is found without reading it whole."""
    field = value.encode("latin-1")
    seen = credentials.like(field)
    voucher = None if seen is None else seen.voucher(field)
    return None if voucher is None else (seen.challenge, voucher)


ENCODERS = st.builds(
    dict,
    order=PARTS,
    noise=NOISE,
    is_escaped=st.booleans(),
    separators=st.sampled_from([(",", ":"), (", ", ": ")]),
    swaps=st.booleans(),
)
VOUCHERS = st.builds(SignedVoucher, st.just(ChannelId("0x" + "22" * 32)), AMOUNTS, SIGNATURES)


@given(VOUCHERS, VOUCHERS, SOURCES)
def test_an_encoder_that_is_usual(first, second, source):
    """The next voucher is found, whatever it is over, unless the first could be mistaken."""
    seen, order = SeenCredentials(), ("challenge", "payload", "source")
    if source is not None:
        assume(len(source.encode("utf-8", "surrogatepass")) <= 80)
        assume(json.dumps(source, ensure_ascii=False)[1:-1] == source)  # nothing is escaped
        assume(source != str(first.cumulative_amount))  # which could be taken for the amount
    value, other = field(first, source, order, {}), field(second, source, order, {})
    assert found(seen, value) is None
    seen.keep(value.encode(), CHALLENGE, VoucherAction(first))
    assert found(seen, value) == held(value) is not None
    # Where the field got longer or shorter by a step its head is another one.
    assert found(seen, other) == held(other) or (found(seen, other) is None and len(other) != len(value))


@given(VOUCHERS, VOUCHERS, SOURCES, ENCODERS, ENCODERS, st.data())
def test_whatever_comes(first, second, source, encoder, other, data):
    """Other encoders, other fields, single characters changed: found as it would be read, or not at all."""
    seen = SeenCredentials()
    value = field(first, source, **encoder)
    if (known := read(value)) is None:
        return
    seen.keep(value.encode(), known.challenge, known.action)
    assert found(seen, value) in (None, held(value))
    for one in (field(second, source, **encoder), field(second, source, **other)):
        assert found(seen, one) in (None, held(one))
        at = data.draw(st.integers(0, len(one) - 1))
        changed = one[:at] + data.draw(st.sampled_from("AZaz09-_+/= \x00\xff")) + one[at + 1 :]
        assert found(seen, changed) in (None, held(changed))
        assert found(seen, one[:at]) in (None, held(one[:at]))


@example(SignedVoucher(ChannelId("0x" + "22" * 32), 1, bytes(65)), "", "-1")
@given(
    VOUCHERS,
    st.text('0123456789abcdefABCDEF"\\{},:x- +_\u0661', max_size=150),
    st.text("0123456789-+ _e.", max_size=45),
)
def test_what_stands_in_its_places(first, signature, amount):
    """Whatever stands where the amount and the signature stood."""
    seen, order = SeenCredentials(), ("challenge", "payload", "source")
    value = field(first, None, order, {})
    seen.keep(value.encode(), CHALLENGE, VoucherAction(first))
    text = json.dumps({"challenge": CHALLENGE.parameters()}, separators=(",", ":"))[:-1]
    for signed in (signature, "0" * 130):
        for over in (amount, "7"):
            raw = (
                f'{text},"payload":{{"action":"voucher","channelId":"{first.channel_id}"'
                f',"cumulativeAmount":"{over}","signature":"0x{signed}"}}}}'
            )
            one = "Payment " + base64url(raw.encode())
            assert found(seen, one) in (None, held(one))
