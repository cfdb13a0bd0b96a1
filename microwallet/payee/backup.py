"""Best vouchers to a file and back: whoever loses them loses what they are worth."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import Any

from microwallet.domain.channel import NO_CHANNEL, ChannelDescriptor, PayeeChannel
from microwallet.domain.handed_over import Counted
from microwallet.domain.identifiers import Address, ChainId, ChannelId
from microwallet.domain.money import Asset
from microwallet.domain.voucher import SignatureError
from microwallet.domain.voucher_document import (
    MalformedVoucher,
    VoucherDocument,
    VoucherReader,
    voucher_object,
    voucher_writer,
)
from microwallet.ledger.vouchers import Accepted, Vouchers
from microwallet.payee.tally import WRONG_ID, Rejection, Tally

AssetOf = Callable[[ChainId, Address], Asset | None]
IsValid = Callable[[ChannelDescriptor, bytes, bytes], bool]


def voucher_lines(channels: Iterable[PayeeChannel]) -> Iterator[str]:
    """The best voucher of each channel as one JSON object, with what was charged beside: `spent`.

    None of a channel through which nothing is authorized yet: what came with its open may have been refused.
    """
    for channel in channels:
        if not channel.authorized:
            continue
        write = voucher_writer(channel.descriptor, channel.channel_id, channel.asset)
        amount = channel.authorized - min(channel.authorized, channel.state.settled)
        deposit = max(channel.state.deposit, channel.authorized)
        voucher = write(channel.authorized, amount, deposit, channel.signature)
        yield f'{voucher[:-1]},"spent":"{channel.spent}"}}'


@dataclass(frozen=True, slots=True, kw_only=True)
class RestorePolicy:
    """Whose vouchers are taken back. The chain is not asked: what is rightly signed is kept."""

    payees: frozenset[Address]
    is_trusted: Callable[[ChainId, Address], bool]
    """Whether an escrow on a chain is one of ours."""
    require_key: Callable[[Address], object]
    """Raises if the account of a payee was removed meanwhile."""
    is_valid_signature: IsValid | None = None
    """Asks contract signers (descriptor, digest, signature), where they are accepted."""


class Restoration:
    """Takes lines of vouchers back into the ledger; each batch is committed when `take` returns.

    Unlike accepting, it takes vouchers of channels that are closing or unknown to the chain: a
    backup is needed most when a payer has requested a close, or while no chain can be asked.
    """

    def __init__(
        self, vouchers: Vouchers, policy: RestorePolicy, asset_of: AssetOf, *, clock: Callable[[], int]
    ) -> None:
        self.tally = Tally()
        self._vouchers = vouchers
        self._policy = policy
        self._asset_of = asset_of
        self._clock = clock
        self._parse = VoucherReader().parse

    def take(self, lines: Sequence[bytes], numbers: Iterable[int] | None = None) -> None:
        """Verify lines and keep the best vouchers among them. A bad line costs only itself.

        `numbers` are theirs in the input; from 1 where they are not given.
        """
        tally = Tally()
        numbered = zip(numbers or count(1), lines, strict=False)
        right = [channel for number, line in numbered if (channel := self._channel(number, line, tally))]
        if right:
            self._commit(right, tally)
        self.tally.add(tally)

    def _commit(self, right: Sequence[PayeeChannel], tally: Tally) -> None:
        def weigh(
            accepted: Mapping[ChannelId, Accepted], counted: Mapping[ChannelId, Counted]
        ) -> Iterable[PayeeChannel]:
            for payee in {channel.descriptor.payee for channel in right}:
                self._policy.require_key(payee)
            best = {channel_id: row.authorized for channel_id, row in accepted.items()}
            better: dict[ChannelId, PayeeChannel] = {}
            for channel in right:
                tally.channels[channel.channel_id] = None
                if channel.authorized > best.get(channel.channel_id, -1):
                    best[channel.channel_id] = channel.authorized
                    better[channel.channel_id] = channel
                    tally.accepted += 1
                else:
                    tally.duplicates += 1
            return [
                _with_known(channel, accepted.get(channel_id), counted[channel_id])
                for channel_id, channel in better.items()
            ]

        self._vouchers.accept({channel.channel_id for channel in right}, weigh, now=self._clock())

    def _channel(self, number: int, line: bytes, tally: Tally) -> PayeeChannel | None:
        """The channel of the voucher in a line; None, and counted, if it is not in order."""
        try:
            raw = voucher_object(line)
            document = self._parse(raw)
            rejection = self._rejection(document)
            if rejection is not None:
                known = self._asset_of(document.descriptor.chain_id, document.descriptor.token)
                tally.reject(number, rejection, document=document, asset=known)
                return None
            return PayeeChannel(
                channel_id=document.channel_id,
                descriptor=document.descriptor,
                asset=self._asset(document.descriptor, raw),
                state=NO_CHANNEL,
                authorized=document.cumulative_amount,
                spent=_spent(raw, document.cumulative_amount),
                as_of=None,
                signature=document.signature,
            )
        except MalformedVoucher as malformed:
            tally.reject(number, Rejection.MALFORMED, detail=str(malformed))
            return None

    def _rejection(self, document: VoucherDocument) -> Rejection | None:
        descriptor = document.descriptor
        if not self._policy.is_trusted(descriptor.chain_id, descriptor.escrow_contract):
            return Rejection.WRONG_ESCROW
        if descriptor.payee not in self._policy.payees:
            return Rejection.WRONG_PAYEE
        if descriptor.channel_id() != document.channel_id:
            raise MalformedVoucher(WRONG_ID)
        ask = self._policy.is_valid_signature
        try:
            if document.is_signed():
                return None
        except SignatureError:
            if ask is None:
                return Rejection.INVALID_SIGNATURE
        if ask is not None and ask(descriptor, document.digest, document.signature):
            return None
        return Rejection.SIGNER_MISMATCH

    def _asset(self, descriptor: ChannelDescriptor, raw: dict[str, Any]) -> Asset:
        """The asset as this wallet knows it, else as the backup remembers it."""
        known = self._asset_of(descriptor.chain_id, descriptor.token)
        if known is not None:
            return known
        symbol, decimals = raw.get("asset"), raw.get("decimals")
        if not isinstance(symbol, str) or type(decimals) is not int or not 0 <= decimals <= 36:
            raise MalformedVoucher("asset or decimals is missing")
        if not 0 < len(symbol) <= 20 or not symbol.isascii() or not symbol.isprintable():
            raise MalformedVoucher("asset is no symbol")
        return Asset(chain_id=descriptor.chain_id, token=descriptor.token, symbol=symbol, decimals=decimals)


def _spent(raw: dict[str, Any], authorized: int) -> int:
    """What was charged of it; all, where the backup does not tell."""
    spent = raw.get("spent", str(authorized))
    if not isinstance(spent, str) or not spent.isascii() or not spent.isdigit() or len(spent) > 39:
        raise MalformedVoucher("spent is not a decimal string of base units")
    return min(int(spent), authorized)


def _with_known(channel: PayeeChannel, known: Accepted | None, counted: Counted) -> PayeeChannel:
    """A channel with what was charged here; all that is new to it may have been counted as handed over."""
    best = known.authorized if known else 0
    if channel.authorized > best:
        counted.add(best, channel.authorized)
    return replace(channel, spent=max(channel.spent, known.spent)) if known else channel
