"""Wire formats under hostile input: what is not understood is malformed, never an error of another kind."""

from __future__ import annotations

import base64
import json
from contextlib import suppress

import rfc8785
from hypothesis import example, given
from hypothesis import strategies as st
from issuing import issue

from microwallet.errors import MalformedMessage
from microwallet.http402.wire.accept_payment import parse_accept_payment
from microwallet.http402.wire.auth_fields import parse_auth_fields, quoted
from microwallet.http402.wire.body_digest import body_digest, parse_digest
from microwallet.http402.wire.challenge import (
    AUTHORIZATION,
    PAYMENT_AUTHORIZATION,
    Challenge,
    ChallengeForm,
    ChallengeSecrets,
    offered_challenges,
)
from microwallet.http402.wire.credential import Credential
from microwallet.http402.wire.encoding import base64url, decode_object, encode_object
from microwallet.http402.wire.events import (
    NEED_VOUCHER,
    RECEIPT,
    EventReader,
    EventSplitter,
    NeedVoucher,
    encode_event,
    without_payment,
)
from microwallet.http402.wire.problems import ToldProblem
from microwallet.http402.wire.receipt import SessionReceipt
from microwallet.http402.wire.session_payload import parse_payload
from microwallet.http402.wire.session_request import SessionRequest
from microwallet.http402.wire.timestamps import parse_rfc3339, rfc3339

SECRETS = ChallengeSecrets([b"s" * 32])
CHALLENGE = issue(SECRETS, {}, realm="r", method="evm", intent="session", expires_at=0)

visible = st.text(st.characters(exclude_categories=["Cc", "Cs"]))
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(1 - 2**53, 2**53 - 1)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(visible, inner, max_size=3),
    max_leaves=8,
)
json_objects = st.dictionaries(visible, json_values, max_size=4)
auth_pieces = st.lists(
    st.sampled_from(["Payment", "Basic", "id", "=", '"', "\\", ",", " ", "\t", "a", "==", "\n", "ä", "\x00"]),
    max_size=30,
).map("".join)


@given(auth_pieces | st.text())
@example('Payment id="\\')
def test_any_field_is_challenges_or_malformed(value):
    """The grammar of WWW-Authenticate refuses what it does not read."""
    with suppress(MalformedMessage):
        offered_challenges([value])


@given(
    st.lists(st.dictionaries(st.from_regex(r"[a-z]{1,5}", fullmatch=True), visible, min_size=1), min_size=1)
)
def test_challenges_survive_their_field(all_parameters):
    """Whatever the values: several in one field, and one a field."""
    texts = ["X " + ", ".join(f"{name}={quoted(value)}" for name, value in p.items()) for p in all_parameters]
    for values in (texts, [", ".join(texts)]):
        assert [dict(one.parameters) for one in parse_auth_fields(values)] == all_parameters


@given(json_objects, visible, st.none() | visible, st.none() | st.dictionaries(visible, visible, max_size=3))
def test_a_challenge_survives_field_and_echo(request, realm, description, opaque):
    """Issued, sent, echoed and received, it is the same and known as ours; its object too."""
    challenge = issue(
        SECRETS,
        request,
        realm=realm,
        method="evm",
        intent="session",
        expires_at=1,
        description=description,
        opaque=opaque,
    )
    (received,) = offered_challenges([challenge.to_field()]).challenges
    credential = Credential.parse(Credential(challenge=received, payload=request).to_field())
    assert credential.challenge == challenge
    assert SECRETS.issued(credential.challenge)
    assert credential.payload == challenge.request_object() == request


@given(
    visible,
    st.none() | visible,
    st.sampled_from([None, AUTHORIZATION, PAYMENT_AUTHORIZATION]),
    st.none() | st.binary().map(body_digest),
    st.dictionaries(visible, visible, max_size=3),
)
def test_a_form_fills_in_what_the_draft_says(realm, description, header, digest, opaque):
    """The field of an offer to everybody is the same as that of a challenge that is made by itself."""
    fixed = {
        "request": CHALLENGE.request,
        "realm": realm,
        "method": "evm",
        "intent": "session",
        "description": description,
        "header": header,
    }
    issued = {"expires_at": 7, "digest": digest, "opaque": opaque}
    assert ChallengeForm(**fixed).field(SECRETS, **issued) == issue(SECRETS, **fixed, **issued).to_field()


@given(st.binary() | json_values.map(lambda value: json.dumps(value).encode()))
@example(b'{"a":"\\ud800"}')
@example(b"[" * 10_000)
@example(b'{"a":' * 5000)
@example(b"1" * 5000)
def test_any_bytes_are_an_object_or_malformed(raw):
    """In every field that carries encoded JSON."""
    text = base64.urlsafe_b64encode(raw).decode().rstrip("=")
    for parse in (
        lambda: decode_object(text, what="text", limit=10**6),
        lambda: Credential.parse("Payment " + text),
        lambda: SessionReceipt.parse(text),
        lambda: ToldProblem.parse(raw),
        lambda: Challenge.parse({**CHALLENGE.parameters(), "request": text, "opaque": text}),
    ):
        with suppress(MalformedMessage):
            parse()


@given(json_objects)
def test_any_object_is_a_message_or_malformed(document):
    """Request, payload, receipt and challenge alike, whatever their fields hold."""
    for parse in (SessionRequest.parse, parse_payload, SessionReceipt.from_object, Challenge.parse):
        with suppress(MalformedMessage):
            parse(document)


PAYLOAD_NAMES = (
    "action",
    "type",
    "channelId",
    "cumulativeAmount",
    "signature",
    "deposit",
    "authorization",
    "salt",
)
plausible = st.sampled_from(
    ["open", "topUp", "voucher", "close", "hash", "authorization", "0", "0x" + "22" * 32]
)


@given(st.dictionaries(st.sampled_from(PAYLOAD_NAMES), plausible | json_values))
def test_any_nearly_right_payload_is_an_action_or_malformed(payload):
    """Right names with values that fit elsewhere."""
    with suppress(MalformedMessage):
        parse_payload(payload)


@given(json_objects)
def test_an_object_survives_its_encoding(document):
    """Canonical JSON in base64url and back."""
    assert decode_object(encode_object(document), what="text", limit=10**6) == document


@given(st.binary(max_size=300), st.integers(1, 40))
@example(b"event: payment-need-voucher\ndata: {\n\n", 1)
def test_any_stream_gives_the_same_events_however_it_is_cut(stream, size):
    """No stack trace, and no event more or less."""
    reader = EventReader()
    cut = [e for at in range(0, len(stream), size) for e in reader.feed(stream[at : at + size])]
    assert cut == list(EventReader().feed(stream))
    for event in cut:
        with suppress(MalformedMessage):
            NeedVoucher.parse(event)


def test_an_event_is_of_the_last_type_it_names():
    """As a reader of the stream takes it."""
    for lines, is_shown in [
        ([b"event: payment-receipt", b"event: y"], True),
        ([b"event: payment-receipt", b"event"], True),
        ([b"event: y", b"event: payment-receipt"], False),
    ]:
        event = b"\n".join([*lines, b"data: x", b"", b""])
        assert without_payment(event) == (event if is_shown else b"")


def test_a_long_event_that_comes_byte_by_byte():
    """It costs no more than a short one, byte for byte."""
    splitter, event = EventSplitter(), b"data: " + b"x" * 300_000 + b"\n\n"
    got = [one for at in range(len(event)) for one in splitter.feed(event[at : at + 1])]
    assert got == [event]


LINES = [b"data: x", b"event: y", b"event: payment-receipts", b": event: payment-receipt", b"id: 1", b"data"]
OWN = st.lists(st.sampled_from(LINES), min_size=1, max_size=3)
OF_PAYMENT = st.sampled_from([encode_event(NEED_VOUCHER, {"a": "1"}), encode_event(RECEIPT, {})])
CUTS = st.lists(st.integers(1, 9), max_size=40)


@given(st.lists(OWN | OF_PAYMENT, max_size=8), st.sampled_from([b"\n", b"\r\n", b"\r"]), CUTS)
def test_without_the_events_of_payment_a_stream_is_the_servers_own(events, line_end, cuts):
    """Byte for byte, wherever they come in and however it is cut: no half of a line end is lost either."""
    own = [event if isinstance(event, bytes) else line_end.join(event) + 2 * line_end for event in events]
    rest = b"".join(own)
    splitter, got = EventSplitter(), b""
    for size in [*cuts, len(rest) or 1]:
        got += b"".join(map(without_payment, splitter.feed(rest[:size])))
        rest = rest[size:]
    got += without_payment(splitter.rest)
    assert got == b"".join(
        one for one, event in zip(own, events, strict=True) if not isinstance(event, bytes)
    )


@given(st.text())
def test_any_text_is_preferences_a_digest_a_time_or_none(text):
    """The small grammars."""
    assert isinstance(parse_accept_payment(text), tuple)
    for parse in (parse_digest, parse_rfc3339):
        with suppress(MalformedMessage):
            parse(text)


@given(st.integers(0, 253402300799))
def test_a_time_survives_its_text(seconds):
    """Unix seconds to RFC 3339 and back, up to the year 9999."""
    assert parse_rfc3339(rfc3339(seconds)) == seconds


@given(st.dictionaries(st.text(), st.text() | st.integers(0, 2**53 - 1)))
def test_every_object_is_encoded_canonically(value):
    """As RFC 8785 has it, also where a shorter way leads there."""
    try:
        canonical = rfc8785.dumps(value)
    except (rfc8785.CanonicalizationError, UnicodeEncodeError):
        return
    assert encode_object(value) == base64url(canonical)


@given(
    st.builds(
        SessionReceipt,
        timestamp=st.integers(0, 2**32),
        challenge_id=st.text(st.characters(exclude_categories=["Cs"])),
        channel_id=st.just("0x" + "22" * 32),
        chain_id=st.integers(1, 2**32),
        accepted_cumulative=st.integers(0, 2**128 - 1),
        spent=st.integers(0, 2**128 - 1),
        units=st.none() | st.integers(0, 2**53 - 1),
        transaction_hash=st.none() | st.just("0x" + "33" * 32),
        confirmations=st.none() | st.integers(0, 100),
    )
)
def test_a_receipt_is_encoded_as_its_object(receipt):
    """What is written out by hand is the canonical form."""
    assert receipt.to_field() == base64url(rfc8785.dumps(receipt.to_object()))
