"""Input that somebody else wrote: no bytes at all may be taken for more than they are."""

from __future__ import annotations

import io
import json
import tomllib
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from model import CHAIN, ESCROW, PAYEE, TOKEN, USDC, Escrow, keyed

from microwallet.config import SETTINGS, Configuration, Paths
from microwallet.domain.identifiers import NATIVE_TOKEN, Address
from microwallet.domain.money import DEPOSIT_LIMIT, Amount, Asset, format_units
from microwallet.domain.voucher_document import LINE_LIMIT, MalformedVoucher, VoucherReader
from microwallet.errors import InvalidAmount, UsageError
from microwallet.ledger.ledger import Ledger
from microwallet.payee.accept import Acceptance, AcceptancePolicy
from microwallet.payee.line_stream import CHUNK, batches
from microwallet.payee.verify import verify
from microwallet.payer.pay import check_idempotency_key

ONE = keyed(1)
LINE = ONE.line(1_234_567)
GOOD = json.loads(LINE)
TRUSTED = ("channelId", "cumulativeAmount", "signature", "chainId", "escrowContract", "payer", "payee",
           "token", "salt", "authorizedSigner")  # fmt: skip
"""The fields that say what a voucher is worth; the others are for people."""
ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=80),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4),
    max_leaves=8,
)


def assert_same_or_rejected(line):
    """A line that is not the good voucher is rejected, or says the very same."""
    verdict = verify(line)
    assert verdict.rejection is not None or verdict.document == verify(LINE).document


# Voucher documents


def test_every_flipped_bit_is_rejected_or_means_the_same():
    """Each bit of each byte of a voucher line, one after the other: never another voucher."""
    for position in range(len(LINE)):
        for bit in range(8):
            spoilt = bytearray(LINE)
            spoilt[position] ^= 1 << bit
            assert_same_or_rejected(bytes(spoilt))


def test_every_flipped_bit_of_what_is_signed_is_rejected():
    """In id, amount, signature and descriptor no bit is without meaning."""
    for name in TRUSTED:
        value = GOOD[name]
        size = 8 if name in ("chainId", "cumulativeAmount") else len(value) // 2 - 1
        number = int(value, 0) if isinstance(value, str) else value
        for bit in range(size * 8):
            flipped = number ^ (1 << bit)
            if name == "chainId":
                other = flipped
            elif name == "cumulativeAmount":
                other = str(flipped)
            else:
                other = "0x" + flipped.to_bytes(size, "big").hex()
            assert verify(json.dumps({**GOOD, name: other}).encode()).rejection is not None, (name, bit)


@pytest.mark.parametrize(
    "form", ["compact", "high-s", "v 0 or 1", "v 37 or 38", "short", "long", "empty", "zero"]
)
@given(amount=st.integers(0, 2**128 - 1))
def test_one_signature_has_one_form(form, amount):
    """EIP-2098's 64 bytes, high s, other v: a second form of a signature is no signature."""
    document = json.loads(ONE.line(amount))
    raw = bytes.fromhex(document["signature"][2:])
    s, v = int.from_bytes(raw[32:64], "big"), raw[64]
    other = {
        "compact": raw[:32] + (s | (v - 27) << 255).to_bytes(32, "big"),
        "high-s": raw[:32] + (ORDER - s).to_bytes(32, "big") + bytes((55 - v,)),
        "v 0 or 1": raw[:64] + bytes((v - 27,)),
        "v 37 or 38": raw[:64] + bytes((v + 10,)),
        "short": raw[:64],
        "long": raw + b"\0",
        "empty": b"",
        "zero": bytes(64) + raw[64:],
    }[form]
    document["signature"] = "0x" + other.hex()
    assert verify(json.dumps(document).encode()).rejection == "invalid-signature"


@given(name=st.sampled_from(TRUSTED), value=json_values)
@example(name="chainId", value=31337.0)
@example(name="chainId", value=True)
@example(name="chainId", value="31337")
@example(name="cumulativeAmount", value="01234567")
@example(name="cumulativeAmount", value="+1234567")
@example(name="cumulativeAmount", value="1_234_567")
@example(name="cumulativeAmount", value="1234567\n")
@example(name="cumulativeAmount", value=" 1234567")
@example(name="cumulativeAmount", value="\u0661\u0662")
@example(name="cumulativeAmount", value=str(2**128 + 1_234_567))
@example(name="cumulativeAmount", value="9" * 5000)
@example(name="channelId", value=GOOD["channelId"] + "\n")
@example(name="payer", value=GOOD["payer"].swapcase())
@example(name="payer", value=GOOD["payer"] + "00")
@example(name="signature", value=GOOD["signature"][:10] + " " + GOOD["signature"][10:])
def test_a_field_of_any_value(name, value):
    """Every field replaced by anything JSON can say."""
    assert_same_or_rejected(json.dumps({**GOOD, name: value}).encode())


def test_a_descriptor_seen_before_is_not_trusted_more():
    """The reader remembers descriptors; numbers that only compare equal are not the same."""
    reader = VoucherReader()
    reader.read(LINE)
    for chain_id in (31337.0, 31337 + 0j):
        with pytest.raises(MalformedVoucher):
            reader.parse({**GOOD, "chainId": chain_id})
    with pytest.raises(MalformedVoucher):
        reader.parse({**GOOD, "payer": ["unhashable"]})


@given(line=st.binary(max_size=400) | json_values.map(lambda value: json.dumps(value).encode()))
@example(line=b"\xff\xfe{\x00}\x00")
@example(line=b'{"data": {}, "schema": 1}')
@example(line=b'{"data": null, "schema": 1}')
@example(line=b'{"a": NaN, "b": -Infinity}')
@example(line=b"9" * 5000)
@example(line=b'{"a":' * 2000)
@example(line=b"[" * LINE_LIMIT)
@example(line=b'{"channelId": "\\ud800"}')
def test_bytes_of_any_kind_are_a_verdict(line):
    """Whatever it is, it is malformed: no exception, no crash, no long wait."""
    assert verify(line).rejection == "malformed"


@settings(
    max_examples=settings.default.max_examples // 2,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    before=st.integers(0, 3),
    junk=st.lists(
        st.binary(max_size=200)
        | st.tuples(st.sampled_from(TRUSTED), json_values).map(
            lambda change: json.dumps({**GOOD, change[0]: change[1]}).encode()
        ),
        max_size=6,
    ),
)
def test_junk_never_stops_a_stream_or_raises_what_is_stored(tmp_path_factory, before, junk):
    """Between good vouchers: the best good one is stored, and every line is counted once."""
    chain = Escrow()
    chain.open(ONE, 2_000_000)
    policy = AcceptancePolicy(
        chain_id=CHAIN, escrow_contracts=frozenset({ESCROW}), payees=frozenset({PAYEE}), assets={TOKEN: USDC}
    )
    lines = [LINE] * before + junk + [ONE.line(1_234_568)]
    with Ledger.open(tmp_path_factory.mktemp("payee") / "ledger.sqlite3") as ledger:
        acceptance = Acceptance(ledger.vouchers, chain, policy, clock=lambda: 0)
        acceptance.take(lines)
        tally = acceptance.tally
        assert tally.accepted + tally.duplicates + tally.rejected == len(lines)
        assert ledger.vouchers.get(ONE.channel_id).authorized == 1_234_568


# Streams


def lines_of(content):
    """What the lines of a text are, by the plainest definition."""
    numbered = list(enumerate(content.split(b"\n"), start=1))
    return (
        [(number, line) for number, line in numbered if len(line) <= LINE_LIMIT and line.strip()],
        [number for number, line in numbered if len(line) > LINE_LIMIT],
    )


pieces = st.one_of(
    st.binary(max_size=40),
    st.sampled_from(
        [b"\n", b"\r\n", b"\n\n", b" ", b"x" * LINE_LIMIT, b"y" * (LINE_LIMIT + 1), b"z" * 3 * CHUNK]
    ),
)


@given(content=st.lists(pieces, max_size=12).map(b"".join), data=st.data())
def test_any_chunking_of_any_bytes_gives_the_same_lines(content, data):
    """However a pipe cuts a stream, the lines are the same under their numbers, and the same are too long."""
    cuts = data.draw(st.lists(st.integers(1, CHUNK), max_size=6))
    stream = io.BytesIO(content)
    sizes = iter(cuts)
    found = list(batches(lambda size: stream.read(min(size, next(sizes, size)))))
    assert (
        [one for batch in found for one in zip(batch.numbers, batch.lines, strict=True)],
        [number for batch in found for number in batch.too_long],
    ) == lines_of(content)


def test_a_long_line_is_never_kept():
    """64 MB without a line break cost no more memory than one chunk needs."""
    chunk = b"x" * CHUNK
    left = 256

    def read(_):
        nonlocal left
        left -= 1
        return chunk if left > 0 else (b"\nlast\n" if left == 0 else b"")

    tracemalloc.start()
    try:
        found = list(batches(read))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert [number for batch in found for number in batch.too_long] == [1]
    assert [batch.lines for batch in found if batch.lines] == [[b"last"]]
    assert peak < 6 * CHUNK


# Amounts


assets = st.integers(0, 36).map(
    lambda decimals: Asset(chain_id=CHAIN, token=Address("0x" + "55" * 20), symbol="USDC", decimals=decimals)
)


@given(asset=assets, base_units=st.integers(1, DEPOSIT_LIMIT - 1))
def test_an_amount_written_is_read_back(asset, base_units):
    """With and without its unit, for every number of decimals."""
    amount = Amount(base_units, asset)
    assert Amount.parse(str(amount), asset) == amount
    assert Amount.parse(format_units(base_units, asset.decimals), asset) == amount


@given(base_units=st.integers(1, DEPOSIT_LIMIT - 1), unit=st.sampled_from(["wei", "Wei", "ETH", "eth"]))
def test_the_native_coin_by_its_units(base_units, unit):
    """A number of wei is itself; in ether it is the same amount."""
    ether = Asset(chain_id=CHAIN, token=NATIVE_TOKEN, symbol="ETH", decimals=18)
    digits = str(base_units) if unit.lower() == "wei" else format_units(base_units, 18)
    assert Amount.parse(f"{digits} {unit}", ether).base_units == base_units


@given(
    text=st.text(max_size=50) | st.from_regex(r"[0-9+\-.,eE_ ]{1,30}( [A-Za-z]{1,6})?", fullmatch=True),
    asset=assets,
)
@example(text="1" * 10_000, asset=Asset(chain_id=CHAIN, token=NATIVE_TOKEN, symbol="E", decimals=18))
@example(text="0." + "0" * 10_000, asset=Asset(chain_id=CHAIN, token=NATIVE_TOKEN, symbol="E", decimals=18))
def test_any_text_is_an_exact_amount_or_refused(text, asset):
    """What is taken has the value its digits say, exactly; the rest is InvalidAmount."""
    try:
        amount = Amount.parse(text, asset)
    except InvalidAmount:
        return
    digits = text.split()[0]
    whole, _, fraction = digits.partition(".")
    assert digits.isascii()
    assert amount.base_units == int(whole + fraction) * 10 ** (asset.decimals - len(fraction))
    assert 0 < amount.base_units < DEPOSIT_LIMIT


# Keys and files


@given(text=st.text(max_size=140))
def test_an_idempotency_key_can_be_shown_and_kept(text):
    """1 to 128 printable characters are taken as they are; anything else is refused."""
    if 0 < len(text) <= 128 and text.isprintable():
        assert check_idempotency_key(text) == text
    else:
        with pytest.raises(UsageError):
            check_idempotency_key(text)


@pytest.mark.parametrize("key", [7, b"order-17", ["order-17"]])
def test_an_idempotency_key_is_a_text(key):
    """A number of an order is easily given as it is."""
    with pytest.raises(UsageError, match="it is no text"):
        check_idempotency_key(key)


def read_settings(folder, name):
    """Every setting, and a table, of a configuration with the user's or the project's file in place."""
    configuration = Configuration(
        Paths(home=folder / "home", environment={}), {}, project_folder=folder / "project"
    )
    for setting in SETTINGS:
        resolved = configuration.resolve(setting)
        assert resolved.source in ("default", name)
    configuration.section("networks")


toml_values = st.recursive(
    st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@pytest.mark.parametrize("name", ["user", "project"])
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    content=st.binary(max_size=120)
    | st.dictionaries(st.sampled_from([*SETTINGS, "networks", "x"]), toml_values, max_size=4)
)
@example(content=b"a = " + b"[" * 100_000)
@example(content=b"a = " + b"{a=" * 20_000)
@example(content=b"[" + b"a." * 20_000 + b"a]")
@example(content=b"\x00")
@example(content=b'network = ""')
@example(content=b"rpc-timeout = nan")
@example(content=b"rpc-timeout = inf")
@example(content=b"rpc-timeout = " + b"9" * 5000)
def test_a_configuration_file_of_any_content(tmp_path, name, content):
    """It is read, or it is a usage error that names the file; a folder's own file chooses, never crashes."""
    import tomli_w

    file = tmp_path / ("home/config.toml" if name == "user" else "project/microwallet.toml")
    for path in (tmp_path / "home", tmp_path / "project"):
        path.mkdir(exist_ok=True)
    file.write_bytes(content if isinstance(content, bytes) else _toml(tomli_w, content))
    message = file.name
    try:
        read_settings(tmp_path, name)
    except UsageError as error:
        message = error.message
    assert file.name in message


def _toml(tomli_w, content):
    text = tomli_w.dumps(content)
    tomllib.loads(text)
    return text.encode()


def test_a_configuration_file_that_is_a_folder(tmp_path):
    """Said as it is, with a way out."""
    (tmp_path / "home" / "config.toml").mkdir(parents=True)
    with pytest.raises(UsageError, match="cannot be read"):
        read_settings(tmp_path, "user")
    assert Path(tmp_path / "home" / "config.toml").is_dir()
