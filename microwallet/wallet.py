"""The composition root: builds the adapters, offers the use cases. Programs use `microwallet.Wallet`."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from microwallet.config import Configuration, Paths
from microwallet.domain.money import Asset
from microwallet.domain.ports import Quiet
from microwallet.errors import KeyMissing, KeyUnavailable, UnknownReference, UsageError

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from microwallet.domain.channel import PayerChannel
    from microwallet.domain.identifiers import Address
    from microwallet.domain.ports import Reporter
    from microwallet.domain.voucher import VoucherKey
    from microwallet.escrow.fees import Fees
    from microwallet.escrow.network import Network
    from microwallet.escrow.reader import EscrowReader
    from microwallet.escrow.rpc import Rpc
    from microwallet.escrow.transactions import TransactionSender
    from microwallet.keys.accounts import Account, Accounts
    from microwallet.keys.passwords import PasswordSource
    from microwallet.keys.voucher_keys import VoucherKeys
    from microwallet.ledger.ledger import Ledger
    from microwallet.payee.settle import Settlement
    from microwallet.payer.paying_account import PayingAccount


class Wallet:
    """One home: its keys, its ledger, and the network they are used on. Opens things when needed.

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
        configuration = Configuration(paths, environment, flags=flags, project_folder=Path.cwd())
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
        if "rpc" in self.__dict__:
            self.rpc.close()

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

    @cached_property
    def network(self) -> Network:
        """The network in use."""
        from microwallet.escrow.networks import resolve_network

        return resolve_network(self.configuration)

    @cached_property
    def rpc(self) -> Rpc:
        """The chain of the network in use."""
        from microwallet.escrow.devnet_notes import devnets_of_chain
        from microwallet.escrow.networks import network_of_chain
        from microwallet.escrow.rpc import Rpc
        from microwallet.escrow.transport import NoRpcAddress

        override = self.configuration.get("rpc-url")

        def network_of(chain_id: int) -> str | None:
            """The network that the address given instead leads to, unless one was typed beside it."""
            if not override or self.configuration.resolve("network").source == "flag":
                return None
            found = network_of_chain(self.configuration, chain_id)
            return None if found is None else found.name

        def devnets() -> list[str]:
            found = devnets_of_chain(self.paths.devnet, self.network.chain_id)
            return [devnet.rpc_url for devnet in found]

        try:
            return Rpc(
                [override] if override else self.network.rpc_urls,
                timeout=self.configuration.get("rpc-timeout"),
                chain_id=self.network.chain_id,
                network=self.network.name,
                network_of=network_of,
                devnets=devnets,
                trace=self.reporter.detail,
            )
        except NoRpcAddress as error:
            if override:
                error.hint = self.configuration.instead("rpc-url", error.meant)
            raise

    @cached_property
    def escrow_contract(self) -> Address:
        """The escrow new channels are opened in."""
        from microwallet.escrow.artifacts import artifact

        return artifact("ChannelEscrow").address

    @cached_property
    def trusted_escrows(self) -> frozenset[Address]:
        """The escrows whose channels are accepted on the network in use."""
        from microwallet.escrow.deployment import trusted_escrows

        return trusted_escrows(self.configuration, self.network.chain_id)

    @cached_property
    def reader(self) -> EscrowReader:
        """What the chain says of channels, balances and blocks."""
        return self.reader_of(self.escrow_contract)

    def reader_of(self, escrow_contract: Address) -> EscrowReader:
        """The reader of one escrow on the network in use."""
        from microwallet.escrow.reader import EscrowReader

        return EscrowReader(self.rpc, escrow_contract)

    def sender(
        self, account: Account | None = None, *, secret: Callable[[], bytes] | None = None
    ) -> TransactionSender:
        """What signs, journals and sends the transactions of an account."""
        from microwallet.escrow.transactions import TransactionSender

        account = account or self.account
        return TransactionSender(
            self.rpc,
            self.network,
            self.ledger.journal,
            account.address,
            secret or (lambda: self.accounts.secret(account.name)),
            max_fee_gwei=self.configuration.get("max-fee-gwei"),
            wait_seconds=self.configuration.get("wait-seconds"),
            reporter=self.reporter,
            gas_budget=self.ledger.gas_spending,
        )

    def fees(self) -> Fees:
        """What a transaction offers per gas now; PaymentRefused when that is above max-fee-gwei."""
        from microwallet.escrow.fees import cap_in_wei
        from microwallet.escrow.quotes import current_fees

        cap = cap_in_wei(self.configuration.get("max-fee-gwei"))
        return current_fees(self.rpc, self.network, cap=cap)

    def paying_account(
        self, account: Account | None = None, *, escrow_contract: Address | None = None
    ) -> PayingAccount:
        """What opens, tops up, closes and withdraws an account's channels on the network in use."""
        from microwallet.payer.paying_account import PayingAccount

        account = account or self.account
        # Unlocked once: decrypting a key file takes a second.
        secret = cache(lambda: self.accounts.secret(account.name))
        return PayingAccount(
            name=account.name,
            address=account.address,
            network=self.network,
            ledger=self.ledger,
            reader=self.reader_of(escrow_contract or self.escrow_contract),
            reader_of=self.reader_of,
            sender=self.sender(account, secret=secret),
            secret=secret,
            keys_held=lambda: self.keys_held(account),
            require_key=lambda: self.account_of(account.address),
            keep_voucher_key=lambda channel, key: self.voucher_keys.put(channel, key, account.store),
            fees=self.fees,
            reporter=self.reporter,
            clock=self.now,
        )

    def account_paying(self, channel: PayerChannel) -> PayingAccount:
        """The account that pays a channel, over its escrow; KeyUnavailable if its key is not here."""
        descriptor = channel.descriptor
        payer = self.account_of(descriptor.payer)
        return self.paying_account(payer, escrow_contract=descriptor.escrow_contract)

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

    def resolve_asset(self, text: str | None, *, amount: str | None = None) -> Asset:
        """The asset that a symbol, a unit or an address names on the network in use; else its default.

        `amount` is what was typed with it, for the hint.
        """
        from microwallet.escrow.tokens import resolve_asset

        return resolve_asset(self.configuration, self.network, self.reader, text, amount=amount)

    def asset_of(self, token: Address) -> Asset:
        """The asset at an address; one that is not known here goes by its address, not by the name
        it gives itself."""
        from microwallet.escrow.tokens import asset_of

        known = asset_of(self.configuration, self.network, token)
        if known is not None:
            return known
        decimals = self.reader.token_metadata(token).decimals or 0
        self.reporter.say(
            f"{token} is no token this wallet knows: is it worth anything to you?"
            f" (microwallet network token add {token})"
        )
        symbol = f"token-{token[2:6]}-{token[-4:]}"
        return Asset(chain_id=self.network.chain_id, token=token, symbol=symbol, decimals=min(decimals, 36))

    @cached_property
    def settlement(self) -> Settlement:
        """What settles and closes the channels that pay this wallet on the network in use."""
        from microwallet.payee.settle import Settlement

        return Settlement(
            home=self.paths.home,
            chain_id=self.network.chain_id,
            vouchers=self.ledger.vouchers,
            reader_of=self.reader_of,
            journal=self.ledger.journal,
            sender_of=lambda payee: self.sender(self.account_of(payee)),
            wait_seconds=self.configuration.get("wait-seconds"),
            clock=self.now,
            reporter=self.reporter,
            relayer=self.sender(self.relayer) if self.relayer else None,
        )

    def keys_held(self, account: Account) -> AbstractContextManager[None]:
        """One process at a time changes an account's password, or adds a voucher key under it."""
        return self.ledger.turns.turn(f"keys of {account.address}")

    def remove_account(self, account: Account) -> None:
        """Forget an account and its key for ever; UsageError while channels hold money of it.

        In a write transaction, like whatever begins to need the key: it looks for it there.
        """
        with self.ledger.database.write():
            self.require_removable(account)
            self.accounts.remove(account.name)

    def require_removable(self, account: Account) -> None:
        """UsageError, with the channels, if they hold money that needs the account's key."""
        from microwallet.ledger.at_risk import money_at_risk

        if at_risk := money_at_risk(self.ledger, account.address):
            raise UsageError(
                f"account {account.name} is needed: " + "; ".join(at_risk),
                hint="microwallet channel close, or microwallet payee close --all",
                data={"atRisk": at_risk},
            )
