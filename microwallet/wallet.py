"""The composition root: builds the adapters, offers the use cases. Programs use `microwallet.Wallet`."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, cached_property
from typing import TYPE_CHECKING

from microwallet.domain.money import Asset
from microwallet.errors import UsageError
from microwallet.home import Home

if TYPE_CHECKING:
    from microwallet.domain.channel import PayerChannel
    from microwallet.domain.identifiers import Address
    from microwallet.escrow.fees import Fees
    from microwallet.escrow.network import Network
    from microwallet.escrow.reader import EscrowReader
    from microwallet.escrow.rpc import Rpc
    from microwallet.escrow.transactions import TransactionSender
    from microwallet.keys.accounts import Account
    from microwallet.payee.settle import Settlement
    from microwallet.payer.paying_account import PayingAccount


class Wallet(Home):
    """A home and the network that it is used on. Leaving it closes the connection to the chain too."""

    def __exit__(self, *exception: object) -> None:
        super().__exit__(*exception)
        if "rpc" in self.__dict__:
            self.rpc.close()

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

    @property
    def known_escrows(self) -> frozenset[Address]:
        """Those, and the ones of channels that were opened while others were trusted."""
        chain_id = self.network.chain_id
        descriptors = (one.descriptor for one in self.ledger.channels.list(finalized=True))
        return self.trusted_escrows | {one.escrow_contract for one in descriptors if one.chain_id == chain_id}

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

    def unlock(self, *accounts: Account) -> None:
        """Unlock the keys of accounts and the relayer's; KeyUnavailable now, not when a close is due."""
        for account in dict.fromkeys([*accounts, self.relayer]):
            if account is not None:
                self.accounts.secret(account.name)

    def remove_account(self, account: Account) -> None:
        """Forget an account and its key for ever; UsageError while channels hold money of it.

        In a write transaction, like whatever begins to need the key: it looks for it there.
        """
        with self.ledger.database.write():
            self.require_removable(account)
            self.accounts.remove(account.name)

    def require_removable(self, account: Account) -> None:
        """UsageError, with the channels, if they hold money that needs the account's key; or while a gateway
        runs that is paid to it, which goes on selling."""
        from microwallet.ledger.at_risk import money_at_risk
        from microwallet.payee.exclusive import is_sold_for

        if is_sold_for(self.paths.home, account.address):
            raise UsageError(
                f"account {account.name} is needed: a gateway that runs is paid to it",
                hint="end `microwallet serve` first",
            )
        if at_risk := money_at_risk(self.ledger, account.address):
            raise UsageError(
                f"account {account.name} is needed: " + "; ".join(at_risk),
                hint="microwallet channel close, or microwallet payee close --all",
                data={"atRisk": at_risk},
            )
