"""Challenges: reading them from a response, binding them to their ids."""

from __future__ import annotations

import dataclasses

import pytest
from issuing import issue

from microwallet.errors import MalformedMessage
from microwallet.http402.wire.challenge import Challenge, ChallengeSecrets, offered_challenges
from microwallet.http402.wire.encoding import encode_object

NOW = 1_770_000_000
SECRETS = ChallengeSecrets([b"new" * 11, b"old" * 11])
REQUEST = {"amount": "1000", "currency": "usd", "recipient": "acct_123"}
FIELD = (
    'Payment id="x7Tg2pLqR9mKvNwY3hBcZa", realm="api.example.com", method="example", intent="charge", '
    'expires="2025-01-15T12:05:00Z", '
    'request="eyJhbW91bnQiOiIxMDAwIiwiY3VycmVuY3kiOiJVU0QiLCJyZWNpcGllbnQiOiJhY2N0XzEyMyJ9"'
)


def new_challenge(**changes) -> Challenge:
    arguments = {"realm": "r", "method": "evm", "intent": "session", "expires_at": NOW + 300, **changes}
    return issue(SECRETS, arguments.pop("request", REQUEST), **arguments)


def test_the_drafts_example_is_read():
    """Parameters by name, the request decoded; it expires at the moment it says."""
    (challenge,) = offered_challenges([FIELD]).challenges
    assert (challenge.realm, challenge.method, challenge.intent) == ("api.example.com", "example", "charge")
    assert challenge.request_object() == {"amount": "1000", "currency": "USD", "recipient": "acct_123"}
    assert not challenge.has_expired(1_736_942_699)
    assert challenge.has_expired(1_736_942_700)


def test_a_field_is_read_back():
    """All parameters, whatever their characters."""
    challenge = new_challenge(
        realm='a "realm" | b', description="tea, ☕ \\ more", opaque={"order": "7"}, digest="sha-256=:AAAA:"
    )
    assert offered_challenges([challenge.to_field()]).challenges == [challenge]
    assert Challenge.parse({**challenge.parameters(), "unknown": "ignored"}) == challenge


@pytest.mark.parametrize("name", ["id", "realm", "method", "intent", "request"])
def test_a_required_parameter_is_missing(name):
    """Such a challenge is rejected and named; others of the response stay."""
    rest = {key: value for key, value in new_challenge().parameters().items() if key != name}
    field = "Payment " + ", ".join(f'{key}="{value}"' for key, value in rest.items())
    offered = offered_challenges([field, FIELD, 'Basic realm="x"'])
    assert [challenge.method for challenge in offered.challenges] == ["example"]
    assert [f"the challenge has no {name}"] == [error.message for error in offered.rejected]


@pytest.mark.parametrize("broken", ["Bearer realm=foo bar", 'Payment id="', "=a"])
def test_a_field_that_cannot_be_read_is_passed_over(broken):
    """Others may have written it; where nothing else is offered it is what is wrong."""
    assert offered_challenges([broken, FIELD]) == offered_challenges([FIELD, broken])
    assert len(offered_challenges([broken, FIELD]).challenges) == 1
    with pytest.raises(MalformedMessage):
        offered_challenges([broken, 'Basic realm="x"'])


@pytest.mark.parametrize(
    "change",
    [
        {"id": ""},
        {"method": "EVM"},
        {"method": ""},
        {"intent": "a b"},
        {"request": ""},
        {"request": "e30="},
        {"request": "W10"},
        {"request": "eyJ"},
        {"request": encode_object({}) + "!"},
        {"request": "A" * 20_000},
        {"request": "eyJhIjoiXHVkODAwIn0"},
        {"expires": "tomorrow"},
        {"expires": "2025-01-15"},
        {"expires": "2025-13-15T12:05:00Z"},
        {"digest": "sha-256=:abc:"},
        {"opaque": encode_object({"a": 1})},
        {"opaque": encode_object({"a": {"b": "c"}})},
        {"header": "Host"},
        {"header": ""},
        {"id": 7},
        {"realm": None},
    ],
)
def test_a_parameter_that_is_not_what_the_draft_says(change):
    """Wrong characters, encodings, dates and types are malformed."""
    with pytest.raises(MalformedMessage):
        Challenge.parse({**new_challenge().parameters(), **change})


@pytest.mark.parametrize("name", [one.name for one in dataclasses.fields(Challenge)])
def test_an_id_is_bound_to_every_parameter(name):
    """Whatever is changed in the echo, the server did not issue it; only the description is free."""
    challenge = new_challenge(description="tea", opaque={"a": "b"}, digest="sha-256=:AAAA:")
    other = new_challenge(
        realm="s",
        method="other",
        intent="charge",
        request={**REQUEST, "amount": "1"},
        expires_at=NOW + 301,
        digest="sha-256=:BBBB:",
        opaque={"a": "c"},
        description="cake",
        header="Payment-Authorization",
    )
    changed = dataclasses.replace(challenge, **{name: getattr(other, name)})
    assert SECRETS.issued(challenge)
    assert SECRETS.issued(changed) == (name == "description")


@pytest.mark.parametrize("name", ["expires", "digest", "header", "opaque"])
def test_an_id_is_bound_to_what_is_absent(name):
    """Leaving out an optional parameter is a change too, and so is moving it to another slot."""
    challenge = new_challenge(opaque={"a": "b"}, digest="sha-256=:AAAA:", header="Payment-Authorization")
    assert not SECRETS.issued(dataclasses.replace(challenge, **{name: None}))


@pytest.mark.parametrize(
    ("header", "field"),
    [
        (None, "Authorization"),
        ("authorization", "Authorization"),
        ("payment-authorization", "Payment-Authorization"),
    ],
)
def test_it_says_which_field_carries_the_credential(header, field):
    """That for authorization, or one beside it, however it is spelled; the echo has it as it was."""
    challenge = new_challenge(header=header)
    assert challenge.credential_field == field
    assert challenge.parameters().get("header") == header


def test_secrets_rotate():
    """What an older secret bound is good until it expires; what nobody knows is not."""
    before = issue(
        ChallengeSecrets(SECRETS.secrets[1:]),
        REQUEST,
        realm="r",
        method="evm",
        intent="session",
        expires_at=NOW,
    )
    assert SECRETS.issued(before)
    assert not ChallengeSecrets([b"other" * 7]).issued(before)
    assert ChallengeSecrets(SECRETS.secrets[:1]).issued(new_challenge())


def test_a_short_secret_is_refused():
    """A secret has 32 bytes, there is one at least, and none is ever shown."""
    for secrets in ([], [b"x" * 31], [b"x" * 32, b""]):
        with pytest.raises(ValueError, match="32 bytes"):
            ChallengeSecrets(secrets)
    assert "new" not in repr(SECRETS)


def test_the_order_of_keys_does_not_change_an_id():
    """The request is canonical JSON."""
    assert new_challenge(request=dict(reversed(REQUEST.items()))) == new_challenge()
