"""Private keys and mnemonics are parsed strictly, and never repeated in an error."""

import traceback

import pytest

from microwallet.errors import UsageError
from microwallet.keys.private_keys import checked_secret, from_mnemonic, new_secret, parse_private_key

ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
WORDS = "test test test test test test test test test test test junk"


@pytest.mark.parametrize("value", [1, 2, ORDER - 1])
def test_keys_inside_the_range_are_taken(value: int) -> None:
    """From one to the order less one."""
    assert checked_secret(value.to_bytes(32, "big")) == value.to_bytes(32, "big")


@pytest.mark.parametrize("value", [0, ORDER, ORDER + 1, 2**256 - 1])
def test_keys_outside_the_range_are_refused(value: int) -> None:
    """Zero, the order and beyond."""
    with pytest.raises(UsageError, match="range"):
        checked_secret(value.to_bytes(32, "big"))


@pytest.mark.parametrize("length", [0, 31, 33])
def test_keys_of_another_length_are_refused(length: int) -> None:
    """32 bytes, no more and no less."""
    with pytest.raises(UsageError, match=f"{length} bytes"):
        checked_secret(b"\x01" * length)


def test_new_keys_are_keys_and_differ() -> None:
    """Fresh from the operating system."""
    assert checked_secret(new_secret()) != checked_secret(new_secret())


@pytest.mark.parametrize("text", ["11" * 32, "0x" + "11" * 32, "  0x" + "11" * 32 + "\r\n"])
def test_text_of_a_key(text: str) -> None:
    """With or without 0x; white space around it does not matter."""
    assert parse_private_key(text) == b"\x11" * 32


@pytest.mark.parametrize(
    "text",
    ["", "0x", "11" * 31, "11" * 33, "0X" + "11" * 32, "1g" * 32, "11 " * 32, "\u0661" * 64, "-" + "1" * 63],
)
def test_other_text_is_no_key(text: str) -> None:
    """Too short, too long, other digits, gaps: refused without being repeated."""
    with pytest.raises(UsageError, match="64 hexadecimal digits") as caught:
        parse_private_key(text)
    assert not text or text.strip() not in str(caught.value)


@pytest.mark.parametrize(
    ("index", "address"),
    [
        (0, "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266"),
        (1, "0x70997970C51812dc3A010C7d01b50e0d17dc79C8"),
        (2**31 - 1, None),
    ],
)
def test_a_mnemonic_gives_the_keys_other_wallets_give(index: int, address: str | None) -> None:
    """BIP-44 path m/44'/60'/0'/0/index, against the well-known accounts of Anvil."""
    from eth_account import Account

    secret = from_mnemonic(WORDS, index=index)
    assert address is None or Account.from_key(secret).address == address


def test_spaces_and_capitals_of_a_mnemonic_do_not_matter() -> None:
    """As people copy them from paper."""
    assert from_mnemonic("  Test " + WORDS[5:].replace(" ", "\n") + "\n", index=0) == from_mnemonic(
        WORDS, index=0
    )


@pytest.mark.parametrize("index", [-1, 2**31])
def test_an_index_outside_bip_32_is_refused(index: int) -> None:
    """Hardened and negative indexes are not meant."""
    with pytest.raises(UsageError, match="index"):
        from_mnemonic(WORDS, index=index)


@pytest.mark.parametrize(
    "words", ["", "test", WORDS.replace("junk", "test"), WORDS.replace("junk", "zebrafish")]
)
def test_a_wrong_mnemonic_is_refused_without_repeating_it(words: str) -> None:
    """Not in the message, not in the traceback."""
    with pytest.raises(UsageError, match="BIP-39") as caught:
        from_mnemonic(words, index=0)
    shown = "".join(traceback.format_exception(caught.value))
    assert "zebrafish" not in shown
    assert "test test" not in shown
    assert caught.value.__context__ is None
