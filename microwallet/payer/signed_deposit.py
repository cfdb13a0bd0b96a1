"""A deposit that is signed and handed to the payee, who brings it onto the chain and pays the gas.

draft-evm-session-00, section "Server-Paid Fees". From the moment it may have left, the money may move
until the authorization expires, whatever the payee says: only the chain tells.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from microwallet.domain.channel import PayerChannel
from microwallet.domain.deposit import Deposit, DepositKind, DepositStatus, Way
from microwallet.domain.identifiers import Address
from microwallet.domain.ports import TransactionStatus
from microwallet.errors import NetworkError, OutcomeUnknown, PaymentRefused
from microwallet.escrow.authorizations import AUTHORIZATION_SECONDS, TransferAuthorization
from microwallet.ledger.ledger import Ledger
from microwallet.payer.deposit import (
    MadeDeposit,
    committed,
    finish_earlier_tries,
    has_landed,
    made_deposit,
    own_entries,
)
from microwallet.payer.deposit_plan import DepositPlan
from microwallet.payer.paying_account import PayingAccount
from microwallet.payer.ways import authorization, signing_ends
from microwallet.polling import polls


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedDeposit:
    """A committed deposit with the authorization that carries it out: once, whoever sends it."""

    deposit: Deposit
    channel: PayerChannel
    authorization: TransferAuthorization
    resumed: bool
    """Whether an earlier run had begun it, and may have handed it over."""


def sign_deposit(account: PayingAccount, plan: DepositPlan) -> SignedDeposit | MadeDeposit:
    """Commit a deposit and sign it, unless the chain has it.

    Every try signs the same nonce, so that the token carries out one of them at most, whether the payee
    sends it or `make_deposit` does. Raises PaymentRefused for a top-up that was begun as a transaction,
    OutcomeUnknown where it was signed before and the chain cannot be asked.
    """
    with committed(account, plan) as (deposit, channel, resumed):
        if finish_earlier_tries(account, deposit, channel):
            return made_deposit(account, deposit, channel, resumed=resumed)
        is_plain = deposit.way is not Way.AUTHORIZATION
        if deposit.kind is DepositKind.TOP_UP and is_plain and own_entries(account, deposit):
            raise PaymentRefused(
                f"this top-up was begun as a transaction of {account.address}, and might be done twice",
                hint="microwallet channel sync",
            )
        ends = deposit.transfer_expires_at
        if ends is None or ends < account.clock() + AUTHORIZATION_SECONDS // 2:
            ends = signing_ends(account, Way.AUTHORIZATION)
            account.ledger.deposits.record(
                deposit.idempotency_key,
                DepositStatus.PENDING,
                way=Way.AUTHORIZATION,
                authorization_expires_at=ends,
            )
        authorized = replace(deposit, way=Way.AUTHORIZATION, authorization_expires_at=ends)
        return _signed(account, authorized, channel, resumed=resumed)


def signed_again(
    ledger: Ledger,
    account_of: Callable[[Address], PayingAccount],
    channel: PayerChannel,
    kind: DepositKind,
) -> SignedDeposit | None:
    """The newest deposit of a channel, signed again for a payee that missed it, if a payee was to send it.

    None if this wallet sent it; then neither the chain nor a key is touched.
    """
    newest = next(iter(ledger.deposits.of_channel(kind, channel.channel_id)), None)
    if newest is None or newest.way is not Way.AUTHORIZATION:
        return None
    sent = ledger.journal.of_operation(newest.idempotency_key)
    if any(entry.status is TransactionStatus.MINED for entry in sent):
        return None
    account = account_of(channel.descriptor.escrow_contract)
    return _signed(account, newest, channel, resumed=True)


def await_signed(
    account: PayingAccount, signed: SignedDeposit, *, seconds: float, told: str | None, again: str
) -> MadeDeposit:
    """The deposit, once the chain shows it; OutcomeUnknown if it does not within `seconds`.

    `told` is why the payee did not take it, by its own word, which proves nothing.
    """
    deposit, channel = signed.deposit, signed.channel
    trouble = told
    for _ in polls(within=seconds, every=0.2):
        try:
            if has_landed(account, deposit, channel):
                return made_deposit(account, deposit, channel, resumed=signed.resumed)
        except NetworkError as error:
            trouble = error.message
    why = f": {trouble}" if trouble else ""
    raise OutcomeUnknown(
        f"the {deposit.kind.noun} of {channel.channel_id} was signed for the payee, and is not on the chain"
        f"{why}; it may get there until Unix time {signed.authorization.valid_before}",
        hint=again,
    )


def _signed(
    account: PayingAccount, deposit: Deposit, channel: PayerChannel, *, resumed: bool
) -> SignedDeposit:
    ends = deposit.authorization_expires_at or 0
    return SignedDeposit(
        deposit=deposit,
        channel=channel,
        authorization=authorization(account, deposit, channel.descriptor, ends),
        resumed=resumed,
    )
