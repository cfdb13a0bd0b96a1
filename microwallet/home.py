"""What needs no chain: the folder of a wallet, with its configuration, its keys and its ledger."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from microwallet.config import Configuration, Paths
from microwallet.domain.ports import Quiet
from microwallet.errors import KeyMissing, KeyUnavailable, UnknownReference

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from microwallet.domain.channel import PayerChannel
    from microwallet.domain.identifiers import Address
    from microwallet.domain.ports import Reporter
    from microwallet.domain.voucher import VoucherKey
    from microwallet.keys.accounts import Account, Accounts
    from microwallet.keys.passwords import PasswordSource
    from microwallet.keys.voucher_keys import VoucherKeys
    from microwallet.ledger.ledger import Ledger


class Home:
    """One home: its keys and its ledger. Opens things when needed.

    Use as a context manager; leaving it closes the ledger.
    """

    def __init__(
        self,
        paths: Paths,
        configuration: Configuration,
        *,
        environment: Mapping[str, str],
        prompt: Callable[[str], str] | None = None,
        reporter: Reporter | None = None,
    ) -> None:
        self.paths = paths
        self.configuration = configuration
        self.environment = environment
        self.reporter = reporter or Quiet()
        self._prompt = prompt
        self.any_thread = False

    @classmethod
    def open(
        cls,
        *,
        environment: Mapping[str, str] | None = None,
        flags: Mapping[str, Any] | None = None,
        prompt: Callable[[str], str] | None = None,
        reporter: Reporter | None = None,
    ) -> Self:
        """The wallet that the environment and the flags name. Nothing is created yet."""
        environment = os.environ if environment is None else environment
        paths = Paths.from_environment(environment)
        configuration = Configuration(paths, environment, flags=flags, project_folder=Path())
        return cls(paths, configuration, environment=environment, prompt=prompt, reporter=reporter)

    def twin(self, *, reporter: Reporter | None = None, any_thread: bool = False) -> Self:
        """The same wallet with a ledger connection of its own, the keys unlocked here: for another thread
        or process, or with `any_thread` for threads that use it one after the other."""
        twin = type(self)(
            self.paths,
            self.configuration,
            environment=self.environment,
            reporter=reporter or self.reporter,
        )
        twin.__dict__.update(passwords=self.passwords, accounts=self.accounts)
        twin.any_thread = any_thread
        return twin

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        if "ledger" in self.__dict__:
            self.ledger.close()

    def now(self) -> int:
        """Unix seconds by the local clock."""
        return int(time.time())

    @cached_property
    def ledger(self) -> Ledger:
        """The ledger, opened."""
        from microwallet.ledger.ledger import Ledger

        return Ledger.open(self.paths.ledger, any_thread=self.any_thread, say=self.reporter.say)

    @cached_property
    def passwords(self) -> PasswordSource:
        """Where the password of encrypted keys comes from."""
        from microwallet.keys.passwords import PasswordSource

        return PasswordSource(self.configuration.get("password-file"), self._prompt, self.reporter.say)

    @cached_property
    def accounts(self) -> Accounts:
        """The account keys."""
        from microwallet.keys.accounts import Accounts

        return Accounts(self.paths.keys, self.passwords, self.environment, self.reporter.say)

    @cached_property
    def voucher_keys(self) -> VoucherKeys:
        """The voucher keys, one a channel."""
        from microwallet.keys.voucher_keys import VoucherKeys

        return VoucherKeys(self.paths.keys, self.passwords, self.environment, self.reporter.say)

    @cached_property
    def account(self) -> Account:
        """The account in use: the one named, or the only one there is."""
        name = self.configuration.get("account")
        if name is not None:
            return self.accounts.get(name)
        accounts = self.accounts.list()
        if len(accounts) == 1:
            return accounts[0]
        if not accounts:
            raise self.no_account
        raise UnknownReference(
            f"which account? There are {', '.join(account.name for account in accounts)}",
            hint=f"microwallet account use {accounts[0].name}  (or --account NAME)",
        )

    @property
    def no_account(self) -> UnknownReference:
        """The error of a home without an account, which may be another one than was meant."""
        return UnknownReference(
            f"this wallet, {self.paths.home}, has no account yet", hint="microwallet account create main"
        )

    @property
    def relayer(self) -> Account | None:
        """The account that pays gas instead of the payee, if there is one."""
        name = self.configuration.get("relayer")
        return None if name is None else self.accounts.get(name)

    def account_of(self, address: Address) -> Account:
        """The account with this address; KeyUnavailable if its key is not here."""
        for account in self.accounts.list():
            if account.address == address:
                return account
        raise KeyUnavailable(
            f"the key of {address} is not in this wallet", hint="microwallet account import NAME"
        )

    def address_of(self, text: str) -> Address:
        """The address that a person typed, or that of the account with this name.

        UnknownReference if it is neither.
        """
        from microwallet.domain.identifiers import is_address, parse_address

        if is_address(text):
            return parse_address(text)
        try:
            return self.accounts.get(text).address
        except UnknownReference as error:
            error.hint = f"{error.hint}  (who is elsewhere is named by address: 0x and 40 hexadecimal digits)"
            raise

    def voucher_key(self, channel: PayerChannel) -> VoucherKey:
        """The key that signs a channel's vouchers: the stored one, or derived anew from the account's."""
        from microwallet.keys.voucher_keys import derive_voucher_key

        try:
            return self.voucher_keys.get(channel.channel_id)
        except KeyMissing as missing:
            descriptor = channel.descriptor
            try:
                account = self.account_of(descriptor.payer)
            except KeyUnavailable:
                raise missing from None
            with self.keys_held(account):
                key = derive_voucher_key(
                    self.accounts.secret(account.name),
                    salt=descriptor.salt,
                    chain_id=descriptor.chain_id,
                    escrow_contract=descriptor.escrow_contract,
                    payee=descriptor.payee,
                    token=descriptor.token,
                )
                if key.address != descriptor.voucher_signer:
                    raise missing from None
                self.voucher_keys.put(channel.channel_id, key, account.store)
            return key

    def keys_held(self, account: Account) -> AbstractContextManager[None]:
        """One process at a time changes an account's password, or adds a voucher key under it."""
        return self.ledger.turns.turn(f"keys of {account.address}")
