"""Checking one voucher by itself, offline: its form, its id, its signature."""

from __future__ import annotations

from dataclasses import dataclass

from microwallet.domain.voucher import SignatureError
from microwallet.domain.voucher_document import MalformedVoucher, VoucherDocument, VoucherReader
from microwallet.payee.accept import Rejection


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
