"""Importing the highest voucher of a channel that was rebuilt from the chain, so that it pays again."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from microwallet.domain.channel import PayerChannel
from microwallet.domain.identifiers import ChannelId
from microwallet.domain.voucher import SignatureError
from microwallet.domain.voucher_document import (
    LINE_LIMIT,
    MalformedVoucher,
    VoucherDocument,
    VoucherReader,
)
from microwallet.errors import MicrowalletError, UnknownReference, VoucherRejected
from microwallet.ledger.ledger import Ledger


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportedVoucher:
    """A channel whose highest voucher is known again, and what that voucher carries."""

    channel: PayerChannel
    cumulative_amount: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """What was taken out of a file of vouchers."""

    vouchers: Sequence[ImportedVoucher] = ()
    others: Collection[ChannelId] = ()
    """Channels in it that this wallet does not pay through."""


def import_vouchers(ledger: Ledger, lines: Iterable[bytes]) -> Imported:
    """Take the highest of these vouchers for each channel; authorized never falls.

    A payee's export has those of other payers too, which are left out; UnknownReference if all are others'.
    The rest must be signed by this wallet's own key, and the highest not below what is settled: else
    VoucherRejected, and nothing is imported. That it is the highest ever signed, only the payee knows.
    """
    best: dict[ChannelId, tuple[PayerChannel, int]] = {}
    others: dict[ChannelId, None] = {}
    reader = VoucherReader()
    for number, line in enumerate(lines, start=1):
        if line.strip():
            document = _read(reader, line, number)
            channel = ledger.channels.get(document.channel_id)
            if channel is None:
                others[document.channel_id] = None
                continue
            _verify(channel, document)
            known = best.get(channel.channel_id)
            if known is None or document.cumulative_amount > known[1]:
                best[channel.channel_id] = (channel, document.cumulative_amount)
    if not best:
        raise _none_is_ours(others)
    for channel, amount in best.values():
        if amount < channel.state.settled:
            raise VoucherRejected(
                f"the voucher of channel {channel.channel_id} carries {amount} base units, but"
                f" {channel.state.settled} is settled already: it is not the highest",
                hint=f"ask the payee {channel.descriptor.payee} for the highest voucher",
            )
    for channel, amount in best.values():
        ledger.channels.import_voucher(channel.channel_id, amount)
    vouchers = [
        ImportedVoucher(channel=ledger.channels.newest(channel), cumulative_amount=amount)
        for channel, amount in best.values()
    ]
    return Imported(vouchers=vouchers, others=others)


def _none_is_ours(others: Collection[ChannelId]) -> MicrowalletError:
    if not others:
        return VoucherRejected("there is no voucher in the file", hint="ask the payee for the highest one")
    one = f"channel {next(iter(others))}"
    told = f"{one} is not" if len(others) == 1 else f"none of the file's {len(others)} channels is"
    return UnknownReference(f"{told} one this wallet pays through", hint="microwallet channel sync")


def _read(reader: VoucherReader, line: bytes, number: int) -> VoucherDocument:
    if len(line) > LINE_LIMIT:
        raise VoucherRejected(f"line {number} is too long for a voucher: {len(line)} bytes")
    try:
        return reader.read(line)
    except MalformedVoucher as error:
        raise VoucherRejected(f"line {number} is no voucher: {error}") from error


def _verify(channel: PayerChannel, document: VoucherDocument) -> None:
    descriptor = channel.descriptor
    if document.descriptor != descriptor:
        raise VoucherRejected(f"the descriptor in the voucher is not that of channel {document.channel_id}")
    try:
        is_signed = document.is_signed()
    except SignatureError as error:
        raise VoucherRejected(f"the voucher of channel {document.channel_id}: {error}") from error
    if not is_signed:
        raise VoucherRejected(
            f"the voucher of channel {document.channel_id} is not signed by {descriptor.voucher_signer}"
        )
