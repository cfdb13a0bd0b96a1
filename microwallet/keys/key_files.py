"""One file per key: the key itself, encrypted, or the place in the OS keyring that has it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from microwallet.domain.identifiers import Address, checksum_address, unhexed
from microwallet.domain.voucher import VoucherKey
from microwallet.errors import KeyMissing, KeyUnavailable
from microwallet.files import move_away, shell_path
from microwallet.keys import keystore
from microwallet.keys.os_keyring import KeyringUnavailable, OsKeyring
from microwallet.keys.passwords import PasswordSource
from microwallet.keys.private_files import (
    create_private_file,
    make_private_folder,
    remove_private_file,
    replace_private_file,
)

FORMAT_VERSION = 1
_PATIENCE_ALONE = 4.0
_PATIENCE_WITH_TERMINAL = 60.0
_SUFFIX = ".json"
_UNLOCK_HINT = "unlock the OS keyring (log in, or: gnome-keyring-daemon --replace --unlock), then try again"


class Store(StrEnum):
    """Where a key is kept."""

    KEYRING = "keyring"
    FILE = "file"


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyFile:
    """A key as its file describes it, without the secret."""

    name: str
    path: Path
    address: Address
    store: Store
    document: Mapping[str, Any]


class KeyFiles:
    """The keys of one folder. A file never points to a secret that was not stored before it.

    `noun` names such a key in messages, e.g. `key of account`; `cost` is scrypt's n of encrypted ones.
    """

    def __init__(
        self,
        folder: Path,
        *,
        noun: str,
        cost: int,
        passwords: PasswordSource,
        environment: Mapping[str, str],
        say: Callable[[str], None],
    ) -> None:
        self._folder = folder
        self._noun = noun
        self._cost = cost
        self._passwords = passwords
        self._say = say
        patience = _PATIENCE_WITH_TERMINAL if passwords.has_terminal else _PATIENCE_ALONE
        self._keyring = OsKeyring(environment, patience=patience, say=say)

    def __iter__(self) -> Iterator[KeyFile]:
        """Every key of the folder, by name. Touches no secret. KeyUnavailable for one that cannot be read."""
        try:
            names = sorted(path.name for path in self._folder.iterdir())
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            raise _unreadable(self._folder, error) from error
        for name in names:
            if name.endswith(_SUFFIX) and not name.startswith("."):
                key_file = self.find(name.removesuffix(_SUFFIX))
                if key_file is not None:
                    yield key_file

    def find(self, name: str) -> KeyFile | None:
        """The key `name`, or None; KeyUnavailable for a file that cannot be read."""
        path = self._path(name)
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        except UnicodeDecodeError as error:
            raise KeyUnavailable(f"{path} cannot be read: {error}") from error
        except OSError as error:
            raise _unreadable(path, error) from error
        return _parsed(name, path, text)

    def create(self, name: str, secret: bytes, *, store: Store = Store.KEYRING) -> KeyFile:
        """Keep a new key, in the OS keyring if `store` says so and there is one, else encrypted.

        Raises FileExistsError if the name is taken, and leaves the key that has it alone.
        """
        if self.find(name) is not None:
            raise FileExistsError(name)
        document = self._stored(name, secret, store)
        make_private_folder(self._folder)
        create_private_file(self._path(name), json.dumps(document) + "\n")
        return _described(name, self._path(name), document)

    def secret(self, key_file: KeyFile) -> bytes:
        """The 32-byte key; KeyUnavailable if it is locked, gone, or not the one that was stored."""
        what = self._title(key_file.name)
        if key_file.store is Store.FILE:
            password, hint = self._passwords.password(what), self._passwords.hint_if_wrong
            secret = keystore.decrypt(dict(key_file.document), password, what=what, hint=hint)
        else:
            secret = self._from_keyring(key_file, what)
        if VoucherKey(secret).address != key_file.address:
            raise KeyUnavailable(f"{what} is not the one of {key_file.address}: {key_file.path} was changed")
        return secret

    def remove(self, key_file: KeyFile) -> None:
        """Forget a key: the secret first, so that an interrupted removal can be repeated."""
        if key_file.store is Store.KEYRING:
            try:
                self._keyring.delete(key_file.document["backend"], key_file.document["entry"])
            except KeyringUnavailable as error:
                raise self._unavailable(self._title(key_file.name), error) from error
        remove_private_file(key_file.path)

    def encrypt_again(self, key_file: KeyFile, old: str, new: str) -> None:
        """Change the password of an encrypted key; KeyUnavailable if `old` is not its password."""
        secret = keystore.decrypt(dict(key_file.document), old, what=self._title(key_file.name))
        document = keystore.encrypt(secret, new, cost=self._cost)
        replace_private_file(key_file.path, json.dumps(document) + "\n")

    def _stored(self, name: str, secret: bytes, store: Store) -> dict[str, Any]:
        """Store a secret; returns what its file is to hold."""
        address = VoucherKey(secret).address
        what = self._title(name)
        if store is Store.KEYRING:
            # Unlike the name, the entry is nobody else's: two homes may share one keyring.
            entry = f"{self._noun} {name} {address} {os.urandom(4).hex()}"
            try:
                backend = self._keyring.write(entry, secret.hex())
            except KeyringUnavailable as error:
                self._say(f"{error}, so {what} goes into an encrypted file")
            else:
                return {
                    "microwallet": FORMAT_VERSION,
                    "store": Store.KEYRING,
                    "address": address,
                    "backend": backend,
                    "entry": entry,
                }
        return keystore.encrypt(secret, self._passwords.password(what, new=True), cost=self._cost)

    def _from_keyring(self, key_file: KeyFile, what: str) -> bytes:
        document = key_file.document
        try:
            text = self._keyring.read(document["backend"], document["entry"])
        except KeyringUnavailable as error:
            raise self._unavailable(what, error) from error
        if text is None:
            raise KeyMissing(
                f"{what} is not in the OS keyring any more: {document['entry']!r} was looked for"
            )
        return bytes.fromhex(text)

    def _unavailable(self, what: str, error: KeyringUnavailable) -> KeyUnavailable:
        return KeyUnavailable(f"{what} cannot be had: {error}", hint=_UNLOCK_HINT)

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}{_SUFFIX}"

    def _title(self, name: str) -> str:
        return f"the {self._noun} {name}"


def _unreadable(path: Path, error: OSError) -> KeyUnavailable:
    hint = f"ls -ld {shell_path(path.parent)} {shell_path(path)}"
    return KeyUnavailable(f"{path} cannot be read: {error.strerror}", hint=hint)


def _parsed(name: str, path: Path, text: str) -> KeyFile:
    try:
        document = json.loads(text)
        version = document.get("microwallet", FORMAT_VERSION)
        if isinstance(version, int) and version > FORMAT_VERSION:
            raise KeyUnavailable(f"{path} is from a newer microwallet (format {version})")
        return _described(name, path, document)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise KeyUnavailable(
            f"{path} is damaged ({type(error).__name__})",
            hint=f"restore it, or: {move_away(path)}",
        ) from error


def _described(name: str, path: Path, document: dict[str, Any]) -> KeyFile:
    if "microwallet" in document:
        store = Store(document["store"])
        for field in ("backend", "entry"):
            if not isinstance(document[field], str):
                raise TypeError(field)
    else:
        store = Store.FILE
        if document["version"] != 3:
            raise ValueError("version")
    raw = unhexed(document["address"])
    if len(raw) != 20:
        raise ValueError("address")
    return KeyFile(name=name, path=path, address=checksum_address(raw), store=store, document=document)
