"""Which calls an escrow has, told from its code: ours take the channel's descriptor, the draft's its id.

draft-evm-session-00, section "Contract Functions". `open` is the same in both, so that a deposit would get
into an escrow of the other form, and no call of ours would get it out.
"""

from __future__ import annotations

from enum import StrEnum

from microwallet.escrow.reader import selector

_DESCRIPTOR = "(address,address,address,bytes32,address)"
_OURS = (
    f"settle({_DESCRIPTOR},uint128,uint128,bytes)",
    f"close({_DESCRIPTOR},uint128,uint128,bytes)",
    f"topUp({_DESCRIPTOR},uint128)",
    f"requestClose({_DESCRIPTOR})",
    f"withdraw({_DESCRIPTOR})",
)
_DRAFT = (
    "settle(bytes32,uint128,bytes)",
    "close(bytes32,uint128,bytes)",
    "topUp(bytes32,uint128)",
    "requestClose(bytes32)",
    "withdraw(bytes32)",
)
_PUSH0 = 0x5F


class EscrowForm(StrEnum):
    """What the code at an escrow's address looks like. It proves nothing of what the code does."""

    MISSING = "missing"
    OURS = "descriptor"
    """Calls take the channel's descriptor and a capture amount."""
    DRAFT = "channel-id"
    """Calls take the channel's id, as the draft has it."""
    UNKNOWN = "unknown"
    """Something else, or a proxy that hides it."""


def escrow_form(code: bytes) -> EscrowForm:
    """The form of an escrow by its deployed code: the functions that its dispatcher compares with."""
    if not code:
        return EscrowForm.MISSING
    if all(_compares(code, signature) for signature in _OURS):
        return EscrowForm.OURS
    if all(_compares(code, signature) for signature in _DRAFT):
        return EscrowForm.DRAFT
    return EscrowForm.UNKNOWN


def _compares(code: bytes, signature: str) -> bool:
    """Whether the code pushes a function's selector; leading zeros are not pushed."""
    pushed = selector(signature).lstrip(b"\0")
    return bytes([_PUSH0 + len(pushed)]) + pushed in code
