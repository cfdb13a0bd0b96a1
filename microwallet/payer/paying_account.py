"""The account that pays: its key, its ledger, and one escrow on one chain."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace

from microwallet.domain.identifiers import Address, ChannelId
from microwallet.domain.ports import Reporter
from microwallet.domain.voucher import VoucherKey
from microwallet.escrow.fees import Fees
from microwallet.escrow.network import Network
from microwallet.escrow.reader import EscrowReader, ReaderOf
from microwallet.escrow.transactions import TransactionSender
from microwallet.ledger.ledger import Ledger


@dataclass(frozen=True, slots=True, kw_only=True)
class PayingAccount:
    """All that opening, topping up, closing and withdrawing need. Building it touches no key."""

    name: str
    address: Address
    network: Network
    ledger: Ledger
    reader: EscrowReader
    reader_of: ReaderOf
    """The reader of another escrow on the same chain."""
    sender: TransactionSender
    secret: Callable[[], bytes]
    """The account key: 32 bytes; asks for a password where it must, once."""
    keys_held: Callable[[], AbstractContextManager[None]]
    """While a voucher key is derived and stored: its password is the account's, and stays it."""
    require_key: Callable[[], object]
    """Raises KeyUnavailable if the account was removed meanwhile."""
    keep_voucher_key: Callable[[ChannelId, VoucherKey], None]
    """Stores a channel's voucher key beside the account's; durable when it returns."""
    fees: Callable[[], Fees]
    """What a transaction offers per gas now, under the user's cap."""
    reporter: Reporter
    clock: Callable[[], int]
    """Unix seconds."""

    def over(self, escrow_contract: Address) -> PayingAccount:
        """The account over another escrow of its chain."""
        return replace(self, reader=self.reader_of(escrow_contract))
