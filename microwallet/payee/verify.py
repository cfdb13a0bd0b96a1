"""Checking one voucher by itself: its form, its id, its signature, and its channel on the chain."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

from microwallet.domain.identifiers import Address, ChainId
from microwallet.domain.voucher import SignatureError
from microwallet.domain.voucher_document import MalformedVoucher, VoucherDocument, VoucherReader
from microwallet.payee.tally import Rejection, rejection_by_state

if TYPE_CHECKING:
    from microwallet.escrow.reader import ReaderOf


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What is wrong with a voucher, if anything; `document` is None when it is malformed."""

    document: VoucherDocument | None
    rejection: Rejection | None
    detail: str | None = None


def verify(text: bytes) -> Verdict:
    """Check a voucher offline: its form, its id against its descriptor, its signature."""
    try:
        document = VoucherReader().read(text)
    except MalformedVoucher as malformed:
        return Verdict(document=None, rejection=Rejection.MALFORMED, detail=str(malformed))
    descriptor = document.descriptor
    if descriptor.channel_id() != document.channel_id:
        detail = f"the descriptor makes channel {descriptor.channel_id()}"
        return Verdict(document=document, rejection=Rejection.MALFORMED, detail=detail)
    try:
        is_signed = document.is_signed()
    except SignatureError as error:
        return Verdict(document=document, rejection=Rejection.INVALID_SIGNATURE, detail=str(error))
    if not is_signed:
        detail = f"not signed by {descriptor.voucher_signer}"
        return Verdict(document=document, rejection=Rejection.SIGNER_MISMATCH, detail=detail)
    return Verdict(document=document, rejection=None)


def verify_on_chain(
    verdict: Verdict,
    chain_id: ChainId,
    trusted_escrows: Collection[Address],
    reader_of: ReaderOf,
) -> Verdict:
    """The verdict with what the newest block says of the channel; what failed offline stays as it is.

    Raises NetworkError if the chain cannot be asked.
    """
    document = verdict.document
    if document is None or verdict.rejection is not None:
        return verdict
    descriptor = document.descriptor
    if descriptor.chain_id != chain_id:
        detail = f"it is for chain {descriptor.chain_id}, and chain {chain_id} is in use"
        return Verdict(document=document, rejection=Rejection.WRONG_CHAIN, detail=detail)
    if descriptor.escrow_contract not in trusted_escrows:
        detail = f"{descriptor.escrow_contract} is no escrow this wallet trusts"
        return Verdict(document=document, rejection=Rejection.WRONG_ESCROW, detail=detail)
    state = reader_of(descriptor.escrow_contract).channel_state(document.channel_id)
    return Verdict(document=document, rejection=rejection_by_state(document.cumulative_amount, state))
