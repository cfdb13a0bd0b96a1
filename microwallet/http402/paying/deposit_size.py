"""How much is deposited for an offer: what is missing, what the server suggests, what the limits leave."""

from __future__ import annotations

from collections import Counter

from microwallet.domain.channel import ChannelStatus, PayerChannel
from microwallet.domain.deposit import Deposit, deposited
from microwallet.domain.identifiers import ChannelId
from microwallet.domain.money import DEPOSIT_LIMIT, Amount
from microwallet.domain.purchase import VoucherTerms
from microwallet.errors import AboveLimit
from microwallet.http402.paying.choice import Choice
from microwallet.http402.paying.client import PayingClient
from microwallet.http402.paying.payee_channels import PayeeChannels

_REQUESTS_A_DEPOSIT = 100
"""What a deposit is for where the server suggests none."""


class DepositAboveLimit(AboveLimit):
    """It is a deposit that is above a limit; `in_all` is what the limit `max_deposits` would have to be."""

    def __init__(self, message: str, *, hint: str, in_all: Amount | None = None) -> None:
        super().__init__(message, hint=hint)
        self.in_all = in_all


class DepositSize:
    """For one offer, by what the user agreed to beforehand: the server's words alone raise nothing."""

    def __init__(self, client: PayingClient, choice: Choice, channels: PayeeChannels) -> None:
        self._client = client
        self._choice = choice
        self._channels = channels

    def of(self, channel: PayerChannel | None, terms: VoucherTerms, *, is_gasless: bool) -> Amount:
        """How much to deposit into a channel, or a new one, and no less than what a payee sends where it is
        to; AboveLimit if that, or the voucher that it would be for, is too much."""
        limits, request, asset = self._client.limits, self._choice.request, self._choice.price.asset
        spent, authorized = (0, 0) if channel is None else (channel.spent, channel.authorized)
        if max(spent + terms.cost, terms.at_least) > authorized:  # else it may be one that was signed before
            above = terms.above(spent=spent, authorized=authorized)
            terms.require_allowed(above, spent=spent, authorized=authorized, asset=asset)
        needed = max(missing(channel, terms), request.minimum_deposit if is_gasless else 0)
        if limits.deposit is not None:
            return _checked(limits.deposit, Amount(needed, asset))
        there = self._deposited()
        left = max(0, limits.max_deposits.get(asset.token, 0) - there)
        suggested = request.suggested_deposit or _REQUESTS_A_DEPOSIT * self._choice.reserved
        amount = min(max(suggested, needed), left, DEPOSIT_LIMIT - 1)
        if amount >= needed:
            return Amount(amount, asset)
        because, instead = self._why_no_more(channel)
        raise DepositAboveLimit(
            f"a deposit of at least {Amount(needed, asset)} is needed, and {Amount(left, asset)} is left of"
            f" what may be deposited for {request.recipient} (max-deposit); {because}nothing was signed",
            hint=f'{instead}--deposit "{Amount(needed, asset)}"',
            in_all=Amount(there + needed, asset),
        )

    def allows(self, begun: Deposit) -> bool:
        """Whether a deposit that was begun, perhaps by hand, is within the limits, or was sent already."""
        from microwallet.payer.deposit import was_sent

        limits, asset = self._client.limits, self._choice.price.asset
        if (given := limits.deposit) is not None:
            most = given.base_units if given.asset == asset else 0
        else:
            most = limits.max_deposits.get(asset.token, 0) - self._deposited(but=begun)
        return begun.amount <= most or was_sent(self._client.ledger, begun, self._client.payer)

    def _why_no_more(self, channel: PayerChannel | None) -> tuple[str, str]:
        """Why what is there does not do, and what may help instead of a deposit; each may be empty."""
        if (silent := self._channels.silent()) is not None:
            return f"{silent}; ", "microwallet channel sync --voucher FILE  (ask the payee for it), or "
        if channel is None and (busy := self._channels.busy()) is not None:
            return f"{busy}; ", ""
        if (closing := self._channels.closing()) is not None:
            held = Amount(closing.state.refundable, closing.asset)
            wait = "" if closing.status(now=self._client.clock()) is ChannelStatus.WITHDRAWABLE else " --wait"
            instead = f"microwallet channel withdraw {closing.name}{wait}, or "
            return f"channel {closing.name} is closing and holds {held} of it; ", instead
        if (taken := self._taken()) is not None:
            because = f"a reorganisation may have taken what was deposited into channel {taken.name}; "
            return because, "microwallet channel sync, or "
        return "", ""

    def _deposited(self, *, but: Deposit | None = None) -> int:
        """Base units that are deposited for the payee, or may yet be: what is signed may get there, and what
        a reorganisation took may come back."""
        channels, done = self._channels.live(), self._done()
        ids = {channel.channel_id for channel in channels}
        pending = [one for one in self._client.ledger.deposits.pending() if one.channel_id in ids]
        return sum(max(one.state.deposit, done[one.channel_id]) for one in channels) + sum(
            one.amount for one in pending if but is None or one.idempotency_key != but.idempotency_key
        )

    def _taken(self) -> PayerChannel | None:
        """A channel of which the chain has not all that it once had."""
        done = self._done()
        return next((one for one in self._channels.live() if one.state.deposit < done[one.channel_id]), None)

    def _done(self) -> Counter[ChannelId]:
        """Base units that the chain was found to have, by channel."""
        return deposited(self._client.ledger.deposits.done(self._choice.request.chain_id))


def missing(channel: PayerChannel | None, terms: VoucherTerms) -> int:
    """Base units by which the deposit of a channel, or of none yet, is too small; below 1 where it is not."""
    if channel is None:
        return terms.above(spent=0, authorized=0)
    return terms.above(spent=channel.spent, authorized=channel.authorized) - channel.state.deposit


def _checked(given: Amount, needed: Amount) -> Amount:
    """The deposit that the user named, if it will do."""
    if given.asset != needed.asset:
        raise DepositAboveLimit(
            f"the deposit is in {given.asset.symbol}, the payee takes {needed.asset.symbol}",
            hint=f'--deposit "{needed}"',
        )
    if given < needed:
        raise DepositAboveLimit(
            f"a deposit of {given} is too small: at least {needed} is needed",
            hint=f'--deposit "{needed}"',
        )
    return given
