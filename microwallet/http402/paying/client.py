"""What the paying client works with: one account on one network, and what its user agreed to beforehand."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from microwallet.domain.channel import PayerChannel
from microwallet.domain.identifiers import Address, ChainId, ChannelId
from microwallet.domain.money import Amount, Asset
from microwallet.domain.ports import Reporter
from microwallet.domain.voucher import VoucherKey
from microwallet.http402.paying.origins import Origin
from microwallet.ledger.ledger import Ledger

if TYPE_CHECKING:
    from microwallet.http402.paying.choice import Choice
    from microwallet.payer.deposit_plan import DepositPlan
    from microwallet.payer.paying_account import PayingAccount


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What may be paid without asking again. Base units by token; a token that is not there: nothing."""

    max_amounts: Mapping[Address, int]
    """For one request, all of its tries and vouchers together."""
    max_deposits: Mapping[Address, int]
    """To one payee, in all open channels together."""
    deposit: Amount | None = None
    """What to open a channel with, or top it up by, whatever `max_deposits` says."""
    payee: Address | None = None
    """The payee that is accepted, whoever it was before."""
    is_gasless: bool = False
    """Whether deposits are only signed, and the payee is to bring them onto the chain."""
    dry_run: bool = False
    """Stop when it is clear what would be paid."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PayingClient:
    """The account that pays, without its keys. All its work is synchronous and on one thread."""

    ledger: Ledger
    payer: Address
    chain_id: ChainId
    networks: Mapping[ChainId, str]
    """Names of all that are known."""
    escrow_contracts: Collection[Address]
    assets: Mapping[Address, Asset]
    limits: Limits
    key_of: Callable[[PayerChannel], VoucherKey]
    account: Callable[[Address], PayingAccount]
    """What opens and tops up channels of an escrow; asked for only when the chain is needed."""
    confirm: Callable[[PayingAccount, DepositPlan, Choice], None]
    """Asks the user before a deposit is made for an offer; raises if the answer is no."""
    reporter: Reporter
    clock: Callable[[], int]
    """Unix seconds."""
    is_private: Callable[[Origin], bool] = field(default=lambda origin: origin.is_private)
    """Whether what is sent to an origin is read by nobody in between."""
    sessions: set[ChannelId] = field(default_factory=set)
    """Channels whose only session a stream of this client holds now."""
