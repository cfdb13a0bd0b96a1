"""Sending coins or tokens from an account to an address."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

from microwallet.domain.identifiers import Address
from microwallet.domain.money import Amount, Asset
from microwallet.errors import IdempotencyMismatch, InsufficientFunds, UsageError
from microwallet.escrow.calls import Call, transfer
from microwallet.escrow.quotes import Quote
from microwallet.escrow.reader import EscrowReader
from microwallet.escrow.receipt import Receipt
from microwallet.escrow.transactions import TransactionSender
from microwallet.ledger.journal import Journal
from microwallet.ledger.ledger import Ledger

ALL = "all"
PURPOSE = "send"


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    """A transfer that is planned and priced; nothing is signed yet."""

    amount: Amount
    call: Call
    quote: Quote


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """A transfer that was mined."""

    receipt: Receipt
    amount: Amount | None
    """None where an earlier run had sent everything."""
    is_new: bool


def unfinished_key(
    sender: TransactionSender, journal: Journal, receiver: Address, asset: Asset, amount: str
) -> str | None:
    """The key of the same transfer, begun by an earlier run and not known to have ended."""
    arguments = _arguments(receiver, asset, amount)
    for entry in journal.unfinished(asset.chain_id, sender=sender.address):
        operation = entry.transaction.operation
        if operation.startswith(f"{PURPOSE}:") and operation.endswith(arguments):
            return operation.removeprefix(f"{PURPOSE}:").removesuffix(arguments)
    return None


def send(
    sender: TransactionSender,
    reader: EscrowReader,
    ledger: Ledger,
    receiver: Address,
    asset: Asset,
    amount: str,
    *,
    escrow_contracts: Collection[Address],
    idempotency_key: str,
    agree: Callable[[Transfer], None],
) -> Sent:
    """Transfer `amount`, or everything for `all`, once for this key, however often it is tried.

    `agree` is shown a new transfer before anything is signed, and raises to stop it. Raises
    IdempotencyMismatch if the key was used for another transfer, and what plan_transfer and
    TransactionSender.send raise.
    """
    operation = f"{PURPOSE}:{idempotency_key}{_arguments(receiver, asset, amount)}"
    with ledger.turns.turn(f"{PURPOSE} {idempotency_key}"):
        receipt = _resumed(sender, ledger.journal, operation, idempotency_key, asset)
        if receipt is not None:
            before = None if amount.strip() == ALL else Amount.parse(amount, asset)
            return Sent(receipt=receipt, amount=before, is_new=False)
        planned = plan_transfer(sender, reader, receiver, amount, asset, escrow_contracts=escrow_contracts)
        agree(planned)
        receipt = sender.send(planned.call, operation=operation, purpose=PURPOSE, quoted=planned.quote)
        return Sent(receipt=receipt, amount=planned.amount, is_new=True)


def plan_transfer(
    sender: TransactionSender,
    reader: EscrowReader,
    receiver: Address,
    amount: str,
    asset: Asset,
    *,
    escrow_contracts: Collection[Address],
) -> Transfer:
    """Price a transfer of `amount`, or of everything for `all`; raises before anything is signed."""
    if int(receiver, 16) == 0:
        raise UsageError("the zero address is nobody: what is sent there is lost")
    if receiver == sender.address:
        raise UsageError(f"{receiver} is the sending account itself")
    keepers = dict.fromkeys(escrow_contracts, "an escrow") | {asset.token: f"the contract of {asset.symbol}"}
    if receiver in keepers:
        raise UsageError(f"{receiver} is {keepers[receiver]} itself: what is sent there is lost")
    balance = reader.balances([(asset.token, sender.address)])[0]
    if amount.strip() == ALL:
        return _everything(sender, receiver, asset, balance)
    wanted = Amount.parse(amount, asset)
    if wanted.base_units > balance:
        raise InsufficientFunds(
            f"{sender.address} has {Amount(balance, asset)}, {wanted} was to be sent",
            hint="microwallet balance",
        )
    return _priced(sender, receiver, wanted)


def _resumed(
    sender: TransactionSender, journal: Journal, operation: str, idempotency_key: str, asset: Asset
) -> Receipt | None:
    """The receipt of the transfer if it was made before under this key."""
    begun = [entry.transaction for entry in journal.beginning_with(f"{PURPOSE}:{idempotency_key}:")]
    parts = operation.count(":")  # a key that only begins with this one has more
    known = [one for one in begun if one.operation.count(":") == parts]
    same = (operation, sender.address, asset.chain_id)
    if any((one.operation, one.sender, one.chain_id) != same for one in known):
        raise IdempotencyMismatch(
            f"the idempotency key {idempotency_key!r} was used for another transfer",
            hint="leave --idempotency-key out for a new one",
        )
    return sender.resume(operation, PURPOSE) if known else None


def _arguments(receiver: Address, asset: Asset, amount: str) -> str:
    exact = amount.strip() if amount.strip() == ALL else Amount.parse(amount, asset).base_units
    return f":{receiver}:{asset.token}:{exact}"


def _everything(sender: TransactionSender, receiver: Address, asset: Asset, balance: int) -> Transfer:
    if balance and asset.is_native:
        balance -= sender.quote(Call(to=receiver, value=1), purpose=PURPOSE).max_cost
    if balance <= 0:
        raise InsufficientFunds(
            f"{sender.address} has no {asset.symbol} to send beyond the fee", hint="microwallet balance"
        )
    return _priced(sender, receiver, Amount(balance, asset))


def _priced(sender: TransactionSender, receiver: Address, amount: Amount) -> Transfer:
    call = transfer(amount.asset.token, receiver, amount.base_units)
    return Transfer(amount=amount, call=call, quote=sender.quote(call, purpose=PURPOSE))
