"""Credentials, receipts, digests, problems and preferences: the other fields of the scheme."""

from __future__ import annotations

import json

import pytest
from issuing import issue

from microwallet.domain.identifiers import ChainId, ChannelId
from microwallet.errors import MalformedMessage
from microwallet.http402.wire import body_digest
from microwallet.http402.wire.accept_payment import parse_accept_payment, preferred
from microwallet.http402.wire.challenge import ChallengeSecrets
from microwallet.http402.wire.credential import CREDENTIAL_LIMIT, Credential, is_payment
from microwallet.http402.wire.encoding import encode_object
from microwallet.http402.wire.problems import Problem, ProblemType, ToldProblem
from microwallet.http402.wire.receipt import SessionReceipt

CHALLENGE = issue(
    ChallengeSecrets([b"s" * 32]),
    {"amount": "1"},
    realm="r",
    method="evm",
    intent="session",
    expires_at=1_770_000_000,
)
RECEIPT = SessionReceipt(
    timestamp=1_770_000_000,
    challenge_id="c",
    channel_id=ChannelId("0x" + "22" * 32),
    chain_id=ChainId(196),
    accepted_cumulative=2**127,
    spent=0,
)


class TestCredential:
    """The Authorization field."""

    @pytest.mark.parametrize("source", [None, "did:pkh:eip155:196:0xabc"])
    def test_it_is_read_back(self, source):
        """Challenge, payload and source."""
        credential = Credential(challenge=CHALLENGE, payload={"action": "voucher", "n": [1]}, source=source)
        assert Credential.parse(credential.to_field()) == credential
        assert Credential.parse(credential.to_field().replace("Payment ", "pAYMENT   ")) == credential

    @pytest.mark.parametrize(
        "document",
        [
            {},
            {"challenge": CHALLENGE.parameters()},
            {"payload": {}},
            {"challenge": "x", "payload": {}},
            {"challenge": {}, "payload": {}},
            {"challenge": CHALLENGE.parameters(), "payload": []},
            {"challenge": CHALLENGE.parameters(), "payload": {}, "source": 7},
            {"challenge": {**CHALLENGE.parameters(), "id": None}, "payload": {}},
        ],
    )
    def test_a_part_is_missing_or_wrong(self, document):
        """Malformed, never a stack trace."""
        with pytest.raises(MalformedMessage):
            Credential.parse("Payment " + encode_object(document))

    @pytest.mark.parametrize(
        "value",
        [
            "",
            "Payment",
            "Payment ",
            "Basic abc",
            "Payment a b",
            "Payment e30=",
            "Payment !!",
            "Payment bm90IGpzb24",
            "Payment W10",
            "Payment " + "A" * CREDENTIAL_LIMIT,
            "Payment " + encode_object({"a": 1})[:-1],
        ],
    )
    def test_no_credential(self, value):
        """Another scheme, no base64url, no JSON, no object, too long."""
        with pytest.raises(MalformedMessage):
            Credential.parse(value)

    def test_it_is_never_shown(self):
        """Its payload is in no repr."""
        assert "secret" not in repr(Credential(challenge=CHALLENGE, payload={"signature": "secret"}))

    def test_the_scheme_is_told(self):
        """Whatever its case; not by a longer word."""
        assert is_payment(b"payment abc")
        assert is_payment(b"PAYMENT")
        assert not is_payment(b"Payments abc")
        assert not is_payment(b"Basic Payment")


class TestReceipt:
    """The Payment-Receipt field."""

    def test_it_is_read_back(self):
        """With and without what is optional; further fields are ignored."""
        assert SessionReceipt.parse(RECEIPT.to_field()) == RECEIPT
        assert SessionReceipt.parse(encode_object({**RECEIPT.to_object(), "more": [1]})) == RECEIPT
        told = SessionReceipt.from_object({**RECEIPT.to_object(), "units": 5, "txHash": "0x" + "AB" * 32})
        assert (told.units, told.transaction_hash) == (5, "0x" + "ab" * 32)
        assert SessionReceipt.parse(told.to_field()) == told

    @pytest.mark.parametrize(
        "change",
        [
            {"status": "failed"},
            {"method": "tempo"},
            {"intent": "charge"},
            {"reference": "0x" + "23" * 32},
            {"spent": 5},
            {"spent": "-1"},
            {"spent": "01"},
            {"spent": str(2**128)},
            {"spent": "\u0661"},
            {"chainId": "196"},
            {"chainId": True},
            {"chainId": 1.0},
            {"timestamp": "now"},
            {"units": -1},
            {"txHash": "0x12"},
            {"challengeId": None},
        ],
    )
    def test_a_field_is_wrong(self, change):
        """Malformed, and the field is named."""
        with pytest.raises(MalformedMessage):
            SessionReceipt.from_object({**RECEIPT.to_object(), **change})


class TestBodyDigest:
    """RFC 9530."""

    def test_the_rfcs_examples(self):
        """SHA-256 and SHA-512 of the document's body, appendix B."""
        body = b'{"hello": "world"}\n'
        assert body_digest.body_digest(body) == "sha-256=:RK/0qy18MlBSVnWgjwz6lZEWjP/lF5HF9bvEF8FabDg=:"
        both = (
            "sha-512=:YMAam51Jz/jOATT6/zvHrLVgOYTGFy1d6GJiOHTohq4yP+pgk4vf2aCsyRZOtw8MjkM7iw7yZ/WkppmM44T3qg==:"
            ", sha-256=:RK/0qy18MlBSVnWgjwz6lZEWjP/lF5HF9bvEF8FabDg=:"
        )
        assert body_digest.matches(both, body)
        assert not body_digest.matches(both, body + b"\n")

    @pytest.mark.parametrize(
        "text", ["", "sha-256", "sha-256=:a:", "sha-256=:AAAA", "sha-256=AAAA:", "=:AAAA:", "a=:AAAA:" * 200]
    )
    def test_what_is_no_digest(self, text):
        """Malformed, not a mismatch."""
        with pytest.raises(MalformedMessage):
            body_digest.matches(text, b"")

    def test_only_known_algorithms_prove_anything(self):
        """An unknown one alone matches nothing, and beside a known one is passed over."""
        assert not body_digest.matches("md5=:1B2M2Y8AsgTpgAmY7PhCfg==:", b"")
        assert body_digest.matches("md5=:AAAA:, " + body_digest.body_digest(b""), b"")


class TestAcceptPayment:
    """Which offers a client takes."""

    @pytest.mark.parametrize(
        ("value", "expected"),
        [
            ("tempo/charge, tempo/session, stripe/charge;q=0.5, solana/charge;q=0.3", "tc ts st so"),
            ("tempo/charge, solana/charge", "tc so"),
            ("tempo/*, solana/*;q=0.6, stripe/charge;q=0.2", "tc ts so st"),
            ("tempo/charge, tempo/session;q=0, solana/charge;q=0.8, stripe/charge;q=0.4", "tc so st"),
            ("*/session;q=0.3, */*;q=0.1", "ts tc st so"),
            ("*/*, tempo/*;q=0, tempo/session;q=0.5", "st so ts"),
            ("evm/session", "tc ts st so"),
            ("", "tc ts st so"),
            ("tempo", "tc ts st so"),
            ("tempo/charge;q=2", "tc ts st so"),
            ("solana/charge ; q=0.001 , , stripe/charge;Q=1.000", "st so"),
        ],
    )
    def test_offers_are_chosen_and_ordered(self, value, expected):
        """The draft's examples: by weight, the narrowest range first; all if none fits."""
        offers = {
            "tc": ("tempo", "charge"),
            "ts": ("tempo", "session"),
            "st": ("stripe", "charge"),
            "so": ("solana", "charge"),
        }
        assert preferred(list(offers), parse_accept_payment(value), offers.__getitem__) == expected.split()


class TestProblems:
    """RFC 9457 documents."""

    def test_they_are_read_back(self):
        """Type, title, status, detail and what else there is."""
        problem = Problem(
            type=ProblemType.CHANNEL_FINALIZED, detail="it is ☕", extensions={"channelId": "0x1"}
        )
        document = json.loads(problem.to_body())
        assert document == {
            "type": "https://paymentauth.org/problems/session/channel-finalized",
            "title": "Channel Finalized",
            "status": 410,
            "detail": "it is ☕",
            "channelId": "0x1",
        }
        told = ToldProblem.parse(problem.to_body())
        assert (told.type, told.title, told.detail) == (
            ProblemType.CHANNEL_FINALIZED,
            "Channel Finalized",
            "it is ☕",
        )

    @pytest.mark.parametrize(
        "body", [b"", b"[]", b"nope", b"\xff", b"[" * 100_000, b'{"a": "' + b"a" * 70_000 + b'"}']
    )
    def test_what_is_no_problem_document(self, body):
        """Malformed, however it is nested or long."""
        with pytest.raises(MalformedMessage):
            ToldProblem.parse(body)

    def test_words_are_made_safe_to_show(self):
        """What a terminal would obey is gone, and so is all beyond 300 characters."""
        body = json.dumps({"detail": "\x1b[2J\u009b1mpay\nme " + "a" * 300}).encode()
        said = str(ToldProblem.parse(body))
        assert said.startswith(" [2J 1mpay me aaa")
        assert len(said) == 300

    def test_words_of_another_type(self):
        """An unknown type, or fields that are no text, are no problem of the drafts."""
        assert ToldProblem.parse(b'{"type": "about:blank", "detail": 7}') == ToldProblem(
            uri="about:blank", title=None, detail=None
        )
