"""Opening a channel: committed to the ledger first, resumed and never doubled."""

from __future__ import annotations

import json
import secrets
import shlex
from dataclasses import dataclass

from microwallet.domain.channel import NO_CHANNEL, ChannelDescriptor, PayerChannel
from microwallet.domain.identifiers import NATIVE_TOKEN, Address, hexed
from microwallet.domain.money import Amount
from microwallet.errors import LedgerError, UsageError
from microwallet.keys.voucher_keys import derive_voucher_key
from microwallet.ledger.channels import check_label, label_taken
from microwallet.ledger.deposits import Deposit, DepositKind, DepositStatus
from microwallet.payer.deposit import MadeDeposit, begun_deposit, make_deposit, new_deposit_key, require_same
from microwallet.payer.funds import require_escrow, require_funds
from microwallet.payer.paying_account import PayingAccount
from microwallet.payer.signed_deposit import SignedDeposit, sign_deposit
from microwallet.payer.ways import Way, choose_way


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenRequest:
    """What the user asked for."""

    payee: Address
    deposit: Amount
    label: str | None
    idempotency_key: str | None
    way: Way | None = None
    is_gasless: bool = False
    """Whether it is signed for the payee, who brings it onto the chain."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenPlan:
    """What is about to happen, for a person to agree to."""

    request: OpenRequest
    idempotency_key: str
    way: Way
    max_fee: int | None
    """Wei; None for an open that was begun before."""
    begun: Deposit | None
    """The same open, begun by an earlier run."""


def plan_open(account: PayingAccount, request: OpenRequest) -> OpenPlan:
    """Check that the open can be done, touching no key and writing nothing.

    An open begun before, under the same key or without one with the same arguments, is what the
    plan then resumes. Raises UsageError, IdempotencyMismatch, InsufficientFunds, NetworkError.
    """
    _check_payee(account, request.payee)
    begun = begun_deposit(account, DepositKind.OPEN, _arguments(account, request), request.idempotency_key)
    if begun is not None:
        return OpenPlan(
            request=request,
            idempotency_key=begun.idempotency_key,
            way=Way(begun.method),
            max_fee=None,
            begun=begun,
        )
    if request.label is not None and account.ledger.channels.has_label(check_label(request.label)):
        raise label_taken(request.label)
    require_escrow(account)
    asset = request.deposit.asset
    wanted = Way.AUTHORIZATION if request.is_gasless else request.way
    way = choose_way(account, asset, request.deposit.base_units, wanted)
    gas = 0 if request.is_gasless else way.gas(DepositKind.OPEN)
    return OpenPlan(
        request=request,
        idempotency_key=request.idempotency_key or new_deposit_key(DepositKind.OPEN),
        way=way,
        max_fee=require_funds(account, request.deposit, gas),
        begun=None,
    )


def open_channel(account: PayingAccount, plan: OpenPlan) -> MadeDeposit:
    """Open the channel, or finish opening it; see make_deposit for what it raises.

    Processes with the same idempotency key queue: the first opens, the others find it done.
    """
    with account.ledger.turns.turn(f"deposit {plan.idempotency_key}"):
        deposit, channel, resumed = _begun(account, plan)
        return make_deposit(account, deposit, channel, again=open_command(account, plan), resumed=resumed)


def sign_open(account: PayingAccount, plan: OpenPlan) -> SignedDeposit | MadeDeposit:
    """Commit the open and sign it for the payee to send; see sign_deposit."""
    with account.ledger.turns.turn(f"deposit {plan.idempotency_key}"):
        deposit, channel, resumed = _begun(account, plan)
        return sign_deposit(account, deposit, channel, resumed=resumed)


def _begun(account: PayingAccount, plan: OpenPlan) -> tuple[Deposit, PayerChannel, bool]:
    """The committed deposit and its channel, and whether an earlier run had begun it."""
    deposits = account.ledger.deposits
    deposit = deposits.find(plan.idempotency_key)
    resumed = deposit is not None
    if deposit is None:
        with account.keys_held():
            deposit = _begin(account, plan)
    require_same(deposit, DepositKind.OPEN, _arguments(account, plan.request))
    if deposit.status is DepositStatus.ABANDONED:
        deposits.revive(deposit, plan.request.label, now=account.clock())
    channel = account.ledger.channels.get(deposit.channel_id)
    if channel is None:
        raise LedgerError(f"the ledger knows the open {plan.idempotency_key}, but not its channel")
    return deposit, channel, resumed


def open_command(account: PayingAccount, plan: OpenPlan) -> str:
    """The command that does, or finishes, exactly this open."""
    label = f" --label {shlex.quote(plan.request.label)}" if plan.request.label else ""
    token = "" if plan.request.deposit.asset.is_native else f" --token {plan.request.deposit.asset.token}"
    return (
        f'microwallet channel open {plan.request.payee} "{plan.request.deposit}"{label}{token}'
        f" --network {account.network.name} --account {account.name}"
        f" --idempotency-key {shlex.quote(plan.idempotency_key)}"
    )


def _check_payee(account: PayingAccount, payee: Address) -> None:
    if payee == account.address:
        raise UsageError(f"{payee} is the payer's own address: a channel needs somebody else as its payee")
    if payee == NATIVE_TOKEN:
        raise UsageError("the zero address cannot be a payee: nobody could take what is paid to it")
    if payee == account.reader.escrow_contract:
        raise UsageError(f"{payee} is the escrow itself, which cannot be a payee")


def _arguments(account: PayingAccount, request: OpenRequest) -> str:
    return json.dumps(
        {
            "amount": str(request.deposit.base_units),
            "chainId": account.network.chain_id,
            "escrowContract": account.reader.escrow_contract,
            "label": request.label,
            "payee": request.payee,
            "payer": account.address,
            "token": request.deposit.asset.token,
        },
        sort_keys=True,
    )


def _begin(account: PayingAccount, plan: OpenPlan) -> Deposit:
    """Commit the channel and its deposit; its voucher key is stored before, so none is ever missing."""
    asset = plan.request.deposit.asset
    salt = hexed(secrets.token_bytes(32))
    key = derive_voucher_key(
        account.secret(),
        salt=salt,
        chain_id=account.network.chain_id,
        escrow_contract=account.reader.escrow_contract,
        payee=plan.request.payee,
        token=asset.token,
    )
    descriptor = ChannelDescriptor(
        payer=account.address,
        payee=plan.request.payee,
        token=asset.token,
        salt=salt,
        authorized_signer=key.address,
        escrow_contract=account.reader.escrow_contract,
        chain_id=account.network.chain_id,
    )
    channel = PayerChannel(
        channel_id=descriptor.channel_id(),
        descriptor=descriptor,
        asset=asset,
        state=NO_CHANNEL,
        authorized=0,
        spent=0,
        as_of=None,
        label=plan.request.label,
        voucher_known=True,
    )
    account.keep_voucher_key(channel.channel_id, key)

    def begin() -> tuple[Deposit, PayerChannel]:
        account.require_key()
        return _deposit(account, plan, channel), channel

    deposit, _ = account.ledger.deposits.begin(plan.idempotency_key, begin, now=account.clock())
    return deposit


def _deposit(account: PayingAccount, plan: OpenPlan, channel: PayerChannel) -> Deposit:
    return Deposit(
        idempotency_key=plan.idempotency_key,
        kind=DepositKind.OPEN,
        channel_id=channel.channel_id,
        amount=plan.request.deposit.base_units,
        arguments=_arguments(account, plan.request),
        method=plan.way,
        authorization_expires_at=None,
        status=DepositStatus.PENDING,
    )
