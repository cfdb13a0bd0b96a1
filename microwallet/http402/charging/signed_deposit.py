"""A deposit that a payer signed for the gateway to send: checked before the chain is asked anything.

draft-evm-session-00, sections "Open Verification", "TopUp Verification" and "Front-Running Protection".
"""

from __future__ import annotations

from dataclasses import dataclass

from microwallet.domain.channel import ChannelDescriptor
from microwallet.domain.deposit import DepositKind
from microwallet.domain.identifiers import ChannelId, hexed
from microwallet.domain.money import DEPOSIT_LIMIT
from microwallet.domain.voucher import SignatureError, SignerCheck
from microwallet.escrow import calls
from microwallet.escrow.authorizations import (
    TokenDomain,
    TransferAuthorization,
    open_nonce,
    receive_digest,
    top_up_nonce,
)
from microwallet.escrow.calls import Call
from microwallet.http402.charging.refusal import Refused, refused
from microwallet.http402.wire.problems import ProblemType
from microwallet.http402.wire.session_payload import SignedTransfer


@dataclass(frozen=True, slots=True, kw_only=True)
class RelayedToken:
    """A token of which a gateway brings deposits onto the chain, and pays the gas."""

    domain: TokenDomain
    """In which the token checks signatures."""
    min_deposit: int
    """Base units: less is not worth its gas."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedDeposit:
    """An open or a top-up, rightly signed by its payer. Only the escrow can carry it out, and only so."""

    descriptor: ChannelDescriptor
    authorization: TransferAuthorization

    @property
    def channel_id(self) -> ChannelId:
        """The channel that gets the deposit."""
        return self.descriptor.channel_id()

    @property
    def kind(self) -> DepositKind:
        """What it does, which its transaction is called in the journal too."""
        return DepositKind.OPEN if self.authorization.top_up_salt is None else DepositKind.TOP_UP

    @property
    def operation(self) -> str:
        """The same for the same authorization, whatever else comes with it. The nonce of an open tells no
        chain, and the journal and the gas budget are of all chains."""
        return f"{self.kind}-for-payer-{self.descriptor.chain_id}-{self.authorization.nonce.hex()}"

    def call(self) -> Call:
        """What the transaction does."""
        value, authorization = self.authorization.value, self.authorization
        if self.kind is DepositKind.OPEN:
            return calls.open_with_authorization(self.descriptor, value, authorization)
        return calls.top_up_with_authorization(self.descriptor, value, authorization)


def check_signed(
    token: RelayedToken, descriptor: ChannelDescriptor, transfer: SignedTransfer, *, top_up_salt: str | None
) -> CheckedDeposit:
    """The deposit, if the payer signed exactly this one; else Refused. `top_up_salt` is None to open.

    Whether it is still, or already, valid is not looked at: it may be on the chain since long.
    """
    channel_id = descriptor.channel_id()

    def wrong(detail: str, type: ProblemType = ProblemType.VERIFICATION_FAILED) -> Refused:
        return refused(type, detail, channel_id)

    if transfer.payer != descriptor.payer:
        raise wrong(f"{transfer.payer} cannot deposit for the channel of {descriptor.payer}")
    if transfer.to != descriptor.escrow_contract:
        raise wrong(f"the transfer is to {transfer.to}, not to the escrow {descriptor.escrow_contract}")
    if transfer.value < token.min_deposit:
        raise wrong(
            f"{transfer.value} is to be deposited; gas is paid for {token.min_deposit} or more",
            ProblemType.PAYMENT_INSUFFICIENT,
        )
    if transfer.value >= DEPOSIT_LIMIT:
        raise wrong(f"a deposit of {transfer.value} is too large")
    salt = None if top_up_salt is None else bytes.fromhex(top_up_salt[2:])
    nonce = open_nonce(descriptor) if salt is None else top_up_nonce(descriptor, transfer.value, salt)
    if transfer.nonce != hexed(nonce):
        raise wrong(f"the nonce is {transfer.nonce}; the channel's parameters make {hexed(nonce)}")
    digest = receive_digest(
        token.domain,
        sender=transfer.payer,
        receiver=transfer.to,
        value=transfer.value,
        valid_after=transfer.valid_after,
        valid_before=transfer.valid_before,
        nonce=nonce,
    )
    try:
        if not SignerCheck(transfer.payer)(digest, transfer.signature):
            detail = f"the transfer is not signed by {transfer.payer}"
            raise wrong(detail, ProblemType.SIGNER_MISMATCH)
    except SignatureError as error:
        raise wrong(str(error), ProblemType.INVALID_SIGNATURE) from error
    authorization = TransferAuthorization(
        value=transfer.value,
        valid_after=transfer.valid_after,
        valid_before=transfer.valid_before,
        nonce=nonce,
        signature=transfer.signature,
        top_up_salt=salt,
    )
    return CheckedDeposit(descriptor=descriptor, authorization=authorization)
