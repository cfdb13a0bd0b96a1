"""Wallets of one home for a program with threads: each is lent to one thread at a time."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Self

from microwallet.domain.money import Amount
from microwallet.errors import ConfirmationRequired, UsageError
from microwallet.wallet import Wallet

if TYPE_CHECKING:
    from microwallet.api import async_wallet, wallet
    from microwallet.domain.channel import PayerChannel
    from microwallet.domain.identifiers import ChannelId
    from microwallet.domain.voucher import VoucherKey
    from microwallet.http402.paying.choice import Choice
    from microwallet.http402.paying.client import Limits, PayingClient
    from microwallet.payer.deposit_plan import DepositPlan
    from microwallet.payer.paying_account import PayingAccount

LOGGER = logging.getLogger("microwallet")


class Log:
    """A reporter that writes to the logger `microwallet`."""

    def say(self, message: str) -> None:
        """What is awaited, and what was done."""
        LOGGER.info("%s", message)

    def detail(self, message: str) -> None:
        """More than that."""
        LOGGER.debug("%s", message)


def open_adapters(
    home: str | Path | None = None,
    *,
    account: str | None = None,
    network: str | None = None,
    rpc_url: str | None = None,
    password_file: str | Path | None = None,
) -> Wallet:
    """The wallet that the arguments name, or else the environment; nobody is ever asked for a password."""
    environment: Mapping[str, str] = os.environ
    if home is not None:
        environment = {**os.environ, "MICROWALLET_HOME": str(home)}
    flags = {
        "account": account,
        "network": network,
        "rpc-url": rpc_url,
        "password-file": None if password_file is None else str(password_file),
    }
    return Wallet.open(environment=environment, flags=flags, reporter=Log())


class WalletPool:
    """A ledger connection belongs to one thread for as long as it is lent, and to one process for ever."""

    def __init__(self, base: Wallet) -> None:
        self.base = base
        """Its settings and names; its ledger is not opened."""
        self.sessions: set[ChannelId] = set()
        """Channels that a stream of this program holds now."""
        self._free: list[Wallet] = []
        self._of_parent: list[list[Wallet]] = []
        """Those that were free in it, and those that were lent by the time it forked."""
        self._keys: dict[ChannelId, VoucherKey] = {}
        self._changing = threading.Lock()
        self._unlocking = threading.Lock()
        self._pid = os.getpid()
        self._closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close what is not lent; what is lent is closed when it is given back."""
        with self._changing:
            self._leave_to_parent()
            free, self._free, self._closed = self._free, [], True
        for wallet in free:
            wallet.__exit__()

    def check_open(self) -> None:
        """UsageError once it is closed."""
        if self._closed:
            raise UsageError("this wallet is closed")

    def _leave_to_parent(self) -> None:
        """A connection must not be used, nor closed, in a child of the process that opened it."""
        if self._pid != os.getpid():
            self._of_parent.append(self._free)
            self._free, self._pid = [], os.getpid()
            self.sessions.clear()

    @contextmanager
    def lend(self) -> Iterator[Wallet]:
        """A wallet for the thread that has it. UsageError once the pool is closed."""
        with self._changing:
            self.check_open()
            self._leave_to_parent()
            free = self._free  # a child of this process has another
            wallet = free.pop() if free else self.base.twin(any_thread=True)
        try:
            yield wallet
        except GeneratorExit:
            # A stream was dropped unclosed. Garbage is collected in the middle of anything: no lock is taken.
            if not self._closed:
                free.append(wallet)
            elif "ledger" in vars(wallet):
                wallet.ledger.database.close()  # not its turns, whose close takes a lock
            raise
        except BaseException:
            self._give_back(wallet, free)
            raise
        else:
            self._give_back(wallet, free)

    def _give_back(self, wallet: Wallet, free: list[Wallet]) -> None:
        with self._changing:
            keep = not self._closed
            if keep:
                free.append(wallet)
        if not keep:
            wallet.__exit__()

    @contextmanager
    def client(self, limits: Limits, *, may_deposit: bool) -> Iterator[PayingClient]:
        """What pays for HTTP requests of one thread; without `may_deposit` from open channels alone."""
        from microwallet.paying import paying_client

        with self.lend() as wallet:
            client = paying_client(wallet, limits, confirm=_agree if may_deposit else _refuse)
            yield replace(client, sessions=self.sessions, key_of=partial(self.voucher_key, wallet))

    def voucher_key(self, wallet: Wallet, channel: PayerChannel) -> VoucherKey:
        """The key that signs a channel's vouchers, fetched once: decrypting takes longer than a payment."""
        with self._unlocking:
            key = self._keys.get(channel.channel_id)
            if key is None:
                key = self._keys[channel.channel_id] = wallet.voucher_key(channel)
            return key


def _agree(_account: PayingAccount, _plan: DepositPlan, _choice: Choice) -> None:
    """The program agreed beforehand, up to its limit."""


def _refuse(account: PayingAccount, plan: DepositPlan, _choice: Choice) -> None:
    payee, amount = plan.payee, plan.amount
    deposited = sum(
        channel.state.deposit
        for channel in account.ledger.channels.list(finalized=False)
        if (channel.descriptor.payee, channel.asset) == (payee, amount.asset)
        and channel.descriptor.payer == account.address
    )
    raise ConfirmationRequired(
        f"paying {payee} takes a deposit of {amount}, and the program has agreed to none",
        hint=f'max_deposit="{Amount(deposited + amount.base_units, amount.asset)}"',
    )


def pool_of(wallet: wallet.Wallet | async_wallet.AsyncWallet) -> WalletPool:
    """What is behind a program's wallet."""
    return wallet._pool  # noqa: SLF001  # no business of programs
