"""Voucher keys: derived one way, kept per channel, loaded without the account key."""

import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from microwallet.domain.identifiers import ChainId
from microwallet.domain.voucher import VoucherKey
from microwallet.errors import KeyMissing, KeyUnavailable, UsageError
from microwallet.keys.key_files import Store
from microwallet.keys.voucher_keys import VoucherKeys, derive_voucher_key

CHANNEL = "0x" + "22" * 32
KEY = VoucherKey(b"\x11" * 32)
DESCRIPTOR = {
    "salt": "0x" + "33" * 32,
    "chain_id": ChainId(31337),
    "escrow_contract": "0x5FbDB2315678afecb367f032d93F642f64180aa3",
    "payee": "0x" + "44" * 20,
    "token": "0x" + "55" * 20,
}


def test_the_golden_vector() -> None:
    """The key the design names, so that any implementation recovers the same channels."""
    key = derive_voucher_key(b"\x11" * 32, **DESCRIPTOR)
    assert key.secret.hex() == "456c745eed62e81964eff3a990d7bf9dab832cac9bf2f7e373356579a46dfc76"
    assert key.address == "0x223D1b4aE7E38B265FD324fcfD10dbf8504a5E4e"


@pytest.mark.parametrize("account_key", [bytes([number]) * 32 for number in (1, 2, 127, 255)])
def test_it_is_hkdf_of_rfc_5869(account_key: bytes) -> None:
    """Against an independent implementation."""
    info = (
        b"microwallet voucher key v1"
        + (31337).to_bytes(32, "big")
        + bytes.fromhex("5FbDB2315678afecb367f032d93F642f64180aa3")
        + b"\x44" * 20
        + b"\x55" * 20
    )
    expected = HKDF(algorithm=SHA256(), length=32, salt=b"\x33" * 32, info=info).derive(account_key)
    assert derive_voucher_key(account_key, **DESCRIPTOR).secret == expected


@pytest.mark.parametrize(
    "other",
    [
        {"salt": "0x" + "34" * 32},
        {"chain_id": ChainId(1)},
        {"escrow_contract": "0x" + "44" * 20},
        {"payee": "0x" + "55" * 20},
        {"token": "0x" + "44" * 20},
    ],
)
def test_every_field_of_the_channel_changes_the_key(other: dict) -> None:
    """So that no two channels share one."""
    assert (
        derive_voucher_key(b"\x11" * 32, **DESCRIPTOR | other).secret
        != derive_voucher_key(b"\x11" * 32, **DESCRIPTOR).secret
    )


def test_a_stored_key_comes_back(voucher_keys: VoucherKeys, folder: Path) -> None:
    """From an encrypted file with a light scrypt."""
    voucher_keys.put(CHANNEL, KEY, Store.FILE)
    assert voucher_keys.get(CHANNEL).secret == KEY.secret
    assert KEY.secret.hex() not in (folder / "vouchers" / f"{CHANNEL}.json").read_text()


def test_a_stored_key_comes_back_from_the_keyring(folder, passwords, backends, said) -> None:
    """Without a password."""
    voucher_keys = VoucherKeys(folder, passwords, backends("Kept"), said.append)
    voucher_keys.put(CHANNEL, KEY, Store.KEYRING)
    assert voucher_keys.get(CHANNEL).secret == KEY.secret
    assert said == []


def test_the_store_of_the_account_is_kept_to(folder, passwords, backends, said) -> None:
    """A keyring that appeared later is not asked where the account is a file."""
    voucher_keys = VoucherKeys(folder, passwords, backends("Broken"), said.append)
    voucher_keys.put(CHANNEL, KEY, Store.FILE)
    assert voucher_keys.get(CHANNEL).secret == KEY.secret
    assert said == []


def test_putting_again_is_fine(voucher_keys: VoucherKeys) -> None:
    """A resumed open does; another key in its place is refused."""
    voucher_keys.put(CHANNEL, KEY, Store.FILE)
    voucher_keys.put(CHANNEL, KEY, Store.FILE)
    with pytest.raises(KeyUnavailable, match="another voucher key"):
        voucher_keys.put(CHANNEL, VoucherKey(b"\x12" * 32), Store.FILE)
    assert voucher_keys.get(CHANNEL).secret == KEY.secret


def test_putting_again_restores_what_the_keyring_lost(folder, passwords, backends, said) -> None:
    """The pointer alone is not taken for the key."""
    voucher_keys = VoucherKeys(folder, passwords, backends("Kept"), said.append)
    voucher_keys.put(CHANNEL, KEY, Store.KEYRING)
    import keyring_plugins

    keyring_plugins.Kept.entries.clear()
    with pytest.raises(KeyMissing):
        voucher_keys.get(CHANNEL)
    voucher_keys.put(CHANNEL, KEY, Store.KEYRING)
    assert voucher_keys.get(CHANNEL).secret == KEY.secret


def test_a_key_that_is_not_here_is_missing(voucher_keys: VoucherKeys) -> None:
    """Exit 6, and told apart from one that is locked: it may be derived again."""
    with pytest.raises(KeyMissing, match=CHANNEL) as caught:
        voucher_keys.get(CHANNEL)
    assert caught.value.exit_code == 6


def test_a_channel_id_is_no_path(voucher_keys: VoucherKeys) -> None:
    """What is no id is refused before a file is looked for."""
    with pytest.raises(UsageError):
        voucher_keys.get("../accounts/alice")


def test_paying_imports_nothing_slow(voucher_keys: VoucherKeys, folder: Path, tmp_path: Path) -> None:
    """Loading a key from a file needs neither eth_account nor keyring nor logging."""
    voucher_keys.put(CHANNEL, KEY, Store.FILE)
    password_file = tmp_path / "pw"
    password_file.write_text("a password with späce")
    code = f"""
import sys
from pathlib import Path
from microwallet.keys.passwords import PasswordSource
from microwallet.keys.voucher_keys import VoucherKeys
VoucherKeys(Path({str(folder)!r}), PasswordSource({str(password_file)!r}, None), {{}}, print).get({CHANNEL!r})
slow = {{"eth_account", "eth_keyfile", "keyring", "logging", "uuid", "difflib"}}
print(sorted(slow & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
