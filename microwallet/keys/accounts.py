"""Accounts: named keys that hold money, pay for gas and open channels."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from microwallet.domain.identifiers import Address, is_address, parse_address
from microwallet.domain.voucher import VoucherKey
from microwallet.errors import KeyUnavailable, UnknownReference, UsageError, did_you_mean
from microwallet.keys import keystore
from microwallet.keys.key_files import KeyFile, KeyFiles, Store
from microwallet.keys.passwords import PasswordSource
from microwallet.keys.private_keys import checked_secret, new_secret
from microwallet.keys.voucher_keys import voucher_key_files

_NAME = re.compile(r"(?!0x)[a-z0-9][a-z0-9_-]{0,31}", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """A named key, and where it is kept."""

    name: str
    address: Address
    store: Store


class Accounts:
    """The accounts of one home, in `folder`/accounts. A key that exists is never overwritten."""

    def __init__(
        self,
        folder: Path,
        passwords: PasswordSource,
        environment: Mapping[str, str],
        say: Callable[[str], None],
    ) -> None:
        self._passwords = passwords
        self._files = KeyFiles(
            folder / "accounts",
            noun="key of account",
            cost=keystore.STANDARD_COST,
            passwords=passwords,
            environment=environment,
            say=say,
        )
        self._voucher_keys = voucher_key_files(folder, passwords, environment, say)
        self._unlocked: dict[Address, bytes] = {}

    def create(self, name: str) -> Account:
        """A new account with a fresh key."""
        return self.import_key(name, new_secret())

    def import_key(self, name: str, secret: bytes) -> Account:
        """An account with a key from elsewhere: 32 bytes.

        UsageError if the name is taken or not allowed, or the key is here under another name.
        """
        if _NAME.fullmatch(name) is None:
            raise UsageError(
                f"{name[:80]!r} cannot name an account: 1 to 32 of a-z, 0-9, _ and -,"
                " beginning with a letter or digit, and not with 0x"
            )
        address = VoucherKey(checked_secret(secret)).address
        for account in self.list():
            if account.address == address:
                raise UsageError(f"the key of {address} is here already: it is account {account.name}")
        try:
            return _account(self._files.create(name, secret))
        except FileExistsError:
            raise UsageError(
                f"there is an account {name} already; its key is untouched", hint="microwallet account list"
            ) from None

    def list(self) -> list[Account]:
        """Every account, by name. Touches no secret."""
        return [_account(key_file) for key_file in self._files]

    def get(self, reference: str) -> Account:
        """The account with this name or address; UnknownReference lists what was perhaps meant."""
        return _account(self._find(reference))

    def secret(self, name: str) -> bytes:
        """The account key: 32 bytes; KeyUnavailable if it is locked or missing. It is unlocked once: a
        gateway can close channels also when its password is another one by then, or its keyring is locked."""
        key_file = self._find(name)
        secret = self._unlocked.get(key_file.address)
        if secret is None:
            secret = self._unlocked[key_file.address] = self._files.secret(key_file)
        return secret

    def export_keystore(self, name: str, password: str) -> dict[str, Any]:
        """The account's key as a V3 keystore under `password`."""
        return keystore.encrypt(self.secret(name), password, cost=keystore.STANDARD_COST)

    def remove(self, name: str) -> None:
        """Forget an account and its key for ever. What it holds is the caller's to check."""
        self._files.remove(self._find(name))

    def change_password(self, name: str, new: PasswordSource) -> int:
        """Encrypt the account's key, and the voucher keys under the same password, under a new one.

        The new one is asked for when the old one is known to be right. Returns how many voucher
        keys changed. The account comes last, so that a change cut short can be repeated.
        UsageError if the key is in the OS keyring.
        """
        account = self._find(name)
        if account.store is not Store.FILE:
            raise UsageError(f"the key of account {name} is in the OS keyring, which has its own password")
        self._files.secret(account)
        old_password = self._passwords.password(f"the key of account {account.name}")
        new_password = new.password(f"the key of account {account.name}", new=True)
        changed = 0
        for key_file in self._voucher_keys:
            if key_file.store is Store.FILE:
                try:
                    self._voucher_keys.encrypt_again(key_file, old_password, new_password)
                except KeyUnavailable:
                    continue  # of another account, or changed by an attempt that was cut short
                changed += 1
        self._files.encrypt_again(account, old_password, new_password)
        return changed

    def _find(self, reference: str) -> KeyFile:
        if is_address(reference):
            address = parse_address(reference)
            found = next((one for one in self._files if one.address == address), None)
        else:
            found = self._files.find(reference) if _NAME.fullmatch(reference) else None
        if found is None:
            raise self._unknown(reference)
        return found

    def _unknown(self, reference: str) -> UnknownReference:
        if reference.startswith("0x") and not is_address(reference):
            return UnknownReference(
                f"{reference[:80]!r} is not an address: 0x and 40 hexadecimal digits are expected",
                hint="microwallet account list",
            )
        names = [account.name for account in self.list()]
        if not names:
            return UnknownReference(
                f"there is no account {reference[:80]!r}: there are none yet",
                hint="microwallet account create NAME",
            )
        return UnknownReference(
            f"there is no account {reference[:80]!r}; {did_you_mean(reference, names)}",
            hint="microwallet account list",
        )


def _account(key_file: KeyFile) -> Account:
    return Account(name=key_file.name, address=key_file.address, store=key_file.store)
