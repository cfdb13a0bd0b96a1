"""New channels and new deposits: what a payer tells of, checked against the chain.

draft-evm-session-00, sections "Open Verification" and "TopUp Verification".
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from microwallet.domain.channel import ChannelDescriptor, ChannelState, PayeeChannel
from microwallet.domain.identifiers import Address, ChannelId, parse_address
from microwallet.domain.voucher import SignatureError, SignerCheck, VoucherDigest
from microwallet.errors import UsageError
from microwallet.http402.charging.account import Refused
from microwallet.http402.charging.chain import PayeeChain
from microwallet.http402.charging.channel_book import ChannelBook, KnownChannel
from microwallet.http402.charging.desk import Desk
from microwallet.http402.charging.offers import Offer, Terms
from microwallet.http402.wire.credential import Credential
from microwallet.http402.wire.problems import Problem, ProblemType
from microwallet.http402.wire.session_payload import OpenAction, SentTransaction, TopUpAction

PATIENCE_SECONDS = 20.0
"""How long to wait for a transaction that the payer says was sent."""
_PAUSE = 0.25


class Opening:
    """Takes new channels into the book, and new deposits."""

    def __init__(self, terms: Terms, channels: ChannelBook, chain: Desk[PayeeChain]) -> None:
        self._terms = terms
        self._channels = channels
        self._chain = chain

    async def open(self, credential: Credential, action: OpenAction, offer: Offer) -> KnownChannel:
        """The channel that an `open` action tells of, once the chain has it as it should be.

        Refused, or NetworkError. Nothing is stored before; the signature is checked before the chain
        is asked, as that is what costs.
        """
        voucher, asset = action.voucher, offer.price.amount.asset
        if not isinstance(action.deposit, SentTransaction):
            raise _failed(voucher.channel_id, "deposits are not brought onto the chain here")
        descriptor = ChannelDescriptor(
            payer=_payer(credential, self._terms.chain_id),
            payee=self._terms.payee,
            token=asset.token,
            salt=action.salt,
            authorized_signer=action.authorized_signer,
            escrow_contract=self._terms.escrow_contract,
            chain_id=self._terms.chain_id,
        )
        if descriptor.channel_id() != voucher.channel_id:
            raise _failed(
                voucher.channel_id, f"source, salt and signer make channel {descriptor.channel_id()}"
            )
        _check_first_voucher(descriptor, action)
        transaction_hash = action.deposit.hash
        state = await self._patiently(
            lambda chain: chain.opened(transaction_hash, voucher.channel_id), voucher.channel_id
        )
        _check_state(state, voucher.channel_id, offer.price.reserved)
        return self._channels.add(
            PayeeChannel(
                channel_id=voucher.channel_id,
                descriptor=descriptor,
                asset=asset,
                state=state,
                authorized=0,
                spent=0,
                as_of=None,
                signature=voucher.signature,
            )
        )

    async def topped_up(self, known: KnownChannel, action: TopUpAction) -> ChannelState:
        """The state of a channel with a deposit that a `topUp` action tells of. Refused, or NetworkError."""
        if not isinstance(action.deposit, SentTransaction):
            raise _failed(known.channel_id, "deposits are not brought onto the chain here")
        transaction_hash, amount = action.deposit.hash, action.additional_deposit
        return await self._patiently(
            lambda chain: chain.topped_up(transaction_hash, known.channel_id, amount), known.channel_id
        )

    async def _patiently(
        self, ask: Callable[[PayeeChain], ChannelState | None], channel_id: ChannelId
    ) -> ChannelState:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while (state := await self._chain.run(ask)) is None:
            if time.monotonic() > deadline:
                detail = "the transaction is not confirmed yet"
                raise _failed(channel_id, detail, ProblemType.TRY_AGAIN)
            await asyncio.sleep(_PAUSE)
        return state


def _payer(credential: Credential, chain_id: int) -> Address:
    """The address in the credential's `source`, a did:pkh of the chain in use."""
    prefix = f"did:pkh:eip155:{chain_id}:"
    source = credential.source or ""
    if source.startswith(prefix):
        try:
            return parse_address(source.removeprefix(prefix))
        except UsageError:
            pass
    raise Refused(
        Problem(
            type=ProblemType.MALFORMED_CREDENTIAL,
            detail=f"the credential's source is not {prefix}ADDRESS of the payer",
            other_status=400,
        )
    )


def _check_first_voucher(descriptor: ChannelDescriptor, action: OpenAction) -> None:
    voucher = action.voucher
    digest = VoucherDigest(descriptor.chain_id, descriptor.escrow_contract, voucher.channel_id)
    try:
        if SignerCheck(descriptor.voucher_signer)(digest(voucher.cumulative_amount), voucher.signature):
            return
    except SignatureError as error:
        raise _failed(voucher.channel_id, str(error), ProblemType.INVALID_SIGNATURE) from error
    detail = f"the first voucher is not signed by {descriptor.voucher_signer}"
    raise _failed(voucher.channel_id, detail, ProblemType.SIGNER_MISMATCH)


def _check_state(state: ChannelState, channel_id: ChannelId, needed: int) -> None:
    if state.finalized:
        raise _failed(channel_id, "the channel is finalized", ProblemType.CHANNEL_FINALIZED)
    if state.close_requested_at:
        raise _failed(channel_id, "a close of the channel is pending")
    if state.deposit - state.settled < needed:
        detail = f"{state.deposit - state.settled} is deposited and not settled, {needed} is needed"
        raise _failed(channel_id, detail, ProblemType.INSUFFICIENT_BALANCE)


def _failed(
    channel_id: ChannelId, detail: str, type: ProblemType = ProblemType.VERIFICATION_FAILED
) -> Refused:
    return Refused(Problem(type=type, detail=detail, extensions={"channelId": channel_id}))
