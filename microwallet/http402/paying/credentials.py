"""The credentials that answer a challenge, each with a voucher signed for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from microwallet.domain.channel import PayerChannel
from microwallet.domain.identifiers import TxHash, hexed
from microwallet.domain.voucher import VoucherDigest, VoucherKey
from microwallet.http402.wire.challenge import Challenge
from microwallet.http402.wire.credential import Credential, payer_source
from microwallet.http402.wire.session_payload import (
    CloseAction,
    OpenAction,
    SentTransaction,
    SessionAction,
    SignedTransfer,
    SignedVoucher,
    TopUpAction,
    VoucherAction,
    payload_object,
)

if TYPE_CHECKING:
    from microwallet.payer.signed_deposit import SignedDeposit


class Signer:
    """Makes the credentials of one channel. Whatever amount it is given has been committed before."""

    def __init__(self, channel: PayerChannel, key: VoucherKey) -> None:
        descriptor = channel.descriptor
        self._channel = channel
        self._key = key
        self._digest = VoucherDigest(descriptor.chain_id, descriptor.escrow_contract, channel.channel_id)

    def voucher(self, challenge: Challenge, amount: int) -> str:
        """An `Authorization` field that hands a voucher over."""
        return self._field(challenge, VoucherAction(voucher=self._signed(amount)))

    def open(self, challenge: Challenge, amount: int, transaction_hash: TxHash) -> str:
        """One that tells of the open, with the channel's first voucher."""
        descriptor = self._channel.descriptor
        return self._field(
            challenge,
            OpenAction(
                voucher=self._signed(amount),
                salt=descriptor.salt,
                authorized_signer=descriptor.authorized_signer,
                deposit=SentTransaction(hash=transaction_hash),
            ),
        )

    def top_up(self, challenge: Challenge, amount: int, transaction_hash: TxHash) -> str:
        """One that tells of `amount` base units more in the channel."""
        return self._field(
            challenge,
            TopUpAction(
                channel_id=self._channel.channel_id,
                additional_deposit=amount,
                deposit=SentTransaction(hash=transaction_hash),
            ),
        )

    def deposit(self, challenge: Challenge, signed: SignedDeposit) -> str:
        """One that hands a deposit over for the payee to send; an open comes with a voucher over nothing."""
        descriptor, authorization = self._channel.descriptor, signed.authorization
        transfer = SignedTransfer(
            payer=descriptor.payer,
            to=descriptor.escrow_contract,
            value=authorization.value,
            valid_after=authorization.valid_after,
            valid_before=authorization.valid_before,
            nonce=hexed(authorization.nonce),
            signature=authorization.signature,
        )
        if authorization.top_up_salt is None:
            action: SessionAction = OpenAction(
                voucher=self._signed(0),
                salt=descriptor.salt,
                authorized_signer=descriptor.authorized_signer,
                deposit=transfer,
            )
        else:
            action = TopUpAction(
                channel_id=self._channel.channel_id,
                additional_deposit=authorization.value,
                deposit=transfer,
                salt=hexed(authorization.top_up_salt),
            )
        return self._field(challenge, action)

    def close(self, challenge: Challenge, amount: int) -> str:
        """One that asks for the channel to be closed."""
        return self._field(challenge, CloseAction(voucher=self._signed(amount)))

    def _signed(self, amount: int) -> SignedVoucher:
        return SignedVoucher(
            channel_id=self._channel.channel_id,
            cumulative_amount=amount,
            signature=self._key.sign(self._digest(amount)),
        )

    def _field(self, challenge: Challenge, action: SessionAction) -> str:
        descriptor = self._channel.descriptor
        source = payer_source(descriptor.chain_id, descriptor.payer)
        return Credential(challenge=challenge, payload=payload_object(action), source=source).to_field()
