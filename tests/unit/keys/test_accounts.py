"""Accounts: created once, found by name or address, never overwritten, never half there."""

import json
import stat
from functools import partial
from pathlib import Path

import pytest

from microwallet.domain.voucher import VoucherKey
from microwallet.errors import KeyMissing, KeyUnavailable, UnknownReference, UsageError
from microwallet.keys.accounts import Accounts
from microwallet.keys.key_files import Store
from microwallet.keys.os_keyring import NO_KEYRING
from microwallet.keys.passwords import PasswordSource
from microwallet.keys.voucher_keys import VoucherKeys

from .conftest import PASSWORD

KEY = b"\x11" * 32
ADDRESS = "0x19E7E376E7C213B7E7e7e46cc70A5dD086DAff2A"
CHANNEL = "0x" + "22" * 32


def test_an_account_without_a_keyring_is_an_encrypted_file(accounts: Accounts, folder: Path, said) -> None:
    """A standard keystore for its owner alone, and the user is told why."""
    account = accounts.import_key("alice", KEY)
    assert (account.name, account.address, account.store) == ("alice", ADDRESS, "file")
    file = folder / "accounts" / "alice.json"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert json.loads(file.read_text())["version"] == 3
    assert accounts.secret("alice") == KEY
    assert said == ["there is no OS keyring here, so the key of account alice goes into an encrypted file"]


def test_other_wallets_open_the_file(accounts: Accounts, folder: Path) -> None:
    """It is Web3 Secret Storage, version 3, and nothing else."""
    from eth_account import Account

    accounts.import_key("alice", KEY)
    document = json.loads((folder / "accounts" / "alice.json").read_text())
    assert bytes(Account.decrypt(document, PASSWORD)) == KEY


def test_an_account_in_the_keyring_leaves_only_a_pointer(folder: Path, backends, said) -> None:
    """No password is asked for, nothing is said, and the file holds no secret."""

    def never(question: str) -> str:
        raise AssertionError(question)

    accounts = Accounts(folder, PasswordSource(None, never), backends("Kept"), said.append)
    assert accounts.import_key("alice", KEY).store == "keyring"
    text = (folder / "accounts" / "alice.json").read_text()
    assert KEY.hex() not in text
    assert json.loads(text)["backend"] == "keyring_plugins.Kept"
    assert accounts.secret("alice") == KEY
    assert said == []


@pytest.mark.parametrize("backend", ["Locked", "Forgetful", "Broken"])
def test_a_keyring_that_fails_is_replaced_by_a_file(folder, passwords, backends, said, backend: str) -> None:
    """A new key is never lost in it."""
    accounts = Accounts(folder, passwords, backends(backend), said.append)
    assert accounts.import_key("alice", KEY).store == "file"
    assert accounts.secret("alice") == KEY
    assert len(said) == 1


def test_a_key_is_unlocked_once(folder, passwords, backends, said) -> None:
    """Whatever becomes of its password or keyring then, a process that runs goes on; not without its file."""
    accounts = Accounts(folder, passwords, backends("Broken"), said.append)
    accounts.import_key("alice", KEY)
    assert accounts.secret("alice") == KEY
    other = Accounts(folder, passwords, backends("Broken"), said.append)
    other.change_password("alice", PasswordSource(None, lambda _: "another one"))
    assert accounts.secret("alice") == KEY
    other.remove("alice")
    with pytest.raises(UnknownReference):
        accounts.secret("alice")


def test_a_keyring_that_locks_later_is_exit_6(folder, passwords, backends, said) -> None:
    """An existing key is never looked for elsewhere; the hint says what to do."""
    Accounts(folder, passwords, backends("Kept"), said.append).import_key("alice", KEY)
    locked = Accounts(folder, passwords, backends("Locked"), said.append)
    with pytest.raises(KeyUnavailable, match="alice cannot be had: the OS keyring is locked") as caught:
        locked.secret("alice")
    assert "unlock" in (caught.value.hint or "")
    with pytest.raises(KeyUnavailable):
        locked.remove("alice")
    assert locked.get("alice").address == ADDRESS


def test_a_key_that_left_the_keyring_is_missing(folder, passwords, backends, said) -> None:
    """Said with the entry that was looked for, so that a backup can be put in place."""
    accounts = Accounts(folder, passwords, backends("Kept"), said.append)
    accounts.import_key("alice", KEY)
    import keyring_plugins

    keyring_plugins.Kept.entries.clear()
    with pytest.raises(KeyMissing, match=ADDRESS):
        accounts.secret("alice")


def test_two_homes_share_a_keyring_without_touching(tmp_path, passwords, backends, said) -> None:
    """The same name, even the same key, in two homes: removing one leaves the other."""
    one, two = (Accounts(tmp_path / home, passwords, backends("Kept"), said.append) for home in "ab")
    one.import_key("alice", KEY)
    two.import_key("alice", KEY)
    one.remove("alice")
    assert two.secret("alice") == KEY


def test_a_key_from_before_a_crash_is_an_orphan_at_worst(
    folder, passwords, backends, said, monkeypatch
) -> None:
    """The secret is in the keyring before the file that points to it exists."""
    from microwallet.keys import key_files

    def crash(*_: object) -> None:
        raise SystemExit

    monkeypatch.setattr(key_files, "create_private_file", crash)
    accounts = Accounts(folder, passwords, backends("Kept"), said.append)
    with pytest.raises(SystemExit):
        accounts.import_key("alice", KEY)
    import keyring_plugins

    assert KEY.hex() in keyring_plugins.Kept.entries.values()
    assert accounts.list() == []


def test_a_name_is_taken_once(accounts: Accounts) -> None:
    """The key that has it stays; exit 2."""
    accounts.import_key("alice", KEY)
    for again in (accounts.create, lambda name: accounts.import_key(name, b"\x12" * 32)):
        with pytest.raises(UsageError, match="there is an account alice already"):
            again("alice")
    assert accounts.secret("alice") == KEY


def test_a_key_is_here_once(accounts: Accounts) -> None:
    """Else an address would name two accounts."""
    accounts.import_key("alice", KEY)
    with pytest.raises(UsageError, match="is here already: it is account alice"):
        accounts.import_key("bob", KEY)


@pytest.mark.parametrize("name", ["a", "0", "alice-2", "a_b", "a" * 32])
def test_good_names(accounts: Accounts, name: str) -> None:
    """Lowercase letters, digits, underscore and hyphen."""
    assert accounts.import_key(name, KEY).name == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        "Alice",
        "-a",
        "_a",
        "a b",
        "a/b",
        "../a",
        ".a",
        "ä",
        "a" * 33,
        "0x12",
        ADDRESS,
        ADDRESS.lower(),
        "a\n",
    ],
)
def test_bad_names(accounts: Accounts, folder: Path, name: str) -> None:
    """Nothing that could be a path, an address or a flag."""
    with pytest.raises(UsageError, match="cannot name an account"):
        accounts.import_key(name, KEY)
    with pytest.raises(UnknownReference):
        accounts.get(name)
    assert not folder.exists()


@pytest.mark.parametrize("secret", [b"", b"\x00" * 32, b"\xff" * 32, b"\x01" * 31])
def test_what_is_no_key_is_refused(accounts: Accounts, folder: Path, secret: bytes) -> None:
    """Before anything is written."""
    with pytest.raises(UsageError):
        accounts.import_key("alice", secret)
    assert not folder.exists()


def test_accounts_are_listed_by_name_without_a_secret(accounts: Accounts, folder: Path) -> None:
    """No password, no keyring, no order but the name's; hidden files are not ours."""
    for name in ("carol", "alice", "bob"):
        accounts.create(name)
    (folder / "accounts" / ".new-left-by-a-crash").write_text("half")
    nobody = Accounts(folder, PasswordSource(None, None), NO_KEYRING, print)
    assert [account.name for account in nobody.list()] == ["alice", "bob", "carol"]


@pytest.mark.parametrize("reference", ["alice", ADDRESS, ADDRESS.lower(), "0x" + ADDRESS[2:].upper()])
def test_an_account_is_found_by_name_or_address(accounts: Accounts, reference: str) -> None:
    """In any spelling an address may have."""
    accounts.import_key("alice", KEY)
    assert accounts.get(reference).name == "alice"


def test_an_unknown_account_names_what_was_perhaps_meant(accounts: Accounts) -> None:
    """Or all there are, or how to make one; it is never guessed."""
    with pytest.raises(UnknownReference, match="none yet") as caught:
        accounts.get("alice")
    assert caught.value.hint == "microwallet account create NAME"
    accounts.create("alice")
    accounts.create("bob")
    with pytest.raises(UnknownReference, match=r"did you mean alice\?"):
        accounts.get("alcie")
    with pytest.raises(UnknownReference, match="there are: alice, bob"):
        accounts.get(ADDRESS)


def test_a_removed_account_is_gone(accounts: Accounts, folder: Path) -> None:
    """Its file too; the name is free again."""
    accounts.create("alice")
    accounts.remove("alice")
    assert list((folder / "accounts").iterdir()) == []
    accounts.create("alice")


def test_an_exported_keystore_opens_elsewhere(accounts: Accounts) -> None:
    """Under the password given for it."""
    from eth_account import Account

    accounts.import_key("alice", KEY)
    assert bytes(Account.decrypt(accounts.export_keystore("alice", "other"), "other")) == KEY


def test_a_new_password_holds_for_the_voucher_keys_too(accounts, voucher_keys, folder, said) -> None:
    """Else the channels of the account could not pay any more."""
    accounts.import_key("alice", KEY)
    voucher_keys.put(CHANNEL, VoucherKey(KEY), Store.FILE)
    assert accounts.change_password("alice", PasswordSource(None, lambda _: "new")) == 1
    new = PasswordSource(None, lambda _: "new")
    assert Accounts(folder, new, NO_KEYRING, said.append).secret("alice") == KEY
    assert VoucherKeys(folder, new, NO_KEYRING, said.append).get(CHANNEL).secret == KEY


def test_a_change_of_password_cut_short_is_repeated(
    accounts, voucher_keys, folder, said, monkeypatch
) -> None:
    """Voucher keys change first; what changed already is passed over the second time."""
    from microwallet.keys import key_files

    accounts.import_key("alice", KEY)
    voucher_keys.put(CHANNEL, VoucherKey(KEY), Store.FILE)
    voucher_keys.put("0x" + "33" * 32, VoucherKey(KEY), Store.FILE)
    write, written = key_files.replace_private_file, []

    def cut_short(path: Path, content: str) -> None:
        if written:
            raise SystemExit
        written.append(path)
        write(path, content)

    new = PasswordSource(None, lambda _: "new")
    with monkeypatch.context() as patched:
        patched.setattr(key_files, "replace_private_file", cut_short)
        with pytest.raises(SystemExit):
            accounts.change_password("alice", new)
    assert accounts.secret("alice") == KEY
    assert accounts.change_password("alice", new) == 1
    assert Accounts(folder, new, NO_KEYRING, said.append).secret("alice") == KEY
    for channel in (CHANNEL, "0x" + "33" * 32):
        assert VoucherKeys(folder, new, NO_KEYRING, said.append).get(channel).secret == KEY


def test_the_old_password_comes_first(accounts, folder, said) -> None:
    """A new one is not even asked for when the old one is wrong."""
    accounts.import_key("alice", KEY)

    def never(question: str) -> str:
        raise AssertionError(question)

    wrong = Accounts(folder, PasswordSource(None, lambda _: "wrong"), NO_KEYRING, said.append)
    with pytest.raises(KeyUnavailable, match="wrong"):
        wrong.change_password("alice", PasswordSource(None, never))


def test_a_key_in_the_keyring_has_no_password_of_ours(folder, passwords, backends, said) -> None:
    """Exit 2, nothing asked."""
    accounts = Accounts(folder, passwords, backends("Kept"), said.append)
    accounts.import_key("alice", KEY)
    with pytest.raises(UsageError, match="OS keyring"):
        accounts.change_password("alice", passwords)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "7",
        "{}",
        '{"version": 3}',
        '{"version": 3, "address": "zz"}',
        '{"version": 3, "address": "00"}',
        '{"version": 3, "address": 7}',
        '{"version": 2, "address": "19e7e376e7c213b7e7e7e46cc70a5dd086daff2a"}',
        '{"microwallet": 1, "store": "cloud", "address": "19e7e376e7c213b7e7e7e46cc70a5dd086daff2a"}',
        '{"microwallet": 1, "store": "keyring", "address": "19e7e376e7c213b7e7e7e46cc70a5dd086daff2a"}',
        '{"microwallet": "x"}',
    ],
)
def test_a_damaged_file_is_named_not_passed_over(accounts: Accounts, folder: Path, content: str) -> None:
    """An account that cannot be read is an error, never "no such account", and stays as it is."""
    accounts.import_key("alice", KEY)
    file = folder / "accounts" / "alice.json"
    file.write_text(content)
    for use in (
        accounts.list,
        *(partial(one, "alice") for one in (accounts.get, accounts.secret, accounts.create)),
    ):
        with pytest.raises(KeyUnavailable, match=r"alice\.json is damaged"):
            use()
    assert file.read_text() == content


def test_a_folder_that_cannot_be_read_is_not_an_empty_one(accounts: Accounts, folder: Path) -> None:
    """As one that another user has made, by sudo: what is in it is not known."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "accounts").symlink_to("accounts")
    for use in (accounts.list, partial(accounts.get, "alice"), partial(accounts.create, "alice")):
        with pytest.raises(KeyUnavailable, match="cannot be read") as error:
            use()
        assert error.value.hint.startswith(f"ls -ld {folder}")


def test_a_file_of_a_newer_microwallet_is_said_to_be_one(accounts: Accounts, folder: Path) -> None:
    """Not damaged: newer."""
    accounts.import_key("alice", KEY)
    (folder / "accounts" / "alice.json").write_text('{"microwallet": 2}')
    with pytest.raises(KeyUnavailable, match="newer microwallet"):
        accounts.get("alice")


def test_a_keystore_whose_address_was_changed_does_not_open(accounts: Accounts, folder: Path) -> None:
    """The address is outside the encryption: it is compared with the key's own."""
    accounts.import_key("alice", KEY)
    file = folder / "accounts" / "alice.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"address": "44" * 20}))
    with pytest.raises(KeyUnavailable, match="was changed"):
        accounts.secret("alice")
