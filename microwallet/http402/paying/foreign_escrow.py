"""Why an offer's escrow is not used: not trusted, or of a form that this wallet cannot get money out of."""

from __future__ import annotations

from microwallet.domain.identifiers import Address
from microwallet.errors import NoPayableChallenge
from microwallet.escrow.form import EscrowForm, escrow_form


def foreign_escrow(escrow_contract: Address, code: bytes) -> NoPayableChallenge:
    """The refusal of an escrow that is not trusted, by the code at its address."""
    match escrow_form(code):
        case EscrowForm.MISSING:
            return NoPayableChallenge(f"there is no contract at its escrow {escrow_contract}")
        case EscrowForm.DRAFT:
            return NoPayableChallenge(
                f"its escrow {escrow_contract} is of the draft's own form, whose calls take the channel's id:"
                " this wallet could open a channel there, and neither top it up nor get the money back",
                hint="microwallet help fees",
            )
        case EscrowForm.OURS:
            return NoPayableChallenge(
                f"its escrow {escrow_contract} is not trusted, though it has the calls of ours",
                hint=f"microwallet escrow trust {escrow_contract}  (if you know its code)",
            )
        case EscrowForm.UNKNOWN:
            return NoPayableChallenge(
                f"its escrow {escrow_contract} is not trusted, and its code is unknown here",
                hint="microwallet help fees",
            )
