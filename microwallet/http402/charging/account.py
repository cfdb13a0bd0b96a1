"""Accepting vouchers and charging for service: the rules, without a store.

draft-evm-session-00, sections "Voucher Verification" and "Server-Side Accounting". Every result is to
be stored before anything is served on its account.
"""

from __future__ import annotations

from microwallet.domain.identifiers import ChannelId
from microwallet.domain.session import SessionAccount
from microwallet.http402.charging.refusal import Refused, refused
from microwallet.http402.wire.problems import ProblemType


def accept(
    account: SessionAccount, cumulative_amount: int, *, min_voucher_delta: int, deposit: int | None = None
) -> SessionAccount:
    """The account with a voucher whose signature has been verified.

    One that is not higher changes nothing, as the draft wants it. Refused if the channel takes no
    more vouchers, the step is below `min_voucher_delta`, or the deposit does not cover it: `deposit`,
    where less of it is confirmed than the account says.
    """
    deposit = account.deposit if deposit is None else deposit
    check_goes_on(
        account.channel_id,
        is_finalized=account.is_finalized,
        is_close_requested=account.is_close_requested,
        is_closing=account.is_closing,
    )
    if cumulative_amount <= account.accepted:
        return account
    if cumulative_amount - account.accepted < min_voucher_delta:
        raise refused(
            ProblemType.DELTA_TOO_SMALL,
            f"{cumulative_amount} is less than {min_voucher_delta} above {account.accepted}",
            account.channel_id,
        )
    check_covers(account.channel_id, deposit, cumulative_amount)
    return account.with_accepted(cumulative_amount)


def check_goes_on(
    channel_id: ChannelId, *, is_finalized: bool, is_close_requested: bool, is_closing: bool = False
) -> None:
    """Refused if a channel takes no more vouchers: it is finalized, or is about to be.

    The payee's own close will be over soon, one way or the other: it is to be asked again then.
    """
    if is_finalized:
        raise refused(ProblemType.CHANNEL_FINALIZED, "the channel is finalized: open a new one", channel_id)
    if is_close_requested:
        raise refused(ProblemType.VERIFICATION_FAILED, "the payer has requested a close", channel_id)
    if is_closing:
        raise refused(ProblemType.TRY_AGAIN, "the channel is being closed; nothing was charged", channel_id)


def check_covers(channel_id: ChannelId, deposit: int, cumulative_amount: int) -> None:
    """Refused if a voucher is above its channel's deposit."""
    if cumulative_amount > deposit:
        detail = f"{cumulative_amount} is above the deposit of {deposit}"
        raise refused(ProblemType.AMOUNT_EXCEEDS_DEPOSIT, detail, channel_id)


def charge(account: SessionAccount, cost: int, *, min_voucher_delta: int = 0) -> SessionAccount:
    """The account with `cost` spent, or reserved; Refused if that much is not available."""
    if cost > account.available:
        detail = f"{cost} is needed, {account.available} is authorized and not spent"
        raise insufficient(account, detail, required=amount_above(account, cost, min_voucher_delta))
    return account.with_spent(account.spent + cost)


def give_back(account: SessionAccount, reserved: int) -> SessionAccount:
    """The account without something that was charged and not used."""
    if not 0 <= reserved <= account.spent:
        raise ValueError(f"{reserved} cannot be given back of {account.spent} spent")
    return account.with_spent(account.spent - reserved)


def amount_above(account: SessionAccount, cost: int, min_voucher_delta: int) -> int:
    """The lowest amount of a voucher that pays for `cost` and is above all that was accepted."""
    return max(account.spent + cost, account.accepted + max(1, min_voucher_delta))


def insufficient(account: SessionAccount, detail: str, *, required: int) -> Refused:
    """The refusal that says which voucher would do: one over `required`."""
    return refused(
        ProblemType.INSUFFICIENT_BALANCE,
        detail,
        account.channel_id,
        requiredCumulative=str(required),
        acceptedCumulative=str(account.accepted),
        deposit=str(account.deposit),
    )
