"""Keys in a temporary folder, with a scrypt that costs nothing and no OS keyring unless asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from microwallet.keys import keystore
from microwallet.keys.accounts import Accounts
from microwallet.keys.os_keyring import BACKEND_VARIABLE, NO_KEYRING
from microwallet.keys.passwords import PasswordSource
from microwallet.keys.voucher_keys import VoucherKeys

PASSWORD = "a password with späce"

BACKENDS = '''
import threading
from keyring.backend import KeyringBackend
from keyring.errors import KeyringLocked

class Kept(KeyringBackend):
    """Keeps entries in the process, as a desktop's keyring keeps them in its own."""
    priority = 9
    entries = {}
    def get_password(self, service, username): return self.entries.get((service, username))
    def set_password(self, service, username, password): self.entries[service, username] = password
    def delete_password(self, service, username): del self.entries[service, username]

class Forgetful(Kept):
    def set_password(self, service, username, password): pass

class Locked(Kept):
    def get_password(self, service, username, password=None): raise KeyringLocked("dismissed")
    set_password = delete_password = get_password

class Silent(Kept):
    def get_password(self, service, username, password=None): threading.Event().wait(30)
    set_password = delete_password = get_password

class Broken(Kept):
    def set_password(self, service, username, password): raise ZeroDivisionError(password)
'''


@pytest.fixture(autouse=True)
def cheap_scrypt(monkeypatch: pytest.MonkeyPatch) -> None:
    """Encryption as always, but without its second of work."""
    monkeypatch.setattr(keystore, "STANDARD_COST", 2**4)
    monkeypatch.setattr(keystore, "LIGHT_COST", 2**3)


@pytest.fixture
def backends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Mapping[str, str]]:
    """Makes the environment that chooses one of the keyring back ends above."""
    folder = tmp_path / "plugins"
    folder.mkdir()
    (folder / "keyring_plugins.py").write_text(BACKENDS)
    monkeypatch.syspath_prepend(folder)
    return lambda name: {BACKEND_VARIABLE: f"keyring_plugins.{name}"}


@pytest.fixture
def said() -> list[str]:
    """What was said to the user."""
    return []


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "home" / "keys"


@pytest.fixture
def passwords() -> PasswordSource:
    return PasswordSource(None, lambda _: PASSWORD)


@pytest.fixture
def accounts(folder: Path, passwords: PasswordSource, said: list[str]) -> Accounts:
    """Accounts without an OS keyring."""
    return Accounts(folder, passwords, NO_KEYRING, said.append)


@pytest.fixture
def voucher_keys(folder: Path, passwords: PasswordSource, said: list[str]) -> VoucherKeys:
    """Voucher keys without an OS keyring."""
    return VoucherKeys(folder, passwords, NO_KEYRING, said.append)
