"""The session's own objects: request, the four actions, events."""

from __future__ import annotations

from dataclasses import replace

import pytest

from microwallet.domain.channel import ChannelDescriptor
from microwallet.domain.identifiers import ChainId, ChannelId, TxHash, checksum_address
from microwallet.errors import MalformedMessage
from microwallet.http402.wire.encoding import json_object
from microwallet.http402.wire.events import (
    EVENT_LIMIT,
    EventReader,
    EventSplitter,
    NeedVoucher,
    ServerSentEvent,
    encode_event,
)
from microwallet.http402.wire.session_payload import (
    CloseAction,
    MergedOpen,
    MergedTopUp,
    OpenAction,
    SentTransaction,
    SignedTransfer,
    SignedVoucher,
    TopUpAction,
    VoucherAction,
    parse_payload,
    payload_object,
)
from microwallet.http402.wire.session_request import CredentialType, SessionRequest

PAYER, PAYEE, TOKEN, ESCROW, SIGNER = (
    checksum_address(bytes([n]) * 20) for n in (0xAA, 0xBB, 0xCC, 0xDD, 0xEE)
)
CHANNEL, SALT, HASH = ChannelId("0x" + "22" * 32), "0x" + "33" * 32, TxHash("0x" + "44" * 32)
REQUEST = SessionRequest(
    amount=100, currency=TOKEN, recipient=PAYEE, chain_id=ChainId(31337), escrow_contract=ESCROW
)
VOUCHER = SignedVoucher(channel_id=CHANNEL, cumulative_amount=250_000, signature=b"\x05" * 65)
TRANSFER = SignedTransfer(
    payer=PAYER, to=ESCROW, value=5_000_000, valid_after=0, valid_before=1_743_523_500, nonce=SALT,
    signature=b"\x06" * 65,
)  # fmt: skip
ACTIONS = [
    OpenAction(voucher=VOUCHER, salt=SALT, authorized_signer=SIGNER, deposit=SentTransaction(hash=HASH)),
    OpenAction(voucher=VOUCHER, salt=SALT, authorized_signer=checksum_address(bytes(20)), deposit=TRANSFER),
    TopUpAction(channel_id=CHANNEL, additional_deposit=7, deposit=SentTransaction(hash=HASH)),
    TopUpAction(channel_id=CHANNEL, additional_deposit=5_000_000, deposit=TRANSFER, salt=SALT),
    VoucherAction(voucher=VOUCHER),
    VoucherAction(voucher=VOUCHER, merged=MergedOpen(salt=SALT, authorized_signer=SIGNER, deposit=TRANSFER)),
    VoucherAction(voucher=VOUCHER, merged=MergedTopUp(salt=SALT, deposit=TRANSFER)),
    CloseAction(voucher=VOUCHER),
]


class TestRequest:
    """What a challenge asks for."""

    def test_null_is_as_good_as_absent(self):
        """For every optional field, the flag included."""
        document = REQUEST.to_object()
        document |= {"unitType": None, "suggestedDeposit": None}
        document["methodDetails"] |= {"feePayer": None, "credentialTypes": None, "minVoucherDelta": None}
        assert SessionRequest.parse(document) == REQUEST

    @pytest.mark.parametrize(
        ("field", "other"),
        [("payee", PAYER), ("token", PAYER), ("escrow_contract", PAYER), ("chain_id", ChainId(84532))],
    )
    def test_a_channel_fits_in_all_that_pays(self, field, other):
        """Payee, token, escrow and chain; who pays and who signs is the payer's own affair."""
        descriptor = ChannelDescriptor(
            payer=PAYER,
            payee=PAYEE,
            token=TOKEN,
            salt=SALT,
            authorized_signer=SIGNER,
            escrow_contract=ESCROW,
            chain_id=ChainId(31337),
        )
        assert REQUEST.fits(descriptor)
        assert not REQUEST.fits(replace(descriptor, **{field: other}))

    def test_it_is_read_back(self):
        """With nothing optional and with all of it; further fields are ignored."""
        full = SessionRequest(
            amount=0,
            currency=TOKEN,
            recipient=PAYEE,
            chain_id=ChainId(84532),
            escrow_contract=ESCROW,
            unit_type="llm_token",
            suggested_deposit=2**128 - 1,
            description="tea ☕",
            external_id="7",
            channel_id=CHANNEL,
            min_voucher_delta=10_000,
            max_units=7,
            fee_payer=True,
            minimum_deposit=5,
            credential_types=(CredentialType.AUTHORIZATION, CredentialType.HASH, "else"),
        )
        for request in (REQUEST, full):
            assert SessionRequest.parse(request.to_object()) == request
            assert SessionRequest.parse({**request.to_object(), "more": 1}) == request

    @pytest.mark.parametrize("name", ["description", "externalId", "unitType"])
    def test_any_text_may_make_a_challenge_long(self, name):
        """In base64url this is one of 4 KB, which are to be read at least."""
        document = {**REQUEST.to_object(), name: "x" * 3_072}
        assert SessionRequest.parse(document).amount == REQUEST.amount

    def test_the_name_of_a_unit_does_nothing_to_a_terminal(self):
        """It is shown with the price, before anything is paid: no escape, and no further line."""
        document = {**REQUEST.to_object(), "unitType": "word\x1b[1m\nfee  none"}
        assert SessionRequest.parse(document).unit == "word [1m fee  none"
        assert SessionRequest.parse(document | {"unitType": "word"}).unit == "word"

    def test_another_version_of_the_method_is_not_known(self):
        """Where none is told it is the first; a later one may mean something else by the same fields."""
        document = REQUEST.to_object()
        document["methodDetails"]["version"] = 1
        assert SessionRequest.parse(document) == REQUEST
        document["methodDetails"]["version"] = 2
        with pytest.raises(MalformedMessage, match="version 2"):
            SessionRequest.parse(document)

    def test_the_drafts_example(self):
        """As printed there; its addresses count by their bytes, and are written with their checksum."""
        request = SessionRequest.parse(
            {
                "amount": "100",
                "unitType": "llm_token",
                "suggestedDeposit": "5000000",
                "currency": "0x74b7F16337b8972027F6196A17a631ac6dE26d22",
                "recipient": "0x742d35cc6634c0532925a3b844bc9e7595f8fe00",
                "methodDetails": {
                    "escrowContract": "0x1234567890abcdef1234567890abcdef12345678",
                    "chainId": 196,
                    "minVoucherDelta": "10000",
                },
            }
        )
        assert (request.amount, request.suggested_deposit, request.min_voucher_delta) == (
            100,
            5_000_000,
            10_000,
        )
        assert request.recipient.lower() == "0x742d35cc6634c0532925a3b844bc9e7595f8fe00"
        assert request.to_object()["recipient"] == "0x742d35Cc6634c0532925a3b844bC9e7595F8fE00"
        assert request.credential_types == ("hash",)

    @pytest.mark.parametrize(
        ("part", "name", "value"),
        [
            (None, "amount", None),
            (None, "amount", 100),
            (None, "amount", "1e3"),
            (None, "amount", "+1"),
            (None, "amount", "0.5"),
            (None, "amount", str(2**128)),
            (None, "currency", "USDC"),
            (None, "recipient", "0x12"),
            (None, "suggestedDeposit", ""),
            (None, "description", "a" * 5000),
            (None, "methodDetails", None),
            (None, "methodDetails", []),
            ("methodDetails", "chainId", "31337"),
            ("methodDetails", "chainId", 0),
            ("methodDetails", "chainId", True),
            ("methodDetails", "chainId", 1.5),
            ("methodDetails", "escrowContract", None),
            ("methodDetails", "channelId", "0x22"),
            ("methodDetails", "minVoucherDelta", "-1"),
            ("methodDetails", "feePayer", "true"),
            ("methodDetails", "credentialTypes", "hash"),
            ("methodDetails", "credentialTypes", [1]),
        ],
    )
    def test_a_field_is_missing_or_wrong(self, part, name, value):
        """Malformed, and the message names the field."""
        document = REQUEST.to_object()
        (document if part is None else document[part])[name] = value
        with pytest.raises(MalformedMessage, match=name):
            SessionRequest.parse(document)


class TestPayload:
    """The four actions, with every way a deposit is told."""

    @pytest.mark.parametrize("action", ACTIONS, ids=lambda action: type(action).__name__)
    def test_it_is_read_back(self, action):
        """Every action, deposit and optional part; further fields are ignored."""
        assert parse_payload(payload_object(action)) == action
        assert parse_payload({**payload_object(action), "more": 1}) == action

    @pytest.mark.parametrize("action", ACTIONS, ids=lambda action: type(action).__name__)
    def test_every_field_counts(self, action):
        """A field that is missing, empty or of another type is malformed; only the signer may be left out."""
        whole = payload_object(action)
        for name in whole:
            for wrong in (None, "", 7, [], "0x"):
                if name == "authorizedSigner" and wrong is None:
                    continue
                if name == "deposit" and wrong is None:
                    continue
                with pytest.raises(MalformedMessage):
                    parse_payload({**whole, name: wrong})

    def test_every_field_of_an_authorization_counts(self):
        """Also where it is merged with a voucher."""
        whole = payload_object(ACTIONS[1])
        assert set(whole["authorization"]) == {"from", "to", "value", "validAfter", "validBefore", "nonce"}
        for name in whole["authorization"]:
            for wrong in (None, "", 7, [], "0x"):
                with pytest.raises(MalformedMessage, match=name):
                    parse_payload({**whole, "authorization": {**whole["authorization"], name: wrong}})

    @pytest.mark.parametrize("name", ["validAfter", "validBefore"])
    def test_times_are_of_256_bits(self, name):
        """As in the token's call: payers sign transfers that are valid for ever by the highest number."""
        whole = payload_object(ACTIONS[1])
        for told, is_read in ((2**256 - 1, True), (2**256, False), ("0" + "1" * 77, False), (-1, False)):
            payload = {**whole, "authorization": {**whole["authorization"], name: str(told)}}
            if is_read:
                assert payload_object(parse_payload(payload)) == payload
            else:
                with pytest.raises(MalformedMessage, match=name):
                    parse_payload(payload)

    def test_permit2_is_declined_by_name(self):
        """The message says what is taken instead."""
        payload = {**payload_object(ACTIONS[0]), "type": "permit2"}
        with pytest.raises(MalformedMessage, match=r"permit2.*hash or authorization"):
            parse_payload(payload)

    def test_a_top_up_says_one_amount(self):
        """Told and authorized amounts must agree."""
        payload = {**payload_object(ACTIONS[3]), "additionalDeposit": "5000001"}
        with pytest.raises(MalformedMessage, match=r"5000001.*5000000"):
            parse_payload(payload)

    def test_a_compact_signature_is_refused(self):
        """64 bytes (EIP-2098) are none of ours."""
        payload = {**payload_object(ACTIONS[4]), "signature": "0x" + "05" * 64}
        with pytest.raises(MalformedMessage, match="signature"):
            parse_payload(payload)

    @pytest.mark.parametrize("value", [b"[" * 1000 + b"]" * 1000, b'{"a":' * 1000 + b"1" + b"}" * 1000])
    def test_what_nests_deeper_than_python_recurses(self, value):
        """Malformed like any other value that does not fit."""
        for field in ("action", "channelId", "cumulativeAmount"):
            payload = b'{"action":"voucher","channelId":"0x%s","%s":%s}' % (b"22" * 32, field.encode(), value)
            with pytest.raises(MalformedMessage, match=rf"payload\.{field} is no single value"):
                parse_payload(json_object(payload, what="payload"))

    def test_signatures_are_in_no_repr(self):
        """What authorizes money is not shown."""
        assert not any("\\x05" in repr(action) or "\\x06" in repr(action) for action in ACTIONS)


class TestEvents:
    """Server-sent events."""

    STREAM = (
        b"\xef\xbb\xbf: hello\n\ndata: one\ndata:two\n\nevent: tick\rdata:\r\rid: 7\n"
        b"retry: 5\nevent: nothing\n\n"
        b"data\r\n\r\nevent: payment-need-voucher\r\ndata: {}\r\n\r\ndata: cut off"
    )
    EVENTS = (
        ("message", "one\ntwo"),
        ("tick", ""),
        ("message", ""),
        ("payment-need-voucher", "{}"),
    )

    @pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
    def test_events_are_found_however_the_stream_is_cut(self, size):
        """All line ends, comments, a byte order mark, empty data; what the stream cuts off is no event."""
        reader = EventReader()
        chunks = [self.STREAM[at : at + size] for at in range(0, len(self.STREAM), size)]
        found = [(event.type, event.data) for chunk in chunks for event in reader.feed(chunk)]
        assert found == list(self.EVENTS)

    def test_an_endless_event_is_refused(self):
        """Bounded, in one line or many; many small ones are fine."""
        for line in (b"data: " + b"a" * 100_000, b"data: " + b"a" * 100_000 + b"\n"):
            reader = EventReader()
            with pytest.raises(MalformedMessage):
                for _ in range(EVENT_LIMIT // len(line) + 2):
                    list(reader.feed(line))
        reader = EventReader()
        assert sum(len(list(reader.feed(b"data: a\n\n" * 1000))) for _ in range(200)) == 200_000

    def test_an_event_that_brings_a_picture(self):
        """In base64, of a few megabytes: it is read, and passed on whole."""
        event = b"data: " + b"A" * 5_000_000 + b"\n\n"
        reader, splitter = EventReader(), EventSplitter()
        chunks = [event[at : at + 65_536] for at in range(0, len(event), 65_536)]
        assert [len(one.data) for chunk in chunks for one in reader.feed(chunk)] == [5_000_000]
        assert [one for chunk in chunks for one in splitter.feed(chunk)] == [event]

    def test_a_request_for_a_voucher(self):
        """Encoded and read back; each field counts."""
        asked = NeedVoucher(
            channel_id=CHANNEL, required_cumulative=250_025, accepted_cumulative=250_000, deposit=500_000
        )
        (event,) = EventReader().feed(asked.to_event())
        assert NeedVoucher.parse(event) == asked
        for name in event.json():
            rest = {key: value for key, value in event.json().items() if key != name}
            (changed,) = EventReader().feed(encode_event("payment-need-voucher", rest))
            with pytest.raises(MalformedMessage, match=name):
                NeedVoucher.parse(changed)

    @pytest.mark.parametrize("data", ["", "[]", "nope", "1"])
    def test_data_that_is_no_object(self, data):
        """Malformed."""
        with pytest.raises(MalformedMessage):
            NeedVoucher.parse(ServerSentEvent(type="payment-need-voucher", data=data))
