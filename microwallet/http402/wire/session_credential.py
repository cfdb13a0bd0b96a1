"""The credentials of a session, of which thousands differ in their voucher's amount and signature alone.

draft-evm-session-00, section "Payload Actions". A payer answers one challenge with many vouchers on one
channel: what was read of an earlier one need not be read again.
"""

from __future__ import annotations

import binascii
from collections import OrderedDict
from typing import NamedTuple, Self

from microwallet.domain.identifiers import ChannelId
from microwallet.domain.voucher import CUMULATIVE_AMOUNT_LIMIT, SIGNATURE_LENGTH
from microwallet.http402.wire.challenge import Challenge
from microwallet.http402.wire.encoding import from_base64url
from microwallet.http402.wire.session_payload import SessionAction, SignedVoucher, VoucherAction

KEPT = 20_000
"""Credentials remembered at most."""
LONGEST = 3_000
"""Characters of a field that is remembered: what nobody reads may be in it."""

_TAIL = 384
"""Characters at the end of a field in which all that differs is found: amount and signature in any case, and
behind them a source, which is a DID."""
_STEP = 64
"""The part before them has a multiple of so many characters."""
_SCHEME = len("Payment ")


class SessionCredential(NamedTuple):
    """What a payer says: to which challenge, what to do, and who pays, as a DID."""

    challenge: Challenge
    action: SessionAction
    source: str | None


class Seen(NamedTuple):
    """What a credential that was parsed has in common with the next vouchers for the same challenge."""

    challenge: Challenge
    channel_id: ChannelId
    head_size: int
    """Characters of the field before `start`."""
    start: bytes
    """The JSON after the head: up to the amount, between amount and signature, and after the signature."""
    middle: bytes
    end: bytes
    amount: slice
    """Where amount and signature stand in it."""
    signature: slice

    @classmethod
    def of(
        cls,
        challenge: Challenge,
        channel_id: ChannelId,
        head_size: int,
        start: bytes,
        middle: bytes,
        end: bytes,
    ) -> Self:
        """The same, with the places of amount and signature computed."""
        behind = len(end) + 2 * SIGNATURE_LENGTH
        amount, signature = slice(len(start), -behind - len(middle)), slice(-behind, -len(end))
        return cls(challenge, channel_id, head_size, start, middle, end, amount, signature)

    def voucher(self, value: bytes) -> SignedVoucher | None:
        """The voucher in an `Authorization` field with this head; None if anything else differs.

        Challenge and voucher are then what `Credential.parse` and `parse_payload` would read.
        """
        _, channel_id, head_size, start, middle, end, amount, signature = self
        try:
            rest = from_base64url(value[head_size:])
            digits, hexadecimal = rest[amount], rest[signature]
            cumulative_amount, raw = int(digits), binascii.unhexlify(hexadecimal)
        except ValueError:
            return None
        if not 0 <= cumulative_amount < CUMULATIVE_AMOUNT_LIMIT or b"%d" % cumulative_amount != digits:
            return None
        if b"".join((start, digits, middle, hexadecimal, end)) != rest:
            return None
        return SignedVoucher(channel_id, cumulative_amount, raw)


class SeenCredentials:
    """The newest credentials that were parsed, by their head. It does not know whether they are valid."""

    def __init__(self) -> None:
        self._seen: OrderedDict[bytes, Seen] = OrderedDict()

    def like(self, value: bytes) -> Seen | None:
        """A credential that was kept and begins as this `Authorization` field does; None if there is none."""
        size = len(value)
        return self._seen.get(value[: _head_size(size)]) if size <= LONGEST else None

    def keep(self, value: bytes, challenge: Challenge, action: SessionAction) -> None:
        """Remember an `Authorization` field and what was parsed from it, if others like it can follow: one
        that answers a challenge for one body is the only one."""
        if not isinstance(action, VoucherAction) or action.merged is not None:
            return
        if challenge.digest is not None or len(value) > LONGEST:
            return
        voucher, size = action.voucher, _head_size(len(value))
        try:
            json = from_base64url(value[_SCHEME:])
        except ValueError:
            return
        digits, signature = b'"%d"' % voucher.cumulative_amount, voucher.signature.hex().encode()
        # If nothing is escaped and each is there once, these are the amount and signature that were parsed.
        if b"\\" in json or json.count(digits) != 1 or json.count(signature) != 1:
            return
        start, _, after = json[(size - _SCHEME) // 4 * 3 :].partition(digits)
        middle, _, end = after.partition(signature)
        if end:
            start, middle = start + b'"', b'"' + middle
            self._seen[value[:size]] = Seen.of(challenge, voucher.channel_id, size, start, middle, end)
            if len(self._seen) > KEPT:
                self._seen.popitem(last=False)


def _head_size(size: int) -> int:
    """How long the head is in a field of so many characters: as much as is whole bytes of JSON."""
    return _SCHEME + max(0, size - _SCHEME - _TAIL) // _STEP * _STEP
