"""New channels and new deposits: what a payer tells of, checked against the chain.

draft-evm-session-00, sections "Open Verification" and "TopUp Verification".
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from microwallet.domain.channel import ChannelDescriptor, ChannelState, PayeeChannel
from microwallet.domain.identifiers import Address, ChainId, ChannelId, parse_address
from microwallet.domain.voucher import SignerCheck, VoucherDigest
from microwallet.errors import UsageError
from microwallet.http402.charging.account import check_covers, check_goes_on
from microwallet.http402.charging.chain import PayeeChain
from microwallet.http402.charging.channel_book import ChannelBook, KnownChannel
from microwallet.http402.charging.checks import check_signature
from microwallet.http402.charging.deposit_relay import DepositRelay
from microwallet.http402.charging.desk import Desk
from microwallet.http402.charging.in_turn import InTurn
from microwallet.http402.charging.offers import Offer, Terms
from microwallet.http402.charging.once import Once
from microwallet.http402.charging.refusal import refused
from microwallet.http402.charging.signed_deposit import check_signed
from microwallet.http402.wire.credential import payer_source
from microwallet.http402.wire.problems import ProblemType
from microwallet.http402.wire.session_payload import OpenAction, SignedTransfer, SignedVoucher, TopUpAction

PATIENCE_SECONDS = 20.0
"""How long to wait for a transaction that the payer says was sent."""
MOST_WAITING = 32
"""Transactions that are waited for at most: anybody can name one that never comes."""
MOST_OF_PAYER = 8
"""Deposits of one payer that wait at most for another one of it to be brought onto the chain."""
_PAUSE, _LONGEST_PAUSE = 0.25, 2.0


class Opening:
    """Takes new channels into the book, and new deposits."""

    def __init__(
        self,
        terms: Terms,
        channels: ChannelBook,
        chain: Desk[PayeeChain],
        relay: Desk[DepositRelay],
    ) -> None:
        self._terms = terms
        self._channels = channels
        self._chain = chain
        self._relay = relay
        self._in_hand = Once[int]()
        self._of_payer = InTurn[int](limit=MOST_OF_PAYER)
        self._waiting = 0

    async def open(self, action: OpenAction, source: str | None, offer: Offer) -> KnownChannel:
        """The channel that an `open` action tells of, once the chain has it as it should be.

        Refused, or NetworkError. Nothing is stored before; signatures are checked before the chain is
        asked, as that is what costs.
        """
        voucher, asset, sent = action.voucher, offer.price.amount.asset, action.deposit
        descriptor = ChannelDescriptor(
            payer=(sent.payer if isinstance(sent, SignedTransfer) else _payer(source, self._terms.chain_id)),
            payee=self._terms.payee,
            token=asset.token,
            salt=action.salt,
            authorized_signer=action.authorized_signer,
            escrow_contract=self._terms.escrow_contract,
            chain_id=self._terms.chain_id,
        )
        if descriptor.channel_id() != voucher.channel_id:
            detail = f"source, salt and signer make channel {descriptor.channel_id()}"
            raise refused(ProblemType.VERIFICATION_FAILED, detail, voucher.channel_id)
        digest = VoucherDigest(descriptor.chain_id, descriptor.escrow_contract, voucher.channel_id)
        check_signature(digest, SignerCheck(descriptor.voucher_signer), voucher)
        if isinstance(sent, SignedTransfer):
            _check_covered(sent, voucher, offer.price.reserved)
            state = await self._brought(offer, descriptor, sent, top_up_salt=None)
        else:
            state = await self._patiently(
                lambda chain: chain.opened(sent.hash, voucher.channel_id), voucher.channel_id
            )
        _check_state(state, voucher.channel_id, offer.price.reserved)
        return self._channels.add(
            PayeeChannel(
                channel_id=voucher.channel_id,
                descriptor=descriptor,
                asset=asset,
                state=state,
                authorized=state.settled,  # and spent, should the payee have forgotten it
                spent=state.settled,
                as_of=None,
                signature=voucher.signature,
            )
        )

    async def topped_up(self, known: KnownChannel, action: TopUpAction, offer: Offer) -> ChannelState:
        """The state of a channel with a deposit that a `topUp` action tells of. Refused, or NetworkError."""
        sent, amount = action.deposit, action.additional_deposit
        if isinstance(sent, SignedTransfer):
            return await self._brought(offer, known.descriptor, sent, top_up_salt=action.salt)
        return await self._patiently(
            lambda chain: chain.topped_up(sent.hash, known.channel_id, amount), known.channel_id
        )

    async def _brought(
        self,
        offer: Offer,
        descriptor: ChannelDescriptor,
        transfer: SignedTransfer,
        *,
        top_up_salt: str | None,
    ) -> ChannelState:
        """The state of a channel whose signed deposit was brought onto the chain, by us or by others."""
        channel_id = descriptor.channel_id()
        if offer.relayed_token is None:
            detail = "deposits are not brought onto the chain here: send a transaction"
            raise refused(ProblemType.VERIFICATION_FAILED, detail, channel_id)
        deposit = check_signed(offer.relayed_token, descriptor, transfer, top_up_salt=top_up_salt)

        async def bring() -> int:
            return await self._of_payer.run(  # so that one payer keeps no threads from others
                descriptor.payer, lambda: self._relay.run(lambda own: own.bring(deposit))
            )

        total = await self._in_hand.run(deposit.operation, bring)
        return await self._patiently(lambda chain: chain.holding(channel_id, total), channel_id)

    async def _patiently(
        self, ask: Callable[[PayeeChain], ChannelState | None], channel_id: ChannelId
    ) -> ChannelState:
        """What the chain says once it does. Whoever asks for what it knows waits for no others."""
        deadline, pause = time.monotonic() + PATIENCE_SECONDS, _PAUSE
        state = await self._chain.run(ask)
        if state is not None:
            return state
        if self._waiting < MOST_WAITING:
            self._waiting += 1
            try:
                while state is None and time.monotonic() < deadline:
                    await asyncio.sleep(pause)
                    pause = min(2 * pause, _LONGEST_PAUSE)
                    state = await self._chain.run(ask)
            finally:
                self._waiting -= 1
        if state is None:
            raise refused(ProblemType.TRY_AGAIN, "the transaction is not confirmed yet", channel_id)
        return state


def _payer(source: str | None, chain_id: ChainId) -> Address:
    """The address in a credential's `source`, a did:pkh of the chain in use."""
    prefix = payer_source(chain_id, "")
    if source is not None and source.startswith(prefix):
        try:
            return parse_address(source.removeprefix(prefix))
        except UsageError:
            pass
    raise refused(
        ProblemType.MALFORMED_CREDENTIAL,
        f"the credential's source is not {prefix}ADDRESS of the payer",
        status=400,
    )


def _check_covered(transfer: SignedTransfer, voucher: SignedVoucher, needed: int) -> None:
    """A deposit that could not pay for what is asked is not worth its gas."""
    if transfer.value < needed:
        detail = f"{transfer.value} is to be deposited, {needed} is needed"
        raise refused(ProblemType.INSUFFICIENT_BALANCE, detail, voucher.channel_id)
    check_covers(voucher.channel_id, transfer.value, voucher.cumulative_amount)


def _check_state(state: ChannelState, channel_id: ChannelId, needed: int) -> None:
    check_goes_on(channel_id, is_finalized=state.finalized, is_close_requested=state.close_requested_at > 0)
    if state.refundable < needed:
        detail = f"{state.refundable} is deposited and not settled, {needed} is needed"
        raise refused(ProblemType.INSUFFICIENT_BALANCE, detail, channel_id)
