"""The grammar of WWW-Authenticate, as RFC 9110 writes it."""

from __future__ import annotations

import pytest

from microwallet.errors import MalformedMessage
from microwallet.http402.wire.auth_fields import FIELD_LIMIT, parse_auth_fields, quoted


def read(*values: str):
    return [(one.scheme, one.token68 or dict(one.parameters)) for one in parse_auth_fields(values)]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        pytest.param(['Payment id="a"'], [("payment", {"id": "a"})], id="one"),
        pytest.param(["Payment id=a, realm=b"], [("payment", {"id": "a", "realm": "b"})], id="tokens"),
        pytest.param(['PAYMENT ID="a"'], [("payment", {"id": "a"})], id="case"),
        pytest.param(
            ['Payment id="a"', 'Payment id="b"'],
            [("payment", {"id": "a"}), ("payment", {"id": "b"})],
            id="two fields",
        ),
        pytest.param(
            ['Payment id="a", realm="r", Payment id="b"'],
            [("payment", {"id": "a", "realm": "r"}), ("payment", {"id": "b"})],
            id="two in one field",
        ),
        pytest.param(
            ['Basic realm="x", charset="UTF-8", Payment id="a", Negotiate, Bearer'],
            [
                ("basic", {"realm": "x", "charset": "UTF-8"}),
                ("payment", {"id": "a"}),
                ("negotiate", {}),
                ("bearer", {}),
            ],
            id="other schemes",
        ),
        pytest.param(
            ['Negotiate a87421000492aa874209af8bc028==, Payment id="a"'],
            [("negotiate", "a87421000492aa874209af8bc028=="), ("payment", {"id": "a"})],
            id="token68",
        ),
        pytest.param([r'Payment id="a\"b\\c\d"'], [("payment", {"id": 'a"b\\cd'})], id="quoted pairs"),
        pytest.param(['Payment id="a, Payment id=b"'], [("payment", {"id": "a, Payment id=b"})], id="quoted"),
        pytest.param(['Payment id \t=  "a"'], [("payment", {"id": "a"})], id="bad white space"),
        pytest.param(
            [' , ,Payment  id="a", ,realm=b,, '], [("payment", {"id": "a", "realm": "b"})], id="commas"
        ),
        pytest.param(['Payment id=""'], [("payment", {"id": ""})], id="empty"),
        pytest.param(["Payment"], [("payment", {})], id="nothing"),
        pytest.param(["", " "], [], id="empty fields"),
        pytest.param([], [], id="no field"),
    ],
)
def test_challenges_are_read(values, expected):
    """Several challenges in one field or many, other schemes beside, every form of a value."""
    assert read(*values) == expected


@pytest.mark.parametrize(
    "value",
    [
        'Payment id="a',
        'Payment id="a\\"',
        'Payment id="a" realm="b"',
        "Payment id=, a=b",
        "Payment a b=c",
        'Payment id="a\n"',
        'Payment id="a\x7f"',
        'Payment\nid="a"',
        "Payment id=a/b c=d",
        '"Payment"',
        "=a",
        'Payment id="a", id="b"',
        'Payment id="a", ID="b"',
        "Payment a=b; c=d",
    ],
)
def test_what_breaks_the_grammar_is_refused(value):
    """Open quotes, missing commas, control characters and repeated parameters are no challenge."""
    with pytest.raises(MalformedMessage):
        read(value)


def test_the_size_is_bounded():
    """Up to the limit, no further, over all fields together."""
    assert read('Payment id="' + "a" * (FIELD_LIMIT - 13) + '"')
    with pytest.raises(MalformedMessage):
        read('Payment id="a"', " " * FIELD_LIMIT)


def test_a_long_field_takes_no_longer_by_its_look():
    """Input made to be ambiguous is read in one pass."""
    for part in (" ", "\t ", ",", ", ", "a", "a ", "a=", "a =", "\\", '"'):
        try:
            read("Payment " + part * (50_000 // len(part)))
        except MalformedMessage:
            continue


def test_quoting():
    """What is quoted is read back; a control character cannot be quoted."""
    for value in ("", "a", 'a"b', "a\\b", "ä, b=c", "☕"):
        assert read("Payment id=" + quoted(value)) == [("payment", {"id": value})]
    for value in ("\n", "\r", "\0", "\x7f"):
        with pytest.raises(MalformedMessage):
            quoted(value)
