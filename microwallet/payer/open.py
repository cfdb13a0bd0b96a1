"""Opening a channel: what is checked before, and the channel that nobody had before, with its own key."""

from __future__ import annotations

import secrets

from microwallet.domain.channel import ChannelDescriptor, PayerChannel
from microwallet.domain.deposit import Way
from microwallet.domain.identifiers import NATIVE_TOKEN, Address, hexed
from microwallet.domain.money import Amount
from microwallet.errors import UsageError
from microwallet.keys.voucher_keys import derive_voucher_key
from microwallet.ledger.channels import check_label, label_taken
from microwallet.payer.deposit_plan import DepositPlan, plan_deposit
from microwallet.payer.funds import require_escrow
from microwallet.payer.paying_account import PayingAccount


def plan_open(
    account: PayingAccount,
    payee: Address,
    deposit: Amount,
    *,
    label: str | None = None,
    idempotency_key: str | None = None,
    way: Way | None = None,
    is_gasless: bool = False,
) -> DepositPlan:
    """Check that a channel can be opened; see plan_deposit."""
    _check_payee(account, payee)

    def check() -> None:
        if label is not None and account.ledger.channels.has_label(check_label(label)):
            raise label_taken(label)
        require_escrow(account)

    return plan_deposit(
        account,
        payee=payee,
        amount=deposit,
        arguments={
            "amount": str(deposit.base_units),
            "chainId": account.network.chain_id,
            "escrowContract": account.reader.escrow_contract,
            "label": label,
            "payee": payee,
            "payer": account.address,
            "token": deposit.asset.token,
        },
        check=check,
        label=label,
        idempotency_key=idempotency_key,
        way=way,
        is_gasless=is_gasless,
    )


def new_channel(account: PayingAccount, plan: DepositPlan) -> PayerChannel:
    """The channel that a plan opens; its voucher key is stored, so that none is ever missing."""
    asset = plan.amount.asset
    salt = hexed(secrets.token_bytes(32))
    key = derive_voucher_key(
        account.secret(),
        salt=salt,
        chain_id=account.network.chain_id,
        escrow_contract=account.reader.escrow_contract,
        payee=plan.payee,
        token=asset.token,
    )
    descriptor = ChannelDescriptor(
        payer=account.address,
        payee=plan.payee,
        token=asset.token,
        salt=salt,
        authorized_signer=key.address,
        escrow_contract=account.reader.escrow_contract,
        chain_id=account.network.chain_id,
    )
    channel = PayerChannel.new(descriptor, asset, label=plan.label, voucher_known=True)
    account.keep_voucher_key(channel.channel_id, key)
    return channel


def _check_payee(account: PayingAccount, payee: Address) -> None:
    if payee == account.address:
        raise UsageError(f"{payee} is the payer's own address: a channel needs somebody else as its payee")
    if payee == NATIVE_TOKEN:
        raise UsageError("the zero address cannot be a payee: nobody could take what is paid to it")
    if payee == account.reader.escrow_contract:
        raise UsageError(f"{payee} is the escrow itself, which cannot be a payee")
