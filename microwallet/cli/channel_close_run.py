"""One channel on its way to its close, as the command line closes it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Self

from microwallet.cli import channel_close_view as view
from microwallet.cli.channel_withdraw import withdrawn
from microwallet.cli.context import Stderr
from microwallet.cli.result import Result
from microwallet.domain.channel import PayerChannel

if TYPE_CHECKING:
    from microwallet.payer.close import Closing
    from microwallet.payer.paying_account import PayingAccount
    from microwallet.paying import PaidByHand
    from microwallet.wallet import Wallet


@dataclass(frozen=True, slots=True, kw_only=True)
class How:
    """What was typed beside the channel."""

    wait: bool
    on_chain: bool
    yes: bool
    dry_run: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """A channel as the chain has it now, and the account that pays it."""

    channel: PayerChannel
    paying: PayingAccount
    by_hand: PaidByHand | None

    @classmethod
    def of(cls, wallet: Wallet, channel: PayerChannel, paying: PayingAccount, how: How) -> Self:
        """Look at a channel, and warn of what its payee has not counted yet."""
        from microwallet.payer.refresh import refreshed
        from microwallet.paying import paid_by_hand

        channel = refreshed(paying, channel)
        is_asked = _is_open(channel) and not how.on_chain
        by_hand = paid_by_hand(wallet, channel) if is_asked else None
        if by_hand is not None and by_hand.uncounted:
            Stderr().say(view.uncounted_text(channel, by_hand))
        return cls(channel=channel, paying=paying, by_hand=by_hand)

    @property
    def is_open(self) -> bool:
        """Whether there is a close to ask for."""
        return _is_open(self.channel)

    def close(self, wallet: Wallet, how: How) -> Closing:
        """Ask the payee, else request the close; raises what payer.close does."""
        from microwallet.payer.close import close
        from microwallet.paying import ask_payee

        return close(
            self.paying, self.channel, ask_payee=None if how.on_chain else partial(ask_payee, wallet)
        )

    def result(self, wallet: Wallet, closing: Closing, how: How) -> Result:
        """What came of it; with `wait`, after the grace period and the withdrawal."""
        from microwallet.payer.close import CloseStage
        from microwallet.payer.withdraw import withdraw

        if how.wait and closing.stage is not CloseStage.CLOSED:
            result = withdrawn(withdraw(self.paying, closing.channel, wait=True), now=wallet.now())
        else:
            result = view.closing_result(closing, now=wallet.now())
        return replace(result, data=result.data | view.uncounted_document(self.by_hand))


def _is_open(channel: PayerChannel) -> bool:
    state = channel.state
    return state.exists and not state.finalized and state.close_requested_at == 0
