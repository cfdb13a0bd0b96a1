"""Voucher objects: what is written is read back; anything else is malformed, never a crash."""

import json

import pytest

from microwallet.domain.channel import ChannelDescriptor
from microwallet.domain.identifiers import Address, ChainId
from microwallet.domain.money import Asset
from microwallet.domain.voucher_document import MalformedVoucher, VoucherReader, voucher_writer

DESCRIPTOR = ChannelDescriptor(
    payer=Address("0x19E7E376E7C213B7E7e7e46cc70A5dD086DAff2A"),
    payee=Address("0x4444444444444444444444444444444444444444"),
    token=Address("0x5555555555555555555555555555555555555555"),
    salt="0x" + "33" * 32,
    authorized_signer=Address("0x223D1b4aE7E38B265FD324fcfD10dbf8504a5E4e"),
    escrow_contract=Address("0x5FbDB2315678afecb367f032d93F642f64180aa3"),
    chain_id=ChainId(31337),
)
ASSET = Asset(chain_id=ChainId(31337), token=DESCRIPTOR.token, symbol="USDC", decimals=6)
LINE = voucher_writer(DESCRIPTOR, DESCRIPTOR.channel_id(), ASSET)(250, 50, 1000, b"\x07" * 65)


def test_written_and_read_back():
    """A written voucher carries every field of the contract and is read back the same."""
    document = json.loads(LINE)
    assert {
        "channelId",
        "cumulativeAmount",
        "amount",
        "signature",
        "chainId",
        "escrowContract",
        "remaining",
        "payer",
        "payee",
        "token",
        "salt",
        "authorizedSigner",
    } <= document.keys()
    assert (document["cumulativeAmount"], document["amount"], document["remaining"]) == ("250", "50", "750")
    voucher = VoucherReader().read(LINE)
    assert voucher.descriptor == DESCRIPTOR
    assert voucher.channel_id == DESCRIPTOR.channel_id()
    assert voucher.cumulative_amount == 250
    assert voucher.signature == b"\x07" * 65


def test_envelope_is_read_too():
    """`pay --json` wraps the object; a payee takes that as well."""
    reader = VoucherReader()
    assert reader.read(f'{{"schema":1,"ok":true,"data":{LINE}}}') == reader.read(LINE)


def test_addresses_in_any_case_are_the_same_channel():
    """Addresses are compared as bytes: lowercase text is the same descriptor."""
    document = json.loads(LINE)
    document["payer"] = document["payer"].lower()
    assert VoucherReader().read(json.dumps(document)).descriptor == DESCRIPTOR


@pytest.mark.parametrize("field", ["channelId", "cumulativeAmount", "signature", "payer", "salt", "chainId"])
def test_missing_field(field):
    """A voucher without one of its fields is malformed, and the field is named."""
    document = json.loads(LINE)
    del document[field]
    with pytest.raises(MalformedVoucher, match=field):
        VoucherReader().read(json.dumps(document))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("cumulativeAmount", 250),
        ("cumulativeAmount", "-1"),
        ("cumulativeAmount", "1e3"),
        ("cumulativeAmount", "0250"),
        ("cumulativeAmount", ""),
        ("cumulativeAmount", "\u0661"),
        ("cumulativeAmount", str(2**128)),
        ("cumulativeAmount", None),
        ("cumulativeAmount", ["250"]),
        ("signature", "0x" + "0" * 131),
        ("signature", "0x 07" + "07" * 64),
        ("signature", "07" * 65),
        ("signature", 7),
        ("signature", {}),
        ("chainId", "31337"),
        ("chainId", True),
        ("chainId", 31337.0),
        ("chainId", 0),
        ("chainId", 2**64),
        ("payer", 5),
        ("payer", "0x1234"),
        ("payer", "0x19e7E376E7C213B7E7e7e46cc70A5dD086DAff2A"),
        ("salt", "0x33"),
        ("channelId", []),
        ("token", {"a": 1}),
    ],
)
def test_wrong_type(field, value):
    """A field of another type or form is malformed."""
    document = json.loads(LINE)
    reader = VoucherReader()
    reader.read(LINE)
    document[field] = value
    with pytest.raises(MalformedVoucher):
        reader.read(json.dumps(document))


@pytest.mark.parametrize(
    "line",
    [b"", b"{", b"[]", b"null", b"1", b'"x"', b"\xff\xfe", b"[" * 100_000, b'{"schema":1,"data":[]}', b"NaN"],
)
def test_not_a_voucher(line):
    """Anything that is no JSON object is malformed."""
    with pytest.raises(MalformedVoucher):
        VoucherReader().read(line)
